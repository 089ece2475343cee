/**
 * A file as a stream that does not carry its zeros. Numbers are big endian.
 *
 *   "DVCESPF1"
 *   frame:  1 byte kind, 8 bytes length
 *     1 data    `length` bytes follow
 *     2 zeros   nothing follows
 *     3 end     `length` is that of the file; 32 bytes follow, the sha256 of all of it, zeros included
 *
 * A stream without its end is cut. The reader is in the command line (src/cli/export-file.ts).
 */
const magic = Buffer.from('DVCESPF1');

function frame(kind: number, length: number): Buffer {
  const header = Buffer.alloc(9);
  header.writeUInt8(kind, 0);
  header.writeBigUInt64BE(BigInt(length), 1);
  return header;
}

export const frames = {
  start: (): Buffer => magic,
  data: (length: number): Buffer => frame(1, length),
  zeros: (length: number): Buffer => frame(2, length),
  end: (length: number, hex: string): Buffer =>
    Buffer.concat([frame(3, length), Buffer.from(hex, 'hex')]),
};
