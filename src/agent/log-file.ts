/**
 * The log of an agent that runs in the background: JSON lines in `<data>/log/agent.log`, moved to `agent.log.1` beyond
 * limits.logFileBytes. In the foreground the log goes to standard error and is somebody else's to keep. Secrets that a message carries
 * along are taken out of every line (base/redact.ts).
 */
import { renameSync, statSync } from 'node:fs';
import { destination, pino, stdTimeFunctions } from 'pino';
import {
  isJournal,
  journalPriority,
  type Logger,
  limits,
  maskSecrets,
  systemCode,
} from '../base/index.ts';

/** `path` undefined: standard error. */
export function openAgentLog(path: string | undefined): Logger & { level: string } {
  const options = { base: { pid: process.pid }, timestamp: stdTimeFunctions.isoTime };
  if (path === undefined) return pino(options, errorOutput());
  const file = destination({ dest: path, append: true, mkdir: true, sync: true, mode: 0o640 });
  let bytes = sizeOf(path);
  return pino(options, {
    write(unmasked: string) {
      const line = maskSecrets(unmasked);
      file.write(line);
      bytes += Buffer.byteLength(line);
      if (bytes < limits.logFileBytes) return;
      bytes = 0;
      renameSync(path, `${path}.1`);
      file.reopen(path);
    },
  });
}

function errorOutput(): { write(line: string): void } {
  const output = destination({ dest: 2, sync: true });
  if (!isJournal(process.env)) return { write: (line) => void output.write(maskSecrets(line)) };
  // pino writes the level first; the journal takes it from the start of the line.
  const levelOf = (line: string): number => Number(/^\{"level":(\d+)/.exec(line)?.[1]);
  return {
    write(line) {
      output.write(`${journalPriority(levelOf(line))}${maskSecrets(line)}`);
    },
  };
}

function sizeOf(path: string): number {
  try {
    return statSync(path).size;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
}
