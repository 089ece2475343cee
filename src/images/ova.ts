/**
 * OVA: a tar archive with a description (.ovf), a manifest of digests (.mf) and disks. Nothing is unpacked: the one disk is
 * read where it lies in the archive.
 *
 * Invariants: no name in the archive ever names a file of the host; entries are plain files, few, with plain names that come
 * once; every entry lies inside of the archive; what the manifest says of description and disk is true.
 */
import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { formatSize, limits } from '../base/index.ts';
import { badImage } from './protocol.ts';
import { chunksOf, readAt } from './read-at.ts';
import type { FilePart } from './vmdk.ts';

const block = 512;

/** POSIX and GNU tar, the name of the first file ending in .ovf, as the standard wants it. */
export const isOva = (start: Buffer): boolean =>
  start.length >= 265 &&
  start.toString('latin1', 257, 262) === 'ustar' &&
  /\.ovf$/i.test(textOf(start.subarray(0, 100)));

const textOf = (field: Buffer): string => {
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? field.length : end);
};

interface Entry extends FilePart {
  readonly name: string;
}

export interface OvaDisk extends FilePart {
  /** From the description. */
  readonly capacityBytes: number | null;
}

export async function findOvaDisk(
  file: FileHandle,
  sizeBytes: number,
  name: string,
  signal: AbortSignal,
): Promise<OvaDisk> {
  const entries = await readEntries(file, sizeBytes, name);
  const ovf = one(entries, /\.ovf$/i, name, 'description (.ovf)');
  const text = await readText(file, ovf, name);
  const disk = diskOf(text, name);
  const place = entries.find((entry) => entry.name === disk.href);
  if (place === undefined) throw badImage(name, `its disk ${shown(disk.href)} is missing in it`);
  const manifests = entries.filter((entry) => /\.mf$/i.test(entry.name));
  if (manifests.length > 1) throw badImage(name, 'it has more than one manifest');
  if (manifests[0] !== undefined) {
    const lines = parseManifest(await readText(file, manifests[0], name), name);
    for (const entry of [ovf, place]) await verify(file, entry, lines, name, signal);
  }
  return { offset: place.offset, length: place.length, capacityBytes: disk.capacityBytes };
}

const shown = (text: string): string => JSON.stringify(text.slice(0, 80));

async function readEntries(file: FileHandle, sizeBytes: number, name: string): Promise<Entry[]> {
  const entries: Entry[] = [];
  let position = 0;
  while (position + block <= sizeBytes) {
    const header = await readAt(file, position, block);
    // Two blocks of zeros end the archive; what follows does not concern us.
    if (header.every((byte) => byte === 0)) return entries;
    const { name: entryName, length } = parseHeader(header, name);
    const offset = position + block;
    if (offset + length > sizeBytes)
      throw badImage(name, `it is truncated: ${shown(entryName)} goes beyond its end`);
    if (entries.some((entry) => entry.name === entryName))
      throw badImage(name, `it has ${shown(entryName)} twice`);
    if (entries.length >= limits.ovaEntriesMax)
      throw badImage(name, `it has more than ${limits.ovaEntriesMax} files`);
    entries.push({ name: entryName, offset, length });
    position = offset + Math.ceil(length / block) * block;
  }
  return entries;
}

