/**
 * Versioned documents with compare-and-swap (see schema.ts).
 *
 * Invariants:
 * - a version once written never changes; the newest is found by P4: probe hint+1, then hint, else list;
 * - `replace` of version n is won only by put-if-absent of n+1 and only if n still is there afterwards (S2);
 * - deleting writes a tombstone version; pruning keeps the newest two versions and goes oldest first (S2);
 * - a document that does not parse, or is of a newer format, is an error with its key, never "absent" (N7).
 *
 * Why more than one look is needed: a writer that slept may create version n+1 after the real versions went far beyond it
 * and n+1 was pruned. Such a *stray* must neither count as won nor be read as newest. Versions 1..newest are written in
 * order and pruned from the oldest, at most down to newest-1; so a version is no stray if the one before it is there. When
 * that one was pruned meanwhile, the marks of the versions that follow tell (document-format.ts).
 */
import { DvceError, limits, toDvceError } from '../base/index.ts';
import { type DecodedDocument, decodeDocument, encodeDocument } from './document-format.ts';
import type { Tombstone } from './schema.ts';
import { storeFormatVersion } from './schema.ts';
import type { ListEntry, SegmentStore } from './store.ts';

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

export const openDocuments: OpenDocuments = (store) => new StoreDocuments(store);

interface Newest extends DecodedDocument {
  readonly version: number;
}

const tombstone: Tombstone = { format: storeFormatVersion, deleted: true };
const isTombstone = (document: DecodedDocument): boolean => document.value['deleted'] === true;

const versionPattern = /^\d{12}$/;
const versionKey = (key: string, version: number): string =>
  `${key}/${String(version).padStart(12, '0')}`;

class StoreDocuments implements Documents {
  readonly #store: SegmentStore;
  /** Newest version seen, by key; a hint only. In order of last use, so that the oldest is forgotten first. */
  readonly #hints = new Map<string, number>();
  #attempts = 0;

  constructor(store: SegmentStore) {
    this.#store = store;
  }

  async read<T>(key: string): Promise<Versioned<T> | undefined> {
    const newest = await this.#newest(key);
    if (newest === undefined || isTombstone(newest)) return undefined;
    return { version: newest.version, value: newest.value as T };
  }

  async create(scope: string, key: string, value: object): Promise<boolean> {
    const newest = await this.#newest(key);
    if (newest === undefined) return this.#write(scope, key, undefined, value);
    return isTombstone(newest) && this.#write(scope, key, newest, value);
  }

  async replace(scope: string, key: string, version: number, value: object): Promise<boolean> {
    const current = await this.#readVersion(key, version);
    if (current === undefined || isTombstone(current)) return false;
    return this.#write(scope, key, current, value);
  }

  delete(scope: string, key: string, version: number): Promise<boolean> {
    return this.replace(scope, key, version, tombstone);
  }

  async purge(key: string): Promise<void> {
    // Oldest first: cut short, what is left still ends with the tombstone.
    await this.#remove(key, await this.#versions(key));
    await this.#store.deleteDirectory(key);
    this.#hints.delete(key);
  }

  async names(prefix: string): Promise<string[]> {
    const entries = await this.#listAll(prefix);
    return entries.filter((entry) => entry.isDirectory).map((entry) => lastPart(entry.key));
  }

