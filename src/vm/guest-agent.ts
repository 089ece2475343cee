/**
 * The QEMU guest agent inside of a guest, over the socket of its channel: one JSON object a line, one answer a command.
 *
 * Invariants
 * - nothing in the guest is trusted: every wait has a deadline, every answer is checked, a line has a longest length;
 * - an answer belongs to its question: each conversation begins with `guest-sync` and a number of its own, and what is left of
 *   an earlier conversation is skipped (the channel keeps answers that nobody took);
 * - one conversation at a time, because the channel has one end. It is closed after every command, so that the watch for
 *   readiness and a command take turns.
 */
import { Ajv } from 'ajv';
import Type from 'typebox';
import { type Clock, DvceError, limits, type Random, sleep, type Timers } from '../base/index.ts';
import { withDeadline } from './deadline.ts';
import { connectJsonLines, type JsonLines } from './lines.ts';

export interface GuestAgentOptions {
  readonly path: string;
  /** Name of the VM, for messages. */
  readonly vm: string;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
}

/** A card as the guest sees it. */
export interface GuestInterface {
  readonly name: string;
  readonly mac: string | null;
  readonly addresses: readonly string[];
}

const ajv = new Ajv({ strict: false });
const isAnswer = ajv.compile<{ return?: unknown; error?: { desc: string } }>(
  Type.Object({
    return: Type.Optional(Type.Unknown()),
    error: Type.Optional(Type.Object({ desc: Type.String() })),
  }),
);
const isInterfaces = ajv.compile<
  {
    name: string;
    'hardware-address'?: string;
    'ip-addresses'?: { 'ip-address': string; 'ip-address-type': string }[];
  }[]
>(
  Type.Array(
    Type.Object({
      name: Type.String({ maxLength: 64 }),
      'hardware-address': Type.Optional(Type.String({ maxLength: 64 })),
      'ip-addresses': Type.Optional(
        Type.Array(Type.Object({ 'ip-address': Type.String({ maxLength: 64 }) }), { maxItems: 64 }),
      ),
    }),
    { maxItems: 256 },
  ),
);

