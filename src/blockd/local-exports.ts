/**
 * The exports of one worker: open volumes and snapshots, each with a server of its own on its own unix socket.
 *
 * Invariants:
 * - the socket is listened on only after the volume is open, so a guest that connects is served; until then it is refused and
 *   comes back;
 * - a client gets in only by the export's name, which carries the attach id or a token of the main thread (B-36);
 * - closing: the limits first (what waits goes on), then the server, gracefully (what was read is answered, no error is sent),
 *   then the volume;
 * - an open whose asker gave up is closed again: the main thread knows of every export, or it is not there.
 */
import { DvceError, type RateLimits, toDvceError } from '../base/index.ts';
import {
  type BlockReader,
  type Done,
  type ExtentsDone,
  type HlfsContext,
  type OpenVolume,
  openSnapshot,
  openVolume,
  type PointSummary,
  pinSnapshot,
  type ReadDone,
  type ReaderPin,
  readRanges,
  requireHead,
  type WriteOptions,
  type ZeroOptions,
} from '../hlfs/index.ts';
import {
  type BlockBackend,
  type ExportProvider,
  NbdServer,
  type RequestFigures,
  RequestMeter,
  sumOfFigures,
  ThreadTurns,
  Throttle,
  type TurnShare,
} from '../nbd/index.ts';
import type {
  ExportActivity,
  ExportKey,
  ExportSpec,
  OpenedFacts,
  WorkerFigures,
} from './worker-protocol.ts';

interface LocalExport {
  readonly spec: ExportSpec;
  readonly reader: BlockReader;
  /** The same object when it is a writable volume. */
  readonly volume: OpenVolume | undefined;
  readonly server: NbdServer;
  readonly throttle: Throttle;
  readonly meter: RequestMeter;
  readonly share: TurnShare;
}

export class LocalExports {
  readonly #context: HlfsContext;
  readonly #exports = new Map<ExportKey, LocalExport>();
  /** Of exports that are closed. */
  #ended: readonly RequestFigures[];
  readonly #turns: ThreadTurns;

  constructor(context: HlfsContext) {
    this.#context = context;
    this.#ended = new RequestMeter(context.clock).read();
    this.#turns = new ThreadTurns(context.clock, context.timers);
  }

