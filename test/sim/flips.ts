/** Bits of files on the simulated disk: which to flip, what they belong to, and how to put them right. */
import {
  decodeSegmentHeader,
  segmentFlags,
  segmentHeaderBytes,
} from '../../src/hlfs/segment-format.ts';
import type { Inode, SimDisk } from './disk.ts';
import { sectorBytes } from './oracle.ts';
import type { Flip } from './target.ts';
import type { SimHost } from './world.ts';

export interface FlipPlace {
  readonly root: string;
  readonly fits: (path: string) => boolean;
}

/** A flip in a part that every read needs may cost everything. */
const everything = Number.POSITIVE_INFINITY;
/** A group of compressed blocks is verified as a whole (S7). */
const groupBlocks = 16;
/** Blocks below one leaf of the map. */
const leafBlocks = 256;

export function flipSomewhere(host: SimHost, { root, fits }: FlipPlace): Flip | undefined {
  const { random } = host;
  const files = filesBelow(host.disk, root).filter(
    ([path, inode]) => fits(path) && inode.sizeBytes > 0,
  );
  const [path, inode] = files[random.below(files.length)] ?? [];
  if (path === undefined || inode === undefined) return undefined;
  const part = choosePart(host, path, inode);
  const bit = random.below(8);
  host.disk.flipBit(inode, part.at, bit);
  const after = around(host.disk, inode, part.at);
  return {
    where: part.name,
    blocksMax: part.blocksMax,
    heal: () => {
      // The process may have died meanwhile, and the disk be another one.
      const now = filesBelow(host.disk, root).find(([other]) => other === path)?.[1];
      // Written over: the new bytes are right as they are.
      if (now === undefined || !around(host.disk, now, part.at).equals(after)) return;
      host.disk.flipBit(now, part.at, bit);
    },
  };
}

/** Enough to tell whether the place was written to. */
function around(disk: SimDisk, inode: Inode, at: number): Buffer {
  const bytes = Buffer.alloc(64);
  const from = Math.max(0, at - 32);
  return bytes.subarray(0, disk.read(inode, bytes, from));
}

interface Part {
  readonly name: string;
  readonly at: number;
  readonly blocksMax: number;
}

/** Each part of a file is as likely as the others, however small it is. */
function choosePart(host: SimHost, path: string, inode: Inode): Part {
  const { random } = host;
  if (path.includes('/seg/')) return choosePartOfSegment(host, inode);
  if (!path.includes('/slot-')) {
    const name = path.endsWith('/state') ? 'journal state' : 'document';
    return { name, at: random.below(inode.sizeBytes), blocksMax: everything };
  }
  // Most of a journal file may never have been used.
  const way = random.below(3);
  const spans = [256, 4096 + 2048, inode.sizeBytes] as const;
  const span = spans[way] ?? 256;
  const at = way === 1 ? 4096 + random.below(2048) : random.below(Math.min(span, inode.sizeBytes));
  const name = way === 0 ? 'header of a journal file' : 'journal records';
  return { name, at, blocksMax: everything };
}

function choosePartOfSegment({ disk, random }: SimHost, inode: Inode): Part {
  const head = Buffer.alloc(segmentHeaderBytes);
  disk.read(inode, head, 0);
  const header = decodeSegmentHeader(head, 'a segment');
  const isRoot = (header.flags & segmentFlags.root) !== 0;
  const isGuestData = header.lastSeq >= header.firstSeq && !isRoot;
  const parts = [
    { name: 'header', from: 0, to: segmentHeaderBytes, blocksMax: everything },
    {
      name: isGuestData ? 'data' : 'pages or moved blocks',
      from: segmentHeaderBytes,
      to: header.indexOffset,
      blocksMax: isGuestData ? groupBlocks : 2 * leafBlocks,
    },
    {
      name: 'index',
      from: header.indexOffset,
      to: header.indexOffset + header.indexBytes,
      blocksMax: everything,
    },
    {
      name: 'root record',
      from: header.rootOffset,
      to: header.rootOffset + header.rootBytes,
      blocksMax: everything,
    },
    {
      name: 'chunk table and footer',
      from: header.chunkOffset,
      to: inode.sizeBytes,
      blocksMax: everything,
    },
  ].filter(({ from, to }) => to > from);
  const part = parts[random.below(parts.length)];
  if (part === undefined) throw new Error('a segment has a header');
  const { from, to, name, blocksMax } = part;
  return { name: `${name} of a segment`, at: from + random.below(to - from), blocksMax };
}

/** A few blocks out of a journal file. */
export function sampleOf(host: SimHost, root: string): Buffer | undefined {
  const { random, disk } = host;
  const slots = filesBelow(disk, root).filter(([name]) => name.includes('/slot-'));
  const [, inode] = slots[random.below(slots.length)] ?? [];
  if (inode === undefined) return undefined;
  const bytes = Buffer.alloc(8 * sectorBytes * (1 + random.below(4)));
  disk.read(inode, bytes, 4096 * random.below(8));
  return bytes;
}

function filesBelow(disk: SimDisk, root: string): [string, Inode][] {
  let directory: Inode | undefined = disk.root;
  for (const part of root.split('/').filter((each) => each !== ''))
    directory = directory?.entries.get(part);
  const found: [string, Inode][] = [];
  const walk = (inode: Inode, at: string): void => {
    for (const [name, child] of inode.entries)
      if (child.isDirectory) walk(child, `${at}/${name}`);
      else found.push([`${at}/${name}`, child]);
  };
  if (directory !== undefined) walk(directory, root);
  return found;
}
