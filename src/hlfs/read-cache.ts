/**
 * Blocks that were read, checked and (where they lay compressed) decoded, in the memory of this thread: S3-FIFO.
 *
 *   small   10 %: where a block that was never seen before comes in
 *   main    90 %: blocks that were asked for again while they were in `small`, or soon after they left it
 *   ghost   no content: which blocks left `small` or were refused, as many as there are slots
 *
 * A block that leaves `small` without having been asked for twice more is forgotten, so reading a whole disk once displaces
 * a tenth of the cache. A hit costs a counter and no move in any list.
 *
 * What can be had again for the price of a copy (a raw block in the kernel's page cache) comes in only when it was
 * asked for twice within the reach of the ghosts (`cheap`): a second copy of what the kernel has must be worth its memory.
 *
 * Never stale. A key is (log, segment number, group offset and block in the group) together with the checksum of the pointer:
 * - a segment is never changed and its number never used again: put-if-absent decides about it once (S1), numbers above the
 *   newest durable root are not deleted (S2), the id of a log is random and a rollback starts a new log;
 * - a number that an earlier incarnation of ours turns out to have taken is adopted as it lies in the store (S3): the map
 *   gets pointers into a segment only after that was decided, so nothing was ever read from a number with two contents;
 * - and should a store break all this (brought back from an old copy beside a running process), the pointer's checksum does not
 *   fit the one that the block was admitted with, and it is no hit. So the nonce of the segment is not needed here.
 *
 * Invariants:
 * - only content that fitted its checksum is put in, and it is copied in: nobody else can write to a slot;
 * - memory is held in slabs that the budget gave; none is used after it was given back;
 * - every slot is free or in exactly one of the two lists, and found by exactly one key when it is in one.
 */
import type { CacheBudget } from './cache-budget.ts';
import { cacheSlabBytes } from './cache-budget.ts';
import { blockBytes } from './pointer.ts';

const slotsPerSlab = cacheSlabBytes / blockBytes;
/** Share of `small`. */
const smallPart = 0.1;
/** Asked for so often while in `small`, a block moves to `main`. A scan through groups asks for each of their blocks once. */
const promoteUses = 2;
const usesMax = 3;
const none = -1;

/** The cached blocks of one segment. */
interface SegmentBlocks {
  readonly key: string;
  /** Word 1 of the pointer (pointer.ts) -> slot. */
  readonly slots: Map<number, number>;
}

/** First in, first out; slots are linked by number. */
interface Queue {
  oldest: number;
  newest: number;
  length: number;
}

export class ReadCache {
  readonly #budget: CacheBudget;
  readonly #segments = new Map<string, SegmentBlocks>();
  readonly #slabs: (Buffer | null)[] = [];
  readonly #free: number[] = [];
  readonly #small: Queue = { oldest: none, newest: none, length: 0 };
  readonly #main: Queue = { oldest: none, newest: none, length: 0 };
  readonly #owners: (SegmentBlocks | null)[] = [];
  #places = new Uint32Array(0);
  #checksums = new Uint32Array(0);
  #uses = new Uint8Array(0);
  #inMain = new Uint8Array(0);
  #older = new Int32Array(0);
  #newer = new Int32Array(0);
  readonly #ghosts = new Ghosts();
  #lastKey = '';
  #lastHash = 0;
  #heldSlabs = 0;
  /** Anything looked up or put in since the last look. */
  #isUsed = false;
  #evictions = 0;

  constructor(budget: CacheBudget) {
    this.#budget = budget;
  }

  get bytes(): number {
    return this.#heldSlabs * cacheSlabBytes;
  }
  get blocks(): number {
    return this.#small.length + this.#main.length;
  }

