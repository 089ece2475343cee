/**
 * The oracle of the simulation: what a block device may contain after a crash (design invariant 4).
 *
 * Every written sector (512 bytes) carries its number and the counter of its write, 32 times over. The oracle keeps all writes
 * since the last known content, in the order in which they were sent, cut into pieces at 4 KiB boundaries (a piece is atomic,
 * a longer write may be there in part, from its start). After a crash the content must be what the first p pieces make, for
 * some p that is at least
 * - the last piece known to be flushed, after power loss;
 * - the last piece known to be acknowledged, after the death of the process.
 *
 * Every sector allows some intervals of p; the content is right when one p lies in all of them. A write that was answered with
 * an error, or whose connection was lost, may be there or not, but if so at its place in the order.
 */
export const sectorBytes = 512;
const blockSectors = 8;
/** A sector that is neither zeros nor a stamp nor a payload that was written. */
export const foreign = -1;

interface Piece {
  readonly first: number;
  readonly count: number;
  /** Counter of the write; 0 = zeros. */
  readonly value: number;
  readonly operation: WriteRecord;
}

/** One write, trim or zeroing under way. */
export interface WriteRecord {
  /** Number of its last piece + 1: how many pieces are there when it is there. */
  readonly end: number;
  /** When it was acknowledged, in acknowledgements; 0 = not yet. */
  acknowledged: number;
  /** It may be missing: answered with an error, or its connection was lost. */
  isOptional: boolean;
}

export interface Bounds {
  readonly least: number;
  readonly most: number;
}

/** Pieces are numbered anew after every restart of the oracle; older promises are kept by the base then. */
export interface FlushPromise {
  readonly generation: number;
  readonly end: number;
}

export class Oracle {
  readonly sectors: number;
  /** Content before the pieces. */
  #base: Int32Array;
  #pieces: Piece[] = [];
  #acknowledgements = 0;
  #acknowledgedEnd = 0;
  #flushedEnd = 0;
  #inFlight = 0;
  #generation = 0;
  /** Payloads that are no stamps, by their bytes. */
  readonly #payloads: Map<string, number>;

  constructor(sectors: number, base?: Int32Array, payloads = new Map<string, number>()) {
    this.sectors = sectors;
    this.#base = base ?? new Int32Array(sectors);
    this.#payloads = payloads;
  }

  /** Pieces sent so far. */
  get sent(): number {
    return this.#pieces.length;
  }
  get acknowledgedEnd(): number {
    return this.#acknowledgedEnd;
  }
  get flushedEnd(): number {
    return this.#flushedEnd;
  }

  /** A write of stamped sectors, or of zeros (value 0), is sent now. */
  send(first: number, count: number, value: number): WriteRecord {
    const ends: number[] = [];
    for (let at = first; at < first + count; at = ends.at(-1) ?? 0)
      ends.push(Math.min(first + count, (Math.floor(at / blockSectors) + 1) * blockSectors));
    const operation: WriteRecord = {
      end: this.#pieces.length + ends.length,
      acknowledged: 0,
      isOptional: false,
    };
    let at = first;
    for (const end of ends) {
      this.#pieces.push({ first: at, count: end - at, value, operation });
      at = end;
    }
    this.#inFlight += 1;
    return operation;
  }

