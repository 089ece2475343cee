/**
 * A block device so simple that it is right at a glance, and the same with one thing wrong at a time. They prove that the
 * oracle accepts the right one and catches each of the others.
 *
 *   /device/base-<n>   content when it was opened for the n-th time
 *   /device/log-<n>    records since then: length u32, CRC u32, first sector u32, kind u32, payload
 */
import { crc32c, DvceError, dataSync, type OpenFile, writeFully } from '../../src/base/index.ts';
import { shippedOptions } from './options.ts';
import { sectorBytes } from './oracle.ts';
import type { SimDevice, SimProgram, SimTarget, SimTargetMaker } from './target.ts';
import type { SimHost } from './world.ts';

export const defects = [
  'flush without fdatasync',
  'acknowledged first',
  'writes reordered',
  'torn blocks',
  'no checksum',
  'stale reads',
  'log renamed before it is synced',
] as const;
export type Defect = (typeof defects)[number];

const sectors = 512;
const root = '/device';
const headerBytes = 16;

export const logDevice = (defect?: Defect): SimTargetMaker => ({
  name: defect ?? 'log device',
  sectors,
  options: shippedOptions,
  disks: 1,
  async create(host) {
    await host.files.makeDirectory(root);
    await writeGeneration(host, 1, Buffer.alloc(sectors * sectorBytes), defect);
    await host.files.syncDirectory('/');
  },
  boot: (host) => new LogTarget(host, defect),
});

async function writeGeneration(
  host: SimHost,
  number: number,
  content: Buffer,
  defect: Defect | undefined,
): Promise<OpenFile> {
  const temporary = `${root}/new-${number}`;
  if ((await host.files.stat(temporary)) !== undefined) await host.files.remove(temporary);
  const file = host.files.openSync(temporary, 'create');
  await writeFully(file, [content], 0);
  if (defect !== 'log renamed before it is synced') await dataSync(file);
  file.closeSync();
  const logPath = `${root}/log-${number}`;
  if ((await host.files.stat(logPath)) !== undefined) await host.files.remove(logPath);
  const log = host.files.openSync(logPath, 'create');
  await host.files.rename(temporary, `${root}/base-${number}`);
  await host.files.syncDirectory(root);
  return log;
}

class LogTarget implements SimTarget, SimProgram {
  readonly #host: SimHost;
  readonly #defect: Defect | undefined;
  #device: LogDevice | undefined;

  constructor(host: SimHost, defect: Defect | undefined) {
    this.#host = host;
    this.#defect = defect;
  }

  start(): Promise<readonly number[]> {
    return Promise.resolve([0]);
  }

  disk(): SimTarget {
    return this;
  }

