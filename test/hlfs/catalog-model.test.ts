/**
 * Random histories of the catalog against a plain model: volumes by path, their snapshots, what each descends from. Restarts
 * and the reaper come in between; at the end everything is deleted, and nothing may be left.
 */
import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { DvceError, MiB } from '../../src/base/index.ts';
import {
  cloneVolume,
  createVolume,
  deleteSnapshot,
  deleteVolume,
  findSnapshot,
  getVolume,
  growHead,
  type HlfsContext,
  listSnapshots,
  listVolumes,
  reap,
  renameVolume,
  rollbackVolume,
} from '../../src/hlfs/index.ts';
import { audit } from '../support/catalog-audit.ts';
import { readRanges, reclaimLog, takeSnapshot, World } from '../support/catalog-world.ts';

const free = (): undefined => undefined;

interface ModelSnapshot {
  readonly name: string;
  parent: ModelSnapshot | null;
  readonly sizeMiB: number;
}
interface ModelVolume {
  sizeMiB: number;
  /** The snapshot that the content descends from. */
  current: ModelSnapshot | null;
  readonly snapshots: Map<string, ModelSnapshot>;
  readonly origin: { readonly volume: ModelVolume; readonly snapshot: ModelSnapshot } | null;
}

type Step =
  | { readonly kind: 'create' | 'delete'; readonly path: string }
  | { readonly kind: 'rename'; readonly path: string; readonly to: string }
  | { readonly kind: 'grow'; readonly path: string; readonly sizeMiB: number }
  | {
      readonly kind: 'snapshot' | 'unsnapshot' | 'rollback';
      readonly path: string;
      readonly name: string;
    }
  | { readonly kind: 'clone'; readonly path: string; readonly name: string; readonly to: string }
  | { readonly kind: 'restart' | 'reap' };

class Model {
  readonly volumes = new Map<string, ModelVolume>();
  readonly #made: ModelVolume[] = [];

