/**
 * The header of a qcow2 file, read before any tool opens it.
 *
 * A qcow2 file may name other files of the host (backing file, data file), and a tool that follows the names would put their
 * content into the volume of whoever made the image. So an image that names one is refused here, by its first bytes; no
 * program that would follow a name ever sees it. (QEMU's documentation, "qcow2 image format", has the layout.)
 *
 *   0   magic "QFI\xfb"      4   version            8   offset, 16  size of the backing file's name
 *   20  cluster bits         24  virtual size       32  encryption method       36  entries of the level 1 table
 *   72  incompatible features (version 3)           100 length of the header    (all big endian)
 */
import { formatSize, limits } from '../base/index.ts';
import { badImage } from './protocol.ts';

const magic = Buffer.from('QFI\xfb', 'latin1');
/** What `checkQcow2Header` needs of a file's start. */
export const headerBytes = 104;

const bitDirty = 1n << 0n;
const bitCorrupt = 1n << 1n;
const bitDataFile = 1n << 2n;
const bitCompression = 1n << 3n;
const bitSubclusters = 1n << 4n;
const bitsKnown = bitDirty | bitCorrupt | bitDataFile | bitCompression | bitSubclusters;

const plain = 'Convert it first: qemu-img convert -O qcow2 IMAGE NEW';

export const isQcow2 = (start: Buffer): boolean => start.subarray(0, 4).equals(magic);

/** @returns the virtual size; throws BAD_IMAGE for an image that is damaged, names other files, or is not understood */
export function checkQcow2Header(start: Buffer, name: string): { virtualBytes: number } {
  if (start.length < 72) throw badImage(name, 'it ends within its header');
  const version = start.readUInt32BE(4);
  if (version !== 2 && version !== 3)
    throw badImage(name, `qcow2 version ${version} is not known`, plain);
  if (start.readBigUInt64BE(8) !== 0n || start.readUInt32BE(16) !== 0)
    throw badImage(
      name,
      'it names a backing file, which lies outside of it',
      'Put both into one file first: qemu-img convert -O qcow2 IMAGE NEW',
    );
  if (start.readUInt32BE(32) !== 0) throw badImage(name, 'it is encrypted', plain);
  if (version === 3) checkFeatures(start, name);
  return { virtualBytes: checkSizes(start, name) };
}

function checkFeatures(start: Buffer, name: string): void {
  if (start.length < headerBytes) throw badImage(name, 'it ends within its header');
  const features = start.readBigUInt64BE(72);
  if ((features & bitDataFile) !== 0n)
    throw badImage(
      name,
      'it keeps its data in another file',
      'Put both into one file first: qemu-img convert -O qcow2 IMAGE NEW',
    );
  if ((features & bitCorrupt) !== 0n)
    throw badImage(name, 'it is marked as corrupt', 'Look at it with: qemu-img check IMAGE');
  if ((features & ~bitsKnown) !== 0n)
    throw badImage(name, 'it uses features that this release does not know', plain);
  const length = start.readUInt32BE(100);
  if (length < headerBytes || length % 8 !== 0)
    throw badImage(name, `its header has an impossible length of ${length} bytes`);
}

function checkSizes(start: Buffer, name: string): number {
  const clusterBits = start.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21)
    throw badImage(name, `its clusters have an impossible size (2^${clusterBits} bytes)`);
  const size = start.readBigUInt64BE(24);
  if (size > BigInt(limits.imageBytesMax)) throw tooLarge(name, Number(size));
  if (size === 0n) throw badImage(name, 'its disk has no size');
  return Number(size);
}

export function tooLarge(name: string, virtualBytes: number): Error {
  return badImage(
    name,
    `its disk has ${formatSize(virtualBytes)}, more than ${formatSize(limits.imageBytesMax)}`,
    'Make the disk smaller first.',
  );
}
