/**
 * A whole file from an address, over as many connections as it takes, and the checksums that a publisher gives for it.
 *
 * A connection that breaks is followed by another one that goes on where it broke off, as long as the server proves that
 * its file is still the same (If-Range); otherwise from the begin. What ends it: limits.downloadTriesMax requests in a row
 * that brought nothing, or an answer that asking again does not change.
 */
import { DvceError, limits, type Random, sleep, type Timers } from '../base/index.ts';
import {
  type Download,
  Interrupted,
  openDownload,
  parseUrl,
  publicName,
  RangeRefused,
} from './download.ts';
import { PartialFile } from './partial-file.ts';
import type { ImageProgress } from './protocol.ts';
import { SpaceGuard } from './space-guard.ts';

export interface FetchOptions {
  readonly timers: Timers;
  readonly random: Random;
  readonly signal: AbortSignal;
  onProgress(progress: ImageProgress): void;
}

/** @returns the whole file; the caller closes it */
export async function fetchFile(
  source: string,
  directory: string,
  options: FetchOptions,
): Promise<PartialFile> {
  parseUrl(source);
  const partial = await PartialFile.open(directory, source, options.random);
  try {
    await fetchRest(source, directory, partial, options);
    return partial;
  } catch (error) {
    await partial.close(isWorthKeeping(error));
    throw error;
  }
}

/** The network or the end of the agent is to blame, not the file. */
export const isWorthKeeping = (error: unknown): boolean =>
  error instanceof DvceError &&
  ['DOWNLOAD_FAILED', 'TIMED_OUT', 'INTERRUPTED'].includes(error.code);

async function fetchRest(
  source: string,
  directory: string,
  partial: PartialFile,
  options: FetchOptions,
): Promise<void> {
  const { timers, signal } = options;
  const space = new SpaceGuard(directory);
  // It is all there, perhaps of an older version: asking for the last byte again finds out.
  if (partial.doneBytes > 0 && partial.doneBytes === partial.totalBytes) partial.stepBack();
  const patience = new Patience(partial.doneBytes);
  let mayResume = true;
  for (;;) {
    try {
      await fetchOnce(source, partial, mayResume, space, options);
      return;
    } catch (error) {
      signal.throwIfAborted();
      // A server that was never there is told at once.
      if (!(error instanceof Interrupted) || partial.doneBytes === 0) throw error;
      const pauseMs = patience.pauseMs(partial.doneBytes);
      if (pauseMs === undefined) throw error;
      mayResume = !(error instanceof RangeRefused);
      await sleep(timers, pauseMs, signal);
    }
  }
}

/**
 * How long to wait before the next request. What counts is to come further than ever before: a server that makes us begin
 * again each time brings a lot and gets nowhere.
 */
class Patience {
  #mostBytes: number;
  #wasted = 0;
  #pauseMs = limits.downloadPauseMsMin;

  constructor(doneBytes: number) {
    this.#mostBytes = doneBytes;
  }

  /** undefined: no more. */
  pauseMs(doneBytes: number): number | undefined {
    if (doneBytes - this.#mostBytes >= limits.downloadWindowBytesMin) {
      this.#wasted = 0;
      this.#pauseMs = limits.downloadPauseMsMin;
      this.#mostBytes = doneBytes;
    } else this.#wasted += 1;
    if (this.#wasted >= limits.downloadTriesMax) return undefined;
    const pause = this.#pauseMs;
    this.#pauseMs = Math.min(pause * 2, limits.downloadPauseMsMax);
    return pause;
  }
}

async function fetchOnce(
  source: string,
  partial: PartialFile,
  mayResume: boolean,
  space: SpaceGuard,
  options: FetchOptions,
): Promise<void> {
  const { timers, signal } = options;
  const { validator, doneBytes } = partial;
  const resume =
    mayResume && validator !== null && doneBytes > 0
      ? { fromBytes: doneBytes, validator }
      : undefined;
  const download = await openDownload(source, timers, signal, resume);
  try {
    if (download.fromBytes === 0) await partial.begin(download.validator, download.totalBytes);
    else refuseOtherSize(source, partial, download);
    await space.need((download.totalBytes ?? 0) - download.fromBytes);
    for await (const chunk of download.chunks) {
      signal.throwIfAborted();
      await space.add(chunk.length);
      await partial.append(chunk);
      const { doneBytes: done } = partial;
      options.onProgress({ stage: 'read', done, total: download.totalBytes });
    }
  } finally {
    download.close();
  }
}

function refuseOtherSize(source: string, partial: PartialFile, { totalBytes }: Download): void {
  if (partial.totalBytes !== null && partial.totalBytes !== totalBytes)
    throw new RangeRefused(publicName(source), 'the server has a file of another size');
}

/** Digest of the file that `source` names, as a file of checksums gives it: `sha256:...` or `sha512:...`. */
export async function fetchChecksum(
  checksumUrl: string,
  source: string,
  options: FetchOptions,
): Promise<string> {
  const download = await openDownload(checksumUrl, options.timers, options.signal);
  const parts: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of download.chunks) {
      bytes += chunk.length;
      if (bytes > limits.checksumFileBytesMax) throw noChecksum(checksumUrl, 'it is too large');
      parts.push(chunk);
    }
  } finally {
    download.close();
  }
  const file = decodeURIComponent(parseUrl(source).pathname.split('/').at(-1) ?? '');
  const found = findChecksum(Buffer.concat(parts).toString('utf8'), file);
  if (found === undefined) throw noChecksum(checksumUrl, `it does not name ${file}`);
  return found;
}

/**
 * The lines of `sha256sum` and `sha512sum` (`HEX  FILE`, `HEX *FILE`), of BSD (`SHA256 (FILE) = HEX`), and a file that is one
 * digest alone.
 */
export function findChecksum(text: string, file: string): string | undefined {
  const lines = text.split('\n').map((line) => line.trim());
  for (const line of lines) {
    const [, hex, name] = /^([0-9a-f]{64}|[0-9a-f]{128})\s+\*?(?:\.\/)?(\S+)$/i.exec(line) ?? [];
    if (hex !== undefined && name === file) return withAlgorithm(hex);
    const bsd = /^SHA(?:256|512) \((\S+)\) = ([0-9a-f]{128}|[0-9a-f]{64})$/i.exec(line);
    if (bsd?.[1] === file && bsd[2] !== undefined) return withAlgorithm(bsd[2]);
  }
  const [only, ...others] = lines.filter((line) => line !== '');
  const alone = /^([0-9a-f]{64}|[0-9a-f]{128})$/i.exec(only ?? '')?.[1];
  return alone !== undefined && others.length === 0 ? withAlgorithm(alone) : undefined;
}

const withAlgorithm = (hex: string): string =>
  `${hex.length === 64 ? 'sha256' : 'sha512'}:${hex.toLowerCase()}`;

const noChecksum = (url: string, reason: string): DvceError =>
  new DvceError('DOWNLOAD_FAILED', { what: `the checksum in ${publicName(url)}`, reason });
