/** What an import is to fetch, from the request and what the catalogue says about it. */
import type { ImageImport } from '../api/index.ts';
import { DvceError } from '../base/index.ts';
import type { Catalogue } from '../images/index.ts';

export interface ImportOrder {
  readonly source: string;
  readonly digest: string | undefined;
  readonly checksumUrl: string | undefined;
  readonly format: ImageImport['format'];
  readonly labels: Readonly<Record<string, string>>;
  readonly protected: boolean;
  readonly compression: ImageImport['compression'];
}

const conflicting = (reason: string, advice: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', { what: 'the import', reason, advice });

/** The agent has a working directory of its own, so a relative path would name another file than the caller means. */
function checkSource(source: string): void {
  if (source.startsWith('/') || /^(https?|nbds?(\+unix)?):\/\//.test(source)) return;
  throw new DvceError('INVALID_ARGUMENT', {
    what: `the source ${JSON.stringify(source)}`,
    reason: 'it is neither an absolute path nor an http, https or nbd address',
    advice: 'For example /srv/images/debian.qcow2.',
  });
}

/** @param catalogue read when an entry of it is asked for */
export async function importOrder(
  request: ImageImport,
  catalogue: () => Promise<Catalogue>,
): Promise<ImportOrder> {
  const { fromCatalogue, source, sha256, sha512, checksumUrl, format, labels } = request;
  const digests = [sha256, sha512, checksumUrl].filter((text) => text !== undefined);
  if (digests.length > 1) throw conflicting('more than one digest is given', 'Give one.');
  if ((source === undefined) === (fromCatalogue === undefined))
    throw conflicting(
      'it needs a source or an entry of the catalogue, and not both',
      'Give one of source and fromCatalogue.',
    );
  const kept = {
    labels: labels ?? {},
    protected: request.protected ?? false,
    compression: request.compression,
  };
  if (source !== undefined) {
    checkSource(source);
    return { source, digest: sha256 ?? sha512, checksumUrl, format, ...kept };
  }
  const entry = (await catalogue()).find(fromCatalogue ?? '');
  // Who gives a digest of his own means that one.
  const own = digests.length > 0;
  return {
    source: entry.url,
    digest: own ? (sha256 ?? sha512) : (entry.sha256 ?? entry.sha512),
    checksumUrl: own ? checksumUrl : entry.checksumUrl,
    format: format ?? entry.format,
    ...kept,
    labels: { ...entry.labels, ...kept.labels },
  };
}
