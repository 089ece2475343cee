/**
 * `SegmentStore`: the place of truth, as the engine sees it. Implementations: memory, local directory, later HDFS; one
 * contract suite runs against all of them.
 *
 * Invariants of every implementation:
 * - a key appears whole or not at all, and never changes afterwards; it is durable when `putIfAbsent` resolves (S1, B-22);
 * - the outcome of `putIfAbsent` is settled even when a reply was lost (S4): it resolves only with the truth;
 * - after `fence(scope)` resolved, no publish through that scope succeeds any more, however late its request arrives (S1);
 * - a read returns exactly the bytes asked for, or an error; never fewer (short is an error).
 *
 * Keys are relative paths of parts `[A-Za-z0-9._@-]+`, e.g. `logs/<log>/seg/000000/000000000017`.
 * Scopes are keys of directories, e.g. `logs/<log>/w/3-5f0c...`; a publish goes through the scope of its writer.
 */
import type { DvceError } from '../base/index.ts';

export type PutResult =
  | { readonly outcome: 'created' /** Confirmed replicas (S5). */; readonly replicas: number }
  | { readonly outcome: 'exists' }
  | { readonly outcome: 'fenced' };

export interface StoreStat {
  readonly lengthBytes: number;
}

export interface ListEntry {
  /** Full key. */
  readonly key: string;
  /** A directory has no content of its own. */
  readonly isDirectory: boolean;
}

export type StoreReadDone = (error: DvceError | null) => void;

export interface SegmentStore {
  /** For messages: `local:/var/lib/dvce/store`. */
  readonly location: string;
  /**
   * Create a scope; its name must never have been used before (S1). ALREADY_EXISTS when it is there.
   * Missing parents are created.
   */
  createScope(scope: string): Promise<void>;
  /** True when the scope still is there and not fenced. R2's marker: it is a mutation, not a bare read (S4). */
  probeScope(scope: string): Promise<boolean>;
  /** Rename the scope away. Fencing a scope that is fenced already, or that never was, succeeds. */
  fence(scope: string): Promise<void>;
  /** Remove temps left in the scope by an earlier incarnation of its owner (R2, S8). @returns how many */
  sweepScope(scope: string): Promise<number>;
  /** Temps that lie in the scope, or in what is kept of it after it was fenced; looks only. 0 when it never was. */
  unfinished(scope: string): Promise<number>;
  /** Publish `body` (concatenated) at `key`, through `scope`. NO_SPACE and STORE_UNAVAILABLE leave nothing behind. */
  putIfAbsent(scope: string, key: string, body: readonly Uint8Array[]): Promise<PutResult>;
  /** Fill `target` from `offset`. SEGMENT_MISSING when the key is absent; short is an error. */
  read(key: string, offset: number, target: Buffer, done: StoreReadDone): void;
  /**
   * Fill `target` from `offset` in this turn, when nothing has to be waited for; false when it has to, or when anything is wrong:
   * `read` says what. May be absent: nothing is ever at hand.
   */
  readNow?(key: string, offset: number, target: Buffer): boolean;
  /**
   * A hint: this will be read soon. @returns when it is at hand, or undefined when it is already, or when too much is under way.
   * May be absent: nothing is gained by asking early. Never rejects: who reads is told what is wrong.
   */
  readAhead?(key: string, offset: number, length: number): Promise<void> | undefined;
  /** undefined when absent. */
  stat(key: string): Promise<StoreStat | undefined>;
  /** Entries directly below `prefix` in key order, after the key `after`, at most `limit`; [] when absent. */
  list(prefix: string, after: string | undefined, limit: number): Promise<ListEntry[]>;
  /** Deleting what is absent succeeds. Durable when it resolves. */
  delete(key: string): Promise<void>;
  /** Remove an empty directory; a missing or non-empty one is left alone. */
  deleteDirectory(prefix: string): Promise<void>;
  /** Free and total bytes, when the store knows (S9). */
  space(): Promise<{ freeBytes: number; totalBytes: number }>;
  close(): Promise<void>;
}
