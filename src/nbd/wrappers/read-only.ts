/** The same content, no changes: writing requests fail whoever sends them. */
import { DvceError } from '../../base/index.ts';
import type { BackendCaps, Done, WriteOptions, ZeroOptions } from '../backend.ts';
import { PassThrough } from './pass-through.ts';

const refused = (): DvceError =>
  new DvceError('READ_ONLY', { name: 'export', reason: 'it is served read-only' });

export class ReadOnlyBackend extends PassThrough {
  override get caps(): BackendCaps {
    return { ...this.inner.caps, readOnly: true };
  }
  override write(_offset: number, _data: Buffer, _options: WriteOptions, done: Done): void {
    done(refused());
  }
  override trim(_offset: number, _length: number, _options: WriteOptions, done: Done): void {
    done(refused());
  }
  override writeZeroes(_offset: number, _length: number, _options: ZeroOptions, done: Done): void {
    done(refused());
  }
  override flush(done: Done): void {
    done(null);
  }
}
