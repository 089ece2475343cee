/** Every request of the named operations starts later, as on a slow disk. */
import type { DvceError, Timers } from '../../base/index.ts';
import type { BlockBackend } from '../backend.ts';
import { Intercept, type OperationFacts } from './intercept.ts';
import type { Operation } from './pass-through.ts';

export type Delays = Readonly<Partial<Record<Operation, number>>>;

export class DelayBackend extends Intercept {
  readonly #delaysMs: Delays;
  readonly #timers: Timers;

  constructor(inner: BlockBackend, delaysMs: Delays, timers: Timers) {
    super(inner);
    this.#delaysMs = delaysMs;
    this.#timers = timers;
  }

  protected before({ operation }: OperationFacts, start: (error: DvceError | null) => void): void {
    const delayMs = this.#delaysMs[operation] ?? 0;
    if (delayMs === 0) start(null);
    else this.#timers.after(delayMs, () => start(null));
  }
}