  /**
   * Copy a block into `target` (4 KiB).
   * @param key of the segment in the store
   * @param place word 1 of the pointer: offset of the group, block in it
   * @param checksum of the pointer
   */
  get(key: string, place: number, checksum: number, target: Buffer): boolean {
    const slot = this.#segments.get(key)?.slots.get(place);
    if (slot === undefined || this.#checksums[slot] !== checksum) return false;
    const uses = this.#uses[slot] ?? 0;
    if (uses < usesMax) this.#uses[slot] = uses + 1;
    this.#isUsed = true;
    this.#bytesOf(slot).copy(target);
    return true;
  }

  /** Whether the block would be a hit; counts as no use. */
  has(key: string, place: number, checksum: number): boolean {
    const slot = this.#segments.get(key)?.slots.get(place);
    return slot !== undefined && this.#checksums[slot] === checksum;
  }

  /**
   * Keep a copy of a block that fitted its checksum.
   * @param cheap it can be had again without waiting: taken in only when it comes for the second time
   */
  put(key: string, place: number, checksum: number, content: Buffer, cheap: boolean): void {
    const hash = this.#hashOf(key, place);
    const wasHere = this.#ghosts.has(hash);
    if (cheap && !wasHere) {
      this.#ghosts.add(hash);
      return;
    }
    const present = this.#segments.get(key)?.slots.get(place);
    if (present !== undefined && this.#checksums[present] === checksum) return;
    if (present !== undefined) this.#drop(present);
    const slot = this.#takeSlot();
    if (slot === none) return;
    this.#isUsed = true;
    let segment = this.#segments.get(key);
    if (segment === undefined) {
      segment = { key, slots: new Map() };
      this.#segments.set(key, segment);
    }
    segment.slots.set(place, slot);
    this.#owners[slot] = segment;
    this.#places[slot] = place;
    this.#checksums[slot] = checksum;
    this.#uses[slot] = 0;
    content.copy(this.#bytesOf(slot));
    this.#append(slot, wasHere);
  }

  /** Give back what the budget wants, and everything when nobody has used the cache since the last call. */
  look(): void {
    const wanted = this.#isUsed ? this.#budget.excess() : this.#heldSlabs;
    this.#isUsed = false;
    for (let i = 0; i < wanted; i += 1) this.#giveSlab();
  }

  /** Give everything back. */
  close(): void {
    while (this.#heldSlabs > 0) this.#giveSlab();
  }

  #hashOf(key: string, place: number): number {
    if (key !== this.#lastKey) {
      this.#lastKey = key;
      this.#lastHash = hashOf(key);
    }
    // Places are multiples of 4096: their high bits have to come down to where a table is looked up.
    const hash = this.#lastHash ^ Math.imul(place, 0x9e37_79b1);
    return Math.imul(hash ^ (hash >>> 15), 0x85eb_ca6b) >>> 0;
  }

  #bytesOf(slot: number): Buffer {
    const slab = this.#slabs[Math.floor(slot / slotsPerSlab)];
    if (slab === null || slab === undefined) throw new Error('a slot of a slab that is gone');
    const at = (slot % slotsPerSlab) * blockBytes;
    return slab.subarray(at, at + blockBytes);
  }

  #takeSlot(): number {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#budget.take()) {
      this.#addSlab();
      return this.#free.pop() ?? none;
    }
    this.#evictions += 1;
    // Another thread may want a slab; not worth asking each time.
    if (this.#evictions % slotsPerSlab === 0 && this.#budget.excess() > 0) this.#giveSlab();
    if (this.blocks === 0) return none;
    this.#evict();
    return this.#free.pop() ?? none;
  }

  #addSlab(): void {
    let index = this.#slabs.indexOf(null);
    if (index < 0) {
      index = this.#slabs.length;
      this.#slabs.push(null);
      this.#growTables((index + 1) * slotsPerSlab);
    }
    this.#slabs[index] = Buffer.allocUnsafeSlow(cacheSlabBytes);
    this.#heldSlabs += 1;
    for (let i = slotsPerSlab - 1; i >= 0; i -= 1) this.#free.push(index * slotsPerSlab + i);
    this.#ghosts.resize(this.#heldSlabs * slotsPerSlab);
  }

  #growTables(slots: number): void {
    const grown = <T extends Uint32Array | Int32Array | Uint8Array>(old: T, made: T): T => {
      made.set(old);
      return made;
    };
    this.#places = grown(this.#places, new Uint32Array(slots));
    this.#checksums = grown(this.#checksums, new Uint32Array(slots));
    this.#uses = grown(this.#uses, new Uint8Array(slots));
    this.#inMain = grown(this.#inMain, new Uint8Array(slots));
    this.#older = grown(this.#older, new Int32Array(slots));
    this.#newer = grown(this.#newer, new Int32Array(slots));
    while (this.#owners.length < slots) this.#owners.push(null);
  }

  /** The last slab that was added goes first, with all that is in it. */
  #giveSlab(): void {
    const index = this.#slabs.findLastIndex((slab) => slab !== null);
    if (index < 0) return;
    const first = index * slotsPerSlab;
    for (let slot = first; slot < first + slotsPerSlab; slot += 1)
      if (this.#owners[slot] !== null) this.#drop(slot);
    const kept = this.#free.filter((slot) => slot < first || slot >= first + slotsPerSlab);
    this.#free.length = 0;
    this.#free.push(...kept);
    this.#slabs[index] = null;
    this.#heldSlabs -= 1;
    this.#ghosts.resize(this.#heldSlabs * slotsPerSlab);
    this.#budget.give(1);
  }

