/**
 * What a release of blockd promises on its control socket, frozen: which methods there are, which params each takes, and which
 * members its answers have. `test/fixtures/control/vN.json` holds it; scripts/freeze-control.ts makes it.
 *
 *   shape   "string" | "number" | "boolean" | "null" (nothing was seen there) | { list: shape } | { fields: { name: shape } }
 *
 * Additions are free; what is frozen has to stay.
 */
import type { BlockdClient, ControlMethod } from '../../src/blockd/index.ts';

export type Shape =
  | 'string'
  | 'number'
  | 'boolean'
  | 'null'
  | { readonly list: Shape }
  | { readonly fields: Readonly<Record<string, Shape>> };

export interface FrozenMethod {
  /** JSON Schema of the params. */
  readonly params: object;
  /** Absent: the session does not call it. */
  readonly result?: Shape;
}

export interface FrozenControl {
  readonly version: number;
  readonly methods: Readonly<Record<string, FrozenMethod>>;
  readonly session: readonly { readonly method: string; readonly params: unknown }[];
}

export function shapeOf(value: unknown): Shape {
  if (value === null || value === undefined) return 'null';
  if (Array.isArray(value)) return { list: value.length === 0 ? 'null' : shapeOf(value[0]) };
  if (typeof value === 'object') {
    const entries = Object.entries(value).filter(([, one]) => one !== undefined);
    return { fields: Object.fromEntries(entries.map(([name, one]) => [name, shapeOf(one)])) };
  }
  return typeof value as 'string' | 'number' | 'boolean';
}

/** Names of what is frozen and gone, or of another kind now. */
export function missing(frozen: Shape, now: Shape, at: string): string[] {
  if (frozen === 'null' || now === 'null') return [];
  if (typeof frozen === 'string' || typeof now === 'string')
    return frozen === now ? [] : [`${at} was ${kindOf(frozen)} and is ${kindOf(now)}`];
  if ('list' in frozen)
    return 'list' in now ? missing(frozen.list, now.list, `${at}[]`) : [`${at} is no list`];
  if (!('fields' in now)) return [`${at} is no object`];
  return Object.entries(frozen.fields).flatMap(([name, shape]) => {
    const found = now.fields[name];
    return found === undefined ? [`${at}.${name} is gone`] : missing(shape, found, `${at}.${name}`);
  });
}

const kindOf = (shape: Shape): string =>
  typeof shape === 'string' ? shape : (Object.keys(shape)[0] ?? '');

/** Only what the frozen release knew to say: its answers had no more. */
export function prune(value: unknown, shape: Shape): unknown {
  if (typeof shape === 'string' || typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value))
    return 'list' in shape ? value.map((one) => prune(one, shape.list)) : value;
  if (!('fields' in shape)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([name]) => name in shape.fields)
      .map(([name, one]) => [name, prune(one, shape.fields[name] ?? 'null')]),
  );
}

/** One call of each method that a client uses, on an empty data directory. */
export const session: FrozenControl['session'] = [
  { method: 'status', params: {} },
  { method: 'metrics', params: {} },
  { method: 'capacity', params: {} },
  {
    method: 'volume.create',
    params: {
      path: '/a/one',
      sizeBytes: 8 << 20,
      blockBytes: 4096,
      labels: { tier: 'gold' },
      protected: false,
      journalBytes: 4 << 20,
      kind: 'volume',
    },
  },
  { method: 'volume.get', params: { path: '/a/one' } },
  {
    method: 'volume.update',
    params: { path: '/a/one', labels: { tier: 'iron' }, protected: false },
  },
  { method: 'volume.resize', params: { path: '/a/one', sizeBytes: 16 << 20 } },
  { method: 'volume.rename', params: { path: '/a/one', to: '/a/two' } },
  { method: 'volume.attach', params: { path: '/a/two', attachId: 'run-1', vm: 'web1' } },
  { method: 'volume.list', params: { prefix: '/a', kind: 'volume' } },
  { method: 'metrics', params: {} },
  {
    method: 'snapshot.create',
    params: { path: '/a/two', name: 's1', labels: { why: 'test' }, protected: false },
  },
  { method: 'snapshot.list', params: { path: '/a/two' } },
  { method: 'snapshot.diff', params: { path: '/a/two', from: 's1', to: null, limit: 10 } },
  { method: 'volume.detach', params: { path: '/a/two', attachId: 'run-1' } },
  {
    method: 'volume.clone',
    params: {
      source: '/a/two@s1',
      path: '/a/three',
      labels: {},
      sizeBytes: 16 << 20,
      protected: false,
    },
  },
  { method: 'volume.check', params: { path: '/a/three' } },
  { method: 'snapshot.rollback', params: { path: '/a/two', name: 's1' } },
  { method: 'volume.create', params: { path: '/images/i', sizeBytes: 1 << 20 } },
  {
    method: 'image.publish',
    params: {
      path: '/images/i',
      digest: `sha256:${'0'.repeat(64)}`,
      source: 'file:/tmp/i.raw',
      format: 'raw',
      sourceBytes: 1 << 20,
    },
  },
  { method: 'volume.list', params: {} },
  { method: 'document.create', params: { kind: 'vms', name: 'web1', value: { cpus: 1 } } },
  { method: 'document.read', params: { kind: 'vms', name: 'web1' } },
  { method: 'document.list', params: { kind: 'vms' } },
  {
    method: 'document.replace',
    params: { kind: 'vms', name: 'web1', version: 1, value: { cpus: 2 } },
  },
  { method: 'document.delete', params: { kind: 'vms', name: 'web1', version: 2 } },
  {
    method: 'quota.set',
    params: { path: '/a', sizeBytes: 1 << 30, volumes: null, storedBytes: null },
  },
  { method: 'quota.list', params: {} },
  { method: 'quota.get', params: { path: '/a' } },
  { method: 'quota.delete', params: { path: '/a' } },
  { method: 'volume.delete', params: { path: '/a/three' } },
  { method: 'trash.list', params: {} },
  { method: 'trash.empty', params: {} },
  { method: 'snapshot.delete', params: { path: '/a/two', name: 's1' } },
];

/** Run it. @returns the shapes of the answers; of several answers of one method that of all of them together */
export async function runSession(
  client: BlockdClient,
  requests: FrozenControl['session'],
): Promise<Map<string, Shape>> {
  const shapes = new Map<string, Shape>();
  for (const { method, params } of requests) {
    const answer = shapeOf(await client.call(method as ControlMethod, params as never));
    shapes.set(method, merge(shapes.get(method) ?? 'null', answer));
  }
  return shapes;
}

function merge(a: Shape, b: Shape): Shape {
  if (a === 'null') return b;
  if (b === 'null' || typeof a === 'string' || typeof b === 'string') return a;
  if ('list' in a) return 'list' in b ? { list: merge(a.list, b.list) } : a;
  if (!('fields' in b)) return a;
  const names = new Set([...Object.keys(a.fields), ...Object.keys(b.fields)]);
  return {
    fields: Object.fromEntries(
      [...names].map((name) => [name, merge(a.fields[name] ?? 'null', b.fields[name] ?? 'null')]),
    ),
  };
}
