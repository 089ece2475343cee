/** Where the content of a volume or snapshot is. A snapshot is held while it is read. */
import { DvceError } from '../base/index.ts';
import {
  type HlfsContext,
  listContent,
  pinSnapshot,
  readRanges,
  requireHead,
} from '../hlfs/index.ts';
import { currentContent } from './diff.ts';
import type { WorkerParams, WorkerResult } from './worker-protocol.ts';

export async function contentMap(
  context: HlfsContext,
  { volume, snapshot, offset, limit }: WorkerParams<'content.map'>,
  signal: AbortSignal,
): Promise<WorkerResult<'content.map'>> {
  const options = { offset, limit, signal };
  if (snapshot !== null) {
    const pin = await pinSnapshot(context, { id: volume, path: volume }, snapshot, readRanges);
    try {
      return await listContent(context, pin.snapshot, options);
    } finally {
      await pin.release();
    }
  }
  try {
    return await listContent(context, await currentContent(context, volume), options);
  } catch (error) {
    if (!(error instanceof DvceError)) throw error;
    if (error.code === 'NOT_FOUND' && error.context['kind'] === 'root')
      return emptyFrom(Number((await requireHead(context, volume)).value.sizeBytes), offset);
    if (error.code !== 'SEGMENT_MISSING') throw error;
    const reason = 'its content changed while it was read';
    throw new DvceError('CONFLICT', { kind: 'volume', name: volume, reason }, error);
  }
}

/** A volume that nobody ever wrote. */
const emptyFrom = (sizeBytes: number, offset: number): WorkerResult<'content.map'> => ({
  sizeBytes,
  extents: offset < sizeBytes ? [{ offset, length: sizeBytes - offset, kind: 'hole' }] : [],
  next: null,
});
