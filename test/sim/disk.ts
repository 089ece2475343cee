/**
 * A disk with the page cache of the kernel above it.
 *
 * Every file has its cached pages (what processes see) and its durable pages (what is on the platter). A page that differs is
 * dirty. `fdatasync` makes the pages that were dirty when it was called durable. Directory operations take effect at once in
 * the cache and are pending on the platter until the directory is synced.
 *
 * A power loss (`crash`) lets, for each dirty page by chance: the durable version, the cached one, one in between (written
 * back on its own and overwritten later), or a mixture in steps of 512 bytes survive. Of the pending directory operations none,
 * all, a prefix or any subset that can be applied in order survives. Nothing that was synced is touched.
 *
 * A failed sync behaves as Linux does: the pages count as clean afterwards, stay readable until the cache is lost, and the
 * error is reported once. So a second fdatasync succeeds and the data is not there (rule J5).
 */
import type { Random } from '../../src/base/index.ts';

export const pageBytes = 4096;
/** What a disk writes whole or not at all. */
export const sectorBytes = 512;
/** Most pages of a journal are zeros; they share this one. No page is ever changed in place. */
const zeroPage = Buffer.alloc(pageBytes);
const slabPages = 64;
let slab = Buffer.alloc(0);

/** Memory for a page, with anything in it. */
function newPage(): Buffer {
  if (slab.byteLength === 0) slab = Buffer.allocUnsafeSlow(slabPages * pageBytes);
  const page = slab.subarray(0, pageBytes);
  slab = slab.subarray(pageBytes);
  return page;
}

function pageWith(before: Buffer | undefined, inPage: number, bytes: Uint8Array): Buffer {
  if (bytes.byteLength === pageBytes && zeroPage.equals(bytes)) return zeroPage;
  const after = newPage();
  if (bytes.byteLength < pageBytes) (before ?? zeroPage).copy(after);
  after.set(bytes, inPage);
  return after;
}

/** Versions of a dirty page that may be found after a crash, beside the durable and the last one. */
const versionsMax = 3;

export class Inode {
  readonly isDirectory: boolean;
  readonly entries = new Map<string, Inode>();
  readonly durableEntries = new Map<string, Inode>();
  readonly pages = new Map<number, Buffer>();
  readonly durablePages = new Map<number, Buffer>();
  /** Dirty pages with the versions they had since they were last durable. */
  readonly dirty = new Map<number, Buffer[]>();
  sizeBytes = 0;
  durableSizeBytes = 0;
  /** Names in the cached tree. */
  links = 0;
  openFiles = 0;
  /** A sync failed and nobody was told yet (its process had died). */
  hasUnreportedError = false;

  constructor(isDirectory: boolean) {
    this.isDirectory = isDirectory;
  }
}

export type DirectoryOperation =
  | {
      readonly kind: 'link';
      readonly directory: Inode;
      readonly name: string;
      readonly inode: Inode;
    }
  | {
      readonly kind: 'unlink';
      readonly directory: Inode;
      readonly name: string;
      readonly inode: Inode;
    }
  | {
      readonly kind: 'rename';
      readonly directory: Inode;
      readonly name: string;
      readonly inode: Inode;
      readonly source: Inode;
      readonly sourceName: string;
      /** What had the name before; it is replaced in the same step. */
      readonly replaced: Inode | undefined;
    };

/** What a running fdatasync has promised to make durable. */
export interface SyncCapture {
  readonly pages: ReadonlyMap<number, Buffer>;
  readonly sizeBytes: number;
}

export class SimDisk {
  readonly root = new Inode(true);
  capacityBytes: number;
  usedBytes = 0;
  #pending: DirectoryOperation[] = [];
  readonly #open = new Set<Inode>();

  constructor(capacityBytes = 2 ** 40) {
    this.capacityBytes = capacityBytes;
  }

  /** Write into the cache. @returns bytes written, fewer when the disk is full */
  write(inode: Inode, buffers: readonly Uint8Array[], position: number, bytesMax: number): number {
    let at = position;
    let left = bytesMax;
    for (const buffer of buffers) {
      let done = 0;
      while (done < buffer.byteLength && left > 0) {
        const inPage = at % pageBytes;
        const count = Math.min(pageBytes - inPage, buffer.byteLength - done, left);
        const page = Math.floor(at / pageBytes);
        if (!this.#writePage(inode, page, inPage, buffer.subarray(done, done + count)))
          return at - position;
        done += count;
        at += count;
        left -= count;
        inode.sizeBytes = Math.max(inode.sizeBytes, at);
      }
    }
    return at - position;
  }

  #writePage(inode: Inode, page: number, inPage: number, bytes: Uint8Array): boolean {
    const before = inode.pages.get(page);
    if (before === undefined) {
      if (this.usedBytes + pageBytes > this.capacityBytes) return false;
      this.usedBytes += pageBytes;
    }
    // A new page for every write: running syncs and older versions keep theirs.
    inode.pages.set(page, pageWith(before, inPage, bytes));
    const versions = inode.dirty.get(page);
    if (versions === undefined) inode.dirty.set(page, []);
    else if (before !== undefined) {
      versions.push(before);
      if (versions.length > versionsMax) versions.shift();
    }
    return true;
  }

