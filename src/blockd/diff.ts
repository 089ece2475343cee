/** Compare two snapshots of a volume, or one with the volume's published content. */
import { DvceError, type SnapshotName, type VolumeId } from '../base/index.ts';
import {
  currentRoot,
  diffRoots,
  type HlfsContext,
  pinSnapshot,
  type ReaderPin,
  type RootPosition,
  readRanges,
  requireHead,
} from '../hlfs/index.ts';
import type { WorkerParams, WorkerResult } from './worker-protocol.ts';

/** Both snapshots are held while they are read. Of the current content a segment may be cleaned away meanwhile: CONFLICT. */
export async function diff(
  context: HlfsContext,
  { volume, from, to, limit }: WorkerParams<'diff'>,
  signal: AbortSignal,
): Promise<WorkerResult<'diff'>> {
  const pins: ReaderPin[] = [];
  const hold = async (name: SnapshotName): Promise<RootPosition> => {
    const pin = await pinSnapshot(context, { id: volume, path: volume }, name, readRanges);
    pins.push(pin);
    return pin.snapshot;
  };
  try {
    const start = await hold(from);
    const end = to === null ? await currentContent(context, volume) : await hold(to);
    const { ranges, changedBytes, truncated } = await diffRoots(context, start, end, {
      limit,
      signal,
    });
    return { ranges: [...ranges], changedBytes, truncated };
  } catch (error) {
    if (to === null && error instanceof DvceError && error.code === 'SEGMENT_MISSING')
      throw new DvceError(
        'CONFLICT',
        { kind: 'volume', name: volume, reason: 'its content changed while it was read' },
        error,
      );
    throw error;
  } finally {
    for (const pin of pins) await pin.release();
  }
}

/** The newest root; NOT_FOUND for a volume that was never written. */
export async function currentContent(
  context: HlfsContext,
  volume: VolumeId,
): Promise<RootPosition> {
  const { value: head } = await requireHead(context, volume);
  const root = await currentRoot(context, head.log);
  if (root === null) throw new DvceError('NOT_FOUND', { kind: 'root', name: head.log });
  return root;
}