  async open(spec: ExportSpec, signal: AbortSignal): Promise<OpenedFacts> {
    if (this.#exports.has(spec.key))
      throw new DvceError('INTERNAL', { reason: `export ${spec.key} is open already` });
    const { volume: id, snapshot } = spec;
    const volume = snapshot === null ? await openVolume(this.#context, id) : undefined;
    const reader = volume ?? (await this.#openSnapshot(spec));
    const share = this.#turns.share();
    try {
      const backend = spec.readOnlyReason === null ? reader : readOnly(reader, spec.readOnlyReason);
      const throttle = new Throttle(this.#context.clock, this.#context.timers);
      // Limits are of the volume: a backup of its snapshot is nothing that its guest should pay for.
      if (volume !== undefined)
        throttle.set((await requireHead(this.#context, id)).value.limits ?? {});
      const meter = new RequestMeter(this.#context.clock);
      const parts = { throttle, meter, share };
      const server = await this.#serve(spec, backend, parts);
      this.#exports.set(spec.key, { spec, reader, volume, server, ...parts });
    } catch (error) {
      share.close();
      await reader.close();
      throw error;
    }
    if (signal.aborted) {
      await this.close(spec.key);
      throw toDvceError(signal.reason);
    }
    return { sizeBytes: reader.sizeBytes, blockBytes: reader.caps.blockBytes };
  }

  /** Its segments stay until it is closed, or until this process is gone (G3). */
  async #openSnapshot({ volume: id, snapshot, description }: ExportSpec): Promise<BlockReader> {
    const context = this.#context;
    const { value: head } = await requireHead(context, id);
    const pin = await pinSnapshot(context, { id, path: description }, snapshot ?? '', readRanges);
    try {
      const reader = await openSnapshot(context, pin.snapshot, head.blockBytes);
      return new PinnedReader(reader, pin);
    } catch (error) {
      await pin.release();
      throw error;
    }
  }

  async #serve(
    spec: ExportSpec,
    backend: BlockBackend,
    { throttle, meter, share }: Pick<LocalExport, 'throttle' | 'meter' | 'share'>,
  ): Promise<NbdServer> {
    const { timers, logger } = this.#context;
    const server = new NbdServer({
      exports: onlyByName(spec, backend, throttle),
      timers,
      logger,
      meter,
      share,
    });
    await server.listenUnix(spec.socketPath, { mode: 0o660 });
    return server;
  }

  /** VOLUME_CLOSED when it is not open. */
  #find(key: ExportKey): LocalExport {
    const found = this.#exports.get(key);
    if (found === undefined) throw new DvceError('VOLUME_CLOSED', { name: key });
    return found;
  }

  volume(key: ExportKey): OpenVolume {
    const volume = this.opened(key);
    const { spec } = this.#find(key);
    if (spec.readOnlyReason !== null)
      throw new DvceError('READ_ONLY', { name: spec.description, reason: spec.readOnlyReason });
    return volume;
  }

  /** Also one that may not be written now. */
  opened(key: ExportKey): OpenVolume {
    const { volume, spec } = this.#find(key);
    if (volume !== undefined) return volume;
    throw new DvceError('READ_ONLY', { name: spec.description, reason: 'it is a snapshot' });
  }

  /** From now on, for requests that wait, too. */
  limit(key: ExportKey, rates: RateLimits): void {
    this.#find(key).throttle.set(rates);
  }

  activity(key: ExportKey): ExportActivity {
    const { volume, spec, server, throttle, meter } = this.#find(key);
    if (volume === undefined) throw new DvceError('VOLUME_CLOSED', { name: key });
    const { points: _points, ...statistics } = volume.statistics();
    return {
      ...statistics,
      ...throttle.figures(),
      latencies: meter.latencies(),
      readOnlyReason: spec.readOnlyReason ?? statistics.readOnlyReason,
      connections: server.connections.size,
    };
  }

  points(key: ExportKey): PointSummary | null {
    return this.#find(key).volume?.statistics().points ?? null;
  }

  figures(): Omit<WorkerFigures, 'loop'> {
    const open = [...this.#exports.values()];
    return {
      connections: open.reduce((sum, { server }) => sum + server.connections.size, 0),
      operations: sumOfFigures([this.#ended, ...open.map(({ meter }) => meter.read())]),
      volumes: open.flatMap(({ spec: { key }, volume }) =>
        volume === undefined ? [] : [{ key, activity: this.activity(key) }],
      ),
    };
  }

  /** 99 of 100 requests of each export were faster than this, of late. */
  slowestMs(): number {
    const latencies = [...this.#exports.values()].flatMap(({ meter }) => meter.latencies());
    return latencies.reduce((most, { p99Us }) => Math.max(most, p99Us / 1000), 0);
  }

  async close(key: ExportKey): Promise<void> {
    const found = this.#exports.get(key);
    if (found === undefined) return;
    // What waits for a limit is finished with the rest of what was read; a close must not wait for it.
    found.throttle.set({});
    await found.server.close({ graceful: true });
    try {
      await found.reader.close();
    } finally {
      found.share.close();
      this.#ended = sumOfFigures([this.#ended, found.meter.read()]);
      this.#exports.delete(key);
    }
  }

  /** All at once; the first failure is thrown after all have ended. */
  async closeAll(): Promise<void> {
    const outcomes = await Promise.allSettled(
      [...this.#exports.keys()].map((key) => this.close(key)),
    );
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw toDvceError(failed.reason);
  }
}

/** A snapshot that is held while it is open. */
class PinnedReader implements BlockReader {
  readonly #reader: BlockReader;
  readonly #pin: ReaderPin;

  constructor(reader: BlockReader, pin: ReaderPin) {
    this.#reader = reader;
    this.#pin = pin;
  }
  get sizeBytes(): number {
    return this.#reader.sizeBytes;
  }
  get caps(): BlockReader['caps'] {
    return this.#reader.caps;
  }
  read(offset: number, length: number, done: ReadDone): void {
    this.#reader.read(offset, length, done);
  }
  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.#reader.write(offset, data, options, done);
  }
  flush(done: Done): void {
    this.#reader.flush(done);
  }
  trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    this.#reader.trim(offset, length, options, done);
  }
  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    this.#reader.writeZeroes(offset, length, options, done);
  }
  extents(offset: number, length: number, done: ExtentsDone): void {
    this.#reader.extents(offset, length, done);
  }
  cache(offset: number, length: number, done: Done): void {
    this.#reader.cache(offset, length, done);
  }
  async close(): Promise<void> {
    await this.#reader.close();
    await this.#pin.release();
  }
}

/** A name that carries a secret of the main thread is shown to nobody. */
const isSecret = (name: string): boolean => name.startsWith('internal-');

function onlyByName(spec: ExportSpec, backend: BlockBackend, throttle: Throttle): ExportProvider {
  const { exportName, description } = spec;
  return {
    open: async (name) =>
      name === exportName
        ? { backend, throttle, description, release: () => {} }
        : new DvceError('NOT_FOUND', { kind: 'export', name: JSON.stringify(name.slice(0, 200)) }),
    list: async () => (isSecret(exportName) ? [] : [{ name: exportName, description }]),
  };
}

/** Rule N4: nothing reaches the volume but reads. The server refuses writes by the flag; this is the second door. */
function readOnly(reader: BlockReader, reason: string): BlockBackend {
  const refused = (): DvceError => new DvceError('READ_ONLY', { name: 'it', reason });
  return {
    get sizeBytes() {
      return reader.sizeBytes;
    },
    caps: { ...reader.caps, readOnly: true },
    read: (offset, length, done) => reader.read(offset, length, done),
    write: (_offset, _data, _options, done) => done(refused()),
    flush: (done) => done(null),
    trim: (_offset, _length, _options, done) => done(refused()),
    writeZeroes: (_offset, _length, _options, done) => done(refused()),
    extents: (offset, length, done) => reader.extents(offset, length, done),
    cache: (offset, length, done) => reader.cache(offset, length, done),
    close: () => reader.close(),
  };
}
