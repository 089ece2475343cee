/** The files of a journal while it is open, and whom they belong to. */
import type { OpenFile } from '../base/index.ts';

export interface JournalIdentity {
  readonly volume: string;
  readonly log: string;
  readonly epoch: number;
  readonly incarnation: number;
}

export interface Slot {
  readonly index: number;
  readonly file: OpenFile;
  state: 'free' | 'active' | 'full' | 'failed';
  /** Last record written into it. */
  lastSeq: number;
  /** Records up to here are synced. */
  syncedSeq: number;
  usedBytes: number;
}

/**
 * Addresses of payloads: below `carriedBase` slot * file bytes + offset in the open journal; from there on the same for the
 * files of an earlier incarnation, which hold the tail that is being published.
 */
export const carriedBase = 2 ** 50;
