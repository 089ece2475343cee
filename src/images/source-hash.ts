/** The digest of a source: always sha256, which the image carries, and the one that its publisher gave. */
import { createHash, type Hash } from 'node:crypto';
import { DvceError } from '../base/index.ts';

export class SourceHash {
  readonly #name: string;
  readonly #wanted: string | null;
  readonly #sha256: Hash = createHash('sha256');
  readonly #sha512: Hash | undefined;

  /** @param wanted `sha256:...`, `sha512:...` or null */
  constructor(name: string, wanted: string | null) {
    this.#name = name;
    this.#wanted = wanted;
    this.#sha512 = wanted?.startsWith('sha512:') ? createHash('sha512') : undefined;
  }

  add(bytes: Buffer): void {
    this.#sha256.update(bytes);
    this.#sha512?.update(bytes);
  }

  /** @throws CHECKSUM_MISMATCH */
  end(): { digest: string } {
    const digest = `sha256:${this.#sha256.digest('hex')}`;
    const actual = this.#sha512 === undefined ? digest : `sha512:${this.#sha512.digest('hex')}`;
    checkDigest(this.#name, actual, this.#wanted);
    return { digest };
  }
}

export function checkDigest(what: string, actual: string, wanted: string | null): void {
  if (wanted === null || wanted === actual) return;
  const [algorithm = '', expected = ''] = wanted.split(':');
  throw new DvceError('CHECKSUM_MISMATCH', {
    what,
    algorithm,
    actual: actual.split(':')[1] ?? '',
    expected,
  });
}