  get device(): SimDevice {
    if (this.#device === undefined) throw new Error('the device is not open');
    return this.#device;
  }

  async open(): Promise<void> {
    const { files } = this.#host;
    const names = await files.list(root);
    const numbers = names
      .filter((name) => name.startsWith('base-'))
      .map((name) => Number(name.slice(5)));
    const newest = Math.max(...numbers);
    const content = readWhole(this.#host, `${root}/base-${newest}`);
    if (names.includes(`log-${newest}`))
      replay(readWhole(this.#host, `${root}/log-${newest}`), content, this.#defect);
    const log = await writeGeneration(this.#host, newest + 1, content, this.#defect);
    const isNeeded = (name: string): boolean => name.endsWith(`-${newest + 1}`);
    for (const name of names) if (!isNeeded(name)) await files.remove(`${root}/${name}`);
    this.#device = new LogDevice(this.#host, log, content, this.#defect);
  }

  isJournal(path: string): boolean {
    return path.startsWith(`${root}/log-`);
  }
}

function readWhole(host: SimHost, path: string): Buffer {
  const file = host.files.openSync(path, 'read');
  const bytes = Buffer.alloc(file.sizeSync());
  file.readSync(bytes, 0);
  file.closeSync();
  return bytes;
}

function replay(log: Buffer, content: Buffer, defect: Defect | undefined): void {
  for (let at = 0; at + headerBytes <= log.byteLength; ) {
    const length = log.readUInt32LE(at);
    const end = at + headerBytes + length;
    if (length === 0 || end > log.byteLength) return;
    const sum = crc32c(log.subarray(at + 8, end));
    if (sum !== log.readUInt32LE(at + 4) && defect !== 'no checksum') return;
    const first = log.readUInt32LE(at + 8);
    if (first * sectorBytes + length <= content.byteLength)
      log.copy(content, first * sectorBytes, at + headerBytes, end);
    at = end;
  }
}

type Done = (error: DvceError | null) => void;

class LogDevice implements SimDevice {
  readonly sizeBytes = sectors * sectorBytes;
  readonly #host: SimHost;
  readonly #log: OpenFile;
  readonly #content: Buffer;
  readonly #defect: Defect | undefined;
  readonly #timers: ReturnType<SimHost['scheduler']['timers']>;
  #position = 0;
  readonly #waiting: Done[] = [];
  #heldBack: Buffer | undefined;
  #isBroken = false;

  constructor(host: SimHost, log: OpenFile, content: Buffer, defect: Defect | undefined) {
    this.#host = host;
    this.#log = log;
    this.#content = content;
    this.#defect = defect;
    this.#timers = host.scheduler.timers(host.process);
  }

  write(offset: number, bytes: Buffer, { fua }: { fua: boolean }, done: Done): void {
    const first = offset / sectorBytes;
    // Block by block, as the oracle counts; with 'torn blocks' sector by sector.
    const step = this.#defect === 'torn blocks' ? 1 : 8;
    const records: Buffer[] = [];
    for (let at = first; at < first + bytes.byteLength / sectorBytes; ) {
      const end = Math.min(
        first + bytes.byteLength / sectorBytes,
        (Math.floor(at / step) + 1) * step,
      );
      const payload = bytes.subarray((at - first) * sectorBytes, (end - first) * sectorBytes);
      records.push(record(at, payload));
      at = end;
    }
    const append = (): void => {
      if (!this.#append(records)) {
        done(failed());
        return;
      }
      if (this.#defect !== 'stale reads' || this.#host.random.below(20) > 0)
        bytes.copy(this.#content, offset);
      if (fua) this.flush(done);
      else this.#timers.defer(() => done(null));
    };
    if (this.#defect !== 'acknowledged first') {
      append();
      return;
    }
    this.#timers.after(5, () => this.#append(records));
    bytes.copy(this.#content, offset);
    this.#timers.defer(() => done(null));
  }

  #append(records: readonly Buffer[]): boolean {
    let vectors = Buffer.concat(records);
    if (this.#defect === 'writes reordered') {
      if (this.#heldBack === undefined) {
        this.#heldBack = vectors;
        return true;
      }
      vectors = Buffer.concat([vectors, this.#heldBack]);
      this.#heldBack = undefined;
    }
    try {
      for (let done = 0; done < vectors.byteLength && !this.#isBroken; )
        done += this.#log.writevSync([vectors.subarray(done)], this.#position + done);
      this.#position += vectors.byteLength;
    } catch {
      this.#isBroken = true;
    }
    return !this.#isBroken;
  }

  flush(done: Done): void {
    if (this.#defect === 'flush without fdatasync') {
      this.#timers.defer(() => done(null));
      return;
    }
    if (this.#heldBack !== undefined) this.#append([Buffer.alloc(0)]);
    if (this.#isBroken) {
      done(failed());
      return;
    }
    this.#waiting.push(done);
    if (this.#waiting.length === 1) this.#sync();
  }

  /** One sync at a time: a second one could end well in the moment in which the first one's error is on its way. */
  #sync(): void {
    const served = this.#waiting.length;
    this.#log.dataSync((error) => {
      this.#isBroken ||= error !== null;
      for (const done of this.#waiting.splice(0, served)) done(this.#isBroken ? failed() : null);
      if (this.#waiting.length > 0) this.#sync();
    });
  }

  trim(offset: number, length: number, options: { fua: boolean }, done: Done): void {
    const start = Math.ceil(offset / 4096) * 4096;
    const end = Math.floor((offset + length) / 4096) * 4096;
    if (end > start) this.writeZeroes(start, end - start, options, done);
    else this.#timers.defer(() => done(null));
  }

  /** One record, because the oracle expects zeroing to be whole. */
  writeZeroes(offset: number, length: number, _options: { fua: boolean }, done: Done): void {
    const zeros = Buffer.alloc(length);
    if (!this.#append([record(offset / sectorBytes, zeros)])) {
      done(failed());
      return;
    }
    zeros.copy(this.#content, offset);
    this.#timers.defer(() => done(null));
  }

  read(
    offset: number,
    length: number,
    done: (error: DvceError | null, parts: readonly Buffer[]) => void,
  ): void {
    const bytes = Buffer.from(this.#content.subarray(offset, offset + length));
    this.#timers.defer(() => done(null, [bytes]));
  }

  async close(): Promise<void> {
    await dataSync(this.#log);
  }
}

function record(first: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(headerBytes + payload.byteLength);
  bytes.writeUInt32LE(payload.byteLength, 0);
  bytes.writeUInt32LE(first, 8);
  payload.copy(bytes, headerBytes);
  bytes.writeUInt32LE(crc32c(bytes.subarray(8)), 4);
  return bytes;
}

const failed = (): DvceError =>
  new DvceError('IO_FAILED', { what: 'a write', where: root, reason: 'injected' });