  /** Why a path cannot be given to a new volume. */
  taken(path: string): boolean {
    const isAbove = (a: string, b: string): boolean => b.startsWith(`${a}/`);
    return [...this.volumes.keys()].some(
      (one) => one === path || isAbove(one, path) || isAbove(path, one),
    );
  }
  volume(path: string): ModelVolume {
    const found = this.volumes.get(path);
    if (found === undefined) throw new Refused('NOT_FOUND');
    return found;
  }
  snapshot(path: string, name: string): ModelSnapshot {
    const found = this.volume(path).snapshots.get(name);
    if (found === undefined) throw new Refused('NOT_FOUND');
    return found;
  }
  put(path: string, sizeMiB: number, origin: ModelVolume['origin']): void {
    if (this.taken(path)) throw new Refused('ALREADY_EXISTS');
    const volume = { sizeMiB, current: null, snapshots: new Map(), origin };
    this.volumes.set(path, volume);
    this.#made.push(volume);
  }
  rename(from: string, to: string): void {
    if ([...this.volumes.keys()].some((one) => one.startsWith(`${from}/`)))
      throw new Refused('UNSUPPORTED');
    const volume = this.volume(from);
    if (from === to) return;
    if (this.taken(to)) throw new Refused('ALREADY_EXISTS');
    this.volumes.delete(from);
    this.volumes.set(to, volume);
  }
  apply(step: Step): void {
    switch (step.kind) {
      case 'create':
        this.put(step.path, 4, null);
        break;
      case 'delete':
        this.volume(step.path);
        this.volumes.delete(step.path);
        break;
      case 'rename':
        this.rename(step.path, step.to);
        break;
      case 'grow': {
        const volume = this.volume(step.path);
        if (step.sizeMiB < volume.sizeMiB) throw new Refused('INVALID_SIZE');
        volume.sizeMiB = step.sizeMiB;
        break;
      }
      case 'clone': {
        const snapshot = this.snapshot(step.path, step.name);
        this.put(step.to, snapshot.sizeMiB, { volume: this.volume(step.path), snapshot });
        break;
      }
      case 'restart':
      case 'reap':
        break;
      default:
        this.applySnapshot(step);
    }
  }
  applySnapshot(step: Extract<Step, { kind: 'snapshot' | 'unsnapshot' | 'rollback' }>): void {
    const volume = this.volume(step.path);
    if (step.kind === 'snapshot') {
      if (volume.snapshots.has(step.name)) throw new Refused('ALREADY_EXISTS');
      const made = { name: step.name, parent: volume.current, sizeMiB: volume.sizeMiB };
      volume.snapshots.set(step.name, made);
      volume.current = made;
      return;
    }
    const snapshot = this.snapshot(step.path, step.name);
    if (step.kind === 'rollback') {
      volume.current = snapshot;
      volume.sizeMiB = snapshot.sizeMiB;
      return;
    }
    if (this.#made.some((one) => one.origin?.snapshot === snapshot && this.isKept(one)))
      throw new Refused('IN_USE');
    volume.snapshots.delete(step.name);
    for (const one of volume.snapshots.values())
      if (one.parent === snapshot) one.parent = snapshot.parent;
    if (volume.current === snapshot) volume.current = snapshot.parent;
  }
  /** A deleted volume stays behind the scenes as long as a clone of it does. */
  isKept(volume: ModelVolume): boolean {
    return (
      [...this.volumes.values()].includes(volume) ||
      this.#made.some((one) => one.origin?.volume === volume && this.isKept(one))
    );
  }
}

class Refused extends Error {
  readonly code: string;
  constructor(code: string) {
    super(code);
    this.code = code;
  }
}

async function perform(world: World, context: HlfsContext, step: Step): Promise<HlfsContext> {
  const id = async (path: string): Promise<Awaited<ReturnType<typeof getVolume>>> =>
    getVolume(context, path);
  switch (step.kind) {
    case 'create':
      await createVolume(context, step.path, { sizeBytes: 4 * MiB });
      return context;
    case 'delete':
      await deleteVolume(context, step.path, free);
      return context;
    case 'rename':
      await renameVolume(context, step.path, step.to);
      return context;
    case 'grow':
      await growHead(context, await id(step.path), step.sizeMiB * MiB);
      return context;
    case 'snapshot':
      await takeSnapshot(context, (await id(step.path)).id, step.name);
      return context;
    case 'unsnapshot': {
      const volume = await id(step.path);
      await findSnapshot(context, volume.id, step.name);
      await reap(context, reclaimLog);
      await deleteSnapshot(context, volume.id, step.name);
      return context;
    }
    case 'rollback':
      await rollbackVolume(context, await id(step.path), step.name, readRanges, free);
      return context;
    case 'clone': {
      const source = await id(step.path);
      const { value } = await findSnapshot(context, source.id, step.name);
      await cloneVolume(context, source, value, step.to, {}, readRanges);
      return context;
    }
    case 'reap':
      await reap(context, reclaimLog);
      return context;
    case 'restart':
      return world.start();
  }
}

async function compare(context: HlfsContext, model: Model): Promise<void> {
  const listed = await listVolumes(context);
  assert.deepEqual(listed.map(({ path }) => path).sort(), [...model.volumes.keys()].sort());
  for (const { path, id, head } of listed) {
    const expected = model.volume(path);
    assert.equal(Number(head.sizeBytes), expected.sizeMiB * MiB, `size of ${path}`);
    const records = await listSnapshots(context, id);
    const names = new Map<string | null, string | null>(
      records.map(({ document }) => [document.id, document.name]),
    );
    assert.deepEqual(
      Object.fromEntries(records.map((one) => [one.document.name, names.get(one.parent) ?? null])),
      Object.fromEntries(
        [...expected.snapshots.values()].map((one) => [one.name, one.parent?.name ?? null]),
      ),
      `tree of ${path}`,
    );
  }
}

const path = fc.constantFrom('/a', '/b', '/a/x', '/d/y', '/d/e/z');
const name = fc.constantFrom('s', 't', 'u');
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('create' as const), path }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('delete' as const), path }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('rename' as const), path, to: path }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('grow' as const),
      path,
      sizeMiB: fc.nat({ max: 9 }).map((n) => n + 1),
    }),
  },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('snapshot' as const), path, name }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('unsnapshot' as const), path, name }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('rollback' as const), path, name }) },
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant('clone' as const), path, name, to: path }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom('restart' as const, 'reap' as const) }),
  },
);

async function runHistory(seed: number, history: readonly Step[]): Promise<void> {
  const world = new World(seed);
  const model = new Model();
  let context = await world.start();
  for (const [index, one] of history.entries()) {
    const expected = codeOf(() => model.apply(one));
    let actual = 'done';
    try {
      context = await perform(world, context, one);
    } catch (error) {
      if (!(error instanceof DvceError)) throw error;
      actual = error.code;
    }
    assert.equal(actual, expected, `step ${index}: ${JSON.stringify(one)}`);
    if (index % 8 === 7) await audit(context, { reaped: false });
  }
  await compare(context, model);
  await reap(context, reclaimLog);
  await audit(context, { reaped: true });
  await compare(context, model);
  for (const { path: left } of await listVolumes(context)) await deleteVolume(context, left, free);
  await reap(context, reclaimLog);
  await audit(context, { reaped: true });
  for (const prefix of ['volumes', 'logs', 'intents'])
    assert.deepEqual(
      await context.store.list(prefix, undefined, 10),
      [],
      `nothing below ${prefix}`,
    );
}

function codeOf(run: () => void): string {
  try {
    run();
    return 'done';
  } catch (error) {
    if (error instanceof Refused) return error.code;
    throw error;
  }
}

t.test('random histories equal the model (B-09, B-26, N1, G3)', async (t) => {
  const steps = fc.array(step, { minLength: 20, maxLength: 60, size: 'max' });
  await fc.assert(fc.asyncProperty(fc.nat(), steps, runHistory), { numRuns: 120, seed: 20261121 });
  t.pass();
});
