/**
 * A history of volumes: steps that are done to the engine and to the model of it, and the places where they must agree.
 * A step that does not apply (no snapshot to delete, ...) does nothing.
 */
import { limits, type VolumeId } from '../../src/base/index.ts';
import {
  checkVolume,
  cloneVolume,
  deleteSnapshot,
  deleteVolume,
  diffRoots,
  findSnapshot,
  getVolume,
  growHead,
  openSnapshot,
  readRanges,
  reap,
  reclaimLog,
  rollbackVolume,
  type SnapshotDocument,
  shrinkHead,
} from '../../src/hlfs/index.ts';
import { extentsFault, ModelDevice } from '../hlfs/model.ts';
import { type Disk, Reader, Rig } from './engine-rig.ts';

export interface Place {
  readonly at: number;
  readonly alignBytes: number;
  readonly length: number;
}

export type Step =
  | { readonly kind: 'write'; readonly place: Place; readonly fill: number; readonly fua: boolean }
  | { readonly kind: 'read'; readonly place: Place }
  | { readonly kind: 'trim'; readonly place: Place; readonly factor: number }
  | {
      readonly kind: 'zero';
      readonly place: Place;
      readonly noHole: boolean;
      readonly factor: number;
    }
  | { readonly kind: 'flush' }
  /** Writes sent together, with reads among them; `snapshot`: and one at the end. */
  | {
      readonly kind: 'burst';
      readonly places: readonly Place[];
      readonly fill: number;
      readonly snapshot: boolean;
    }
  | { readonly kind: 'snapshot' }
  | { readonly kind: 'deleteSnapshot'; readonly which: number }
  | { readonly kind: 'clone'; readonly which: number }
  | { readonly kind: 'rollback'; readonly which: number }
  | { readonly kind: 'deleteVolume'; readonly which: number }
  | { readonly kind: 'resize'; readonly to: number }
  | { readonly kind: 'select'; readonly which: number }
  | { readonly kind: 'reopen' }
  | {
      readonly kind: 'kill';
      readonly during: 'nothing' | 'burst' | 'publish' | 'snapshot' | 'reclaim' | 'close';
      readonly places: readonly Place[];
      readonly fill: number;
      /** Turns of the event loop that the process still gets. */
      readonly turns: number;
    }
  | { readonly kind: 'publish' | 'reclaim' | 'age' | 'check' | 'reap' | 'verify' }
  /** Fill a range, overwrite most of it here and there, and let the cleaner have what is left. */
  | { readonly kind: 'churn'; readonly place: Place; readonly fill: number }
  | { readonly kind: 'diff'; readonly from: number; readonly to: number }
  | { readonly kind: 'extents'; readonly place: Place; readonly factor: number };

export interface HistoryOptions {
  readonly sizeBytes: number;
  readonly blockBytes?: 512 | 4096;
  readonly mapCacheBytes?: number;
}

interface Kept {
  readonly document: SnapshotDocument;
  readonly model: ModelDevice;
}

interface Known {
  readonly id: VolumeId;
  readonly path: string;
  model: ModelDevice;
  disk: Disk;
  /** By name. */
  readonly snapshots: Map<string, Kept>;
}

const volumesMax = 5;
const snapshotsMax = 6;
const unused = (): undefined => undefined;

/** In a large volume writes meet around these places. */
const gibibyte = 2 ** 30;
const windows = [
  0,
  8 * gibibyte - (1 << 20),
  1024 * gibibyte,
  8 * 1024 * gibibyte - (2 << 20),
  16 * 1024 * gibibyte - (4 << 20),
];

export class History {
  readonly #rig: Rig;
  readonly #options: HistoryOptions;
  readonly #volumes: Known[] = [];
  #current = 0;
  #names = 0;

  private constructor(rig: Rig, options: HistoryOptions) {
    this.#rig = rig;
    this.#options = options;
  }

  /** Do the steps, then verify everything, alive, after a kill and after a clean close. */
  static async run(options: HistoryOptions, steps: readonly Step[]): Promise<void> {
    const rig = await Rig.make();
    try {
      const history = new History(rig, options);
      await history.#create();
      for (const [i, step] of steps.entries())
        try {
          await history.#apply(step);
        } catch (error) {
          throw new Error(`step ${i}, ${JSON.stringify(step)}: ${String(error)}`, { cause: error });
        }
      await history.#end();
    } finally {
      await rig.end();
    }
  }

