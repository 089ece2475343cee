/**
 * How the volumes of one thread share its event loop.
 *
 * All that a client asks for is served in the turn in which it is read: 2 MiB of input of each connection, and what large reads
 * need. While a flooded volume has its turn, a lone request of another one waits. So with more than one volume in use each
 * does so much in a turn, and leaves the rest for the next one:
 *
 *   used < limit   requests are parsed and served
 *   used up        its connections are not read; they take turns in the next ones, in the order in which they had to stop
 *
 * Invariants:
 * - between two looks at the sockets a volume does work for at most its share and one request; with n volumes in use all of them
 *   do at most `turnBytes` and one request each (never less than `turnBytesMin` for each volume);
 * - every connection that had to stop is called again, without anybody asking for it;
 * - a volume that is alone on its thread is not limited, and pays for one reading of the clock per piece of input.
 *
 * Work is counted in bytes: what is read or written, and for each request what its handling costs beside that.
 */
import { type Clock, KiB, limits, MiB, type Timers } from '../base/index.ts';
import { commands } from './constants.ts';

/** What handling one request costs, as bytes: 4 KiB take about as long to move. */
const requestBytes = 4 * KiB;

export class ThreadTurns {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #shares = new Set<TurnShare>();
  #countedAtMs = Number.NEGATIVE_INFINITY;
  #limitBytes = Number.POSITIVE_INFINITY;

  constructor(clock: Clock, timers: Timers) {
    this.#clock = clock;
    this.#timers = timers;
  }

  /** For one more volume; `close` it with the volume. */
  share(): TurnShare {
    const share: TurnShare = new TurnShare(this, this.#timers, () => this.#shares.delete(share));
    this.#shares.add(share);
    return share;
  }

  /** A volume is used now. @returns what each may do in a turn */
  used(share: TurnShare): number {
    const nowMs = this.#clock.monotonicMs();
    share.usedAtMs = nowMs;
    if (nowMs - this.#countedAtMs < limits.turnCountMs) return this.#limitBytes;
    this.#countedAtMs = nowMs;
    let inUse = 0;
    for (const one of this.#shares) if (nowMs - one.usedAtMs < limits.turnUsedMs) inUse += 1;
    this.#limitBytes =
      inUse <= 1
        ? Number.POSITIVE_INFINITY
        : Math.max(limits.turnBytesMin, Math.floor(limits.turnBytes / inUse));
    return this.#limitBytes;
  }
}

export class TurnShare {
  usedAtMs = Number.NEGATIVE_INFINITY;
  readonly close: () => void;
  readonly #turns: ThreadTurns;
  readonly #timers: Timers;
  #limitBytes = Number.POSITIVE_INFINITY;
  #usedBytes = 0;
  #isTurning = false;
  #waiting: (() => void)[] = [];

  constructor(turns: ThreadTurns, timers: Timers, close: () => void) {
    this.#turns = turns;
    this.#timers = timers;
    this.close = close;
  }

  get isUsedUp(): boolean {
    return this.#usedBytes >= this.#limitBytes;
  }

  /** A client of the volume has something to do. */
  begin(): void {
    this.#limitBytes = this.#turns.used(this);
  }

  /** So much input was taken. */
  input(bytes: number): void {
    this.#use(bytes);
  }

  /** A request is about to be served; the bytes of a write count as they come in. */
  request(command: number, length: number): void {
    if (command === commands.read) this.#use(requestBytes + length);
    // A trim or zeroing below 1 MiB is noted block by block, a longer one as a range.
    else if (command === commands.trim || command === commands.writeZeroes)
      this.#use(requestBytes + Math.min(length, MiB) / 8);
    else this.#use(requestBytes);
  }

  /** Call `goOn` in a turn in which there is something left. Only while used up. */
  wait(goOn: () => void): void {
    this.#waiting.push(goOn);
    this.#turnLater();
  }

  #use(bytes: number): void {
    if (this.#limitBytes === Number.POSITIVE_INFINITY) return;
    this.#usedBytes += bytes;
    this.#turnLater();
  }

  #turnLater(): void {
    if (this.#isTurning) return;
    this.#isTurning = true;
    this.#timers.defer(() => this.#turn());
  }

  /** The sockets of all volumes come before the next one of these. */
  #turn(): void {
    this.#isTurning = false;
    this.#usedBytes = 0;
    // Those that stop again in this turn stand behind the others.
    for (let left = this.#waiting.length; left > 0 && !this.isUsedUp; left -= 1)
      this.#waiting.shift()?.();
    if (this.#waiting.length > 0) this.#turnLater();
  }
}
