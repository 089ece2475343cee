/**
 * The same operations under many option sets give one history: each read, snapshot, clone and the end have the same content,
 * however large segments, journals and caches are and whenever batches, roots and cleaning come.
 *
 * Nothing happens here whose outcome is allowed to vary (faults, crashes under way), and each look waits until nothing is under
 * way. Crashes with everything settled stay: they must not change anything either.
 */
import { crc32c } from '../../src/base/index.ts';
import { operationsOf, simulate } from './harness.ts';
import type { Operation } from './operations.ts';
import type { SimOptions } from './options.ts';
import type { SimTargetMaker } from './target.ts';

/** The operation without what may end in several ways; undefined: nothing is left of it. */
function calm(operation: Operation): [Operation] | undefined {
  switch (operation.kind) {
    case 'mimic':
    case 'hold':
    case 'reconnect':
    case 'fault':
    case 'store':
    case 'flip':
      return undefined;
    case 'crash':
      return [{ kind: 'restart', ending: operation.ending }];
    case 'clone':
      return [{ ...operation, race: false }];
    case 'set':
      return [{ ...operation, steps: null }];
    default:
      return [operation];
  }
}

/** Everything is looked at once in so many operations. */
const looksEvery = 15;

/** Whole blocks, so that the block size may vary too. */
function aligned(operation: Operation): Operation {
  if (!('first' in operation) || !('count' in operation)) return operation;
  const first = operation.first - (operation.first % 8);
  const count = Math.max(8, operation.count - (operation.count % 8));
  return { ...operation, first, count };
}

export function calmOperations(maker: SimTargetMaker, seed: number, count: number): Operation[] {
  const looks = Array.from(
    { length: maker.disks },
    (_, disk): Operation => ({ kind: 'read', disk, first: 0, count: maker.sectors }),
  );
  const operations = operationsOf(maker, seed, count).flatMap((each, index) => [
    ...(calm(each) ?? []),
    ...(index % looksEvery === 0 ? looks : []),
  ]);
  return seed % 2 === 0 ? operations.map(aligned) : operations;
}

export interface MetamorphicResult {
  readonly problem: string | undefined;
  /** What was seen in each history. */
  readonly looks: number;
  readonly histories: number;
  readonly events: number;
}

/** @param makerOf the program with these options */
export async function compareHistories(
  makerOf: (options: SimOptions) => SimTargetMaker,
  sets: readonly SimOptions[],
  seed: number,
  count: number,
): Promise<MetamorphicResult> {
  let first: { readonly name: string; readonly history: readonly string[] } | undefined;
  let events = 0;
  let looks = 0;
  for (const [index, options] of sets.entries()) {
    const maker = makerOf(options);
    const history: string[] = [];
    const observe = (what: string, content: Int32Array): void => {
      history.push(`${what}: ${crc32c(new Uint8Array(content.buffer)).toString(16)}`);
    };
    const operations = calmOperations(maker, seed, count);
    const result = await simulate(maker, seed, operations, { observe });
    events += result.events;
    looks += history.length;
    const different = first === undefined ? undefined : differenceOf(first.history, history);
    const problem = result.problem ?? different;
    if (problem !== undefined) {
      const against = result.problem === undefined ? ` against "${first?.name}"` : '';
      return {
        problem: `"${options.name}"${against}: ${problem}`,
        looks,
        histories: index + 1,
        events,
      };
    }
    first ??= { name: options.name, history };
  }
  return { problem: undefined, looks, histories: sets.length, events };
}

function differenceOf(one: readonly string[], other: readonly string[]): string | undefined {
  const length = Math.max(one.length, other.length);
  for (let i = 0; i < length; i += 1)
    if (one[i] !== other[i]) return `look ${i}: ${other[i]} instead of ${one[i]}`;
  return undefined;
}
