/** A backend that hands everything to another one; each wrapper overrides what it is about. */
import type {
  BackendCaps,
  BlockBackend,
  Done,
  ExtentsDone,
  ReadDone,
  WriteOptions,
  ZeroOptions,
} from '../backend.ts';

export class PassThrough implements BlockBackend {
  protected readonly inner: BlockBackend;

  constructor(inner: BlockBackend) {
    this.inner = inner;
  }

  get sizeBytes(): number {
    return this.inner.sizeBytes;
  }
  get caps(): BackendCaps {
    return this.inner.caps;
  }
  read(offset: number, length: number, done: ReadDone): void {
    this.inner.read(offset, length, done);
  }
  write(offset: number, data: Buffer, options: WriteOptions, done: Done): void {
    this.inner.write(offset, data, options, done);
  }
  flush(done: Done): void {
    this.inner.flush(done);
  }
  trim(offset: number, length: number, options: WriteOptions, done: Done): void {
    this.inner.trim(offset, length, options, done);
  }
  writeZeroes(offset: number, length: number, options: ZeroOptions, done: Done): void {
    this.inner.writeZeroes(offset, length, options, done);
  }
  extents(offset: number, length: number, done: ExtentsDone): void {
    this.inner.extents(offset, length, done);
  }
  cache(offset: number, length: number, done: Done): void {
    this.inner.cache(offset, length, done);
  }
  close(): Promise<void> {
    return this.inner.close();
  }
}

export type Operation = 'read' | 'write' | 'flush' | 'trim' | 'writeZeroes' | 'extents' | 'cache';
