/** Tell the format of an image by its first bytes. */
import { isOva } from './ova.ts';
import { badImage, type ImageFormat } from './protocol.ts';
import { isQcow2 } from './qcow2.ts';
import { compressionOf } from './unpack.ts';
import { isVmdk } from './vmdk.ts';

const convert = 'Convert it: qemu-img convert -O qcow2';

/** What is no disk image of ours, by its magic; imported as raw it would make a volume that cannot boot. */
const others: readonly { magic: Buffer; name: string; advice: string }[] = [
  { magic: Buffer.from('BZh'), name: 'compressed with bzip2', advice: 'Run bunzip2 first.' },
  { magic: Buffer.from('PK\x03\x04'), name: 'a ZIP archive', advice: 'Run unzip first.' },
  { magic: Buffer.from('vhdxfile'), name: 'a VHDX image', advice: convert },
  { magic: Buffer.from('conectix'), name: 'a VHD image', advice: convert },
  { magic: Buffer.from('COWD'), name: 'an old VMDK image', advice: convert },
  { magic: Buffer.from('QED\0'), name: 'a QED image', advice: convert },
  { magic: Buffer.from('<<< '), name: 'a VDI image', advice: convert },
  { magic: Buffer.from('<?xml'), name: 'a description', advice: 'Give the file of the disk.' },
  { magic: Buffer.from('<!DOCTYPE'), name: 'a web page', advice: 'Give the address of the file.' },
  { magic: Buffer.from('<html'), name: 'a web page', advice: 'Give the address of the file.' },
];

/** How much of a file's start is looked at. */
export const startBytes = 512;

/** @param start the first bytes; throws BAD_IMAGE when they contradict `wanted` or belong to something else */
export function recognise(start: Buffer, wanted: ImageFormat | 'auto', name: string): ImageFormat {
  const found = formatOf(start);
  if (wanted === 'auto') {
    // Whoever says `raw` knows better: a disk may start with any bytes.
    if (found === 'raw') refuseOthers(start, name);
    return found;
  }
  if (wanted !== found)
    throw badImage(
      name,
      wanted === 'raw' ? `it is a ${found} image, not raw` : `it is no ${wanted} image`,
      'Leave out the format, or give the right one.',
    );
  return found;
}

function formatOf(start: Buffer): ImageFormat {
  if (isQcow2(start)) return 'qcow2';
  if (isVmdk(start)) return 'vmdk';
  return isOva(start) ? 'ova' : 'raw';
}

function refuseOthers(start: Buffer, name: string): void {
  if (compressionOf(start) !== undefined)
    throw badImage(name, 'it is compressed twice', 'Unpack it first.');
  for (const { magic, name: what, advice } of others)
    if (start.subarray(0, magic.length).equals(magic))
      throw badImage(name, `it is ${what}`, advice);
}
