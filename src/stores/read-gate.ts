/**
 * Reads that have to wait for the disk, so many at a time: libuv's pool of threads is one for the whole process, and a flood of
 * reads must leave threads for the syncs of journals and for other volumes (N5). What waits takes turns by the log that it is
 * read from; clones of one image that read the image's own segments share a turn.
 *
 * Invariants: at most `most` are under way; each starts once, in the order of its log; no log waits for more than one read of each
 * other log before its own next one. What waits is bounded by the requests of clients in flight.
 */
export class ReadGate {
  readonly #most: number;
  #underWay = 0;
  #isStarting = false;
  /** The log whose turn is next stands first. */
  readonly #waiting = new Map<string, (() => void)[]>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Call `start` when there is room, maybe now; one `leave` for each. */
  enter(log: string, start: () => void): void {
    if (this.#underWay < this.#most && this.#waiting.size === 0) {
      this.#underWay += 1;
      start();
      return;
    }
    const line = this.#waiting.get(log);
    if (line === undefined) this.#waiting.set(log, [start]);
    else line.push(start);
  }

  leave(): void {
    this.#underWay -= 1;
    // A read may end before its start returns.
    if (this.#isStarting) return;
    this.#isStarting = true;
    while (this.#underWay < this.#most && this.#waiting.size > 0) this.#startNext();
    this.#isStarting = false;
  }

  #startNext(): void {
    for (const [log, line] of this.#waiting) {
      this.#waiting.delete(log);
      const start = line.shift();
      if (line.length > 0) this.#waiting.set(log, line);
      this.#underWay += 1;
      start?.();
      return;
    }
  }
}

/** `logs/<uuid>/seg/...`: what stands before the second slash. */
export const logOf = (key: string): string => key.slice(0, key.indexOf('/', key.indexOf('/') + 1));
