/** What the server says about an export; it depends on what was negotiated, so it is computed when it is asked for. */
import { limits } from '../base/index.ts';
import type { BackendCaps } from './backend.ts';
import { type ReplyMode, transmissionFlags } from './constants.ts';

export function exportFlags(caps: BackendCaps, mode: ReplyMode, blockStatus: boolean): number {
  let flags: number = transmissionFlags.hasFlags | transmissionFlags.sendFlush;
  if (caps.readOnly) flags |= transmissionFlags.readOnly;
  else
    flags |=
      transmissionFlags.sendFua |
      transmissionFlags.sendTrim |
      transmissionFlags.sendWriteZeroes |
      transmissionFlags.sendFastZero;
  if (caps.rotational) flags |= transmissionFlags.rotational;
  if (caps.multiConn) flags |= transmissionFlags.canMultiConn;
  if (caps.cache) flags |= transmissionFlags.sendCache;
  if (mode !== 'compact') flags |= transmissionFlags.sendDf;
  if (mode === 'extended' && blockStatus) flags |= transmissionFlags.blockStatusPayload;
  return flags;
}

/** Requests of any alignment are served, so the minimum is 1; 4 KiB is what costs least. */
export function blockSizes(caps: BackendCaps): {
  readonly minimum: number;
  readonly preferred: number;
  readonly maximum: number;
} {
  return {
    minimum: 1,
    preferred: Math.max(4096, caps.blockBytes),
    maximum: limits.requestBytesMax,
  };
}
