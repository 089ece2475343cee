/** One at a time per key, in the order of arrival, with a bound on who waits. */
import { DvceError, limits } from '../base/index.ts';

export class Turns {
  readonly #queues = new Map<string, { last: Promise<unknown>; waiting: number }>();

  /** Run `task` when everything that came before it for `key` has ended. IN_USE when too many wait already. */
  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const queue = this.#queues.get(key) ?? { last: Promise.resolve(), waiting: 0 };
    if (queue.waiting >= limits.volumeWaitersMax)
      throw new DvceError('IN_USE', {
        kind: 'volume',
        name: key,
        reason: `${queue.waiting} requests wait for it already`,
        advice: 'Try again later.',
      });
    const before = queue.last;
    const mine = before.then(task, task);
    queue.last = mine;
    queue.waiting += 1;
    this.#queues.set(key, queue);
    try {
      return await mine;
    } finally {
      queue.waiting -= 1;
      if (queue.waiting === 0) this.#queues.delete(key);
    }
  }

  /** Resolves when nothing runs or waits any more for any key. */
  async idle(): Promise<void> {
    while (this.#queues.size > 0)
      await Promise.allSettled([...this.#queues.values()].map((queue) => queue.last));
  }
}