function parseHeader(header: Buffer, name: string): { name: string; length: number } {
  if (header.toString('latin1', 257, 262) !== 'ustar' || !checksumFits(header))
    throw badImage(name, 'its tar archive is damaged');
  const entryName = textOf(header.subarray(0, 100));
  const type = header.toString('latin1', 156, 157);
  if (type !== '0' && type !== '\0')
    throw badImage(name, `${shown(entryName)} in it is no plain file`);
  const hasPrefix = header[345] !== 0 && header.toString('latin1', 257, 263) === 'ustar\0';
  if (hasPrefix || !/^[A-Za-z0-9_(][A-Za-z0-9 ._()+-]{0,98}$/.test(entryName))
    throw badImage(name, `the name ${shown(entryName)} in it is not allowed`);
  return { name: entryName, length: sizeOf(header, name) };
}

/** Octal text, or a number of 12 bytes whose first bit is set. */
function sizeOf(header: Buffer, name: string): number {
  const field = header.subarray(124, 136);
  let size = Number.NaN;
  if (((field[0] ?? 0) & 0x80) !== 0) {
    const number = field.readBigUInt64BE(4);
    const small =
      number <= BigInt(Number.MAX_SAFE_INTEGER) && field.readUInt32BE(0) === 0x8000_0000;
    if (small) size = Number(number);
  } else {
    const text = textOf(field).trim();
    if (/^[0-7]{1,11}$/.test(text)) size = Number.parseInt(text, 8);
  }
  if (!Number.isSafeInteger(size)) throw badImage(name, 'its tar archive has an impossible size');
  return size;
}

function checksumFits(header: Buffer): boolean {
  const wanted = Number.parseInt(textOf(header.subarray(148, 156)).trim(), 8);
  let sum = 8 * 0x20;
  for (const [at, byte] of header.entries()) if (at < 148 || at >= 156) sum += byte;
  return sum === wanted;
}

function one(entries: readonly Entry[], pattern: RegExp, name: string, what: string): Entry {
  const found = entries.filter((entry) => pattern.test(entry.name));
  if (found.length === 1 && found[0] !== undefined) return found[0];
  throw badImage(name, `it has ${found.length === 0 ? 'no' : 'more than one'} ${what}`);
}

async function readText(file: FileHandle, entry: Entry, name: string): Promise<string> {
  if (entry.length > limits.ovaTextBytesMax)
    throw badImage(name, `${shown(entry.name)} in it has ${formatSize(entry.length)}`);
  return (await readAt(file, entry.offset, entry.length)).toString('utf8');
}

const units: Readonly<Record<string, number>> = {
  '': 1,
  byte: 1,
  'byte * 2^10': 2 ** 10,
  'byte * 2^20': 2 ** 20,
  'byte * 2^30': 2 ** 30,
  'byte * 2^40': 2 ** 40,
};

/**
 * The one disk of the description. Of XML only elements and attributes are looked at; nothing that could make a parser read
 * or compute something else (document types, entities) is taken.
 */
function diskOf(text: string, name: string): { href: string; capacityBytes: number | null } {
  if (/<!(DOCTYPE|ENTITY)/i.test(text)) throw badImage(name, 'its description declares entities');
  const plain = text.replace(/<!--[\s\S]*?-->/g, '');
  const disks = elements(plain, 'Disk').filter((disk) => disk.has('fileRef'));
  const [disk] = disks;
  if (disk === undefined) throw badImage(name, 'its description names no disk');
  if (disks.length > 1)
    throw badImage(
      name,
      `it has ${disks.length} disks, an image has one`,
      'Unpack it with tar and import each .vmdk by itself.',
    );
  const files = elements(plain, 'File').filter((file) => file.get('id') === disk.get('fileRef'));
  const file = files.length === 1 ? files[0] : undefined;
  const href = file?.get('href');
  if (file === undefined || href === undefined)
    throw badImage(name, 'its description does not say where its disk is');
  if (file.has('chunkSize') || (file.get('compression') ?? 'identity') !== 'identity')
    throw badImage(name, 'its disk is compressed or in parts', 'Export it again as one plain OVA.');
  if (disk.has('parentRef')) throw badImage(name, 'its disk has a parent');
  const unit = units[(disk.get('capacityAllocationUnits') ?? '').trim()];
  const capacity = Number(disk.get('capacity'));
  const known = unit !== undefined && Number.isSafeInteger(capacity * unit);
  return { href, capacityBytes: known ? capacity * unit : null };
}

/** Attributes, without their namespace, of every element of this name. */
function elements(text: string, element: string): Map<string, string>[] {
  const found = text.matchAll(new RegExp(`<(?:\\w+:)?${element}\\s([^<>]*)>`, 'g'));
  return [...found].map(([, attributes = '']) => {
    const pairs = attributes.matchAll(/(?:[\w.-]+:)?([\w.-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g);
    return new Map([...pairs].map(([, key = '', one, two]) => [key, one ?? two ?? '']));
  });
}

interface ManifestLine {
  readonly algorithm: string;
  readonly hex: string;
}

function parseManifest(text: string, name: string): Map<string, ManifestLine> {
  const lines = new Map<string, ManifestLine>();
  for (const line of text.split(/\r?\n/)) {
    if (line.trim() === '') continue;
    const match = /^(SHA1|SHA256|SHA512)\s*\((.+)\)\s*=\s*([0-9a-f]+)\s*$/i.exec(line);
    const [, algorithm, file, hex] = match ?? [];
    if (algorithm === undefined || file === undefined || hex === undefined || lines.has(file))
      throw badImage(name, `its manifest has a line that is not understood: ${shown(line)}`);
    lines.set(file, { algorithm: algorithm.toLowerCase(), hex: hex.toLowerCase() });
  }
  return lines;
}

async function verify(
  file: FileHandle,
  entry: Entry,
  lines: ReadonlyMap<string, ManifestLine>,
  name: string,
  signal: AbortSignal,
): Promise<void> {
  const line = lines.get(entry.name);
  if (line === undefined) throw badImage(name, `its manifest does not name ${shown(entry.name)}`);
  const hash = createHash(line.algorithm);
  for await (const chunk of chunksOf(file, entry.offset, entry.length)) {
    signal.throwIfAborted();
    hash.update(chunk);
  }
  const actual = hash.digest('hex');
  if (actual !== line.hex)
    throw badImage(
      name,
      `${shown(entry.name)} in it has ${line.algorithm} ${actual}, its manifest says ${line.hex}`,
      'It is damaged or was changed; fetch it again.',
    );
}
