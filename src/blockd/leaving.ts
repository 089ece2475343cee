/** Who waits for the last user of a volume to leave. */
import { limits, type Timers } from '../base/index.ts';

export class Leaving {
  readonly #timers: Timers;
  readonly #waiting = new Set<() => void>();

  constructor(timers: Timers) {
    this.#timers = timers;
  }

  /** Somebody left. */
  tell(): void {
    for (const look of [...this.#waiting]) look();
  }

  /** Resolves when nobody uses it, or when the time for leaving is over. */
  async until(isUsed: () => boolean): Promise<void> {
    if (!isUsed()) return;
    await new Promise<void>((resolve) => {
      const end = (): void => {
        timer.cancel();
        this.#waiting.delete(look);
        resolve();
      };
      const look = (): void => {
        if (!isUsed()) end();
      };
      const timer = this.#timers.after(limits.exportLeaveMs, end);
      this.#waiting.add(look);
    });
  }
}