  /** Make one slot free. Ends: each step frees a slot, or moves one to `main`, or takes a use from one there. */
  #evict(): void {
    const before = this.#free.length;
    while (this.#free.length === before) {
      const fromSmall = this.#small.length > this.blocks * smallPart || this.#main.length === 0;
      if (fromSmall) this.#leaveSmall(this.#small.oldest);
      else this.#leaveMain(this.#main.oldest);
    }
  }

  #leaveSmall(slot: number): void {
    if ((this.#uses[slot] ?? 0) >= promoteUses) {
      this.#unlink(slot);
      this.#uses[slot] = 0;
      this.#append(slot, true);
      return;
    }
    const owner = this.#owners[slot];
    if (owner) this.#ghosts.add(this.#hashOf(owner.key, this.#places[slot] ?? 0));
    this.#drop(slot);
  }

  #leaveMain(slot: number): void {
    const uses = this.#uses[slot] ?? 0;
    if (uses === 0) {
      this.#drop(slot);
      return;
    }
    this.#unlink(slot);
    this.#uses[slot] = uses - 1;
    this.#append(slot, true);
  }

  /** Forget the content of a slot. */
  #drop(slot: number): void {
    const owner = this.#owners[slot];
    if (owner) {
      owner.slots.delete(this.#places[slot] ?? 0);
      if (owner.slots.size === 0) this.#segments.delete(owner.key);
    }
    this.#owners[slot] = null;
    this.#unlink(slot);
    this.#free.push(slot);
  }

  #append(slot: number, toMain: boolean): void {
    const queue = toMain ? this.#main : this.#small;
    this.#inMain[slot] = toMain ? 1 : 0;
    this.#older[slot] = queue.newest;
    this.#newer[slot] = none;
    if (queue.newest === none) queue.oldest = slot;
    else this.#newer[queue.newest] = slot;
    queue.newest = slot;
    queue.length += 1;
  }

  #unlink(slot: number): void {
    const queue = this.#inMain[slot] === 1 ? this.#main : this.#small;
    const older = this.#older[slot] ?? none;
    const newer = this.#newer[slot] ?? none;
    if (older === none) queue.oldest = newer;
    else this.#newer[older] = newer;
    if (newer === none) queue.newest = older;
    else this.#older[newer] = older;
    queue.length -= 1;
  }
}

/**
 * Which blocks were here lately: fingerprints with the time (a count) at which they were added, in a table of fixed size. A
 * collision makes a block be taken for another one, which costs a slot and never content.
 */
class Ghosts {
  #hashes = new Uint32Array(ghostsMin);
  #times = new Float64Array(ghostsMin);
  #now = ghostsMin;
  /** How many additions a ghost lives. */
  #reach = ghostsMin / 4;

  /** As many as there are slots, in a table four times as large, so that few overwrite each other. */
  resize(slots: number): void {
    this.#reach = Math.max(ghostsMin / 4, slots);
    const size = 2 ** Math.ceil(Math.log2(this.#reach * 4));
    if (size === this.#hashes.length) return;
    this.#hashes = new Uint32Array(size);
    this.#times = new Float64Array(size);
    this.#now += this.#reach + 1;
  }

  has(hash: number): boolean {
    const at = hash & (this.#hashes.length - 1);
    return this.#hashes[at] === hash && this.#now - (this.#times[at] ?? 0) <= this.#reach;
  }

  add(hash: number): void {
    const at = hash & (this.#hashes.length - 1);
    this.#hashes[at] = hash;
    this.#times[at] = this.#now;
    this.#now += 1;
  }
}
/** Small as long as nothing is kept; a quarter of it is the reach: reads of 16 MiB. */
const ghostsMin = 16_384;

/** 32 bits of a key: the segment's number is the end of its text, the log's id its beginning. */
function hashOf(key: string): number {
  let hash = 0x811c_9dc5;
  for (let i = Math.max(0, key.length - 8); i < key.length; i += 1)
    hash = Math.imul(hash ^ key.charCodeAt(i), 0x0100_0193);
  for (let i = 5; i < 13 && i < key.length; i += 1)
    hash = Math.imul(hash ^ key.charCodeAt(i), 0x0100_0193);
  return hash ^ (hash >>> 15);
}
