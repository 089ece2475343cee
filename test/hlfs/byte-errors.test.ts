/** The search for one wrong byte by its checksum gives what trying every byte gives. */
import t from 'tap';
import { crc32c, seededRandom } from '../../src/base/index.ts';
import { type ByteError, byteErrors, isOneBit } from '../../src/hlfs/byte-errors.ts';

/** Every change of every byte, tried. */
function byTrying(bytes: Buffer, expected: number): ByteError[] {
  const found: ByteError[] = [];
  for (let at = bytes.byteLength - 1; at >= 0; at -= 1)
    for (let change = 1; change < 256; change += 1) {
      bytes[at] = (bytes[at] ?? 0) ^ change;
      if (crc32c(bytes) === expected) found.push({ at, change });
      bytes[at] = (bytes[at] ?? 0) ^ change;
    }
  return found;
}

t.test('B-02 the byte that explains a wrong checksum', async (t) => {
  const random = seededRandom(4);
  for (let i = 0; i < 60; i += 1) {
    const bytes = random.bytes(1 + random.below(100));
    const expected = i % 4 === 0 ? random.below(2 ** 32) : crc32c(bytes);
    const at = random.below(bytes.byteLength);
    bytes[at] = (bytes[at] ?? 0) ^ random.below(256);
    const found = byteErrors(crc32c(bytes) ^ expected, bytes.byteLength);
    t.same(found, byTrying(bytes, expected));
  }
});

t.test('B-02 one bit of a whole block, wherever it is', async (t) => {
  const random = seededRandom(5);
  for (let i = 0; i < 200; i += 1) {
    const bytes = random.bytes(4096);
    const expected = crc32c(bytes);
    const at = random.below(4096);
    const change = 1 << random.below(8);
    bytes[at] = (bytes[at] ?? 0) ^ change;
    t.same(byteErrors(crc32c(bytes) ^ expected, 4096), [{ at, change }]);
    bytes[(at + 9) % 4096] = (bytes[(at + 9) % 4096] ?? 0) ^ 1;
    t.same(byteErrors(crc32c(bytes) ^ expected, 4096), [], 'two bytes');
  }
  t.ok(isOneBit(64));
  t.notOk(isOneBit(65));
});