  async #end(): Promise<void> {
    await this.#verifyAll('at the end');
    await this.#restart();
    await this.#verifyAll('after the last kill');
    for (const volume of this.#volumes) await volume.disk.close();
    await reap(this.#rig.context, reclaimLog);
    for (const volume of this.#volumes) {
      await this.#check(volume);
      volume.disk = await this.#open(volume.id);
    }
    await this.#verifyAll('after the last close');
  }

  async #create(): Promise<void> {
    const { sizeBytes, blockBytes } = this.#options;
    const path = '/v0';
    const id = await this.#rig.create(path, {
      sizeBytes,
      ...(blockBytes === undefined ? {} : { blockBytes }),
    });
    const model = new ModelDevice(sizeBytes);
    this.#volumes.push({ id, path, model, disk: await this.#open(id), snapshots: new Map() });
  }

  #open(id: VolumeId): Promise<Disk> {
    const { mapCacheBytes } = this.#options;
    return this.#rig.open(id, mapCacheBytes === undefined ? {} : { mapCacheBytes });
  }

  get #volume(): Known {
    const volume = this.#volumes[this.#current % this.#volumes.length];
    if (volume === undefined) throw new Error('there is no volume');
    return volume;
  }

  /** Bring a place into the volume. */
  #resolve({ at, alignBytes, length }: Place, factor = 1): { offset: number; length: number } {
    const { sizeBytes } = this.#volume.model;
    let offset = at % sizeBytes;
    if (sizeBytes > 2 ** 32) {
      const base = windows[at % windows.length] ?? 0;
      offset = Math.min(base + (at % (4 << 20)), sizeBytes - 1);
    }
    offset -= offset % alignBytes;
    // Some reach exactly to the end.
    const wanted = length * factor;
    return { offset, length: Math.min(wanted, sizeBytes - offset) };
  }

  #bytes(length: number, fill: number): Buffer {
    const pattern = Buffer.alloc(13);
    pattern.writeUInt32LE(fill >>> 0, 0);
    pattern.writeUInt32LE(length, 5);
    return Buffer.alloc(length, pattern);
  }

  #apply(step: Step): Promise<void> | void {
    switch (step.kind) {
      case 'write':
        return this.#write(step);
      case 'read':
        return this.#read(step);
      case 'trim':
      case 'zero':
        return this.#clear(step);
      case 'flush':
        return this.#volume.disk.flush();
      case 'burst':
        return this.#burst(step);
      case 'snapshot':
        return this.#snapshot();
      case 'deleteSnapshot':
        return this.#deleteSnapshot(step.which);
      case 'clone':
        return this.#clone(step.which);
      case 'rollback':
        return this.#rollback(step.which);
      case 'deleteVolume':
        return this.#deleteVolume(step.which);
      case 'resize':
        return this.#resize(step.to);
      case 'select':
        this.#current = step.which;
        return undefined;
      default:
        return this.#applyRare(step);
    }
  }

  async #applyRare(step: Step): Promise<void> {
    switch (step.kind) {
      case 'reopen':
        await this.#volume.disk.close();
        this.#volume.disk = await this.#open(this.#volume.id);
        return;
      case 'kill':
        return this.#kill(step);
      case 'publish':
        return this.#volume.disk.volume.publishAll();
      case 'reclaim':
        this.#rig.process.timers.fire(limits.reclaimDelayMs);
        return this.#rig.process.quiet();
      case 'age':
        this.#rig.process.timers.fire(limits.batchAgeMs);
        return this.#rig.process.quiet();
      case 'check':
        return this.#check(this.#volume);
      case 'reap':
        return reap(this.#rig.context, reclaimLog);
      case 'churn':
        return this.#churn(step);
      case 'diff':
        return this.#diff(step.from, step.to);
      case 'extents':
        return this.#extents(step);
      case 'verify':
        return this.#verifyAll('on the way');
    }
  }

  async #write({ place, fill, fua }: Step & { kind: 'write' }): Promise<void> {
    const { disk, model } = this.#volume;
    const { offset, length } = this.#resolve(place);
    const bytes = this.#bytes(length, fill);
    await disk.write(offset, bytes, { fua, origin: { alive: true } });
    model.write(offset, bytes);
  }

  async #churn({ place, fill }: Step & { kind: 'churn' }): Promise<void> {
    const { disk, model } = this.#volume;
    const { offset, length } = this.#resolve({ ...place, alignBytes: 4096, length: 2 << 20 });
    const put = async (at: number, bytes: Buffer): Promise<void> => {
      await disk.write(at, bytes);
      model.write(at, bytes);
    };
    await put(offset, this.#bytes(length, fill));
    this.#rig.process.timers.fire(limits.batchAgeMs);
    await this.#rig.process.quiet();
    for (let at = 0; at + 12_288 <= length; at += 16_384)
      await put(offset + at, this.#bytes(12_288, fill + at));
    for (let round = 0; round < 2; round += 1) await disk.volume.publishAll();
    this.#rig.process.timers.fire(limits.reclaimDelayMs);
    // The cleaner may be at work when the next step comes.
    if (fill % 2 === 0) await this.#rig.process.quiet();
  }

  async #read({ place }: Step & { kind: 'read' }): Promise<void> {
    const { offset, length } = this.#resolve(place);
    await agree(this.#volume.disk, this.#volume.model, offset, length, 'a read');
  }

  async #clear(step: Step & { kind: 'trim' | 'zero' }): Promise<void> {
    const { disk, model } = this.#volume;
    const { offset, length } = this.#resolve(step.place, step.factor);
    if (step.kind === 'trim') {
      await disk.trim(offset, length);
      model.trim(offset, length);
    } else {
      await disk.zero(offset, length, step.noHole);
      model.zero(offset, length);
    }
  }

  /** J1: requests that are under way together take effect in the order in which they were sent. */
  async #burst({ places, fill, snapshot }: Step & { kind: 'burst' }): Promise<void> {
    const { disk, model, snapshots } = this.#volume;
    const running: Promise<unknown>[] = [];
    const reads: { before: Buffer; offset: number; bytes: Promise<Buffer> }[] = [];
    for (const [i, place] of places.entries()) {
      const { offset, length } = this.#resolve(place);
      const bytes = this.#bytes(length, fill + i);
      reads.push({
        before: model.read(offset, length),
        offset,
        bytes: disk.read(offset, length),
      });
      running.push(disk.write(offset, bytes));
      model.write(offset, bytes);
    }
    const name = `s${this.#names++}`;
    const taken = snapshot && snapshots.size < snapshotsMax ? disk.snapshot(name) : undefined;
    const expected = model.copy();
    await Promise.all(running);
    if (taken !== undefined) snapshots.set(name, { document: await taken, model: expected });
    for (const { before, offset, bytes } of reads) {
      // B-52: each block is as it was before or as it is after one of the writes.
      const now = await bytes;
      for (let at = 0; at < now.byteLength; at += 4096) {
        const block = now.subarray(at, at + 4096);
        const end = model.read(offset + at, block.byteLength);
        const isKnown = block.equals(before.subarray(at, at + 4096)) || block.equals(end);
        if (!isKnown && places.length === 1) throw new Error(`a torn read at ${offset + at}`);
      }
    }
  }

  async #snapshot(): Promise<void> {
    const { disk, model, snapshots } = this.#volume;
    if (snapshots.size >= snapshotsMax) return;
    const name = `s${this.#names++}`;
    // B-07: nothing is flushed before.
    const document = await disk.snapshot(name);
    snapshots.set(name, { document, model: model.copy() });
  }

  #pick(which: number): { name: string; kept: Kept } | undefined {
    const all = [...this.#volume.snapshots];
    const found = all[which % Math.max(1, all.length)];
    return found && { name: found[0], kept: found[1] };
  }

  async #deleteSnapshot(which: number): Promise<void> {
    const picked = this.#pick(which);
    if (picked === undefined) return;
    try {
      await deleteSnapshot(this.#rig.context, this.#volume.id, picked.name);
      this.#volume.snapshots.delete(picked.name);
    } catch (error) {
      // A clone needs it.
      if (!(error instanceof Error && 'code' in error && error.code === 'IN_USE')) throw error;
    }
  }

  async #clone(which: number): Promise<void> {
    const picked = this.#pick(which);
    if (picked === undefined || this.#volumes.length >= volumesMax) return;
    const path = `/v${this.#names++}`;
    const source = await getVolume(this.#rig.context, this.#volume.path);
    const { document, model } = picked.kept;
    const record = await cloneVolume(
      this.#rig.context,
      source,
      document,
      path,
      { journalBytes: 32 << 20 },
      readRanges,
    );
    this.#volumes.push({
      id: record.id,
      path,
      model: model.copy(),
      disk: await this.#open(record.id),
      snapshots: new Map(),
    });
    this.#current = this.#volumes.length - 1;
    await this.#verify(this.#volume.disk, this.#volume.model, 'a new clone');
  }

  async #rollback(which: number): Promise<void> {
    const picked = this.#pick(which);
    if (picked === undefined) return;
    const volume = this.#volume;
    await volume.disk.close();
    await rollbackVolume(this.#rig.context, volume, picked.name, readRanges, unused);
    volume.model = picked.kept.model.copy();
    volume.disk = await this.#open(volume.id);
    await this.#verify(volume.disk, volume.model, 'after the rollback');
  }

  async #deleteVolume(which: number): Promise<void> {
    if (this.#volumes.length < 2) return;
    const i = which % this.#volumes.length;
    const [volume] = this.#volumes.splice(i, 1);
    if (volume === undefined) return;
    await volume.disk.close();
    await deleteVolume(this.#rig.context, volume.path, unused);
  }

  async #resize(to: number): Promise<void> {
    const volume = this.#volume;
    const { model } = volume;
    const block = this.#options.blockBytes ?? 4096;
    const span = Math.min(16 << 20, this.#options.sizeBytes);
    const whole =
      this.#options.sizeBytes > 2 ** 32 ? this.#options.sizeBytes - (to % 2) * (9 * gibibyte) : 0;
    const sizeBytes = whole || Math.max(limits.volumeBytesMin, (to % span) - ((to % span) % block));
    if (sizeBytes > model.sizeBytes) {
      await growHead(this.#rig.context, volume, sizeBytes);
      volume.disk.volume.grow(sizeBytes);
    } else if (sizeBytes < model.sizeBytes) {
      await volume.disk.close();
      await shrinkHead(this.#rig.context, volume, sizeBytes, unused);
      volume.disk = await this.#open(volume.id);
    }
    model.resize(sizeBytes);
  }

  async #restart(): Promise<void> {
    await this.#rig.restart();
    for (const volume of this.#volumes) volume.disk = await this.#open(volume.id);
  }

  /** Die in the middle of something. What was acknowledged is there; what was not may be, in order. */
  async #kill(step: Step & { kind: 'kill' }): Promise<void> {
    const volume = this.#volume;
    const { disk } = volume;
    const states = [volume.model];
    let acknowledged = 0;
    const name = `s${this.#names++}`;
    const start = {
      nothing: () => {},
      burst: () => {
        for (const [i, place] of step.places.entries()) {
          const resolved = this.#resolve(place);
          // One journal record each, so that each is there whole or not at all.
          const length = Math.min(resolved.length, 256 << 10);
          const bytes = this.#bytes(length, step.fill + i);
          const next = (states.at(-1) ?? volume.model).copy();
          next.write(resolved.offset, bytes);
          states.push(next);
          ignore(
            disk.write(resolved.offset, bytes).then(() => {
              acknowledged = i + 1;
            }),
          );
        }
      },
      publish: () => ignore(disk.volume.publishAll()),
      snapshot: () => ignore(disk.snapshot(name)),
      reclaim: () => {
        this.#rig.process.timers.fire(limits.reclaimDelayMs);
      },
      close: () => ignore(disk.close()),
    };
    start[step.during]();
    for (let turn = 0; turn < step.turns; turn += 1)
      await new Promise<void>((resolve) => setImmediate(resolve));
    await this.#rig.process.kill();
    const least = acknowledged;
    await this.#rig.start();
    for (const each of this.#volumes) each.disk = await this.#open(each.id);
    volume.model = await this.#matching(volume, states.slice(least));
    if (step.during === 'snapshot') await this.#adoptSnapshot(volume, name);
  }

  async #matching(volume: Known, states: readonly ModelDevice[]): Promise<ModelDevice> {
    const faults: unknown[] = [];
    for (const state of states.toReversed())
      try {
        await this.#verify(volume.disk, state, 'after a kill');
        return state;
      } catch (error) {
        faults.push(error);
      }
    throw new Error(`none of the ${states.length} states that it may have: ${faults.join('; ')}`);
  }

  /** A snapshot that was being taken exists whole or not at all. */
  async #adoptSnapshot(volume: Known, name: string): Promise<void> {
    try {
      const { value } = await findSnapshot(this.#rig.context, volume.id, name);
      volume.snapshots.set(name, { document: value, model: volume.model.copy() });
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'NOT_FOUND')) throw error;
    }
  }

  async #check({ id, path }: Known): Promise<void> {
    const { findings } = await checkVolume(this.#rig.context, id, {
      signal: new AbortController().signal,
      onProgress: () => {},
    });
    if (findings.length > 0) throw new Error(`check of ${path}: ${JSON.stringify(findings)}`);
  }

  /** Every block that differs is named; a range called zeros is zeros in the second root. */
  async #diff(from: number, to: number): Promise<void> {
    const all = this.#volumes.flatMap(({ snapshots }) => [...snapshots.values()]);
    const [a, b] = [all[from % Math.max(1, all.length)], all[to % Math.max(1, all.length)]];
    if (a === undefined || b === undefined) return;
    const options = { limit: 1_000_000, signal: new AbortController().signal };
    const diff = await diffRoots(this.#rig.context, a.document, b.document, options);
    if (diff.truncated) throw new Error('the diff is cut short');
    for (const { offset, length, kind } of diff.ranges)
      if (kind === 'zero' && !b.model.isZero(offset, length))
        throw new Error(`the diff calls ${length} bytes at ${offset} zeros`);
    for (const block of a.model.differing(b.model)) {
      const at = block * 4096;
      if (!diff.ranges.some(({ offset, length }) => offset <= at && at < offset + length))
        throw new Error(`the diff misses block ${block}`);
    }
  }

  async #extents({ place, factor }: Step & { kind: 'extents' }): Promise<void> {
    const { disk, model } = this.#volume;
    const { offset, length } = this.#resolve(place, factor);
    const fault = extentsFault(model, offset, length, await disk.extents(offset, length));
    if (fault !== null) throw new Error(fault);
  }

  async #verifyAll(when: string): Promise<void> {
    for (const volume of this.#volumes) {
      await this.#verify(volume.disk, volume.model, `${volume.path} ${when}`);
      for (const [name, { document, model }] of volume.snapshots) {
        const reader = new Reader(await openSnapshot(this.#rig.context, document, 512));
        await this.#verify(reader, model, `${volume.path}@${name} ${when}`);
      }
    }
  }

  /** Small volumes byte for byte; of large ones what was written, and the borders of it. */
  async #verify(reader: Reader, model: ModelDevice, what: string): Promise<void> {
    if (reader.sizeBytes !== model.sizeBytes)
      throw new Error(`${what}: ${reader.sizeBytes} bytes instead of ${model.sizeBytes}`);
    if (model.sizeBytes <= 2 ** 32) {
      for (let at = 0; at < model.sizeBytes; at += 1 << 20)
        await agree(reader, model, at, Math.min(1 << 20, model.sizeBytes - at), what);
      return;
    }
    for (const { offset, length } of model.written()) {
      const start = Math.max(0, offset - 4096);
      const end = Math.min(model.sizeBytes, offset + length + 4096);
      await agree(reader, model, start, end - start, what);
    }
    for (const window of windows) {
      const start = Math.min(window, model.sizeBytes - 1);
      await agree(reader, model, start, Math.min(4 << 20, model.sizeBytes - start), what);
    }
  }
}

/** What a kill leaves unanswered, or answered with an error, is no failure of the test. */
function ignore(promise: Promise<unknown>): void {
  promise.catch(() => {});
}

async function agree(
  reader: Reader,
  model: ModelDevice,
  offset: number,
  length: number,
  what: string,
): Promise<void> {
  const [is, should] = [await reader.read(offset, length), model.read(offset, length)];
  if (is.equals(should)) return;
  let at = 0;
  while (is[at] === should[at]) at += 1;
  const shown = (bytes: Buffer): string => bytes.toString('hex', at, at + 16);
  throw new Error(`${what}: byte ${offset + at} is ${shown(is)}, should be ${shown(should)}`);
}