  async #newest(key: string): Promise<Newest | undefined> {
    for (let attempt = 0; attempt < limits.documentReadAttempts; attempt += 1) {
      const hint = this.#hints.get(key);
      // Without a hint: the last one listed was the newest at that moment, for a stray is never above the newest.
      const version = hint ?? (await this.#versions(key)).at(-1);
      if (version === undefined) return undefined;
      const isNewest = hint === undefined || (await this.#confirm(key, hint));
      const found = isNewest ? await this.#readVersion(key, version) : undefined;
      if (found === undefined) continue;
      this.#remember(key, version);
      return found;
    }
    throw changesTooFast(key);
  }

  /**
   * P4: hint+1 absent and then hint present means that hint was the newest. hint-1 is looked at too, because hint may be a
   * stray. Otherwise the hint moves up by one or, when it was pruned, is forgotten so that the next attempt lists.
   */
  async #confirm(key: string, hint: number): Promise<boolean> {
    const isAbove = await this.#has(key, hint + 1);
    const isHere = await this.#has(key, hint);
    const isChained = isHere && (hint === 1 || (await this.#has(key, hint - 1)));
    if (!isChained) this.#hints.delete(key);
    else if (isAbove) this.#remember(key, hint + 1);
    return isChained && !isAbove;
  }

  /** Put-if-absent of the version after `current`, and what S2 asks before calling it won. */
  async #write(
    scope: string,
    key: string,
    current: Newest | undefined,
    value: object,
  ): Promise<boolean> {
    this.#attempts += 1;
    const attempt = `${scope}#${this.#attempts}`;
    const { body, mark } = encodeDocument(key, value, attempt, current?.marks ?? []);
    const version = (current?.version ?? 0) + 1;
    const result = await this.#store.putIfAbsent(scope, versionKey(key, version), [body]);
    if (result.outcome === 'fenced')
      throw new DvceError('FENCED', {
        name: key,
        reason: `its scope ${scope} was taken away`,
      });
    if (result.outcome === 'exists') return false;

    if (!(await this.#isWon(key, version, mark))) {
      await this.#remove(key, [version]);
      return false;
    }
    this.#remember(key, version);
    await this.#prune(key, version - 1);
    return true;
  }

  /** S2: `version` was put; is it part of the document, or did it land in a name that had been pruned? */
  async #isWon(key: string, version: number, mark: string): Promise<boolean> {
    for (let attempt = 0; attempt < limits.documentReadAttempts; attempt += 1) {
      const listed = await this.#versions(key);
      const newest = listed.at(-1) ?? 0;
      if (newest <= version)
        return newest === version && (version === 1 || listed.includes(version - 1));
      // Others wrote on. While this version is there, so is the one that was made from it: pruning goes oldest first.
      const isHere = listed.includes(version);
      if (isHere && !listed.includes(version + 1)) return false;
      const witness = await this.#readVersion(key, isHere ? version + 1 : newest);
      if (witness === undefined) continue;
      const theirs = witness.marks[witness.version - version];
      if (theirs === undefined)
        throw new DvceError('CONFLICT', {
          kind: 'document',
          name: key,
          reason: `version ${version} was put, but is hidden behind version ${newest} already`,
        });
      return theirs === mark;
    }
    throw changesTooFast(key);
  }

  /**
   * Remove versions below `keep`, oldest first (S2). A failure of the store is left alone on purpose: the write's outcome is
   * settled already, and the next winner prunes the same versions again.
   */
  async #prune(key: string, keep: number): Promise<void> {
    try {
      const listed = await this.#versions(key);
      await this.#remove(
        key,
        listed.filter((version) => version < keep),
      );
    } catch (error) {
      if (toDvceError(error).code === 'INTERNAL') throw error;
    }
  }

  async #remove(key: string, versions: readonly number[]): Promise<void> {
    for (const version of versions) await this.#store.delete(versionKey(key, version));
  }

  async #has(key: string, version: number): Promise<boolean> {
    return (await this.#store.stat(versionKey(key, version))) !== undefined;
  }

  /** undefined when this version is absent. */
  async #readVersion(key: string, version: number): Promise<Newest | undefined> {
    const name = versionKey(key, version);
    const stat = await this.#store.stat(name);
    if (stat === undefined) return undefined;
    if (stat.lengthBytes > limits.documentBytesMax)
      throw new DvceError('DOCUMENT_DAMAGED', {
        name,
        reason: `it has ${stat.lengthBytes} bytes; at most ${limits.documentBytesMax} are read`,
      });
    const body = Buffer.alloc(stat.lengthBytes);
    const error = await new Promise<DvceError | null>((resolve) => {
      this.#store.read(name, 0, body, resolve);
    });
    if (error?.code === 'SEGMENT_MISSING') return undefined;
    if (error !== null) throw error;
    return { version, ...decodeDocument(name, body) };
  }

  /** Versions present, in ascending order. */
  async #versions(key: string): Promise<number[]> {
    const entries = await this.#listAll(key);
    return entries
      .map((entry) => lastPart(entry.key))
      .filter((name) => versionPattern.test(name))
      .map(Number);
  }

  async #listAll(prefix: string): Promise<ListEntry[]> {
    let found: ListEntry[] = [];
    // Larger pages of a large directory: a store may have to look through all of it for each.
    for (let limit = limits.listPageEntries; ; limit = Math.min(8 * limit, limits.listAllEntries)) {
      const page = await this.#store.list(prefix, found.at(-1)?.key, limit);
      found = found.length === 0 ? page : found.concat(page);
      if (page.length < limit) return found;
    }
  }

  #remember(key: string, version: number): void {
    this.#hints.delete(key);
    this.#hints.set(key, version);
    if (this.#hints.size > limits.documentHints) {
      const [oldest] = this.#hints.keys();
      if (oldest !== undefined) this.#hints.delete(oldest);
    }
  }
}

const changesTooFast = (key: string): DvceError =>
  new DvceError('CONFLICT', {
    kind: 'document',
    name: key,
    reason: 'it changes faster than it can be read',
  });

const lastPart = (key: string): string => key.slice(key.lastIndexOf('/') + 1);
