/**
 * Operations: work that takes longer than one answer, with progress, cancel and wait.
 *
 *   begin --> running --+--> succeeded   result
 *                       +--> failed      error
 *                       +--> cancelled   somebody asked, and the work obeyed
 *
 * Invariants
 * - what runs is bounded (limits.operationsRunningMax), what is kept too (limits.operationsKept, oldest go first);
 * - `cancelled` is said only when the work has ended: whoever waits for it may rely on nothing going on;
 * - an operation that was running when the agent ended is found failed (INTERRUPTED) after its restart, because its work
 *   lives and ends with the agent (import jobs end when their standard input does).
 */
import type { Operation, OperationKind } from '../api/index.ts';
import { toProblem, urls } from '../api/index.ts';
import {
  type Clock,
  DvceError,
  type Logger,
  limits,
  type Random,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { familyOf } from './change-events.ts';
import type { Events } from './events.ts';
import type { OperationLog } from './operation-log.ts';
import { requestorName } from './requestor.ts';

export interface OperationHandle {
  readonly id: string;
  /** Aborts when the operation is cancelled or the agent stops. */
  readonly signal: AbortSignal;
  progress(done: number, total: number | null, unit: string): void;
  /** A line of the kept log; no secrets. */
  log(text: string): void;
}

export interface OperationRequest {
  readonly kind: OperationKind;
  /** URL paths of what it works on. */
  readonly resources: readonly string[];
  readonly mayCancel: boolean;
  /** Resolves with the result. */
  readonly work: (handle: OperationHandle) => Promise<unknown>;
}

interface Running {
  readonly cancel: AbortController;
  readonly ended: Promise<void>;
  readonly startedMs: number;
  progress: Operation['progress'];
  toldMs: number;
  lines: number;
}

export interface OperationsOptions {
  readonly log: OperationLog;
  readonly events: Events;
  /** Name of this host. */
  readonly node?: string;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
}

export class Operations {
  readonly #options: OperationsOptions;
  /** In the order of their begin. */
  readonly #all = new Map<string, Operation>();
  readonly #running = new Map<string, Running>();
  #closed = false;

  private constructor(options: OperationsOptions) {
    this.#options = options;
  }

  /** @returns the operations, and those that the end of the last agent interrupted */
  static async open(
    options: OperationsOptions,
  ): Promise<{ operations: Operations; interrupted: readonly Operation[] }> {
    const operations = new Operations(options);
    const interrupted: Operation[] = [];
    for (const entry of await options.log.read()) {
      const ended = entry.status === 'running' ? operations.#interrupt(entry) : entry;
      operations.#all.set(ended.id, ended);
      if (ended === entry) continue;
      interrupted.push(ended);
      const at = ended.endedAt ?? '';
      await options.log.writeLine(ended.id, limits.operationLogLines + 2, `${at} interrupted`);
      await options.log.write(ended);
    }
    await operations.#prune();
    return { operations, interrupted };
  }

  get running(): number {
    return this.#running.size;
  }

  /** Newest first. */
  list(): Operation[] {
    return [...this.#all.keys()].reverse().map((id) => this.get(id));
  }

  get(id: string): Operation {
    const found = this.#all.get(id);
    if (found === undefined) throw new DvceError('NOT_FOUND', { kind: 'op', name: id });
    const running = this.#running.get(id);
    return running === undefined ? found : { ...found, progress: running.progress };
  }

  async begin(request: OperationRequest): Promise<Operation> {
    if (this.#closed) throw new DvceError('CANCELLED', { what: 'the agent' });
    if (this.#running.size >= limits.operationsRunningMax)
      throw new DvceError('IN_USE', {
        kind: 'agent',
        name: '',
        reason: `${limits.operationsRunningMax} operations run already`,
        advice: 'Wait for one of them: dvce op list --running',
      });
    const { clock, random, log } = this.#options;
    const nowMs = clock.wallMs();
    const operation: Operation = {
      id: `${nowMs.toString(36)}${random.bytes(4).toString('hex')}`,
      kind: request.kind,
      status: 'running',
      progress: null,
      resources: [...request.resources],
      mayCancel: request.mayCancel,
      requestedBy: requestorName(),
      node: this.#options.node ?? '',
      startedAt: new Date(nowMs).toISOString(),
      endedAt: null,
      result: null,
      error: null,
    };
    const ended = Promise.withResolvers<void>();
    const running: Running = {
      cancel: new AbortController(),
      ended: ended.promise,
      startedMs: clock.monotonicMs(),
      progress: null,
      toldMs: clock.monotonicMs(),
      lines: 0,
    };
    this.#all.set(operation.id, operation);
    this.#running.set(operation.id, running);
    await log.write(operation);
    this.#tell('operation.started', operation);
    this.#say(
      operation.id,
      running,
      `started by ${operation.requestedBy}: ${request.resources.join(' ')}`,
    );
    this.#run(operation, running, request).then(ended.resolve, ended.resolve);
    return operation;
  }

  async #run(operation: Operation, running: Running, request: OperationRequest): Promise<void> {
    const { logger } = this.#options;
    const { signal } = running.cancel;
    const handle: OperationHandle = {
      id: operation.id,
      signal,
      progress: (done, total, unit) => {
        running.progress = { done, total, unit, etaMs: this.#eta(running, done, total) };
        this.#tellProgress(operation, running);
      },
      log: (text) => this.#say(operation.id, running, text),
    };
    let outcome: Pick<Operation, 'status' | 'result' | 'error'>;
    try {
      const result = (await request.work(handle)) ?? null;
      outcome = { status: 'succeeded', result, error: null };
    } catch (error) {
      const known = toDvceError(error);
      const status = signal.aborted && known.code === 'CANCELLED' ? 'cancelled' : 'failed';
      logger.warn({ operation: operation.id, kind: operation.kind, err: known }, `it ${status}`);
      outcome = { status, result: null, error: toProblem(known) };
    }
    await this.#end(operation, running, outcome);
  }

  async #end(
    operation: Operation,
    running: Running,
    outcome: Pick<Operation, 'status' | 'result' | 'error'>,
  ): Promise<void> {
    const { clock, log, logger } = this.#options;
    const ended: Operation = {
      ...operation,
      ...outcome,
      progress: running.progress === null ? null : { ...running.progress, etaMs: null },
      mayCancel: false,
      endedAt: new Date(clock.wallMs()).toISOString(),
    };
    const why = ended.error === null ? '' : `: ${ended.error.detail}`;
    this.#say(operation.id, running, `${ended.status}${why}`, true);
    this.#all.set(operation.id, ended);
    this.#running.delete(operation.id);
    this.#tell('operation.ended', ended);
    this.#tellResources(ended);
    try {
      await log.write(ended);
      await this.#prune();
    } catch (error) {
      // The entry is in memory; after a restart it is found as interrupted.
      logger.warn({ err: error, operation: operation.id }, 'the operation log cannot be written');
    }
  }

  #tell(
    type: 'operation.started' | 'operation.progress' | 'operation.ended',
    now: Operation,
  ): void {
    const { id, kind, status, progress, resources, error } = now;
    const code = error === null ? {} : { code: error.code, detail: error.detail };
    this.#options.events.emit(type, urls.operation(id), {
      id,
      kind,
      status,
      progress,
      resources,
      ...code,
    });
  }

  /** Lines beyond the limit are left out, but for the last one. */
  #say(id: string, running: Running, text: string, last = false): void {
    const { clock, log, logger } = this.#options;
    if (running.lines >= limits.operationLogLines && !last) return;
    const said = text.replaceAll(/\p{Cc}+/gu, ' ').slice(0, limits.operationLineCharacters);
    const line = `${new Date(clock.wallMs()).toISOString()} ${said}`;
    running.lines += 1;
    log
      .writeLine(id, running.lines, line)
      .catch((error: unknown) => logger.warn({ err: error, operation: id }, 'a line was not kept'));
  }

  /** The lines that it said so far, oldest first. */
  async lines(id: string): Promise<readonly string[]> {
    this.get(id);
    return this.#options.log.readLines(id);
  }

  /** What it worked on is another now; after a failure too, which may have come half way. */
  #tellResources({ id, resources }: Operation): void {
    for (const resource of resources) {
      const family = familyOf(resource);
      if (family !== undefined)
        this.#options.events.emit(`${family}.changed`, resource, { operation: id });
    }
  }

  #tellProgress(operation: Operation, running: Running): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (nowMs - running.toldMs < limits.operationProgressMs) return;
    running.toldMs = nowMs;
    this.#tell('operation.progress', { ...operation, progress: running.progress });
    const { done, total, unit } = running.progress ?? { done: 0, total: null, unit: '' };
    this.#say(operation.id, running, `${done}${total === null ? '' : ` of ${total}`} ${unit}`);
  }

  /** From the mean rate since the begin; nothing before a second has passed. */
  #eta(running: Running, done: number, total: number | null): number | null {
    const spentMs = this.#options.clock.monotonicMs() - running.startedMs;
    if (total === null || done <= 0 || spentMs < 1000) return null;
    return Math.max(0, Math.round((spentMs / done) * (total - done)));
  }

  /** Resolves when it has ended, when `waitMs` is over, or when the asker has gone. */
  async wait(id: string, waitMs: number, signal: AbortSignal): Promise<Operation> {
    const running = this.#running.get(id);
    if (running === undefined || waitMs <= 0 || signal.aborted) return this.get(id);
    const over = Promise.withResolvers<void>();
    const timer = this.#options.timers.after(waitMs, over.resolve);
    signal.addEventListener('abort', () => over.resolve(), { once: true });
    await Promise.race([running.ended, over.promise]);
    timer.cancel();
    return this.get(id);
  }

  /** Ask it to stop; it has stopped when its status says so. */
  cancel(id: string): Operation {
    const operation = this.get(id);
    const running = this.#running.get(id);
    const what = `cancelling operation ${id} (${operation.kind})`;
    if (running === undefined)
      throw new DvceError('CONFLICT', {
        kind: 'operation',
        name: id,
        reason: `it has ${operation.status} already`,
      });
    if (!operation.mayCancel)
      throw new DvceError('NOT_ALLOWED', {
        what,
        reason: 'this kind of work is not stopped half way',
        advice: `Wait for it: dvce op wait ${id}`,
      });
    running.cancel.abort(new DvceError('CANCELLED', { what: `${operation.kind}` }));
    return operation;
  }

  #interrupt(entry: Operation): Operation {
    return {
      ...entry,
      status: 'failed',
      mayCancel: false,
      endedAt: new Date(this.#options.clock.wallMs()).toISOString(),
      error: toProblem(
        new DvceError('INTERRUPTED', {
          what: `${entry.kind} of ${entry.resources.join(', ')}`,
          advice: 'The agent ended while it ran; start it again when wanted.',
        }),
      ),
    };
  }

  async #prune(): Promise<void> {
    const ended = [...this.#all.keys()].filter((id) => !this.#running.has(id));
    const old = ended.slice(0, Math.max(0, ended.length - limits.operationsKept));
    if (old.length === 0) return;
    for (const id of old) this.#all.delete(id);
    await this.#options.log.forget(old);
  }

  /**
   * Interrupt all, wait for those that obey, close the log. Nobody cancelled them: they end as after a kill of the agent, and
   * a download keeps what it has. One that does not end in time (a guest that is being shut down) is found interrupted at the
   * next start.
   */
  async close(): Promise<void> {
    this.#closed = true;
    const left = [...this.#running.values()];
    const stopped = new DvceError('INTERRUPTED', {
      what: 'the operation',
      advice: 'The agent was stopped while it ran; start it again when wanted.',
    });
    for (const { cancel } of left) cancel.abort(stopped);
    const over = Promise.withResolvers<void>();
    const timer = this.#options.timers.after(limits.operationsCloseMs, over.resolve);
    await Promise.race([Promise.allSettled(left.map(({ ended }) => ended)), over.promise]);
    timer.cancel();
    await this.#options.log.close();
  }
}
