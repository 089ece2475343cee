/**
 * An image process: short-lived, one import or export, no state of its own. protocol.ts has its messages.
 *
 * Invariants: it answers exactly one result or `error` and ends; whatever ends it (an error, SIGTERM, its parent's death,
 * kill -9) leaves no file behind but a download that can be continued.
 */
import { Socket } from 'node:net';
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
import { exportImage } from './export.ts';
import { importImage } from './import.ts';
import {
  type ImageProgress,
  type ImageTarget,
  isExportRequest,
  isImportRequest,
  isTargetMessage,
  type TaskMessage,
} from './protocol.ts';

/** Progress is for people: a few lines a second. */
const progressEveryMs = 200;

function send(message: TaskMessage): Promise<void> {
  return new Promise((resolve) => {
    process.stdout.write(`${JSON.stringify(message)}\n`, () => resolve());
  });
}

/** Passes on the first, the last and otherwise few progress messages. */
function throttle(clock: Clock): (progress: ImageProgress) => void {
  let nextMs = 0;
  return (progress) => {
    const nowMs = clock.monotonicMs();
    if (nowMs < nextMs && progress.done !== progress.total) return;
    nextMs = nowMs + progressEveryMs;
    void send({ progress });
  };
}

const world = { timers: systemTimers, random: systemRandom };

type Lines = AsyncIterator<string>;

class Cancelling {
  readonly #controller = new AbortController();
  get signal(): AbortSignal {
    return this.#controller.signal;
  }
  readonly asked = (): void =>
    this.#controller.abort(new DvceError('CANCELLED', { what: 'the work on the image' }));
  readonly parentGone = (): void =>
    this.#controller.abort(
      new DvceError('INTERRUPTED', {
        what: 'the work on the image',
        advice: 'The agent ended while it ran; start it again when wanted.',
      }),
    );
}

async function work(lines: Lines, cancelling: Cancelling): Promise<TaskMessage> {
  const request = parseLine(await lines.next());
  const options = { ...world, signal: cancelling.signal, onProgress: throttle(systemClock) };
  // What comes next is the place of the volume, or the end of the parent.
  const next = lines.next();
  next.then(({ done }) => {
    if (done === true) cancelling.parentGone();
  }, cancelling.parentGone);
  if (isExportRequest(request)) {
    const output = new Socket({ fd: 3, readable: false, writable: true });
    output.on('error', () => {}); // every write reports it
    return { exported: await exportImage(request, { ...options, output }) };
  }
  if (!isImportRequest(request)) throw misspoken('the request');
  const result = await importImage(request, {
    ...options,
    async prepareVolume(description) {
      await send({ described: description });
      const target = await readTarget(next, cancelling.signal);
      // From here on the parent says nothing more; the end of its pipe is the end of the parent.
      lines.next().then(cancelling.parentGone, cancelling.parentGone);
      return target;
    },
  });
  return { result };
}

async function readTarget(
  next: Promise<IteratorResult<string>>,
  signal: AbortSignal,
): Promise<ImageTarget> {
  const aborted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
  const message = parseLine(await Promise.race([aborted, next]));
  if (!isTargetMessage(message)) throw misspoken('the target');
  return message.target;
}

function parseLine(line: IteratorResult<string>): unknown {
  if (line.done === true) throw new DvceError('CANCELLED', { what: 'the work on the image' });
  try {
    return JSON.parse(line.value);
  } catch {
    return undefined; // refused by the schema
  }
}

const misspoken = (what: string): DvceError =>
  new DvceError('PROTOCOL', {
    peer: 'the parent of the image process',
    reason: `${what} is not valid`,
  });

async function main(): Promise<number> {
  const cancelling = new Cancelling();
  process.once('SIGTERM', cancelling.asked);
  process.once('SIGINT', cancelling.asked);
  try {
    await send(
      await work(createInterface({ input: process.stdin })[Symbol.asyncIterator](), cancelling),
    );
    return exitCodes.ok;
  } catch (error) {
    const known = toDvceError(error, 'the work on the image');
    await send({ error: { code: known.code, context: known.context } });
    return known.exitCode;
  }
}

process.exitCode = await main();
// Nothing may keep the process: the parent's pipe is still open when the work has failed early.
process.exit();
