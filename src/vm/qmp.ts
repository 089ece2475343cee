/**
 * A client of the QEMU machine protocol (QMP), as small as the driver needs it.
 *
 * Invariants: every command has a deadline; at most `limits.qmpInFlightMax` wait at once; answers and events are checked
 * against schemas before anyone sees them; when the connection ends, every waiting command fails.
 *
 *   <- {"QMP": {...}}                                greeting
 *   -> {"execute": "qmp_capabilities", "id": 1}      nothing else is accepted before
 *   <- {"return": {...}, "id": 1}  or  {"error": {"class": ..., "desc": ...}, "id": 1}
 *   <- {"event": "STOP", "data": {...}, "timestamp": {...}}      at any time
 */
import { Ajv, type ValidateFunction } from 'ajv';
import Type, { type Static, type TSchema } from 'typebox';
import { DvceError, limits, type Timer, type Timers } from '../base/index.ts';
import { withDeadline } from './deadline.ts';
import { connectJsonLines, type JsonLines } from './lines.ts';

/** The commands in use: answer of each; what they take is checked by the hypervisor. */
const anything = Type.Unsafe<unknown>({});
const empty = Type.Object({});
const results = {
  qmp_capabilities: empty,
  'query-status': Type.Object({ status: Type.String(), running: Type.Boolean() }),
  'query-uuid': Type.Object({ UUID: Type.String() }),
  cont: empty,
  stop: empty,
  system_powerdown: empty,
  system_reset: empty,
  'set-action': empty,
  quit: empty,
  device_add: empty,
  device_del: empty,
  'blockdev-add': empty,
  'blockdev-del': empty,
  netdev_add: empty,
  netdev_del: empty,
  balloon: empty,
  'query-balloon': Type.Object({ actual: Type.Integer() }),
  'query-memory-size-summary': Type.Object({ 'base-memory': Type.Integer() }),
  'query-cpus-fast': Type.Array(Type.Object({ 'cpu-index': Type.Integer() })),
  'query-hotpluggable-cpus': Type.Array(
    Type.Object({
      type: Type.String(),
      props: Type.Record(Type.String(), anything),
      'qom-path': Type.Optional(Type.String()),
    }),
  ),
  'query-vnc': Type.Object({
    enabled: Type.Boolean(),
    host: Type.Optional(Type.String()),
    service: Type.Optional(Type.String()),
  }),
  'qom-list': Type.Array(Type.Object({ name: Type.String(), type: Type.String() })),
} as const satisfies Record<string, TSchema>;

export type QmpCommand = keyof typeof results;
export type QmpResult<C extends QmpCommand> = Static<(typeof results)[C]>;

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

const ajv = new Ajv({ strict: false });
const isGreeting = ajv.compile(Type.Object({ QMP: Type.Object({}) }));
const isEvent = ajv.compile<{ event: string; data?: Record<string, unknown> }>(
  Type.Object({ event: Type.String(), data: Type.Optional(Type.Object({})) }),
);
const isReply = ajv.compile<{ id: number; return?: unknown; error?: { desc: string } }>(
  Type.Object({
    id: Type.Integer(),
    return: Type.Optional(Type.Unknown()),
    error: Type.Optional(Type.Object({ desc: Type.String() })),
  }),
);
const resultChecks = Object.fromEntries(
  Object.entries(results).map(([command, schema]) => [command, ajv.compile(schema)]),
) as Record<QmpCommand, ValidateFunction>;

interface Waiting {
  readonly command: QmpCommand;
  readonly timer: Timer;
  resolve(value: unknown): void;
  reject(error: DvceError): void;
}

export interface QmpOptions {
  readonly path: string;
  /** Name of the VM, for messages. */
  readonly vm: string;
  readonly timers: Timers;
  readonly connectMs?: number;
  onEvent(event: QmpEvent): void;
  /** The connection ended by itself, not by `close`. */
  onClose(error: DvceError): void;
}

