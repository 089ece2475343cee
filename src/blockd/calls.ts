/**
 * Both halves of request and reply, independent of what carries them: the control socket (lines) and the ports between the
 * main thread and its workers use the same two classes.
 *
 *   CallTable   the asking side: numbers requests, keeps what is pending (bounded), deadlines, cancel, progress
 *   Dispatcher  the answering side: runs handlers (bounded), cancels them, sends results, errors, progress
 *
 * Invariants: every request gets exactly one result or error; a request whose caller gave up is cancelled at the other side
 * and its late answer is dropped; when the carrier ends every pending request fails with the reason of the end.
 */
import {
  DvceError,
  type ErrorCode,
  type ErrorContext,
  errorTable,
  limits,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { isRecord } from './lines.ts';
import type { ControlProgress } from './protocol.ts';

export type Message = Readonly<Record<string, unknown>>;

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
  readonly onProgress?: ((progress: ControlProgress) => void) | undefined;
}

interface Pending {
  readonly method: string;
  readonly onProgress: ((progress: ControlProgress) => void) | undefined;
  settle(outcome: { readonly result: unknown } | { readonly error: unknown }): void;
}

export interface CallTableOptions {
  readonly timers: Timers;
  /** Hands one message to the carrier. */
  readonly post: (message: object) => void;
  /** Names the other side in errors. */
  readonly peer: string;
  readonly inFlightMax: number;
}

export class CallTable {
  readonly #options: CallTableOptions;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;

  constructor(options: CallTableOptions) {
    this.#options = options;
  }

  get pending(): number {
    return this.#pending.size;
  }

  call(method: string, params: unknown, options: CallOptions = {}): Promise<unknown> {
    const { timers, post, inFlightMax, peer } = this.#options;
    const { signal, onProgress, timeoutMs = limits.controlCallMs } = options;
    if (signal?.aborted) return Promise.reject(cancelled(method));
    if (this.#pending.size >= inFlightMax)
      return Promise.reject(
        new DvceError('BLOCKD_UNAVAILABLE', {
          where: peer,
          reason: `${inFlightMax} requests are waiting already`,
        }),
      );
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const giveUp = (error: DvceError): void => {
        post({ cancel: id });
        entry.settle({ error });
      };
      const onAbort = (): void => giveUp(cancelled(method));
      const timer = timers.after(timeoutMs, () =>
        giveUp(new DvceError('TIMED_OUT', { what: method, ms: timeoutMs })),
      );
      const entry: Pending = {
        method,
        onProgress,
        settle: (outcome) => {
          if (!this.#pending.delete(id)) return;
          timer.cancel();
          signal?.removeEventListener('abort', onAbort);
          if ('error' in outcome) reject(outcome.error);
          else resolve(outcome.result);
        },
      };
      this.#pending.set(id, entry);
      signal?.addEventListener('abort', onAbort, { once: true });
      try {
        post({ id, method, params });
      } catch (error) {
        entry.settle({ error });
      }
    });
  }

  /** A reply or progress came in. Throws PROTOCOL when it is neither. */
  receive(message: Message): void {
    const id = message['id'];
    if (typeof id !== 'number')
      throw new DvceError('PROTOCOL', { peer: this.#options.peer, reason: 'a reply has no id' });
    const pending = this.#pending.get(id);
    // Late answer to a request that was given up.
    if (pending === undefined) return;
    if ('result' in message) pending.settle({ result: message['result'] });
    else if ('error' in message)
      pending.settle({ error: decodeError(message['error'], this.#options.peer) });
    else if (isProgress(message['progress'])) pending.onProgress?.(message['progress']);
    else
      throw new DvceError('PROTOCOL', {
        peer: this.#options.peer,
        reason: 'a reply has neither result nor error nor progress',
      });
  }

  /** The carrier ended: everything pending fails. */
  fail(error: DvceError): void {
    for (const pending of [...this.#pending.values()]) pending.settle({ error });
  }
}

export interface CallContext {
  /** Aborts when the asker gave up or is gone. Work that changes something may go on all the same. */
  readonly signal: AbortSignal;
  readonly progress: (progress: ControlProgress) => void;
}

export type Handler = (method: string, params: unknown, context: CallContext) => Promise<unknown>;

export interface DispatcherOptions {
  readonly handler: Handler;
  readonly post: (message: object) => void;
  /** Called after a request ended, for carriers that stopped reading at the limit. */
  readonly onSettled?: () => void;
}

export class Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #running = new Map<number, AbortController>();
  #ended = false;

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running.size;
  }

  /** A request or cancel came in. Throws PROTOCOL when it is neither, or repeats an id that is in use. */
  receive(message: Message): void {
    const cancel = message['cancel'];
    if (typeof cancel === 'number') {
      this.#running.get(cancel)?.abort(cancelled('the request'));
      return;
    }
    const { id, method } = message;
    if (typeof id !== 'number' || !Number.isSafeInteger(id) || typeof method !== 'string')
      throw new DvceError('PROTOCOL', {
        peer: 'the client',
        reason: 'a request needs id and method',
      });
    if (this.#running.has(id))
      throw new DvceError('PROTOCOL', { peer: 'the client', reason: `request id ${id} is in use` });
    void this.#run(id, method, message['params'] ?? {});
  }

  async #run(id: number, method: string, params: unknown): Promise<void> {
    const controller = new AbortController();
    this.#running.set(id, controller);
    let reply: object;
    try {
      const result = await this.#options.handler(method, params, {
        signal: controller.signal,
        progress: (progress) => {
          if (this.#running.get(id) === controller) this.#post({ id, progress });
        },
      });
      reply = { id, result };
    } catch (error) {
      reply = { id, error: encodeError(error) };
    }
    this.#running.delete(id);
    this.#post(reply);
    this.#options.onSettled?.();
  }

  #post(message: object): void {
    if (!this.#ended) this.#options.post(message);
  }

  /** The carrier ended: abort what runs, send nothing more. */
  end(): void {
    this.#ended = true;
    for (const controller of this.#running.values()) controller.abort(cancelled('the request'));
  }
}

function cancelled(what: string): DvceError {
  return new DvceError('CANCELLED', { what });
}

export function encodeError(error: unknown): { code: ErrorCode; context: ErrorContext } {
  const { code, context } = toDvceError(error);
  return { code, context };
}

function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(errorTable, code);
}

/** An error of a newer peer whose code is not known here becomes INTERNAL with that code in its reason. */
export function decodeError(value: unknown, peer: string): DvceError {
  const record = isRecord(value) ? value : {};
  const code = record['code'];
  const context: Record<string, string | number | boolean> = {};
  if (isRecord(record['context']))
    for (const [name, field] of Object.entries(record['context']))
      if (typeof field === 'string' || typeof field === 'number' || typeof field === 'boolean')
        context[name] = field;
  if (isErrorCode(code)) return new DvceError(code, context);
  return new DvceError('INTERNAL', {
    reason: `${peer} answered with the unknown error ${JSON.stringify(code)}`,
  });
}

function isProgress(value: unknown): value is ControlProgress {
  return (
    isRecord(value) &&
    typeof value['done'] === 'string' &&
    (value['total'] === null || typeof value['total'] === 'string') &&
    typeof value['unit'] === 'string'
  );
}
