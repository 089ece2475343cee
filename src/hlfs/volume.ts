/**
 * An open volume: the way of a write from the request to the journal, and of a read through the layers.
 *
 *   write -> queue -> (end of turn) journal, one writev for all of the turn -> overlay -> acknowledged
 *   overlay full, old, or cut by a mark -> frozen -> publisher -> segment -> map -> journal space is free
 *
 * Invariants:
 * - requests are journaled, applied and acknowledged in the order in which they came (J1), and acknowledged only when they
 *   are in the page cache of a file (design invariant 2);
 * - a flush is acknowledged when every record appended before it is synced, or is in the store (invariant 3);
 * - a request that waits for journal space is looked at again in the turn in which it is journaled: if its connection has
 *   died it is dropped (N6);
 * - the journal's last part is kept for trims and marks (J8); a write held too long by a full store fails with ENOSPC, reads
 *   go on (S9);
 * - once anything of the writer failed for good, nothing is acknowledged any more; reads go on.
 */
import {
  DvceError,
  type LogId,
  limits,
  type SnapshotName,
  type Timer,
  toDvceError,
  type VolumeId,
} from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import { listExtents } from './extents.ts';
import type { Appended, Entry, Journal } from './journal.ts';
import { recordBytes } from './journal-format.ts';
import { type Layers, readLayers } from './layers.ts';
import { type LogWriter, mappedBytes } from './log-writer.ts';
import { Overlay } from './overlay.ts';
import { blockBytes } from './pointer.ts';
import { Publisher } from './publisher.ts';
import type { SnapshotDocument } from './schema.ts';
import { segmentFlags } from './segment-format.ts';
import { Slab } from './slab.ts';
import type {
  Done,
  ExtentsDone,
  OpenVolume,
  ReadDone,
  RequestOrigin,
  VolumeStatistics,
  WriteOptions,
  ZeroOptions,
} from './volume-api.ts';

/** A request on its way into the journal. */
interface Request {
  readonly kind: 'write' | 'hole' | 'zero' | 'mark' | 'flush';
  readonly offset: number;
  readonly length: number;
  readonly payload: Buffer | null;
  readonly fua: boolean;
  readonly origin: RequestOrigin;
  readonly done: Done;
  /** Bytes of it that are journaled already: a long write becomes several records. */
  journaled: number;
  /** When it began to wait for space, 0 while it does not. */
  heldSinceMs: number;
}

export interface VolumeParts {
  readonly context: HlfsContext;
  readonly id: VolumeId;
  readonly name: string;
  readonly blockBytes: 512 | 4096;
  readonly sizeBytes: number;
  readonly writer: LogWriter;
  readonly journal: (hooks: {
    onMoved: (records: readonly Appended[]) => void;
    onBroken: (error: DvceError) => void;
  }) => Journal;
  /** Records of the tail, to be published before anything else is journaled (J4). */
  readonly tail: Iterable<Appended>;
  readonly readTail: (address: number, target: Buffer) => void;
  readonly flushMark: { readonly seq: number; readonly wallMs: number } | null;
  /** Why nothing may be written, from the start. */
  readonly readOnlyReason: string | null;
  readonly positions: () => Promise<readonly number[]>;
  readonly makeSnapshot: (
    name: SnapshotName,
    root: { number: number; checksum: number },
    facts: { sizeBytes: number; labels: Readonly<Record<string, string>>; protected: boolean },
  ) => Promise<SnapshotDocument>;
  readonly checkSnapshotName: (name: SnapshotName) => Promise<void>;
  /** Called after the last root of a clean close. */
  readonly onClosed: (clean: boolean) => Promise<void>;
}

/** What one turn takes from the queue, and the journal bytes that are left for it. */
interface Admission {
  readonly entries: Entry[];
  readonly ended: Request[];
  readonly syncs: Request[];
  readonly held: Request[];
  room: number;
  writeRoom: number;
  /** A request did not fit: those behind it wait too. */
  isFull: boolean;
  readonly wallMs: number;
}

const always: RequestOrigin = { alive: true };

