/**
 * An open volume: the way of a write from the request to the journal, and of a read through the layers.
 *
 *   write -> RequestQueue -> (end of turn) Journal, one writev for all of the turn -> WriteLayers -> acknowledged
 *   overlay full, old, or cut by a mark -> frozen -> Publisher -> segment -> map -> journal space is free
 *   read  -> readLayers: active overlay, frozen overlays, map -> journal file or segment
 *
 * Invariants:
 * - a write is acknowledged only when it is in the page cache of a file (design invariant 2), a flush when every record
 *   appended before it is synced or in the store (invariant 3);
 * - once anything of the writer failed for good, nothing is acknowledged any more; reads go on;
 * - a snapshot's segments stay from its cut on, also while its document is not written yet (G2).
 */
import {
  DvceError,
  type LogId,
  limits,
  type SnapshotName,
  type Timer,
  type VolumeId,
} from '../base/index.ts';
import { BlockSource } from './block-source.ts';
import { BuildBudget } from './build-budget.ts';
import type { HlfsContext } from './context.ts';
import { Cuts, type MakeSnapshot } from './cuts.ts';
import { listExtents } from './extents.ts';
import { Flattener } from './flatten.ts';
import { Foreground } from './foreground.ts';
import { requireHead } from './heads.ts';
import type { Appended, Journal } from './journal.ts';
import { withTail } from './journal-reader.ts';
import { LayerReader } from './layer-reader.ts';
import { type Layers, readMapped } from './layers.ts';
import type { LogWriter } from './log-writer.ts';
import { PointExpiry } from './point-expiry.ts';
import { blockBytes } from './pointer.ts';
import { Publisher } from './publisher.ts';
import { type Request, RequestQueue } from './request-queue.ts';
import type { Compression, SnapshotDocument } from './schema.ts';
import { segmentFlags } from './segment-format.ts';
import { type VolumeSpace, volumeSpace } from './space.ts';
import type {
  Done,
  ExtentsDone,
  OpenVolume,
  ReadDone,
  SnapshotOptions,
  VolumeStatistics,
  WriteOptions,
  ZeroOptions,
} from './volume-api.ts';
import { statisticsOf } from './volume-statistics.ts';
import { type OnRoot, WriteLayers } from './write-layers.ts';

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
  readonly positions: () => Promise<readonly number[] | null>;
  readonly makeSnapshot: MakeSnapshot;
  readonly checkSnapshotName: (name: SnapshotName) => Promise<void>;
  /** Called after the last root of a clean close. */
  readonly onClosed: (clean: boolean) => Promise<void>;
}

