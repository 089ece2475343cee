/**
 * The export that a handshake has open. SET_META_CONTEXT, INFO and GO usually name the same one: it is opened once.
 *
 * Invariant: at most one export is open here; it is released when another is asked for, when the peer changes (STARTTLS)
 * and when the handshake ends, or handed over by `take`.
 */
import type { DvceError } from '../base/index.ts';
import type { ExportProvider, OpenedExport, PeerFacts } from './exports.ts';

export class ExportCache {
  readonly #provider: ExportProvider;
  readonly #released: (released: void | Promise<void>) => void;
  #name: string | null = null;
  #opened: OpenedExport | null = null;
  #closed = false;

  constructor(provider: ExportProvider, released: (released: void | Promise<void>) => void) {
    this.#provider = provider;
    this.#released = released;
  }

  async open(name: string, peer: PeerFacts): Promise<OpenedExport | DvceError> {
    if (this.#opened !== null && this.#name === name) return this.#opened;
    this.forget();
    const opened = await this.#provider.open(name, peer);
    if (opened instanceof Error) return opened;
    if (this.#closed) this.#released(opened.release());
    else {
      this.#name = name;
      this.#opened = opened;
    }
    return opened;
  }

  /** The caller releases it from now on. */
  take(): OpenedExport | null {
    const opened = this.#opened;
    this.#opened = null;
    this.#name = null;
    return opened;
  }

  forget(): void {
    const opened = this.take();
    if (opened !== null) this.#released(opened.release());
  }

  /** The connection is gone: what is still being opened is released as soon as it is open. */
  close(): void {
    this.#closed = true;
    this.forget();
  }
}
