/** The header of qcow2, field by field, and what other files look like. */
import t from 'tap';
import { limits, TiB } from '../../src/base/index.ts';
import { checkQcow2Header, isQcow2 } from '../../src/images/qcow2.ts';
import { recognise } from '../../src/images/recognise.ts';

type Change = (header: Buffer) => void;

function header(...changes: Change[]): Buffer {
  const bytes = Buffer.alloc(104);
  bytes.write('QFI\xfb', 0, 'latin1');
  bytes.writeUInt32BE(3, 4);
  bytes.writeUInt32BE(16, 20);
  bytes.writeBigUInt64BE(1n << 30n, 24);
  bytes.writeUInt32BE(4, 96);
  bytes.writeUInt32BE(104, 100);
  for (const change of changes) change(bytes);
  return bytes;
}

const u32 =
  (at: number, value: number): Change =>
  (bytes) =>
    void bytes.writeUInt32BE(value, at);
const u64 =
  (at: number, value: bigint): Change =>
  (bytes) =>
    void bytes.writeBigUInt64BE(value, at);

const check = (...changes: Change[]): number =>
  checkQcow2Header(header(...changes), 'x.qcow2').virtualBytes;

t.test('whole images of both versions pass', async (t) => {
  t.equal(check(), 2 ** 30);
  t.equal(check(u32(4, 2)), 2 ** 30);
  t.equal(checkQcow2Header(header(u32(4, 2)).subarray(0, 72), 'x').virtualBytes, 2 ** 30);
  t.equal(check(u64(72, 1n)), 2 ** 30, 'not closed cleanly, which loses nothing that can be read');
  t.equal(check(u64(72, 0b11000n)), 2 ** 30, 'zstd, extended level 2 entries');
  t.equal(check(u32(60, 3)), 2 ** 30, 'internal snapshots');
});

for (const [what, changes, message] of [
  ['a backing file', [u64(8, 0x200n), u32(16, 11)], /backing file/],
  ['a backing file without a length', [u64(8, 0x200n)], /backing file/],
  ['a length without an offset', [u32(16, 11)], /backing file/],
  ['a data file', [u64(72, 4n)], /another file/],
  ['a data file among other features', [u64(72, 0b1101n)], /another file/],
  ['corruption', [u64(72, 2n)], /corrupt/],
  ['an unknown feature', [u64(72, 1n << 40n)], /features/],
  ['encryption with AES', [u32(32, 1)], /encrypted/],
  ['encryption with LUKS', [u32(32, 2)], /encrypted/],
  ['version 1', [u32(4, 1)], /version 1/],
  ['version 4', [u32(4, 4)], /version 4/],
  ['tiny clusters', [u32(20, 8)], /clusters/],
  ['huge clusters', [u32(20, 22)], /clusters/],
  ['a short header', [u32(100, 72)], /length of 72/],
  ['an odd header', [u32(100, 109)], /length of 109/],
  ['no size', [u64(24, 0n)], /no size/],
  ['a size of 2^63', [u64(24, 1n << 63n)], /more than/],
  ['one byte too many', [u64(24, BigInt(limits.imageBytesMax) + 1n)], /more than 4TiB/],
] as const)
  t.test(`refused: ${what}`, async (t) => {
    t.throws(() => check(...changes), { code: 'BAD_IMAGE', message });
  });

t.test('refused: a file that ends within its header', async (t) => {
  for (const length of [4, 71])
    t.throws(() => checkQcow2Header(header().subarray(0, length), 'x'), { code: 'BAD_IMAGE' });
  t.throws(() => checkQcow2Header(header().subarray(0, 103), 'x'), { code: 'BAD_IMAGE' });
});

t.test('the largest image', async (t) => {
  t.equal(check(u64(24, BigInt(limits.imageBytesMax))), 4 * TiB);
});

t.test('formats are told apart by their first bytes', async (t) => {
  const raw = Buffer.alloc(512);
  t.equal(isQcow2(header()), true);
  t.equal(recognise(header(), 'auto', 'x'), 'qcow2');
  t.equal(recognise(header(), 'qcow2', 'x'), 'qcow2');
  t.equal(recognise(raw, 'auto', 'x'), 'raw');
  t.equal(recognise(Buffer.alloc(0), 'raw', 'x'), 'raw');
  t.throws(() => recognise(raw, 'qcow2', 'x'), { code: 'BAD_IMAGE', message: /no qcow2/ });
  t.throws(() => recognise(header(), 'raw', 'x'), { code: 'BAD_IMAGE', message: /is a qcow2/ });
  const gzip = Buffer.from([0x1f, 0x8b, 8, 0]);
  t.throws(() => recognise(gzip, 'auto', 'x'), { code: 'BAD_IMAGE', message: /twice/ });
  t.equal(recognise(gzip, 'raw', 'x'), 'raw', 'who says raw is believed');
  t.throws(() => recognise(Buffer.from('<!DOCTYPE html>'), 'auto', 'x'), { message: /web page/ });
});
