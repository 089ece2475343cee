/**
 * The log of blockd: JSON lines in `<data>/log/blockd.log`, and on stderr in the foreground. Every thread opens the file for
 * itself, appending whole lines synchronously, so that the last words of a dying process are there.
 */
import { copyFileSync, statSync, truncateSync } from 'node:fs';
import { destination, multistream, pino } from 'pino';
import {
  isJournal,
  journalPriority,
  type Logger,
  limits,
  maskSecrets,
  systemCode,
} from '../base/index.ts';
import type { LogLevel } from './options.ts';

export interface ProcessLogOptions {
  readonly path: string;
  readonly level: LogLevel;
  readonly foreground: boolean;
  /** Appears in every line: `main`, `worker-0`, `launcher`. */
  readonly thread: string;
}

export function openProcessLog(options: ProcessLogOptions): Logger {
  const { path, level, foreground, thread } = options;
  const streams = [
    { level, stream: masked(destination({ dest: path, append: true, sync: true, mode: 0o640 })) },
    ...(foreground ? [{ level, stream: errorOutput() }] : []),
  ];
  return pino(
    { level, base: { pid: process.pid, thread }, timestamp: pino.stdTimeFunctions.isoTime },
    multistream(streams),
  );
}

/** pino's destination, with the priorities that the journal files lines by. */
function errorOutput(): { write(line: string): void } {
  const output = destination({ dest: 2, sync: true });
  if (!isJournal(process.env)) return masked(output);
  return {
    write(line) {
      output.write(`${journalPriority(levelOf(line))}${maskSecrets(line)}`);
    },
  };
}

/** What a message carries along of secrets stays out of the log. */
const masked = (output: { write(line: string): unknown }): { write(line: string): void } => ({
  write: (line) => void output.write(maskSecrets(line)),
});

/** pino writes the level first. */
const levelOf = (line: string): number => Number(/^\{"level":(\d+)/.exec(line)?.[1]);

/**
 * Keep the log below its limit: beyond it the content is copied to `.1` and the file emptied in place, because several
 * threads have it open for appending. A line written between the two steps is lost; that is the price of one file.
 */
export function rotateLog(path: string): void {
  try {
    if (statSync(path).size < limits.logFileBytes) return;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  copyFileSync(path, `${path}.1`);
  truncateSync(path, 0);
}