  /** @returns bytes read, fewer at the end of the file */
  read(inode: Inode, target: Uint8Array, position: number): number {
    const count = Math.max(0, Math.min(target.byteLength, inode.sizeBytes - position));
    for (let done = 0; done < count; ) {
      const at = position + done;
      const inPage = at % pageBytes;
      const step = Math.min(pageBytes - inPage, count - done);
      const page = inode.pages.get(Math.floor(at / pageBytes));
      if (page === undefined) target.fill(0, done, done + step);
      else target.set(page.subarray(inPage, inPage + step), done);
      done += step;
    }
    return count;
  }

  beginSync(inode: Inode): SyncCapture {
    const pages = new Map<number, Buffer>();
    for (const page of inode.dirty.keys()) {
      const cached = inode.pages.get(page);
      if (cached !== undefined) pages.set(page, cached);
    }
    return { pages, sizeBytes: inode.sizeBytes };
  }

  finishSync(inode: Inode, capture: SyncCapture): void {
    for (const [page, content] of capture.pages) {
      inode.durablePages.set(page, content);
      if (inode.pages.get(page) === content) inode.dirty.delete(page);
      else inode.dirty.set(page, []);
    }
    inode.durableSizeBytes = Math.max(inode.durableSizeBytes, capture.sizeBytes);
  }

  /** The device refused: the pages are clean for the kernel, their content is not on the platter and never will be. */
  failSync(inode: Inode, capture: SyncCapture): void {
    for (const [page, content] of capture.pages)
      if (inode.pages.get(page) === content) inode.dirty.delete(page);
  }

  /** Apply a directory operation to the cache; it stays pending until a sync of the directory. */
  change(operation: DirectoryOperation): void {
    apply(operation, (directory) => directory.entries);
    if (operation.kind === 'link') operation.inode.links += 1;
    const gone = operation.kind === 'unlink' ? operation.inode : undefined;
    this.#unlinked(operation.kind === 'rename' ? operation.replaced : gone);
    this.#pending.push(operation);
  }

  #unlinked(inode: Inode | undefined): void {
    if (inode === undefined) return;
    inode.links -= 1;
    this.release(inode);
  }

  /**
   * Make what happened in a directory durable, with everything that it builds upon: a file renamed twice does not get its
   * last name without having had the one before.
   */
  syncDirectory(directory: Inode): void {
    const needed = new Set<DirectoryOperation>();
    const inodes = new Set<Inode>();
    for (const operation of this.#pending.toReversed()) {
      const touches =
        operation.directory === directory ||
        (operation.kind === 'rename' && operation.source === directory);
      if (!touches && !inodes.has(operation.inode)) continue;
      needed.add(operation);
      inodes.add(operation.inode);
    }
    for (const operation of this.#pending)
      if (needed.has(operation) && isApplicable(operation))
        apply(operation, (inode) => inode.durableEntries);
    this.#pending = this.#pending.filter((operation) => !needed.has(operation));
  }

  open(inode: Inode): void {
    inode.openFiles += 1;
    this.#open.add(inode);
  }

  close(inode: Inode): void {
    inode.openFiles -= 1;
    if (inode.openFiles === 0) this.#open.delete(inode);
    this.release(inode);
  }

  /** What the kernel does when a process dies: its files are closed. Pages whose write failed may leave the cache any time. */
  endProcess(random: Random): void {
    for (const inode of this.#open) {
      inode.openFiles = 0;
      this.release(inode);
    }
    this.#open.clear();
    if (random.below(2) === 0) this.#dropFailedPages(this.root);
  }

  #dropFailedPages(inode: Inode): void {
    for (const child of inode.entries.values()) this.#dropFailedPages(child);
    for (const [page, cached] of inode.pages) {
      const durable = inode.durablePages.get(page);
      if (durable === cached || inode.dirty.has(page)) continue;
      inode.pages.set(page, durable ?? zeroPage);
    }
  }

  /** Give back the space of a file without names and open files. */
  release(inode: Inode): void {
    if (inode.links > 0 || inode.openFiles > 0 || inode.isDirectory) return;
    this.usedBytes -= inode.pages.size * pageBytes;
    inode.pages.clear();
    inode.dirty.clear();
  }

  /** Flip one bit of a file, in the cache and on the platter: what a bad disk does to data that was synced. */
  flipBit(inode: Inode, position: number, bit: number): void {
    const page = Math.floor(position / pageBytes);
    const flipped = (content: Buffer): Buffer => {
      const copy = Buffer.from(content);
      copy[position % pageBytes] = (copy[position % pageBytes] ?? 0) ^ (1 << bit);
      return copy;
    };
    const cached = inode.pages.get(page);
    const durable = inode.durablePages.get(page);
    const after = cached && flipped(cached);
    if (after !== undefined) inode.pages.set(page, after);
    if (durable !== undefined)
      inode.durablePages.set(page, durable === cached && after ? after : flipped(durable));
  }

  /** Power loss: the disk as it may be found afterwards. This disk stays as it is, so it can be crashed in many ways. */
  crash(random: Random): SimDisk {
    const after = new SimDisk(this.capacityBytes);
    const survivors = this.#survivingOperations(random);
    const trees = new Map<Inode, Map<string, Inode>>();
    const treeOf = (directory: Inode): Map<string, Inode> => {
      const known = trees.get(directory);
      if (known !== undefined) return known;
      const copy = new Map(directory.durableEntries);
      trees.set(directory, copy);
      return copy;
    };
    for (const operation of survivors)
      if (isApplicable(operation, treeOf)) apply(operation, treeOf);
    const copies = new Map<Inode, Inode>([[this.root, after.root]]);
    const copyTree = (source: Inode, target: Inode): void => {
      for (const [name, inode] of treeOf(source)) {
        let copy = copies.get(inode);
        if (copy === undefined) {
          copy = inode.isDirectory ? new Inode(true) : survivingFile(inode, random);
          copies.set(inode, copy);
          after.usedBytes += copy.pages.size * pageBytes;
          if (inode.isDirectory) copyTree(inode, copy);
        }
        copy.links += 1;
        target.entries.set(name, copy);
        target.durableEntries.set(name, copy);
      }
    };
    copyTree(this.root, after.root);
    return after;
  }

  #survivingOperations(random: Random): DirectoryOperation[] {
    const way = random.below(4);
    if (way === 0) return [];
    if (way === 1) return this.#pending;
    if (way === 2) return this.#pending.slice(0, random.below(this.#pending.length + 1));
    return this.#pending.filter(() => random.below(2) === 0);
  }
}