export class QmpClient {
  readonly #options: QmpOptions;
  readonly #waiting = new Map<number, Waiting>();
  #lines: JsonLines | undefined;
  #greeted: { resolve(): void; reject(error: DvceError): void } | undefined;
  #ended: DvceError | undefined;
  #closing = false;
  #nextId = 1;

  private constructor(options: QmpOptions) {
    this.#options = options;
  }

  /** Connect and finish the handshake; rejects with PROTOCOL, TIMED_OUT or the system's error. */
  static async connect(options: QmpOptions): Promise<QmpClient> {
    const client = new QmpClient(options);
    const connectMs = options.connectMs ?? limits.qmpCommandMs;
    const greeted = new Promise<void>((resolve, reject) => {
      client.#greeted = { resolve, reject };
    });
    greeted.catch(() => {}); // awaited below, but the connection may end before that
    client.#lines = await connectJsonLines({
      path: options.path,
      peer: client.#peer,
      timers: options.timers,
      connectMs,
      onMessage: (message) => client.#receive(message),
      onClose: (error) => client.#end(error),
    });
    try {
      await withDeadline(options.timers, connectMs, `the greeting of ${client.#peer}`, greeted);
      await client.execute('qmp_capabilities');
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  get open(): boolean {
    return this.#ended === undefined && !this.#closing;
  }

  execute<C extends QmpCommand>(
    command: C,
    deadlineMs: number = limits.qmpCommandMs,
    args?: object,
  ): Promise<QmpResult<C>> {
    return new Promise((resolve, reject) => {
      const refusal = this.#refusal(command);
      if (refusal !== undefined) return reject(refusal);
      const id = this.#nextId++;
      const timer = this.#options.timers.after(deadlineMs, () => {
        this.#waiting.delete(id);
        const what = `command ${command} to ${this.#peer}`;
        reject(new DvceError('TIMED_OUT', { what, ms: deadlineMs }));
      });
      // The schema of the command was checked before `resolve` is called.
      this.#waiting.set(id, {
        command,
        timer,
        resolve: (value) => resolve(value as QmpResult<C>),
        reject,
      });
      this.#lines?.send({
        execute: command,
        id,
        ...(args === undefined ? {} : { arguments: args }),
      });
    });
  }

  /** Let go; the guest is not touched. */
  close(): void {
    this.#closing = true;
    this.#lines?.close();
  }

  get #peer(): string {
    return `the hypervisor of VM ${this.#options.vm}`;
  }

  #refusal(command: QmpCommand): DvceError | undefined {
    if (this.#ended !== undefined) return this.#ended;
    if (this.#closing) return this.#failed(`${command}: the connection is closed`);
    if (this.#waiting.size >= limits.qmpInFlightMax)
      return this.#failed(`${command}: too many commands wait for an answer`);
    return undefined;
  }

  #failed(reason: string): DvceError {
    return new DvceError('HYPERVISOR_FAILED', { name: this.#options.vm, reason });
  }

  #receive(message: unknown): void {
    if (isEvent(message)) this.#options.onEvent({ event: message.event, data: message.data ?? {} });
    else if (isReply(message)) this.#reply(message);
    else if (isGreeting(message)) this.#greeted?.resolve();
    // Anything else is news of a newer QEMU that nobody here asked for.
  }

  #reply(message: { id: number; return?: unknown; error?: { desc: string } }): void {
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) return; // its deadline has passed
    this.#waiting.delete(message.id);
    waiting.timer.cancel();
    const { command } = waiting;
    if (message.error !== undefined)
      waiting.reject(this.#failed(`${command}: ${message.error.desc}`));
    else if (resultChecks[command](message.return)) waiting.resolve(message.return);
    else {
      const reason = `the answer to ${command} has an unknown form`;
      waiting.reject(new DvceError('PROTOCOL', { peer: this.#peer, reason }));
    }
  }

  #end(error: DvceError): void {
    this.#ended = error;
    this.#greeted?.reject(error);
    for (const waiting of this.#waiting.values()) {
      waiting.timer.cancel();
      waiting.reject(error);
    }
    this.#waiting.clear();
    if (!this.#closing) this.#options.onClose(error);
  }
}