export class Volume implements OpenVolume {
  readonly id: VolumeId;
  readonly log: LogId;
  readonly caps: OpenVolume['caps'];
  sizeBytes: number;
  readonly #parts: VolumeParts;
  readonly #context: HlfsContext;
  readonly #writer: LogWriter;
  readonly #journal: Journal;
  readonly #publisher: Publisher;
  readonly #layers: Layers;
  #active: Overlay;
  #overlays: readonly Overlay[] = [];
  #queue: Request[] = [];
  #scheduled = false;
  #ageTimer: Timer | null = null;
  #reclaimTimer: Timer | null = null;
  #carriedUntil: number;
  #flushMark: { seq: number; wallMs: number } | null;
  #failure: DvceError | null = null;
  #closing = false;
  /** Roots of snapshots whose document is not written yet. */
  readonly #unnamed = new Set<number>();
  #flushedUnpublishedMs = 0;
  readonly #readBuffers = new Slab({ zeroed: false });
  readonly #counts = { reads: 0, writes: 0, flushes: 0, readBytes: 0, writtenBytes: 0 };

  constructor(parts: VolumeParts) {
    this.#parts = parts;
    this.#context = parts.context;
    this.id = parts.id;
    this.log = parts.writer.state.log;
    this.sizeBytes = parts.sizeBytes;
    this.caps = {
      readOnly: parts.readOnlyReason !== null,
      blockBytes: parts.blockBytes,
      multiConn: true,
      cache: false,
      rotational: false,
    };
    if (parts.readOnlyReason !== null)
      this.#failure = new DvceError('READ_ONLY', {
        name: parts.name,
        reason: parts.readOnlyReason,
      });
    this.#writer = parts.writer;
    this.#flushMark = parts.flushMark;
    this.#journal = parts.journal({
      onMoved: (records) => this.#moved(records),
      onBroken: (error) => this.#fail(error),
    });
    this.#active = this.#newOverlay(parts.writer.state.coveredSeq + 1);
    this.#layers = {
      overlays: () => this.#overlays,
      map: this.#writer.map,
      reader: this.#writer.reader,
    };
    this.#publisher = new Publisher({
      context: parts.context,
      writer: parts.writer,
      journal: this.#journal,
      replicasMin: 1,
      rootFacts: () => ({ sizeBytes: this.sizeBytes, flushMark: this.#flushMark }),
      positions: () => this.#positions(),
      readBlock: (block, target) => this.#readMapped(block, target),
      onLeft: () => this.#refreshLayers(),
      onSpace: () => this.#afterBatch(),
      onFailed: (error) => this.#fail(error),
    });
    this.#carriedUntil = this.#takeTail();
  }

  /** The tail of earlier incarnations becomes frozen batches; nothing is journaled before they are published. */
  #takeTail(): number {
    const { tail } = this.#parts;
    if (this.#failure) return 0;
    let last = 0;
    for (const record of tail) {
      this.#apply(record);
      last = record.seq;
    }
    if (last > 0) this.#freeze();
    return last;
  }

  #newOverlay(firstSeq: number): Overlay {
    const overlay = new Overlay(firstSeq, (address, target) => {
      if (address >= carriedBase) this.#parts.readTail(address - carriedBase, target);
      else this.#journal.read(address, target);
    });
    this.#active = overlay;
    this.#refreshLayers();
    return overlay;
  }

  #refreshLayers(): void {
    const frozen =
      this.#publisher === undefined ? [] : this.#publisher.frozen.map((each) => each.overlay);
    this.#overlays = [this.#active, ...frozen.reverse()];
  }

  // ---- requests -------------------------------------------------------------------------------------------------------

  read(offset: number, length: number, done: ReadDone): void {
    this.#counts.reads += 1;
    this.#counts.readBytes += length;
    const first = Math.floor(offset / blockBytes);
    const count = Math.floor((offset + length - 1) / blockBytes) - first + 1;
    const target = this.#readBuffers.take(count * blockBytes);
    readLayers(this.#layers, first, count, target, (error, dataBlocks) => {
      if (error) return done(error, []);
      const start = offset - first * blockBytes;
      done(null, [dataBlocks === 0 ? length : target.subarray(start, start + length)]);
    });
  }

  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.#counts.writes += 1;
    this.#counts.writtenBytes += data.byteLength;
    this.#enqueue('write', offset, data.byteLength, data, options, done);
  }

  flush(done: Done): void {
    this.#counts.flushes += 1;
    this.#enqueue('flush', 0, 0, null, { fua: false, origin: always }, done);
  }

  /** Whole blocks inside of the range become holes; the edges stay as they are (J9). */
  trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    const start = Math.ceil(offset / blockBytes) * blockBytes;
    const atEnd = offset + length === this.sizeBytes;
    const end = atEnd ? offset + length : Math.floor((offset + length) / blockBytes) * blockBytes;
    if (end <= start) {
      // Nothing to trim; with FUA it still is a sync point.
      if (options.fua) this.flush(done);
      else done(this.#failure);
      return;
    }
    this.#enqueue('hole', start, end - start, null, options, done);
  }

  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    this.#enqueue(options.noHole ? 'zero' : 'hole', offset, length, null, options, done);
  }

  extents(offset: number, length: number, done: ExtentsDone): void {
    listExtents(this.#layers, this.sizeBytes, offset, length, done);
  }

  /** Nothing is kept in memory yet that a prefetch could fill. */
  cache(_offset: number, _length: number, done: Done): void {
    done(null);
  }

  #enqueue(
    kind: Request['kind'],
    offset: number,
    length: number,
    payload: Buffer | null,
    { fua, origin }: WriteOptions,
    done: Done,
  ): void {
    const refusal = this.#failure ?? (this.#closing ? this.#closedError() : null);
    if (refusal) {
      done(refusal);
      return;
    }
    this.#queue.push({
      kind,
      offset,
      length,
      payload,
      fua,
      origin,
      done,
      journaled: 0,
      heldSinceMs: 0,
    });
    this.#schedule();
  }

  #closedError(): DvceError {
    return new DvceError('VOLUME_CLOSED', { name: this.#parts.name });
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const pauseMs = this.#slowdownMs();
    if (pauseMs === 0) this.#context.timers.defer(() => this.#turn());
    else this.#context.timers.after(pauseMs, () => this.#turn());
  }

  /** J8: above the first threshold each turn waits a little, so that publishing keeps up before writes must be held. */
  #slowdownMs(): number {
    const percent = (this.#journal.usedBytes * 100) / this.#journal.quotaBytes;
    if (percent < limits.journalSlowPercent) return 0;
    const share =
      (percent - limits.journalSlowPercent) /
      (limits.journalHoldPercent - limits.journalSlowPercent);
    return Math.ceil(limits.journalSlowMs * Math.min(1, share));
  }

  /** End of a turn of the event loop: journal everything that came in, in one write. */
  #turn(): void {
    this.#scheduled = false;
    if (this.#failure) {
      this.#refuseQueued(this.#failure);
      return;
    }
    const { entries, ended, syncs, held } = this.#admit();
    this.#queue = held;
    if (!this.#journalAll(entries)) {
      for (const request of [...ended, ...syncs]) request.done(this.#failure);
      return;
    }
    for (const request of ended) request.done(null);
    if (syncs.length > 0) this.#sync(syncs);
    if (this.#queue.length > 0) this.#watchHeld();
  }

  /** Append and apply. @returns false when the journal can take nothing any more */
  #journalAll(entries: readonly Entry[]): boolean {
    if (entries.length === 0) return true;
    try {
      for (const record of this.#journal.append(entries)) {
        this.#apply(record);
        if (record.entry.kind === 'mark') this.#freezeAtMark();
      }
    } catch (error) {
      this.#fail(toDvceError(error));
      this.#refuseQueued(toDvceError(error));
      return false;
    }
    if (this.#wantsFreeze()) this.#freeze();
    return true;
  }

  #refuseQueued(error: DvceError): void {
    const queue = this.#queue;
    this.#queue = [];
    for (const request of queue) request.done(error);
  }

  /** Take requests from the queue while the journal has room; what does not fit stays, in order. */
  #admit(): Admission {
    const admission: Admission = {
      entries: [],
      ended: [],
      syncs: [],
      held: [],
      isFull: false,
      room: this.#carriedUntil > 0 ? 0 : this.#journal.roomBytes,
      writeRoom: this.#carriedUntil > 0 ? 0 : this.#writeRoom(),
      wallMs: this.#context.clock.wallMs(),
    };
    for (const request of this.#queue) {
      if (request.kind === 'flush') {
        // What was acknowledged before it is journaled; with a tail still being carried over it waits for that.
        const list = this.#carriedUntil > 0 ? admission.held : admission.syncs;
        list.push(request);
      } else if (request.origin.alive) this.#admitOne(request, admission);
      else request.done(new DvceError('CANCELLED', { what: 'a request of a lost connection' }));
    }
    return admission;
  }

  #admitOne(request: Request, admission: Admission): void {
    const { held, ended, syncs, entries, wallMs } = admission;
    const room =
      request.kind === 'write' ? Math.min(admission.room, admission.writeRoom) : admission.room;
    // Nothing overtakes what waits already.
    const taken = admission.isFull ? 0 : this.#take(request, entries, room, wallMs);
    admission.room -= taken;
    admission.writeRoom -= taken;
    admission.isFull = request.journaled < Math.max(1, request.length);
    if (admission.isFull) held.push(request);
    else if (request.fua) syncs.push(request);
    else ended.push(request);
  }

  #writeRoom(): number {
    const { quotaBytes, usedBytes } = this.#journal;
    return Math.floor((quotaBytes * limits.journalHoldPercent) / 100) - usedBytes;
  }

  /** Make records of as much of the request as fits. @returns bytes of journal used */
  #take(request: Request, entries: Entry[], room: number, wallMs: number): number {
    const { kind, offset, payload } = request;
    if (kind === 'flush') return 0;
    if (kind !== 'write' || payload === null) {
      const bytes = recordBytes(kind, offset, request.length);
      if (bytes > room) return 0;
      entries.push({ kind, offset, length: request.length, payload: null, wallMs });
      request.journaled = Math.max(1, request.length);
      return bytes;
    }
    let used = 0;
    while (request.journaled < request.length) {
      const at = offset + request.journaled;
      // Records end at block boundaries, so that no block is split without need.
      const end = Math.floor((at + limits.recordPayloadBytes) / blockBytes) * blockBytes;
      const length = Math.min(end - at, request.length - request.journaled);
      const bytes = recordBytes('write', at, length);
      if (used + bytes > room) break;
      const piece = payload.subarray(request.journaled, request.journaled + length);
      entries.push({ kind: 'write', offset: at, length, payload: piece, wallMs });
      request.journaled += length;
      used += bytes;
    }
    return used;
  }

  #sync(requests: readonly Request[]): void {
    const seq = this.#journal.lastSeq;
    const startedMs = this.#context.clock.wallMs();
    this.#journal.sync((error) => {
      if (!error) {
        if (seq > (this.#flushMark?.seq ?? 0)) this.#flushMark = { seq, wallMs: startedMs };
        if (this.#flushedUnpublishedMs === 0 && seq > this.#writer.state.coveredSeq)
          this.#flushedUnpublishedMs = this.#context.clock.monotonicMs();
      }
      for (const request of requests) request.done(error);
    });
  }

  /** A full store holds writes; after a while they fail, so that the hypervisor can stop the guest (S9). */
  #watchHeld(): void {
    const nowMs = this.#context.clock.monotonicMs();
    const kept: Request[] = [];
    const reason = this.#publisher.waiting;
    for (const request of this.#queue) {
      if (request.heldSinceMs === 0) request.heldSinceMs = nowMs;
      const tooLong = nowMs - request.heldSinceMs > limits.holdBeforeNoSpaceMs;
      if (tooLong && reason?.code === 'NO_SPACE' && request.kind !== 'flush') request.done(reason);
      else kept.push(request);
    }
    this.#queue = kept;
    // When nothing is on its way to the store, what was just journaled has to go.
    if (this.#publisher.frozen.length === 0) this.#freeze();
    if (kept.length === 0 || this.#scheduled) return;
    // Freed space schedules a turn at once; this one only looks after the time limit and dead connections.
    this.#context.timers.after(limits.heldCheckMs, () => {
      if (this.#queue.length > 0) this.#schedule();
    });
  }

  // ---- layers ---------------------------------------------------------------------------------------------------------

  #apply(record: Appended): void {
    if (this.#overlayIsFull()) this.#freeze();
    const wasEmpty = this.#active.isEmpty;
    this.#active.apply(record);
    if (wasEmpty && this.#ageTimer === null)
      this.#ageTimer = this.#context.timers.after(limits.batchAgeMs, () => {
        this.#ageTimer = null;
        this.#freeze();
      });
  }

  /** A batch must fit into one segment: its content is a state between two records, and appears at once or not at all. */
  #overlayIsFull(): boolean {
    const { dataBlocks, partialBlocks, tombstones, entries } = this.#active;
    return (
      dataBlocks * blockBytes >= this.#batchBytes ||
      partialBlocks >= limits.overlayPartialBlocks ||
      tombstones.length >= limits.overlayTombstones ||
      entries >= limits.overlayEntries
    );
  }

  get #batchBytes(): number {
    return Math.min(limits.segmentDataBytes, Math.floor(this.#journal.quotaBytes / 4));
  }

  #wantsFreeze(): boolean {
    if (this.#overlayIsFull()) return true;
    // Rewriting the same blocks fills the journal without filling the overlay.
    return (
      this.#publisher.frozen.length === 0 && this.#journal.usedBytes * 2 > this.#journal.quotaBytes
    );
  }

  #marks: ((root: { number: number; checksum: number } | DvceError) => void)[] = [];

  #freezeAtMark(): void {
    const onRoot = this.#marks.shift() ?? null;
    this.#freeze(onRoot, 0, true);
  }

  #freeze(
    onRoot: ((root: { number: number; checksum: number } | DvceError) => void) | null = null,
    flags = 0,
    always = false,
  ): void {
    if (!always && this.#active.lastSeq < this.#active.firstSeq) return;
    this.#ageTimer?.cancel();
    this.#ageTimer = null;
    const overlay = this.#active;
    const next = overlay.lastSeq + 1;
    this.#publisher.push({ overlay, onRoot, flags });
    this.#newOverlay(next);
  }

  #afterBatch(): void {
    const { coveredSeq } = this.#writer.state;
    if (this.#carriedUntil > 0 && coveredSeq >= this.#carriedUntil) this.#carriedUntil = 0;
    if ((this.#flushMark?.seq ?? 0) <= coveredSeq) this.#flushedUnpublishedMs = 0;
    if (this.#queue.length > 0) this.#schedule();
    this.#reclaimTimer?.cancel();
    if (this.#closing) return;
    this.#reclaimTimer = this.#context.timers.after(limits.reclaimDelayMs, () => {
      this.#reclaimTimer = null;
      if (!this.#closing && !this.#failure) this.#publisher.reclaim();
    });
  }

  /** J5: records lie elsewhere now. Applying them again in order gives every overlay the new addresses. */
  #moved(records: readonly Appended[]): void {
    const layers = [...this.#overlays].reverse();
    for (const record of records) {
      const overlay = layers.find(
        (each) => record.seq <= each.lastSeq && record.seq >= each.firstSeq,
      );
      overlay?.apply(record);
    }
  }

  async #readMapped(block: number, target: Buffer): Promise<void> {
    const layers: Layers = { ...this.#layers, overlays: () => [] };
    await new Promise<void>((resolve, reject) => {
      readLayers(layers, block, 1, target, (error) => (error ? reject(error) : resolve()));
    });
  }

  #fail(error: DvceError): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#context.logger.error(
      { volume: this.id, code: error.code, reason: error.message },
      'the volume is read-only now',
    );
    for (const mark of this.#marks) mark(error);
    this.#marks = [];
    this.#schedule();
  }

  // ---- snapshots, growth, close -----------------------------------------------------------------------------------------

  async snapshot(
    name: SnapshotName,
    options: { labels: Readonly<Record<string, string>>; protected: boolean },
  ): Promise<SnapshotDocument> {
    await this.#parts.checkSnapshotName(name);
    const { sizeBytes } = this;
    const root = await this.#cut((number) => this.#unnamed.add(number));
    try {
      return await this.#parts.makeSnapshot(name, root, { sizeBytes, ...options });
    } finally {
      this.#unnamed.delete(root.number);
    }
  }

  /** Positions whose segments must stay (G2): of documents, and of snapshots whose document is being written. */
  async #positions(): Promise<readonly number[]> {
    const unnamed = [...this.#unnamed];
    return [...(await this.#parts.positions()), ...unnamed];
  }

  /** Cut the batch here and wait for the root of exactly this position. */
  #cut(
    onNumber: (number: number) => void = () => {},
  ): Promise<{ number: number; checksum: number }> {
    return new Promise((resolve, reject) => {
      const onRoot = (root: { number: number; checksum: number } | DvceError): void => {
        if (root instanceof DvceError) reject(root);
        else {
          onNumber(root.number);
          resolve(root);
        }
      };
      this.#marks.push(onRoot);
      this.#enqueue('mark', 0, 0, null, { fua: false, origin: always }, (error) => {
        if (!error) return;
        this.#marks = this.#marks.filter((mark) => mark !== onRoot);
        reject(error);
      });
    });
  }

  grow(sizeBytes: number): void {
    if (sizeBytes > this.sizeBytes) this.sizeBytes = sizeBytes;
  }

  /** Clear everything from `offset` on, beyond the end of the volume too, and root it (G6). */
  async clearBeyond(offset: number): Promise<void> {
    const options = { fua: false, origin: always };
    const length = limits.volumeBytesMax - offset;
    const cleared = Promise.withResolvers<void>();
    this.#enqueue('hole', offset, length, null, options, (error) =>
      error ? cleared.reject(error) : cleared.resolve(),
    );
    if (length > 0) await cleared.promise;
    await this.publishAll();
  }

  async publishAll(): Promise<void> {
    if (this.#failure) throw this.#failure;
    await this.#cut();
  }

  statistics(): VolumeStatistics {
    const { coveredSeq } = this.#writer.state;
    const pending = this.#overlays.reduce(
      (sum, overlay) => sum + overlay.dataBlocks * blockBytes,
      0,
    );
    const lag =
      this.#flushedUnpublishedMs === 0
        ? 0
        : this.#context.clock.monotonicMs() - this.#flushedUnpublishedMs;
    return {
      readOnlyReason: this.#failure === null ? null : this.#failure.message,
      mappedBytes: mappedBytes(this.#writer.map) + pending,
      storedBytes: this.#writer.table.storedBytes,
      journalBytes: this.#journal.lastSeq > coveredSeq ? this.#journal.usedBytes : 0,
      journalQuotaBytes: this.#journal.quotaBytes,
      flushLagMs: Math.round(lag),
      segments: this.#writer.table.rows.size,
      ...this.#counts,
    };
  }

  /**
   * Publish what is left, write a root that says so, and let the journal go. When the store does not take it in time the
   * volume is left as after a crash: nothing acknowledged is lost, the next open goes on from the journal.
   */
  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    this.#reclaimTimer?.cancel();
    this.#ageTimer?.cancel();
    let clean = false;
    if (!this.#failure) clean = await this.#closeCleanly();
    await this.#publisher.stop();
    const error = this.#failure ?? this.#closedError();
    this.#failure = error;
    this.#refuseQueued(error);
    this.#journal.close();
    await this.#parts.onClosed(clean);
  }

  async #closeCleanly(): Promise<boolean> {
    let timer: Timer | null = null;
    const late = new Promise<boolean>((resolve) => {
      timer = this.#context.timers.after(limits.closeMs, () => resolve(false));
    });
    const done = new Promise<boolean>((resolve) => {
      const last = (): void =>
        this.#freeze((root) => resolve(!(root instanceof DvceError)), segmentFlags.clean, true);
      // Requests that came before the close are journaled first.
      if (this.#queue.length === 0) last();
      else this.#drain(last);
    });
    const clean = await Promise.race([late, done]);
    (timer as Timer | null)?.cancel();
    return clean;
  }

  #drain(then: () => void): void {
    const step = (): void => {
      if (this.#queue.length === 0 || this.#failure) then();
      else this.#context.timers.after(1, step);
    };
    this.#schedule();
    step();
  }
}

/** Addresses of a carried tail start here, far above those of the open journal. */
export const carriedBase = 2 ** 50;