const noOptions: WriteOptions = { fua: false, origin: { alive: true } };

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
  readonly #writeLayers: WriteLayers;
  readonly #layers: Layers;
  readonly #reader: LayerReader;
  readonly #queue: RequestQueue;
  readonly #foreground: Foreground;
  readonly cuts: Cuts;
  readonly flattener: Flattener;
  #reclaimTimer: Timer | null = null;
  readonly #expiry: PointExpiry;
  /** Records of earlier incarnations up to here are being published; 0 when all are. */
  #carriedUntil = 0;
  #flushMark: { seq: number; wallMs: number } | null;
  #flushedUnpublishedMs = 0;
  #failure: DvceError | null = null;
  #closed: Promise<void> | null = null;
  readonly #counts = { reads: 0, writes: 0, flushes: 0, trims: 0, readBytes: 0, writtenBytes: 0 };

  constructor(parts: VolumeParts) {
    const { context, writer } = parts;
    this.#parts = parts;
    this.#context = context;
    this.id = parts.id;
    this.log = writer.state.log;
    this.sizeBytes = parts.sizeBytes;
    this.caps = {
      readOnly: parts.readOnlyReason !== null,
      blockBytes: parts.blockBytes,
      multiConn: true,
      cache: false,
      rotational: false,
    };
    this.#writer = writer;
    this.#foreground = new Foreground(context.clock, context.timers);
    this.#flushMark = parts.flushMark;
    this.#expiry = new PointExpiry(context.timers, writer, () => this.#reclaim());
    this.#journal = parts.journal({
      onMoved: (records) => this.#writeLayers.move(records),
      onBroken: (error) => this.#fail(error),
    });
    this.#publisher = new Publisher({
      context,
      writer,
      journal: this.#journal,
      replicasMin: 1,
      foreground: this.#foreground,
      rootFacts: () => ({ sizeBytes: this.sizeBytes, flushMark: this.#flushMark }),
      positions: () => this.#positions(),
      readBlock: (block, target) => readMapped(this.#layers, block, target),
      onLeft: () => this.#writeLayers.refresh(),
      onSpace: () => this.#afterBatch(),
      onFailed: (error) => this.#fail(error),
    });
    this.#writeLayers = new WriteLayers({
      firstSeq: writer.state.coveredSeq + 1,
      timers: context.timers,
      journal: this.#journal,
      mapPagesMax: writer.map.batchPagesMax,
      publisher: this.#publisher,
      reads: withTail(this.#journal.reads, parts.readTail),
      budget: context.builds ?? new BuildBudget(0),
      keepsPoints: () => writer.retention !== null,
    });
    this.#layers = {
      overlays: () => this.#writeLayers.overlays,
      map: writer.map,
      source: new BlockSource(writer.reader, context.reads),
    };
    this.#reader = new LayerReader(this.#layers);
    this.#queue = new RequestQueue({
      clock: context.clock,
      timers: context.timers,
      journal: this.#journal,
      isCarrying: () => this.#carriedUntil > 0,
      publishingWaits: () => this.#publisher.waiting,
      onAppended: (records) => {
        for (const record of records) this.#writeLayers.apply(record);
        this.#writeLayers.settle();
      },
      onHeld: () => {
        if (this.#publisher.frozen.length === 0) this.#writeLayers.freeze();
      },
      onFlushed: (seq, wallMs) => this.#flushed(seq, wallMs),
      keepsPoints: () => writer.retention !== null,
      sizeBytes: () => this.sizeBytes,
      onFailed: (error) => this.#fail(error),
    });
    const { name, readOnlyReason } = parts;
    const mark = { kind: 'mark', offset: 0, length: 0, payload: null } as const;
    this.cuts = new Cuts({
      name,
      clock: context.clock,
      timers: context.timers,
      queue: this.#queue,
      writeLayers: this.#writeLayers,
      sizeBytes: () => this.sizeBytes,
      pushMark: (done) => this.#push(mark, noOptions, done),
      checkName: parts.checkSnapshotName,
      makeSnapshot: parts.makeSnapshot,
    });
    this.flattener = new Flattener({
      ...{ context, id: this.id, name, writer, foreground: this.#foreground },
      publisher: this.#publisher,
      unnamed: () => this.cuts.unnamed,
    });
    if (readOnlyReason === null) this.#takeTail();
    else this.#fail(new DvceError('READ_ONLY', { name, reason: readOnlyReason }));
  }

  /** The tail of earlier incarnations becomes frozen batches; nothing is journaled before they are published (J4). */
  #takeTail(): void {
    for (const record of this.#parts.tail) {
      this.#writeLayers.apply(record, { mayKeep: false });
      this.#carriedUntil = record.seq;
    }
    this.#writeLayers.freeze();
  }

  read(offset: number, length: number, done: ReadDone): void {
    this.#counts.reads += 1;
    this.#counts.readBytes += length;
    this.#reader.read(offset, length, this.sizeBytes, this.#foreground.timed('read', done));
  }

  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.#counts.writes += 1;
    this.#counts.writtenBytes += data.byteLength;
    const ended = this.#foreground.timed('write', done);
    this.#push({ kind: 'write', offset, length: data.byteLength, payload: data }, options, ended);
  }

  flush(done: Done): void {
    this.#counts.flushes += 1;
    const ended = this.#foreground.timed('flush', done);
    this.#push({ kind: 'flush', offset: 0, length: 0, payload: null }, noOptions, ended);
  }

  /** Whole blocks inside of the range become holes; the edges stay as they are (J9). */
  trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    this.#counts.trims += 1;
    const start = Math.ceil(offset / blockBytes) * blockBytes;
    const atEnd = offset + length === this.sizeBytes;
    const end = atEnd ? offset + length : Math.floor((offset + length) / blockBytes) * blockBytes;
    const whole = { kind: 'hole', offset: start, length: end - start, payload: null } as const;
    if (end > start) this.#push(whole, options, done);
    else if (options.fua)
      this.flush(done); // nothing to trim, and still a sync point
    else done(this.#failure);
  }

  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    const kind = options.noHole ? 'zero' : 'hole';
    this.#push({ kind, offset, length, payload: null }, options, done);
  }

  extents(offset: number, length: number, done: ExtentsDone): void {
    listExtents(this.#layers, this.sizeBytes, offset, length, done);
  }

  /** Nothing is kept in memory that a prefetch could fill. */
  cache(_offset: number, _length: number, done: Done): void {
    done(null);
  }

  #push(
    request: Pick<Request, 'kind' | 'offset' | 'length' | 'payload'>,
    { fua, origin }: WriteOptions,
    done: Done,
  ): void {
    if (this.#closed !== null) done(this.#failure ?? this.#closedError());
    else this.#queue.push({ ...request, fua, origin, done });
  }

  #closedError(): DvceError {
    return new DvceError('VOLUME_CLOSED', { name: this.#parts.name });
  }

  #flushed(seq: number, wallMs: number): void {
    if (seq > (this.#flushMark?.seq ?? 0)) this.#flushMark = { seq, wallMs };
    if (this.#flushedUnpublishedMs === 0 && seq > this.#writer.state.coveredSeq)
      this.#flushedUnpublishedMs = this.#context.clock.monotonicMs();
  }

  #afterBatch(): void {
    const { coveredSeq } = this.#writer.state;
    if (coveredSeq >= this.#carriedUntil) this.#carriedUntil = 0;
    if ((this.#flushMark?.seq ?? 0) <= coveredSeq) this.#flushedUnpublishedMs = 0;
    this.#queue.wake();
    this.#reclaimTimer?.cancel();
    this.#reclaimTimer = null;
    if (this.#closed !== null) return;
    this.#reclaimTimer = this.#context.timers.after(limits.reclaimDelayMs, () => this.#reclaim());
  }

  #reclaim(): void {
    if (this.#closed !== null || this.#failure !== null) return;
    this.#publisher.reclaim();
    this.#expiry.watch();
  }

  compress(compression: Compression): void {
    this.#writer.compression = compression;
  }

  retain(retainMs: number | null): void {
    this.#writer.retain(retainMs);
    this.#writeLayers.freeze(); // batches from now on are made so
    this.#reclaim();
  }

  #fail(error: DvceError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    const facts = { volume: this.id, code: error.code, reason: error.message };
    this.#context.logger.error(facts, 'the volume is read-only now');
    this.#queue.fail(error);
    this.#writeLayers.fail(error);
    this.cuts.fail();
  }

  snapshot(name: SnapshotName, options: SnapshotOptions): Promise<SnapshotDocument> {
    return this.cuts.snapshot(name, options);
  }

  /** G2: of documents, and of snapshots whose document is being written. */
  async #positions(): Promise<readonly number[] | null> {
    const { unnamed } = this.cuts;
    const named = await this.#parts.positions();
    return named && [...named, ...unnamed].sort((a, b) => a - b);
  }

  grow(sizeBytes: number): void {
    if (sizeBytes > this.sizeBytes) this.sizeBytes = sizeBytes;
  }

  async publishAll(): Promise<void> {
    await this.cuts.cut();
  }

  async publishNew(): Promise<void> {
    if (this.#journal.lastSeq > this.#writer.state.coveredSeq) await this.publishAll();
  }

  statistics(): VolumeStatistics {
    const since = this.#flushedUnpublishedMs;
    return statisticsOf({
      writer: this.#writer,
      journal: this.#journal,
      publisher: this.#publisher,
      overlays: this.#writeLayers.overlays,
      failure: this.#failure,
      flushMark: this.#flushMark,
      flushLagMs: since === 0 ? 0 : this.#context.clock.monotonicMs() - since,
      counts: this.#counts,
      readBlocks: this.#layers.source.counts,
    });
  }

  async space(): Promise<VolumeSpace> {
    const { value } = await requireHead(this.#context, this.id);
    return volumeSpace(this.#context, value, this.#writer);
  }

  /**
   * Publish what is left, write a root that says so, and let the journal go. When the store does not take it in time the
   * volume is left as after a crash: nothing acknowledged is lost, the next open goes on from the journal.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#reclaimTimer?.cancel();
    this.#reader.close();
    this.#expiry.stop();
    this.flattener.stop();
    const clean = this.#failure === null && (await this.#inTime(this.#publishLast()));
    this.#writeLayers.stopTimer();
    await this.#inTime(this.#publisher.stop().then(() => true));
    this.#writeLayers.letGo();
    this.#failure ??= this.#closedError();
    this.#queue.fail(this.#failure);
    await this.#journal.close();
    await this.#parts.onClosed(clean);
  }

  /** False when the store did not take it in time; a full one will not soon, and the journal keeps what is left. */
  async #inTime(work: Promise<boolean>): Promise<boolean> {
    const late = Promise.withResolvers<boolean>();
    const isFull = this.#publisher.waiting?.code === 'NO_SPACE';
    const limitMs = isFull ? limits.closeFullMs : limits.closeMs;
    const timer = this.#context.timers.after(limitMs, () => late.resolve(false));
    const result = await Promise.race([work, late.promise]);
    timer.cancel();
    return result;
  }

  /** Requests that came before the close are journaled first. */
  async #publishLast(): Promise<boolean> {
    while (!this.#queue.isEmpty && this.#failure === null)
      await new Promise<void>((resolve) => this.#context.timers.after(1, resolve));
    return await new Promise<boolean>((resolve) => {
      const onRoot: OnRoot = (root) => resolve(!(root instanceof DvceError));
      this.#writeLayers.freezeWithRoot(onRoot, segmentFlags.clean);
    });
  }
}
