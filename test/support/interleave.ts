/** Runs several tasks in steps: each waits before every call to its store until the schedule lets it go on. */
import type { SegmentStore } from '../../src/hlfs/index.ts';
import { watched } from './catalog-world.ts';

export type Outcome = { readonly value: unknown } | { readonly error: unknown };

interface Running {
  /** Lets the task go on to its next call; undefined while it runs. */
  go: (() => void) | undefined;
  outcome: Outcome | undefined;
  /** Called when the task waits again, or has ended. */
  settled: () => void;
}

/**
 * @param tasks each gets a store of its own, which waits
 * @param choose which task goes on, out of those that wait
 * @returns how each task ended, and for each of its calls whether it changed the store
 */
export async function interleave(
  store: SegmentStore,
  tasks: readonly ((store: SegmentStore) => Promise<unknown>)[],
  choose: (waiting: readonly number[]) => number,
): Promise<{ outcomes: readonly Outcome[]; calls: readonly (readonly boolean[])[] }> {
  const running: Running[] = tasks.map(() => ({
    go: undefined,
    outcome: undefined,
    settled: () => {},
  }));
  const calls = tasks.map((): boolean[] => []);
  for (const [index, task] of tasks.entries()) {
    const state = running[index] as Running;
    const stepping = watched(
      store,
      (_call, isMutation) =>
        new Promise<void>((resolve) => {
          calls[index]?.push(isMutation);
          state.go = resolve;
          state.settled();
        }),
    );
    await settled(state, () => {
      const end = (outcome: Outcome): void => {
        state.outcome = outcome;
        state.settled();
      };
      task(stepping).then(
        (value) => end({ value }),
        (error: unknown) => end({ error }),
      );
    });
  }
  for (;;) {
    const waiting = [...running.keys()].filter((index) => running[index]?.go !== undefined);
    if (waiting.length === 0) break;
    const chosen = choose(waiting);
    const state = running[chosen] as Running;
    const go = state.go as () => void;
    state.go = undefined;
    await settled(state, go);
  }
  return { outcomes: running.map(({ outcome }) => outcome as Outcome), calls };
}

/** Everything below runs in microtasks, so a task always gets to its next call or to its end. */
const settled = (state: Running, start: () => void): Promise<void> =>
  new Promise((resolve) => {
    state.settled = resolve;
    start();
  });

/**
 * Where a switch can matter: right before a change of the store and right after one. (A call that only looks commutes with
 * the looks of others; what it sees is decided by the changes around it.)
 */
export function switchPoints(calls: readonly boolean[]): number[] {
  const points = new Set<number>([calls.length]);
  for (const [index, isMutation] of calls.entries())
    if (isMutation) points.add(index).add(index + 1);
  return [...points].sort((a, b) => a - b);
}

/** Of two tasks: `first` goes `before` steps, the other `between` steps, then `first` to its end, then the other. */
export function switching(
  first: number,
  before: number,
  between: number,
): (waiting: readonly number[]) => number {
  let step = 0;
  return (waiting) => {
    const other = waiting.find((index) => index !== first);
    const isOther = step >= before && step < before + between;
    step += 1;
    if (isOther && other !== undefined) return other;
    return waiting.includes(first) ? first : (other as number);
  };
}
