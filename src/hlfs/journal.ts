/**
 * The journal of one open volume: the local write-ahead log that makes a write survive blockd and a flush survive the host.
 *
 * Invariants:
 * - records are appended in sequence order and a record is appended before anyone is told so (J1);
 * - a file used by an earlier incarnation is never written to (J4): at open its tail is read, published to the store, and
 *   only then is the file taken for new records (DD-0004);
 * - after a failed write or sync the file is finished for good. The records since the last good sync are still in memory
 *   and go to another file; only when that one is synced are flushes acknowledged (J5). A failed sync is never retried;
 * - the space is a quota, allocated and zero-written when the volume is opened (J8).
 *
 *   slot:   free -> active -> full -> free          (full: being covered by segments)
 *             \-> active or full -> failed          (its records were moved; never used again while the volume is open)
 *
 * Addresses: slot index * file bytes + offset; valid until the record's slot is released.
 */
import { assert, DvceError, toDvceError, vectorsMax, writeFullySync } from '../base/index.ts';
import { FlushForecast } from './flush-forecast.ts';
import {
  align,
  chainStart,
  encodeFileHeader,
  encodeRecordHeader,
  headerBytesFor,
  journalFileHeaderBytes,
  pieceChecksums,
  type RecordKind,
  recordBytes,
} from './journal-format.ts';
import { JournalReader } from './journal-reader.ts';
import type { JournalIdentity, Slot } from './journal-slot.ts';
import { Slab } from './slab.ts';
import { UnsyncedRecords } from './unsynced-records.ts';

/** One request to be journaled. */
export interface Entry {
  readonly kind: RecordKind;
  readonly offset: number;
  readonly length: number;
  /** The bytes of a write; held by the journal until it is covered or synced (`holdPayload`). */
  readonly payload: Buffer | null;
  readonly wallMs: number;
}

/** An appended record and where its payload lies. */
export interface Appended {
  readonly entry: Entry;
  readonly seq: number;
  address: number;
  readonly checksums: readonly number[];
}

export interface JournalOptions {
  readonly identity: JournalIdentity;
  readonly slots: readonly Slot[];
  readonly fileBytes: number;
  readonly nextSeq: number;
  readonly flushedSeq: number;
  readonly unsyncedBytesMax: number;
  /** Largest record, which may leave that much of a file unused. */
  readonly recordBytesMax: number;
  readonly salt: () => Buffer;
  /** Records were moved to another file: overlays must take the new addresses. */
  readonly onMoved: (records: readonly Appended[]) => void;
  /** The journal can take nothing any more. */
  readonly onBroken: (error: DvceError) => void;
}

interface SyncWaiter {
  readonly seq: number;
  readonly done: (error: DvceError | null) => void;
}

export class Journal {
  readonly fileBytes: number;
  readonly reads: JournalReader;
  /** Since it was opened. */
  writtenBytes = 0;
  syncs = 0;
  readonly #options: JournalOptions;
  readonly #slots: readonly Slot[];
  #active: Slot | null = null;
  #position = 0;
  #chain = 0;
  #serial = 0;
  #nextSeq: number;
  #syncedSeq: number;
  /** Newest sequence number whose flush was acknowledged. */
  #flushedSeq: number;
  readonly #headers = new Slab({ zeroed: true });
  readonly #unsynced = new UnsyncedRecords<Appended>();
  #waiters: SyncWaiter[] = [];
  readonly #forecast = new FlushForecast();
  #syncing = false;
  #onSyncEnded: () => void = () => {};
  #broken: DvceError | null = null;

  constructor(options: JournalOptions) {
    this.#options = options;
    this.#slots = options.slots;
    this.fileBytes = options.fileBytes;
    this.reads = new JournalReader(options.slots, options.fileBytes);
    this.#nextSeq = options.nextSeq;
    this.#syncedSeq = options.nextSeq - 1;
    this.#flushedSeq = options.flushedSeq;
  }

