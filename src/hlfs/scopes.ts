/**
 * Publishing scopes of processes: `scopes/<node>-<32 hex>`. A process makes one when it starts and publishes documents that
 * belong to no writer's log through it. Whoever holds the data directory's lock (N3) fences the scopes of its predecessors,
 * so that nothing they had under way can land any more; only then are their half-made objects undone (N2).
 */
import type { NodeId, Random } from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { Documents } from './documents.ts';
import type { SegmentStore } from './store.ts';

const prefix = 'scopes';
const scopePattern = /^[0-9a-f-]{36}-[0-9a-f]{32}$/;

export const lastPart = (key: string): string => key.slice(key.lastIndexOf('/') + 1);

/** A new scope of this node; its earlier ones stay as they are. */
export async function createProcessScope(
  store: SegmentStore,
  node: NodeId,
  random: Random,
): Promise<string> {
  const scope = `${prefix}/${node}-${random.bytes(16).toString('hex')}`;
  await store.createScope(scope);
  return scope;
}

/**
 * The start of the one process that owns this node's data directory (N3): a new scope, and the end of all earlier ones of
 * the node. Short-lived helpers of that process use `createProcessScope`; they end with it.
 */
export async function openProcessScope(
  store: SegmentStore,
  documents: Documents,
  node: NodeId,
  random: Random,
): Promise<string> {
  const earlier = await documents.names(prefix);
  // Other names there are what a store keeps of scopes that are fenced already.
  for (const name of earlier)
    if (name.startsWith(`${node}-`) && scopePattern.test(name))
      await store.fence(`${prefix}/${name}`);
  return createProcessScope(store, node, random);
}

/** Is the process with this scope possibly still at work? */
export async function scopeIsAlive(context: HlfsContext, scope: string): Promise<boolean> {
  return scope === context.scope || (await context.store.probeScope(scope));
}
