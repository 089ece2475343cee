/**
 * A bound on bytes and requests a second, as a token bucket that holds one second. Requests start in the order they came;
 * what waits is bounded by what the server lets in flight.
 */
import type { Clock, DvceError, Timers } from '../../base/index.ts';
import type { BlockBackend } from '../backend.ts';
import { Intercept, type OperationFacts } from './intercept.ts';

export interface Rate {
  readonly bytesPerSecond?: number;
  readonly requestsPerSecond?: number;
}

export class RateBackend extends Intercept {
  readonly #rate: Rate;
  readonly #clock: Clock;
  readonly #timers: Timers;
  /** Monotonic time at which everything admitted so far has been paid for. */
  #paidMs: number;

  constructor(inner: BlockBackend, rate: Rate, clock: Clock, timers: Timers) {
    super(inner);
    this.#rate = rate;
    this.#clock = clock;
    this.#timers = timers;
    this.#paidMs = clock.monotonicMs() - 1000;
  }

  protected before(facts: OperationFacts, start: (error: DvceError | null) => void): void {
    const moves = facts.operation === 'read' || facts.operation === 'write';
    const { bytesPerSecond, requestsPerSecond } = this.#rate;
    const byBytes = bytesPerSecond && moves ? (facts.length * 1000) / bytesPerSecond : 0;
    const byCount = requestsPerSecond ? 1000 / requestsPerSecond : 0;
    const nowMs = this.#clock.monotonicMs();
    this.#paidMs = Math.max(this.#paidMs, nowMs - 1000) + Math.max(byBytes, byCount);
    const waitMs = this.#paidMs - nowMs;
    if (waitMs <= 0) start(null);
    else this.#timers.after(waitMs, () => start(null));
  }
}