export class GuestAgent {
  readonly #options: GuestAgentOptions;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: GuestAgentOptions) {
    this.#options = options;
  }

  /** @returns whether it answered in time */
  async ping(deadlineMs: number = limits.vmGuestAgentMs): Promise<boolean> {
    try {
      await this.#ask('guest-ping', {}, deadlineMs);
      return true;
    } catch (error) {
      // No agent, one that hangs and one that is older than the command are the same for whoever asks.
      if (error instanceof DvceError) return false;
      throw error;
    }
  }

  async interfaces(deadlineMs: number = limits.vmGuestAgentMs): Promise<GuestInterface[]> {
    const answer = await this.#ask('guest-network-get-interfaces', {}, deadlineMs);
    if (!isInterfaces(answer)) throw this.#strange('guest-network-get-interfaces');
    return answer.map((one) => ({
      name: one.name,
      mac: one['hardware-address'] ?? null,
      addresses: (one['ip-addresses'] ?? []).map((address) => address['ip-address']),
    }));
  }

  /** Flush and freeze all file systems. @returns how many */
  async freeze(deadlineMs: number): Promise<number> {
    const count = await this.#ask('guest-fsfreeze-freeze', {}, deadlineMs);
    return typeof count === 'number' ? count : 0;
  }

  /** @returns how many file systems go on */
  async thaw(deadlineMs: number): Promise<number> {
    const count = await this.#ask('guest-fsfreeze-thaw', {}, deadlineMs);
    return typeof count === 'number' ? count : 0;
  }

  /** `frozen` or `thawed`. */
  async freezeStatus(deadlineMs: number = limits.vmGuestAgentMs): Promise<string> {
    return String(await this.#ask('guest-fsfreeze-status', {}, deadlineMs));
  }

  /** Ask the guest to restart or end itself; there is no answer when it obeys. */
  async shutdown(
    mode: 'powerdown' | 'reboot',
    deadlineMs: number = limits.vmGuestAgentMs,
  ): Promise<void> {
    await this.#ask('guest-shutdown', { mode }, deadlineMs, false);
  }

  /** Bring processors that were plugged in into use. */
  async useCpus(count: number, deadlineMs: number = limits.vmGuestAgentMs): Promise<void> {
    const cpus = await this.#ask('guest-get-vcpus', {}, deadlineMs);
    if (!Array.isArray(cpus)) throw this.#strange('guest-get-vcpus');
    const idle = cpus.filter(
      (cpu: unknown): cpu is { 'logical-id': number; online: false } =>
        typeof cpu === 'object' && cpu !== null && 'online' in cpu && cpu.online === false,
    );
    const vcpus = idle
      .slice(0, count)
      .map((cpu) => ({ 'logical-id': cpu['logical-id'], online: true }));
    if (vcpus.length > 0) await this.#ask('guest-set-vcpus', { vcpus }, deadlineMs);
  }

  #ask(command: string, args: object, deadlineMs: number, awaited = true): Promise<unknown> {
    const mine = this.#turn.then(() => this.#converse(command, args, deadlineMs, awaited));
    this.#turn = mine.catch(() => {}); // the caller has it
    return mine;
  }

  async #converse(
    command: string,
    args: object,
    deadlineMs: number,
    awaited: boolean,
  ): Promise<unknown> {
    const { clock, timers, random } = this.#options;
    const endMs = clock.monotonicMs() + deadlineMs;
    const left = (): number => Math.max(1, endMs - clock.monotonicMs());
    const inbox = new Inbox();
    const lines = await this.#connect(inbox, left());
    try {
      const number = random.bytes(4).readUInt32BE();
      lines.send({ execute: 'guest-sync', arguments: { id: number } });
      const what = `the guest agent of VM ${this.#options.vm}`;
      for (;;) {
        const answer = await withDeadline(timers, left(), what, inbox.next());
        if (isAnswer(answer) && answer.return === number) break;
      }
      lines.send({
        execute: command,
        ...(Object.keys(args).length === 0 ? {} : { arguments: args }),
      });
      if (!awaited) return await this.#maybeRefused(inbox, command);
      const answer = await withDeadline(timers, left(), `${command} of ${what}`, inbox.next());
      return this.#value(command, answer);
    } finally {
      lines.close();
    }
  }

  /** A command that has no answer when it works: only a refusal comes, and it comes at once. */
  async #maybeRefused(inbox: Inbox, command: string): Promise<null> {
    const silence = sleep(this.#options.timers, refusalMs).then(() => null);
    const ended = inbox.next().catch(() => null); // it went down with the guest
    const answer = await Promise.race([silence, ended]);
    if (answer !== null) this.#value(command, answer);
    return null;
  }

  /** The channel takes one client; whoever has it (the watch for readiness) lets go soon. */
  async #connect(inbox: Inbox, deadlineMs: number): Promise<JsonLines> {
    const { path, vm, timers } = this.#options;
    return connectJsonLines({
      path,
      peer: `the guest agent of VM ${vm}`,
      timers,
      connectMs: deadlineMs,
      onMessage: (message) => inbox.put(message),
      onClose: (error) => inbox.end(error),
    });
  }

  #value(command: string, answer: unknown): unknown {
    if (!isAnswer(answer)) throw this.#strange(command);
    if (answer.error === undefined) return answer.return;
    throw new DvceError('UNSUPPORTED', {
      what: `${command} in the guest ${this.#options.vm}`,
      reason: answer.error.desc,
      advice: 'See the log of the guest agent inside of the guest.',
    });
  }

  #strange(command: string): DvceError {
    const peer = `the guest agent of VM ${this.#options.vm}`;
    return new DvceError('PROTOCOL', {
      peer,
      reason: `the answer to ${command} has an unknown form`,
    });
  }
}

const refusalMs = 500;
const inboxMessagesMax = 1000;

/** Messages that came and were not taken yet, and the one that waits for the next. */
class Inbox {
  readonly #messages: unknown[] = [];
  #waiting: { resolve(value: unknown): void; reject(error: DvceError): void } | undefined;
  #ended: DvceError | undefined;

  put(message: unknown): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting !== undefined) waiting.resolve(message);
    else if (this.#messages.length < inboxMessagesMax) this.#messages.push(message);
  }

  end(error: DvceError): void {
    this.#ended = error;
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }

  next(): Promise<unknown> {
    if (this.#messages.length > 0) return Promise.resolve(this.#messages.shift());
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }
}
