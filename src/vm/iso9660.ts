/**
 * A small ISO 9660 image with files in its root directory: the medium of a seed disk. It is written here because it is sixty
 * lines of layout, and the programs that could do it (genisoimage, xorriso) would be one more thing to install on every host.
 *
 *   sector  0-15   system area, zeros           sector 19   path table, big endian
 *          16      primary volume descriptor          20   root directory
 *          17      descriptor set terminator          21.. the files, each from a sector of its own
 *          18      path table, little endian
 *
 * Names are those of ISO 9660 (upper case, version 1); Rock Ridge entries (SUSP SP, ER, PX, NM) carry the real ones. Numbers are
 * stored in both byte orders, as the standard wants. The same files give the same bytes.
 */
import { assert } from '../base/index.ts';

export interface IsoFile {
  /** Lower case letters, digits and `-`, at most 28. */
  readonly name: string;
  readonly content: Uint8Array;
}

const sectorBytes = 2048;
const rootSector = 20;
const firstFileSector = 21;

const sectorsOf = (bytes: number): number => Math.ceil(bytes / sectorBytes);

export function isoImage(label: string, files: readonly IsoFile[]): Buffer {
  assert(/^[A-Za-z0-9_]{1,32}$/.test(label), 'the label of a seed disk is a word');
  let next = firstFileSector;
  const placed = files.map((file) => {
    assert(/^[a-z0-9-]{1,28}$/.test(file.name), 'a file of a seed disk has a plain name');
    const sector = next;
    next += sectorsOf(file.content.byteLength);
    return { ...file, sector };
  });
  const image = Buffer.alloc(next * sectorBytes);
  primaryDescriptor(label, next).copy(image, 16 * sectorBytes);
  image.write('\xffCD001\x01', 17 * sectorBytes, 'latin1');
  pathTable('le').copy(image, 18 * sectorBytes);
  pathTable('be').copy(image, 19 * sectorBytes);
  const directory = Buffer.concat([
    record('\0', rootSector, sectorBytes, true, [suspStart, extensionReference, mode(true)]),
    record('\x01', rootSector, sectorBytes, true, [mode(true)]),
    ...placed
      // In the order of the standard.
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, sector, content }) =>
        record(`${name.toUpperCase()}.;1`, sector, content.byteLength, false, [
          mode(false),
          realName(name),
        ]),
      ),
  ]);
  assert(directory.byteLength <= sectorBytes, 'the root directory of a seed disk is one sector');
  directory.copy(image, rootSector * sectorBytes);
  for (const { sector, content } of placed) image.set(content, sector * sectorBytes);
  return image;
}

function both16(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt16LE(value, 0);
  out.writeUInt16BE(value, 2);
  return out;
}

function both32(value: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeUInt32LE(value, 0);
  out.writeUInt32BE(value, 4);
  return out;
}

/** The time of all things: midnight of 1 January 1980, since the same files shall give the same bytes. */
const time = Buffer.from([80, 1, 1, 0, 0, 0, 0]);
const noLongTime = Buffer.concat([Buffer.alloc(16, '0'), Buffer.alloc(1)]);

const padded = (text: string, length: number): Buffer => Buffer.from(text.padEnd(length, ' '));

function primaryDescriptor(label: string, sectors: number): Buffer {
  const pathTableBytes = 10;
  const fourBytes = (at: number, bigEndian: boolean): Buffer => {
    const out = Buffer.alloc(4);
    if (bigEndian) out.writeUInt32BE(at);
    else out.writeUInt32LE(at);
    return out;
  };
  return Buffer.concat([
    Buffer.from('\x01CD001\x01\0', 'latin1'),
    padded('', 32), // system
    padded(label, 32),
    Buffer.alloc(8),
    both32(sectors),
    Buffer.alloc(32),
    both16(1), // volumes in the set
    both16(1), // this one
    both16(sectorBytes),
    both32(pathTableBytes),
    fourBytes(18, false),
    Buffer.alloc(4),
    fourBytes(19, true),
    Buffer.alloc(4),
    record('\0', rootSector, sectorBytes, true, []),
    padded('', 128), // set
    padded('', 128), // publisher
    padded('', 128), // preparer
    padded('', 128), // application
    padded('', 37 * 3), // files of copyright, abstract, bibliography
    noLongTime,
    noLongTime,
    noLongTime,
    noLongTime,
    Buffer.from([1, 0]), // version of the structure
  ]);
}

/** Only the root is in it. */
function pathTable(order: 'le' | 'be'): Buffer {
  const out = Buffer.alloc(10);
  out.writeUInt8(1, 0);
  if (order === 'le') out.writeUInt32LE(rootSector, 2);
  else out.writeUInt32BE(rootSector, 2);
  if (order === 'le') out.writeUInt16LE(1, 6);
  else out.writeUInt16BE(1, 6);
  return out;
}

function record(
  name: string,
  sector: number,
  sizeBytes: number,
  isDirectory: boolean,
  systemUse: readonly Buffer[],
): Buffer {
  const plain = Buffer.from(name, 'latin1');
  // The name's field ends on an even byte.
  const padding = Buffer.alloc(plain.byteLength % 2 === 0 ? 1 : 0);
  const body = Buffer.concat([
    both32(sector),
    both32(sizeBytes),
    time,
    Buffer.from([isDirectory ? 2 : 0, 0, 0]),
    both16(1),
    Buffer.from([plain.byteLength]),
    plain,
    padding,
    ...systemUse,
  ]);
  const tail = Buffer.alloc(body.byteLength % 2);
  const length = 2 + body.byteLength + tail.byteLength;
  return Buffer.concat([Buffer.from([length, 0]), body, tail]);
}

const entry = (signature: string, ...content: readonly Buffer[]): Buffer => {
  const body = Buffer.concat(content);
  return Buffer.concat([Buffer.from(signature), Buffer.from([4 + body.byteLength, 1]), body]);
};

const suspStart = entry('SP', Buffer.from([0xbe, 0xef, 0]));
const extensionId = Buffer.from('RRIP_1991A');
const extensionReference = entry('ER', Buffer.from([extensionId.length, 0, 0, 1]), extensionId);
const realName = (name: string): Buffer => entry('NM', Buffer.from([0]), Buffer.from(name));
/** Readable for root alone: what is on it may be secret. */
const mode = (isDirectory: boolean): Buffer =>
  entry('PX', both32(isDirectory ? 0o040500 : 0o100400), both32(1), both32(0), both32(0));
