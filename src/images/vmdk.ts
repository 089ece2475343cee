/**
 * The header and description of a VMDK file, read before any tool opens it.
 *
 * A VMDK may be only a description that names other files of the host (extents, a parent), and a tool that follows the names
 * would put their content into the volume of whoever made the image. Taken are the two kinds that hold everything in one
 * file: monolithicSparse and streamOptimized. Everything else is refused here. (VMware's "Virtual Disk Format 5.0".)
 *
 *   0   magic "KDMV"     4   version      8   flags             12  capacity, 20  grain size (sectors, 64 bits)
 *   28  offset, 36  size of the description (sectors)           44  entries of a grain table
 *   56  offset of the grain directory; all ones: the footer has it                  77  compression      (little endian)
 */
import type { FileHandle } from 'node:fs/promises';
import { limits } from '../base/index.ts';
import { badImage } from './protocol.ts';
import { tooLarge } from './qcow2.ts';
import { readAt } from './read-at.ts';

const sector = 512;
const magic = Buffer.from('KDMV');
const descriptionStart = Buffer.from('# Disk DescriptorFile');
const atEnd = 0xffff_ffff_ffff_ffffn;
const flagCompressed = 1 << 16;
const merge = 'Put it into one file first: qemu-img convert -O qcow2 IMAGE NEW';

export const isVmdk = (start: Buffer): boolean =>
  start.subarray(0, 4).equals(magic) ||
  start.subarray(0, descriptionStart.length).equals(descriptionStart);

interface Header {
  readonly capacity: number;
  readonly grain: number;
  readonly directory: bigint;
  readonly tableEntries: number;
  readonly compressed: boolean;
}

export interface FilePart {
  readonly offset: number;
  readonly length: number;
}

/** @param part where in the file the image lies; @returns the virtual size */
export async function checkVmdk(file: FileHandle, part: FilePart, name: string): Promise<number> {
  const start = await readAt(file, part.offset, Math.min(sector, part.length));
  if (start.subarray(0, descriptionStart.length).equals(descriptionStart))
    throw badImage(
      name,
      'it is the description of a VMDK that keeps its data in other files',
      merge,
    );
  if (start.length < sector) throw badImage(name, 'it ends within its header');
  const header = checkHeader(start, name);
  await checkDescription(file, part, start, name);
  if (!header.compressed) await checkGrains(file, part, header, name);
  return header.capacity * sector;
}

function checkHeader(start: Buffer, name: string): Header {
  const version = start.readUInt32LE(4);
  if (version < 1 || version > 3) throw badImage(name, `VMDK version ${version} is not known`);
  const capacity = start.readBigUInt64LE(12);
  // With a capacity of zero programs take the extents from the description.
  if (capacity === 0n) throw badImage(name, 'its disk has no size of its own', merge);
  if (capacity > BigInt(limits.imageBytesMax / sector))
    throw tooLarge(name, Number(capacity) * sector);
  const grain = start.readBigUInt64LE(20);
  if (grain < 8n || grain > 2048n || (grain & (grain - 1n)) !== 0n)
    throw badImage(name, `its grains have an impossible size (${grain} sectors)`);
  const tableEntries = start.readUInt32LE(44);
  if (tableEntries < 1 || tableEntries > 512)
    throw badImage(name, `its tables have an impossible length (${tableEntries})`);
  const compression = start.readUInt16LE(77);
  if (compression > 1) throw badImage(name, `its compression ${compression} is not known`);
  return {
    capacity: Number(capacity),
    grain: Number(grain),
    directory: start.readBigUInt64LE(56),
    tableEntries,
    compressed: (start.readUInt32LE(8) & flagCompressed) !== 0,
  };
}

/** Right behind the header, which is where every program looks for it. */
async function checkDescription(
  file: FileHandle,
  part: FilePart,
  start: Buffer,
  name: string,
): Promise<void> {
  const length = Number(start.readBigUInt64LE(36)) * sector;
  if (start.readBigUInt64LE(28) !== 1n || length === 0 || length > limits.vmdkDescriptorBytesMax)
    throw badImage(name, 'it has no description where one belongs', merge);
  const bytes = await readAt(file, part.offset + sector, Math.min(length, part.length - sector));
  const end = bytes.indexOf(0);
  const text = bytes.toString('latin1', 0, end < 0 ? bytes.length : end);
  const kind = /^\s*createType\s*=\s*"([^"]*)"/im.exec(text)?.[1] ?? 'unknown';
  if (!/^(monolithicSparse|streamOptimized)$/i.test(kind))
    throw badImage(name, `it is a VMDK of the kind ${JSON.stringify(kind.slice(0, 40))}`, merge);
  if (/parentFileNameHint/i.test(text) || /^\s*parentCID\s*=\s*(?!f{8}\s*$)/im.test(text))
    throw badImage(name, 'it names a parent, which lies outside of it', merge);
  const extents = text.match(/^\s*(?:RW|RDONLY|NOACCESS)\s.*$/gim) ?? [];
  if (extents.length !== 1 || !/^\s*RW\s+\d+\s+SPARSE\s/i.test(extents[0] ?? ''))
    throw badImage(name, 'it names other files as extents', merge);
}

/** Programs read zeros beyond the end of a file: of an image that was cut they would make a disk with holes. */
async function checkGrains(
  file: FileHandle,
  part: FilePart,
  header: Header,
  name: string,
): Promise<void> {
  const { capacity, grain, directory, tableEntries } = header;
  const cut = (): Error =>
    badImage(name, 'it is truncated', 'Fetch it again, and give its sha256.');
  if (directory === atEnd) throw badImage(name, 'its grain directory lies in a footer', merge);
  const within = (at: number, length: number): boolean => at + length <= part.length;
  const tables = Math.ceil(capacity / (grain * tableEntries));
  const directoryAt = Number(directory) * sector;
  if (!within(directoryAt, tables * 4)) throw cut();
  const entries = await readAt(file, part.offset + directoryAt, tables * 4);
  for (let at = 0; at < entries.length; at += 4) {
    const tableAt = entries.readUInt32LE(at) * sector;
    if (tableAt === 0) continue;
    if (!within(tableAt, tableEntries * 4)) throw cut();
    const table = await readAt(file, part.offset + tableAt, tableEntries * 4);
    // 0: not there, 1: zeros. The last grain may be shorter than the others.
    for (let entry = 0; entry < table.length; entry += 4) {
      const place = table.readUInt32LE(entry);
      if (
        place > 1 &&
        !within(place * sector, grainBytes(capacity, grain, entry, at, tableEntries))
      )
        throw cut();
    }
  }
}

function grainBytes(
  capacity: number,
  grain: number,
  entry: number,
  at: number,
  tableEntries: number,
): number {
  const first = ((at / 4) * tableEntries + entry / 4) * grain;
  return Math.max(0, Math.min(grain, capacity - first)) * sector;
}