type EntriesOf = (directory: Inode) => Map<string, Inode>;

const durableEntriesOf: EntriesOf = (directory) => directory.durableEntries;

function isApplicable(operation: DirectoryOperation, entriesOf = durableEntriesOf): boolean {
  const entries = entriesOf(operation.directory);
  if (operation.kind === 'link') return !entries.has(operation.name);
  if (operation.kind === 'unlink') return entries.get(operation.name) === operation.inode;
  return entriesOf(operation.source).get(operation.sourceName) === operation.inode;
}

function apply(operation: DirectoryOperation, entriesOf: EntriesOf): void {
  const entries = entriesOf(operation.directory);
  if (operation.kind === 'unlink') {
    entries.delete(operation.name);
    return;
  }
  if (operation.kind === 'rename') entriesOf(operation.source).delete(operation.sourceName);
  entries.set(operation.name, operation.inode);
}

/** A file after power loss: synced pages as they were, dirty ones by chance. */
function survivingFile(inode: Inode, random: Random): Inode {
  const copy = new Inode(false);
  copy.sizeBytes = survivingSize(inode, random);
  const keep = (page: number, content: Buffer | undefined): void => {
    if (content === undefined || page * pageBytes >= copy.sizeBytes) return;
    copy.pages.set(page, content);
    copy.durablePages.set(page, content);
  };
  for (const [page, content] of inode.durablePages) keep(page, content);
  // One mood per crash and file, so that "all lost" and "all kept" happen too, not only mixtures.
  const mood = random.below(4);
  for (const [page, versions] of inode.dirty) {
    if (mood === 0) continue;
    const durable = inode.durablePages.get(page);
    const cached = inode.pages.get(page);
    const content = mood === 1 ? cached : survivingPage(durable, versions, cached, random);
    if (content !== undefined) keep(page, content);
  }
  copy.durableSizeBytes = copy.sizeBytes;
  zeroTail(copy);
  return copy;
}

function survivingSize(inode: Inode, random: Random): number {
  if (inode.sizeBytes <= inode.durableSizeBytes) return inode.durableSizeBytes;
  const way = random.below(3);
  if (way === 0) return inode.durableSizeBytes;
  if (way === 1) return inode.sizeBytes;
  return inode.durableSizeBytes + random.below(inode.sizeBytes - inode.durableSizeBytes + 1);
}

function survivingPage(
  durable: Buffer | undefined,
  versions: readonly Buffer[],
  cached: Buffer | undefined,
  random: Random,
): Buffer | undefined {
  const way = random.below(4);
  if (way === 0) return durable;
  if (way === 1) return cached;
  if (way === 2 && versions.length > 0) return versions[random.below(versions.length)];
  const torn = Buffer.alloc(pageBytes);
  for (let at = 0; at < pageBytes; at += sectorBytes) {
    const source = random.below(2) === 0 ? durable : cached;
    source?.copy(torn, at, at, at + sectorBytes);
  }
  return torn;
}

/** Bytes beyond the end of a file are zeros when it grows again. */
function zeroTail(inode: Inode): void {
  const inPage = inode.sizeBytes % pageBytes;
  const page = Math.floor(inode.sizeBytes / pageBytes);
  const content = inode.pages.get(page);
  if (inPage === 0 || content === undefined) return;
  const copy = Buffer.from(content);
  copy.fill(0, inPage);
  inode.pages.set(page, copy);
  inode.durablePages.set(page, copy);
}
