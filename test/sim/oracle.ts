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
  /** On the clock that all oracles of a world share, for cuts through several volumes; 0 = not yet. */
  readonly sentAt: number;
  acknowledgedAt: number;
}

export interface Bounds {
  readonly least: number;
  readonly most: number;
}

/** Moments at which a content was that of the device. */
export interface Moments {
  readonly from: number;
  readonly to: number;
}

/** One instant for several volumes: every member must have a span that contains it. */
export const haveInstant = (members: readonly (readonly Moments[])[]): boolean =>
  members.some((spans) =>
    spans.some(({ from }) =>
      members.every((others) => others.some((span) => span.from <= from && from <= span.to)),
    ),
  );

/** Pieces are numbered anew after every restart of the oracle; older promises are kept by the base then. */
export interface FlushPromise {
  readonly generation: number;
  readonly end: number;
}

export interface OracleOptions {
  /** Payloads that are no stamps, by their bytes; shared by the volumes of a world. */
  readonly payloads?: Map<string, number>;
  readonly tick?: () => number;
}

const ownTicks = (): (() => number) => {
  let ticks = 0;
  return () => {
    ticks += 1;
    return ticks;
  };
};

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

  /** Counts what happens in the whole world. */
  readonly #tick: () => number;

  constructor(
    sectors: number,
    { payloads = new Map<string, number>(), tick = ownTicks() }: OracleOptions = {},
  ) {
    this.sectors = sectors;
    this.#base = new Int32Array(sectors);
    this.#payloads = payloads;
    this.#tick = tick;
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
    const operation = this.#record(ends.length);
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
    const operation = this.#record(1);
    this.#pieces.push({ first, count, value: 0, operation });
    this.#inFlight += 1;
    return operation;
  }

  #record(pieces: number): WriteRecord {
    return {
      end: this.#pieces.length + pieces,
      acknowledged: 0,
      isOptional: false,
      sentAt: this.#tick(),
      acknowledgedAt: 0,
    };
  }

  acknowledge(operation: WriteRecord, isFlushed = false): void {
    this.#inFlight -= 1;
    this.#acknowledgements += 1;
    operation.acknowledgedAt = this.#tick();
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
  check(found: Int32Array, bounds: Bounds): string | undefined {
    const touching = this.#touching();
    const fits = this.#fits(found, touching);
    const { least, most } = bounds;
    let best = { pieces: 0, count: -1 };
    for (const [p, sum] of fits.entries()) {
      if (sum === this.sectors && p >= least && p <= most) return undefined;
      if (sum > best.count || (sum === best.count && p <= least)) best = { pieces: p, count: sum };
    }
    const range = `${least} to ${most} of ${this.sent} pieces`;
    if (best.count === this.sectors)
      return `the content is that of ${best.pieces} pieces, ${range} were promised`;
    return `no prefix fits (${range} promised). ${this.#nearMiss(found, touching, best.pieces)}`;
  }

  /** When the device had this content, for every prefix within the bounds that makes it. */
  moments(found: Int32Array, { least, most }: Bounds): Moments[] {
    const spans: Moments[] = [];
    const fits = this.#fits(found, this.#touching());
    for (const [p, sum] of fits.entries()) {
      if (sum !== this.sectors || p < least || p > most) continue;
      let from = 0;
      let to = Number.POSITIVE_INFINITY;
      for (const [index, { operation }] of this.#pieces.entries()) {
        if (index < p && !operation.isOptional) from = Math.max(from, operation.sentAt);
        if (index >= p && operation.acknowledged > 0) to = Math.min(to, operation.acknowledgedAt);
      }
      spans.push({ from, to });
    }
    return spans;
  }

  /** For each p: how many sectors are as p pieces make them. */
  #fits(found: Int32Array, touching: ReadonlyMap<number, readonly number[]>): Int32Array {
    const fits = new Int32Array(this.sent + 2);
    for (let sector = 0; sector < this.sectors; sector += 1) {
      const indexes = touching.get(sector);
      if (indexes !== undefined) this.#addIntervals(sector, indexes, found[sector] ?? 0, fits);
      else if (found[sector] === this.#base[sector]) fits[0] = (fits[0] ?? 0) + 1;
    }
    for (let p = 1; p < fits.length; p += 1) fits[p] = (fits[p] ?? 0) + (fits[p - 1] ?? 0);
    return fits.subarray(0, this.sent + 1);
  }

  /**
   * The process died and `found` was there afterwards, but unflushed parts of it still are in caches: until the next flush a power
   * loss may take them. What was sent and is not there never comes.
   */
  survive(found: Int32Array, { least, most }: Bounds): void {
    const fits = this.#fits(found, this.#touching());
    const pieces = fits.findLastIndex((sum, p) => sum === this.sectors && p >= least && p <= most);
    if (pieces <= this.#flushedEnd) {
      this.restart(found);
      return;
    }
    this.#generation += 1;
    this.#pieces = this.#pieces.slice(0, pieces);
    this.#inFlight = 0;
    this.#acknowledgedEnd = pieces;
    for (const { operation } of this.#pieces) {
      this.#acknowledgements += operation.acknowledged === 0 ? 1 : 0;
      if (operation.acknowledged === 0 && !operation.isOptional)
        operation.acknowledged = this.#acknowledgements;
    }
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
      const at = i * sectorBytes;
      found[i] =
        decodeSector(bytes, at, first + i) ??
        this.#payloads.get(bytes.toString('latin1', at, at + sectorBytes)) ??
        foreign;
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

const stampBytes = 16;

/** The bytes of a stamped write. */
export function stamp(first: number, count: number, value: number): Buffer {
  const bytes = Buffer.alloc(count * sectorBytes);
  const unit = Buffer.alloc(stampBytes);
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
function decodeSector(bytes: Buffer, at: number, sector: number): number | undefined {
  // Equal to itself shifted by a stamp: 32 times the same.
  const end = at + sectorBytes;
  if (bytes.compare(bytes, at, end - stampBytes, at + stampBytes, end) !== 0) return undefined;
  const number = bytes.readUInt32LE(at);
  const value = bytes.readUInt32LE(at + 4);
  const [inverse, inverseValue] = [bytes.readUInt32LE(at + 8), bytes.readUInt32LE(at + 12)];
  if (number === 0 && value === 0 && inverse === 0) return inverseValue === 0 ? 0 : undefined;
  const isStamp = inverse === ~number >>> 0 && inverseValue === ~value >>> 0;
  return isStamp && number === sector ? value : undefined;
}