  /** Zeros by one journal record: all of it or nothing. */
  sendZeros(first: number, count: number): WriteRecord {
    const operation = { end: this.#pieces.length + 1, acknowledged: 0, isOptional: false };
    this.#pieces.push({ first, count, value: 0, operation });
    this.#inFlight += 1;
    return operation;
  }

  acknowledge(operation: WriteRecord, isFlushed = false): void {
    this.#inFlight -= 1;
    this.#acknowledgements += 1;
    operation.acknowledged = this.#acknowledgements;
    this.#acknowledgedEnd = Math.max(this.#acknowledgedEnd, operation.end);
    if (isFlushed) this.#flushedEnd = Math.max(this.#flushedEnd, operation.end);
  }

  /** It ended with an error. */
  fail(operation: WriteRecord): void {
    this.#inFlight -= 1;
    operation.isOptional = true;
  }

  /** What a flush sent now promises when it is acknowledged. */
  flushSent(): FlushPromise {
    return { generation: this.#generation, end: this.#acknowledgedEnd };
  }

  flushAcknowledged({ generation, end }: FlushPromise): void {
    if (generation === this.#generation) this.#flushedEnd = Math.max(this.#flushedEnd, end);
  }

  /** Moment at which a read is sent; for `checkRead`. */
  readSent(): number {
    return this.#acknowledgements;
  }

  /** B-52: each sector shows the last write acknowledged before the read was sent, or one sent after that. */
  checkRead(first: number, found: Int32Array, sentAt: number): string | undefined {
    const allowed = Array.from(found, (_, i) => [this.#base[first + i] ?? 0]);
    for (const { first: start, count, value, operation } of this.#pieces) {
      const isSettled = operation.acknowledged > 0 && operation.acknowledged <= sentAt;
      const from = Math.max(start, first);
      const to = Math.min(start + count, first + found.length);
      for (let sector = from; sector < to; sector += 1) {
        if (isSettled) allowed[sector - first] = [value];
        else allowed[sector - first]?.push(value);
      }
    }
    for (const [i, value] of found.entries())
      if (!allowed[i]?.includes(value))
        return `a read of sector ${first + i} gave ${show(value)}, allowed: ${allowed[i]?.map(show).join(' ')}`;
    return undefined;
  }

  /** Content after power loss. */
  afterPowerLoss(): Bounds {
    return { least: this.#flushedEnd, most: this.sent };
  }

  /** Content after the death of the process, or of a device at rest. */
  afterKill(): Bounds {
    return { least: this.#acknowledgedEnd, most: this.sent };
  }

  /** Is `found` what p pieces make, for some p within the bounds? @returns what is wrong */
  check(found: Int32Array, { least, most }: Bounds): string | undefined {
    const fits = new Int32Array(this.sent + 2);
    const touching = this.#touching();
    for (let sector = 0; sector < this.sectors; sector += 1)
      this.#addIntervals(sector, touching.get(sector) ?? [], found[sector] ?? 0, fits);
    let sum = 0;
    let best = { pieces: 0, count: -1 };
    for (let p = 0; p <= this.sent; p += 1) {
      sum += fits[p] ?? 0;
      if (sum === this.sectors && p >= least && p <= most) return undefined;
      if (sum > best.count || (sum === best.count && p <= least)) best = { pieces: p, count: sum };
    }
    const range = `${least} to ${most} of ${this.sent} pieces`;
    if (best.count === this.sectors)
      return `the content is that of ${best.pieces} pieces, ${range} were promised`;
    return `no prefix fits (${range} promised). ${this.#nearMiss(found, touching, best.pieces)}`;
  }

  /** From now on `found` is what the device contains; nothing is under way any more. */
  restart(found: Int32Array): void {
    this.#base = found;
    this.#generation += 1;
    this.#pieces = [];
    this.#acknowledgedEnd = 0;
    this.#flushedEnd = 0;
    this.#inFlight = 0;
  }

  /** Every sector of `bytes` as the counter of its write. */
  decode(bytes: Buffer, first = 0): Int32Array {
    const found = new Int32Array(bytes.byteLength / sectorBytes);
    for (let i = 0; i < found.length; i += 1) {
      const sector = bytes.subarray(i * sectorBytes, (i + 1) * sectorBytes);
      found[i] =
        decodeSector(sector, first + i) ?? this.#payloads.get(sector.toString('latin1')) ?? foreign;
    }
    return found;
  }

  /** Remember a payload that is no stamp, e.g. one that looks like journal records. */
  rememberPayload(bytes: Buffer, value: number): void {
    for (let at = 0; at < bytes.byteLength; at += sectorBytes)
      this.#payloads.set(bytes.toString('latin1', at, at + sectorBytes), value);
  }

  #touching(): Map<number, number[]> {
    const touching = new Map<number, number[]>();
    for (const [index, { first, count }] of this.#pieces.entries())
      for (let sector = first; sector < first + count; sector += 1) {
        const known = touching.get(sector);
        if (known === undefined) touching.set(sector, [index]);
        else known.push(index);
      }
    return touching;
  }

  /** Mark the intervals of p in which this sector may have this value; `fits` holds differences. */
  #addIntervals(sector: number, indexes: readonly number[], value: number, fits: Int32Array): void {
    let allowed = [this.#base[sector] ?? 0];
    let start = 0;
    const mark = (from: number, to: number): void => {
      if (!allowed.includes(value)) return;
      fits[from] = (fits[from] ?? 0) + 1;
      fits[to + 1] = (fits[to + 1] ?? 0) - 1;
    };
    for (const index of indexes) {
      const piece = this.#pieces[index];
      if (piece === undefined) continue;
      mark(start, index);
      allowed = piece.operation.isOptional ? [...allowed, piece.value] : [piece.value];
      start = index + 1;
    }
    mark(start, this.sent);
  }

  #nearMiss(found: Int32Array, touching: ReadonlyMap<number, number[]>, pieces: number): string {
    const misses: string[] = [];
    for (let sector = 0; sector < this.sectors && misses.length < 6; sector += 1) {
      const before = (touching.get(sector) ?? []).filter((index) => index < pieces);
      const last = before.findLast((index) => !this.#pieces[index]?.operation.isOptional);
      const expected =
        last === undefined ? (this.#base[sector] ?? 0) : (this.#pieces[last]?.value ?? 0);
      const value = found[sector] ?? 0;
      if (value !== expected)
        misses.push(`sector ${sector} has ${show(value)} instead of ${show(expected)}`);
    }
    return `Nearest: ${pieces} pieces, but ${misses.join(', ')}`;
  }

  /** When everything sent is flushed: fold it into the base, so that long runs stay small. No read is under way. */
  compact(): void {
    if (this.#inFlight > 0 || this.#flushedEnd < this.sent) return;
    if (this.#pieces.some(({ operation }) => operation.isOptional)) return;
    const base = Int32Array.from(this.#base);
    for (const { first, count, value } of this.#pieces) base.fill(value, first, first + count);
    this.restart(base);
  }
}

const show = (value: number): string =>
  value === 0 ? 'zeros' : value === foreign ? 'foreign bytes' : `write ${value}`;

/** The bytes of a stamped write. */
export function stamp(first: number, count: number, value: number): Buffer {
  const bytes = Buffer.alloc(count * sectorBytes);
  const unit = Buffer.alloc(16);
  for (let i = 0; i < count; i += 1) {
    unit.writeUInt32LE(first + i, 0);
    unit.writeUInt32LE(value, 4);
    unit.writeUInt32LE(~(first + i) >>> 0, 8);
    unit.writeUInt32LE(~value >>> 0, 12);
    bytes.fill(unit, i * sectorBytes, (i + 1) * sectorBytes);
  }
  return bytes;
}

/** Counter of a stamped sector, 0 of a zero one, undefined of anything else; a torn stamp is something else. */
function decodeSector(bytes: Buffer, sector: number): number | undefined {
  // Equal to itself shifted by a stamp: 32 times the same.
  if (bytes.compare(bytes, 0, sectorBytes - 16, 16, sectorBytes) !== 0) return undefined;
  const number = bytes.readUInt32LE(0);
  const value = bytes.readUInt32LE(4);
  if (number === 0 && value === 0 && bytes.readUInt32LE(8) === 0) {
    return bytes.readUInt32LE(12) === 0 ? 0 : undefined;
  }
  const isStamp =
    bytes.readUInt32LE(8) === ~number >>> 0 && bytes.readUInt32LE(12) === ~value >>> 0;
  return isStamp && number === sector ? value : undefined;
}
