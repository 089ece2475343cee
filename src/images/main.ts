/**
 * The import process: short-lived, one image, no state of its own. protocol.ts has its messages.
 *
 * Invariants: it answers exactly one `result` or `error` and ends; whatever ends it (an error, SIGTERM, its parent's death,
 * kill -9) leaves no file behind, since its only temporary file has no name.
 */
import { createInterface } from 'node:readline';
import {
  type Clock,
  DvceError,
  exitCodes,
  systemClock,
  systemRandom,
  systemTimers,
  toDvceError,
} from '../base/index.ts';
import { importImage } from './import.ts';
import {
  type ImageTarget,
  type ImportMessage,
  type ImportProgress,
  isImportRequest,
  isTargetMessage,
} from './protocol.ts';

/** Progress is for people: a few lines a second. */
const progressEveryMs = 200;

function send(message: ImportMessage): Promise<void> {
  return new Promise((resolve) => {
    process.stdout.write(`${JSON.stringify(message)}\n`, () => resolve());
  });
}

/** Passes on the first, the last and otherwise few progress messages. */
function throttle(clock: Clock): (progress: ImportProgress) => void {
  let nextMs = 0;
  return (progress) => {
    const nowMs = clock.monotonicMs();
    if (nowMs < nextMs && progress.done !== progress.total) return;
    nextMs = nowMs + progressEveryMs;
    void send({ progress });
  };
}

async function main(): Promise<number> {
  const cancelling = new AbortController();
  const cancel = (): void =>
    cancelling.abort(new DvceError('CANCELLED', { what: 'importing the image' }));
  process.once('SIGTERM', cancel);
  process.once('SIGINT', cancel);
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  try {
    const request = parseLine(await lines.next());
    if (!isImportRequest(request)) throw misspoken('the request');
    const result = await importImage(request, {
      timers: systemTimers,
      random: systemRandom,
      signal: cancelling.signal,
      onProgress: throttle(systemClock),
      async prepareVolume(description) {
        await send({ described: description });
        return readTarget(lines, cancelling.signal, cancel);
      },
    });
    await send({ result });
    return exitCodes.ok;
  } catch (error) {
    const known = toDvceError(error, 'the import');
    await send({ error: { code: known.code, context: known.context } });
    return known.exitCode;
  }
}

async function readTarget(
  lines: AsyncIterator<string>,
  signal: AbortSignal,
  cancel: () => void,
): Promise<ImageTarget> {
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
  const message = parseLine(await Promise.race([lines.next(), aborted]));
  if (!isTargetMessage(message)) throw misspoken('the target');
  // From here on the parent says nothing more; the end of its pipe is the end of the parent.
  lines.next().then(cancel, cancel);
  return message.target;
}

function parseLine(line: IteratorResult<string>): unknown {
  if (line.done === true) throw new DvceError('CANCELLED', { what: 'importing the image' });
  try {
    return JSON.parse(line.value);
  } catch {
    return undefined; // refused by the schema
  }
}

const misspoken = (what: string): DvceError =>
  new DvceError('PROTOCOL', { peer: 'the parent of the import', reason: `${what} is not valid` });

process.exitCode = await main();
// Nothing may keep the process: the parent's pipe is still open when the import has failed early.
process.exit();