  get lastSeq(): number {
    return this.#nextSeq - 1;
  }
  get syncedSeq(): number {
    return this.#syncedSeq;
  }
  get quotaBytes(): number {
    return this.#slots.filter((slot) => slot.state !== 'failed').length * this.fileBytes;
  }
  get failedFiles(): number {
    return this.#slots.filter((slot) => slot.state === 'failed').length;
  }
  get usedBytes(): number {
    let sum = 0;
    for (const slot of this.#slots)
      if (slot === this.#active) sum += this.#position;
      else if (slot.state === 'full') sum += this.fileBytes;
    return sum;
  }
  /** Bytes of records that certainly fit; one file is kept back for moving a tail (J5) and for marks. */
  get roomBytes(): number {
    const free = this.#slots.filter((slot) => slot.state === 'free').length;
    const whole = this.fileBytes - journalFileHeaderBytes - this.#options.recordBytesMax;
    const active =
      this.#active === null ? 0 : this.fileBytes - this.#position - this.#options.recordBytesMax;
    return Math.max(0, free - 1) * whole + Math.max(0, active);
  }
  get broken(): DvceError | null {
    return this.#broken;
  }

  /** Append all entries in order, in as few writes as possible. Throws when the journal is broken; then none is acknowledged. */
  append(entries: readonly Entry[]): Appended[] {
    if (this.#broken) throw this.#broken;
    const records = entries.map((entry): Appended => {
      const seq = this.#nextSeq;
      this.#nextSeq += 1;
      const checksums = entry.payload === null ? [] : pieceChecksums(entry.offset, entry.payload);
      return { entry, seq, address: -1, checksums };
    });
    for (const record of records) this.#unsynced.add(record);
    try {
      this.#place(records);
    } catch (error) {
      this.#moveTail(toDvceError(error, this.#active?.file.path));
    }
    const isAwaited = this.#forecast.appended(records.length);
    if (isAwaited || this.#unsynced.bytes > this.#options.unsyncedBytesMax) this.#startSync();
    return records;
  }

  /** Call `done` when every record appended so far is on stable storage. */
  sync(done: (error: DvceError | null) => void): void {
    if (this.#broken) {
      done(this.#broken);
      return;
    }
    this.#forecast.flushed(this.#waiters.length === 0);
    const seq = this.lastSeq;
    if (this.#syncedSeq >= seq) {
      this.#flushedSeq = Math.max(this.#flushedSeq, seq);
      done(null);
      return;
    }
    this.#waiters.push({ seq, done });
    this.#startSync();
  }

  /** Everything up to `seq` is in the store: its space is free and it needs no sync any more. */
  cover(seq: number): void {
    for (const slot of this.#slots)
      if (slot.state === 'full' && slot.lastSeq <= seq) slot.state = 'free';
    this.#startOver(seq);
    this.#markSynced(seq);
  }

  /**
   * The active file may be needed no more either. With files given up (J5) the rest of it can be smaller than the next record,
   * and nothing would ever free it: then it is taken as a fresh one (J8).
   */
  #startOver(seq: number): void {
    const isCovered = this.#active !== null && seq >= this.lastSeq;
    if (!isCovered || this.roomBytes >= this.#options.recordBytesMax) return;
    if (this.#active !== null) this.#active.state = 'free';
    this.#active = null;
  }

  /** Answers every flush that still waits, and lets go of the files when nothing is under way in them (B-31). */
  async close(): Promise<void> {
    this.#broken ??= new DvceError('VOLUME_CLOSED', { name: this.#options.identity.volume });
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.done(this.#broken);
    if (this.#syncing) await new Promise<void>((resolve) => (this.#onSyncEnded = resolve));
    await this.reads.close();
    for (const slot of this.#slots) slot.file.closeSync();
  }

  /** Write records at the active file's end, going on to a new file when it is full. */
  #place(records: readonly Appended[]): void {
    let vectors: Buffer[] = [];
    let start = this.#position;
    let written: Appended[] = [];
    const flushVectors = (): void => {
      const slot = this.#active;
      if (slot === null || vectors.length === 0) return;
      writeFullySync(slot.file, vectors, start);
      this.writtenBytes += this.#position - start;
      for (const record of written) slot.lastSeq = record.seq;
      slot.usedBytes = this.#position;
      vectors = [];
      written = [];
      start = this.#position;
    };
    for (const record of records) {
      const { kind, offset, length } = record.entry;
      const bytes = recordBytes(kind, offset, length);
      if (this.#active === null || this.#position + bytes > this.fileBytes) {
        flushVectors();
        vectors.push(this.#openNextFile(record.seq));
        start = 0;
      }
      this.#encode(record, vectors);
      written.push(record);
      if (vectors.length > vectorsMax - 4) flushVectors();
    }
    flushVectors();
  }

  #encode(record: Appended, vectors: Buffer[]): void {
    const { entry, checksums } = record;
    const header = this.#headers.take(headerBytesFor(checksums.length));
    const facts = {
      kind: entry.kind,
      seq: record.seq,
      offset: entry.offset,
      length: entry.length,
      flushedSeq: this.#flushedSeq,
      wallMs: entry.wallMs,
    };
    this.#chain = encodeRecordHeader(header, facts, checksums, this.#chain);
    vectors.push(header);
    this.#position += header.byteLength;
    const slot = this.#active;
    assert(slot !== null, 'a record is placed into a file');
    record.address = slot.index * this.fileBytes + this.#position;
    if (entry.payload === null) return;
    vectors.push(entry.payload);
    const padding = align(entry.length) - entry.length;
    if (padding > 0) vectors.push(zeros.subarray(0, padding));
    this.#position += align(entry.length);
  }

  /** Take a free slot; the answer is the file header, which goes out with the first records. */
  #openNextFile(firstSeq: number): Buffer {
    if (this.#active !== null) this.#active.state = 'full';
    const slot = this.#slots.find((candidate) => candidate.state === 'free');
    if (slot === undefined) {
      this.#active = null;
      throw new DvceError('NO_SPACE', { where: 'the journal', reason: 'every file is in use' });
    }
    const salt = this.#options.salt();
    slot.state = 'active';
    slot.lastSeq = firstSeq - 1;
    slot.syncedSeq = firstSeq - 1;
    this.#active = slot;
    this.#serial += 1;
    this.#position = journalFileHeaderBytes;
    this.#chain = chainStart(salt);
    return encodeFileHeader({ ...this.#options.identity, serial: this.#serial, firstSeq, salt });
  }

  /** J5: the active file is finished; what is not synced goes to another one. */
  #moveTail(cause: DvceError): void {
    for (const slot of this.#slots)
      if ((slot.state === 'active' || slot.state === 'full') && slot.syncedSeq < slot.lastSeq)
        slot.state = 'failed';
    if (this.#active !== null) this.#active.state = 'failed';
    this.#active = null;
    const usable = this.#slots.filter((slot) => slot.state !== 'failed').length;
    try {
      // One file is always kept back for the next such case; without it nothing could be journaled any more.
      if (usable < 2) throw cause;
      this.#place(this.#unsynced.all);
      this.#options.onMoved(this.#unsynced.all);
    } catch (error) {
      this.#break(
        new DvceError(
          'IO_FAILED',
          { what: 'writing', where: 'the journal', reason: cause.message },
          error,
        ),
      );
      throw this.#broken;
    }
  }

  #break(error: DvceError): void {
    if (this.#broken) return;
    this.#broken = error;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.done(error);
    this.#options.onBroken(error);
  }

  #startSync(): void {
    if (this.#syncing || this.#broken) return;
    this.#syncing = true;
    const seq = this.lastSeq;
    const dirty = this.#slots.filter(
      (slot) => (slot.state === 'active' || slot.state === 'full') && slot.syncedSeq < slot.lastSeq,
    );
    this.#syncNext(
      dirty.sort((a, b) => a.lastSeq - b.lastSeq),
      seq,
    );
  }

  /** Sync the files one after the other, the older first, so that what is stable is always a prefix. */
  #syncNext(dirty: readonly Slot[], seq: number): void {
    const [slot, ...rest] = dirty;
    if (slot === undefined) {
      this.#syncEnded(null, seq);
      return;
    }
    const upTo = slot.lastSeq;
    slot.file.dataSync((error) => {
      if (this.#broken) {
        this.#syncing = false;
        this.#onSyncEnded();
        return;
      }
      if (error) {
        this.#syncEnded(toDvceError(error, slot.file.path), seq);
        return;
      }
      this.syncs += 1;
      if (slot.state !== 'free') slot.syncedSeq = Math.max(slot.syncedSeq, upTo);
      this.#syncNext(rest, seq);
    });
  }

  #syncEnded(error: DvceError | null, seq: number): void {
    this.#syncing = false;
    if (error) {
      try {
        this.#moveTail(error);
      } catch {
        return; // #break has told everybody
      }
    } else this.#markSynced(seq);
    const overfull = this.#unsynced.bytes > this.#options.unsyncedBytesMax;
    if (this.#waiters.length > 0 || overfull) this.#startSync();
  }

  #markSynced(seq: number): void {
    if (seq > this.#syncedSeq) this.#syncedSeq = seq;
    this.#unsynced.dropUpTo(seq);
    if (this.#waiters.length === 0) return;
    const reached = this.#waiters.filter((waiter) => waiter.seq <= seq);
    if (reached.length === 0) return;
    this.#waiters = this.#waiters.filter((waiter) => waiter.seq > seq);
    for (const waiter of reached) {
      this.#flushedSeq = Math.max(this.#flushedSeq, waiter.seq);
      waiter.done(null);
    }
  }
}

const zeros = Buffer.alloc(16);
