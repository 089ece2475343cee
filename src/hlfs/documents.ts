/**
 * Versioned documents with compare-and-swap (see schema.ts).
 *
 * Invariants:
 * - a version once written never changes; the newest is found by P4: probe hint+1, then hint, else list;
 * - `replace` of version n is won only by put-if-absent of n+1 and only if n still is there afterwards (S2);
 * - deleting writes a tombstone version; pruning keeps the newest two versions and goes oldest first (S2);
 * - a document that does not parse, or is of a newer format, is an error with its key, never "absent" (N7).
 */
import type { SegmentStore } from './store.ts';

export interface Versioned<T> {
  readonly version: number;
  readonly value: T;
}

/** `scope` is the caller's publishing scope (S1). */
export interface Documents {
  /** undefined: never written, or deleted. */
  read<T>(key: string): Promise<Versioned<T> | undefined>;
  /** First version (or the one after a tombstone). False: it exists already. FENCED when the scope is. */
  create(scope: string, key: string, value: object): Promise<boolean>;
  /** Compare-and-swap from `version`. False: somebody else won. FENCED when the scope is. */
  replace(scope: string, key: string, version: number, value: object): Promise<boolean>;
  /** Compare-and-swap from `version` to a tombstone. False: somebody else won. */
  delete(scope: string, key: string, version: number): Promise<boolean>;
  /** Remove every version, tombstones included; only when no late writer can exist (the scope's owner is gone). */
  purge(key: string): Promise<void>;
  /** Names of the documents directly below a prefix, e.g. the snapshots of a log; tombstoned ones included. */
  names(prefix: string): Promise<string[]>;
}

export type OpenDocuments = (store: SegmentStore) => Documents;
