/** Blocks put together to a run that is read at once, one after the other. */
import { blockBytes, type StoredRun } from './pointer.ts';

export interface StoredBlock {
  readonly segment: number;
  readonly offset: number;
  /** Bytes that it takes there: fewer than it has when it is compressed. */
  readonly length: number;
  readonly checksum: number;
}

export class GrowingRun implements StoredRun {
  readonly segment: number;
  readonly offset: number;
  readonly checksums: number[];
  lengths: number[] | undefined;
  #end: number;

  constructor({ segment, offset, length, checksum }: StoredBlock) {
    this.segment = segment;
    this.offset = offset;
    this.checksums = [checksum];
    this.lengths = length === blockBytes ? undefined : [length];
    this.#end = offset + length;
  }

  /** Where the next one has to lie. */
  get end(): number {
    return this.#end;
  }

  /** @returns false when the block does not lie right behind the last one */
  add({ segment, offset, length, checksum }: StoredBlock): boolean {
    if (segment !== this.segment || offset !== this.#end) return false;
    if (length !== blockBytes) this.lengths ??= this.checksums.map(() => blockBytes);
    this.lengths?.push(length);
    this.checksums.push(checksum);
    this.#end += length;
    return true;
  }
}
