/** Tell the format of an image by its first bytes. */

import { badImage, type ImageFormat } from './protocol.ts';
import { isQcow2 } from './qcow2.ts';

/** Formats that are no disk image of ours, by their magic; imported as raw they would make a volume that cannot boot. */
const others: readonly { magic: Buffer; name: string; advice: string }[] = [
  { magic: Buffer.from([0x1f, 0x8b]), name: 'compressed with gzip', advice: 'Run gunzip first.' },
  {
    magic: Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]),
    name: 'compressed with xz',
    advice: 'Run unxz first.',
  },
  {
    magic: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]),
    name: 'compressed with zstd',
    advice: 'Run unzstd first.',
  },
  { magic: Buffer.from('BZh'), name: 'compressed with bzip2', advice: 'Run bunzip2 first.' },
  {
    magic: Buffer.from('KDMV'),
    name: 'a VMDK image',
    advice: 'Convert it: qemu-img convert -O qcow2',
  },
  {
    magic: Buffer.from('vhdxfile'),
    name: 'a VHDX image',
    advice: 'Convert it: qemu-img convert -O qcow2',
  },
  { magic: Buffer.from('<!DOCTYPE'), name: 'a web page', advice: 'Give the address of the file.' },
  { magic: Buffer.from('<html'), name: 'a web page', advice: 'Give the address of the file.' },
];

/** @param start the first bytes; throws BAD_IMAGE when they contradict `wanted` or belong to something else */
export function recognise(start: Buffer, wanted: ImageFormat | 'auto', name: string): ImageFormat {
  const found = isQcow2(start) ? 'qcow2' : 'raw';
  if (wanted === 'qcow2' && found !== 'qcow2')
    throw badImage(name, 'it is no qcow2 image', 'Leave out the format, or give the right one.');
  if (wanted === 'raw' && found === 'qcow2')
    throw badImage(name, 'it is a qcow2 image, not raw', 'Leave out the format.');
  // Whoever says `raw` knows better: a disk may start with any bytes.
  if (wanted === 'auto' && found === 'raw') refuseOthers(start, name);
  return found;
}

function refuseOthers(start: Buffer, name: string): void {
  for (const { magic, name: what, advice } of others)
    if (start.subarray(0, magic.length).equals(magic))
      throw badImage(name, `it is ${what}`, advice);
}
