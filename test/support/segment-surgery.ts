/** Changing segments of a local store on its disk, as a bad disk or a fault in a program would. */
import { readFileSync, writeFileSync } from 'node:fs';
import { crc32c, type LogId } from '../../src/base/index.ts';
import { segmentKey } from '../../src/hlfs/index.ts';
import { decodeRoot, encodeRoot } from '../../src/hlfs/root-format.ts';
import {
  chunkTable,
  decodeSegmentHeader,
  encodeSegmentHeader,
  type SegmentHeader,
  segmentDataOffset,
  segmentHeaderBytes,
} from '../../src/hlfs/segment-format.ts';

export interface SegmentFile {
  readonly path: string;
  readonly header: SegmentHeader;
}

export function segmentFile(storeDirectory: string, log: LogId, number: number): SegmentFile {
  const path = `${storeDirectory}/${segmentKey(log, number)}`;
  return { path, header: decodeSegmentHeader(readFileSync(path).subarray(0, 256), path) };
}

/** Flip a bit at each of these places. */
export function flip({ path }: Pick<SegmentFile, 'path'>, ...offsets: readonly number[]): void {
  const bytes = readFileSync(path);
  for (const offset of offsets) bytes[offset] = (bytes[offset] ?? 0) ^ 0x10;
  writeFileSync(path, bytes);
}

/** Change the segment table in a root record, and every checksum over it, so that nothing but the content is wrong. */
export function rewriteTable(
  { path, header }: SegmentFile,
  change: (table: ReturnType<typeof decodeRoot>['table']) => void,
): void {
  const bytes = readFileSync(path);
  const end = header.rootOffset + header.rootBytes;
  const { facts, table } = decodeRoot(bytes.subarray(header.rootOffset, end), path);
  change(table);
  const root = encodeRoot(facts, table);
  const data = bytes.subarray(segmentDataOffset, header.rootOffset);
  const chunks = chunkTable([data, root]);
  const chunkOffset = header.rootOffset + root.length;
  const { checksum: _old, ...facts0 } = header;
  const made = encodeSegmentHeader({
    ...facts0,
    rootBytes: root.length,
    rootChecksum: crc32c(root),
    chunkOffset,
    chunkChecksum: crc32c(chunks),
    totalBytes: chunkOffset + chunks.length + segmentHeaderBytes,
  });
  const padding = Buffer.alloc(segmentDataOffset - segmentHeaderBytes);
  writeFileSync(path, Buffer.concat([made, padding, data, root, chunks, made]));
}
