/**
 * Does a flush follow the write that was just journaled? A database that commits, or a guest that syncs each write, sends one
 * write, waits, sends a flush, waits. While that pattern lasts the sync is begun with the write, so that it runs while the reply
 * travels to the client and the flush back.
 *
 * Purpose only: time. A forecast that is wrong costs one sync; after it `streakMin` pairs have to be seen anew.
 *
 *   state: pairs seen in a row | single writes since the last flush
 */
const streakMin = 3;

export class FlushForecast {
  #streak = 0;
  #writes = 0;

  /** Records were journaled together. @returns true when a flush of just these is expected */
  appended(records: number): boolean {
    this.#writes += records;
    if (this.#writes === 1 && this.#streak >= streakMin) return true;
    if (this.#writes > 1) this.#streak = 0;
    return false;
  }

  /** @param alone no other flush waits: with several clients a sync of many is better than an early one */
  flushed(alone: boolean): void {
    this.#streak = alone && this.#writes === 1 ? Math.min(this.#streak + 1, streakMin) : 0;
    this.#writes = 0;
  }
}
