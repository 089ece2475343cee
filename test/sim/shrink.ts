/** A failing run made as short as it gets in bounded time, and the command that repeats it. */
import { type SimResult, simulate } from './harness.ts';
import { type Operation, printOperations } from './operations.ts';
import type { SimTargetMaker } from './target.ts';

export interface ShrinkLimits {
  readonly attempts: number;
  readonly ms: number;
}

const usualLimits: ShrinkLimits = { attempts: 600, ms: 60_000 };

/** Indexes of a subset of `count` things that still fails: without halves, quarters, ... single ones. */
export async function shrink(
  count: number,
  fails: (kept: readonly number[]) => Promise<boolean>,
  { attempts, ms }: ShrinkLimits = usualLimits,
): Promise<readonly number[]> {
  let kept: readonly number[] = Array.from({ length: count }, (_, index) => index);
  const endsMs = performance.now() + ms;
  let tried = 0;
  for (let size = Math.ceil(count / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2))
    for (let at = 0; at < kept.length && tried < attempts && performance.now() < endsMs; ) {
      const candidate = [...kept.slice(0, at), ...kept.slice(at + size)];
      tried += 1;
      if (await fails(candidate)) kept = candidate;
      else at += size;
    }
  return kept;
}

export const choose = (
  operations: readonly Operation[],
  kept: readonly number[],
): readonly Operation[] => operations.filter((_, index) => kept.includes(index));

/** What a problem is about, without its numbers: a shorter run that fails in another way explains nothing. */
const kindOf = (problem: string | undefined): string | undefined =>
  problem?.replace(/\d+/g, '').slice(0, 60);

/** The shortest list found that fails with this seed, as text to be pasted into a test. */
export async function explain(
  maker: SimTargetMaker,
  seed: number,
  operations: readonly Operation[],
  shrinkLimits?: ShrinkLimits,
): Promise<string> {
  const run = (kept: readonly number[]): Promise<SimResult> =>
    simulate(maker, seed, choose(operations, kept));
  const all = Array.from(operations, (_, index) => index);
  const kind = kindOf((await run(all)).problem);
  const fails = async (kept: readonly number[]): Promise<boolean> =>
    kindOf((await run(kept)).problem) === kind;
  const kept = await shrink(operations.length, fails, shrinkLimits);
  const { problem } = await run(kept);
  return [
    `seed ${seed} (${maker.options.name}): ${problem}`,
    `${kept.length} of ${operations.length} operations:`,
    printOperations(choose(operations, kept)),
    `again: npm run sim -- --seed ${seed} --keep ${kept.join(',')}`,
  ].join('\n');
}
