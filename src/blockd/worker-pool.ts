/**
 * The worker threads, as the main thread sees them: typed requests over message ports, and the choice of a worker.
 *
 * Invariants:
 * - a worker that fails takes the process with it (rule N4): `onFatal` is called once; nothing is restarted inside of a
 *   process that is in an unknown state;
 * - an export lives in one worker from open to close, the least loaded one at that time (placing.ts).
 */
import { Worker } from 'node:worker_threads';
import {
  type Clock,
  DvceError,
  limits,
  MiB,
  type Timers,
  toDvceError,
  type VolumeId,
} from '../base/index.ts';
import { type CallOptions, CallTable } from './calls.ts';
import { isRecord } from './lines.ts';
import { leastLoaded, type ThreadLoad } from './placing.ts';
import {
  type ExportKey,
  volumeOfKey,
  type WorkerMethod,
  type WorkerParams,
  type WorkerResult,
  type WorkerSetup,
} from './worker-protocol.ts';

const workerEntry = new URL(
  import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js',
  import.meta.url,
);

/** Room for JavaScript objects of a thread; buffers and map pages lie outside of it. */
export const volumeThreadLimits = {
  maxYoungGenerationSizeMb: limits.workerYoungBytes / MiB,
  maxOldGenerationSizeMb: limits.workerOldBytes / MiB,
};

export class WorkerThread {
  readonly index: number;
  /** Exports placed here, including those being opened or closed. */
  readonly exports = new Set<ExportKey>();
  readonly #worker: Worker;
  readonly #calls: CallTable;
  #stopping = false;
  /** When its time was looked at, what the clocks of its event loop said, and how busy it was before that. */
  #looked = { atMs: 0, idle: 0, active: 0, busyShare: 0 };

  /** Of late: over a second at least, so that opening one volume does not count for the next. */
  load(clock: Clock): ThreadLoad {
    const { atMs, idle, active, busyShare } = this.#looked;
    const nowMs = clock.monotonicMs();
    const exports = this.exports.size;
    if (nowMs - atMs < limits.placingLookMs) return { busyShare, exports };
    const now = this.#worker.performance.eventLoopUtilization();
    const passed = now.idle + now.active - idle - active;
    const share = atMs === 0 || passed <= 0 ? 0 : (now.active - active) / passed;
    this.#looked = { atMs: nowMs, idle: now.idle, active: now.active, busyShare: share };
    return { busyShare: share, exports };
  }

  /** The volume that it serves, when it serves exactly one (N4: who is to blame). */
  get onlyVolume(): VolumeId | null {
    const volumes = new Set([...this.exports].map(volumeOfKey));
    const [only] = volumes;
    return volumes.size === 1 && only !== undefined ? only : null;
  }

  constructor(
    setup: WorkerSetup,
    timers: Timers,
    onFatal: (thread: WorkerThread, error: DvceError) => void,
    onChanged: (key: string) => void,
  ) {
    this.index = setup.index;
    this.#worker = new Worker(workerEntry, {
      workerData: setup,
      name: `volumes-${setup.index}`,
      resourceLimits: volumeThreadLimits,
    });
    this.#calls = new CallTable({
      timers,
      peer: `worker ${setup.index}`,
      inFlightMax: limits.workerInFlightMax,
      post: (message) => this.#worker.postMessage(message),
    });
    const fatal = (error: DvceError): void => {
      this.#calls.fail(error);
      if (!this.#stopping) onFatal(this, error);
      this.#stopping = true;
    };
    this.#worker.on('message', (message: unknown) => {
      if (!isRecord(message)) return;
      if (typeof message['changed'] === 'string') onChanged(message['changed']);
      else this.#calls.receive(message);
    });
    this.#worker.on('messageerror', (error) => fatal(toDvceError(error)));
    this.#worker.on('error', (error) => fatal(toDvceError(error)));
    this.#worker.on('exit', (code) =>
      fatal(new DvceError('INTERNAL', { reason: `worker ${setup.index} ended with ${code}` })),
    );
  }

  async call<M extends WorkerMethod>(
    method: M,
    params: WorkerParams<M>,
    options: CallOptions = {},
  ): Promise<WorkerResult<M>> {
    const timeoutMs = options.timeoutMs ?? limits.workerCallMs;
    return (await this.#calls.call(method, params, { ...options, timeoutMs })) as WorkerResult<M>;
  }

  /** Close everything in it, then end the thread. */
  async stop(timeoutMs: number): Promise<void> {
    await this.call('stop', {}, { timeoutMs });
    this.#stopping = true;
    await this.#worker.terminate();
  }
}

export interface WorkerPoolOptions {
  readonly count: number;
  readonly setup: Omit<WorkerSetup, 'index' | 'workers'>;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly onFatal: (thread: WorkerThread, error: DvceError) => void;
  /** A worker wrote a document of the store, or may have. */
  readonly onChanged: (key: string) => void;
}

export class WorkerPool {
  readonly threads: readonly WorkerThread[];
  readonly #clock: Clock;

  constructor({ count, setup, clock, timers, onFatal, onChanged }: WorkerPoolOptions) {
    this.#clock = clock;
    this.threads = Array.from(
      { length: count },
      (_, index) =>
        new WorkerThread({ ...setup, index, workers: count }, timers, onFatal, onChanged),
    );
  }

  leastLoaded(): WorkerThread {
    const chosen =
      this.threads[leastLoaded(this.threads.map((thread) => thread.load(this.#clock)))];
    if (chosen === undefined) throw new DvceError('INTERNAL', { reason: 'there is no worker' });
    return chosen;
  }

  async stop(timeoutMs: number): Promise<void> {
    const outcomes = await Promise.allSettled(this.threads.map((thread) => thread.stop(timeoutMs)));
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw toDvceError(failed.reason);
  }
}
