/** Memory of payloads: shared out again only when nobody holds it (N5). */
import t from 'tap';
import {
  allocatePayload,
  holdPayload,
  KiB,
  letGoOfPayload,
  limits,
  MiB,
  seededRandom,
} from '../../src/base/index.ts';
import { dropFreePayloads } from '../../src/base/payloads.ts';

t.beforeEach(() => dropFreePayloads());

t.test('what its last holder let go of is handed out again, and not before', async (t) => {
  for (const length of [MiB, 300 * KiB, 20_000]) {
    const first = allocatePayload(length);
    holdPayload(first);
    letGoOfPayload(first.subarray(4096));
    t.not(allocatePayload(length).buffer, first.buffer, 'one holder is left');
    letGoOfPayload(first);
    const again = allocatePayload(length);
    t.equal(again.buffer, first.buffer);
    t.equal(again.byteLength, length);
    t.throws(() => {
      letGoOfPayload(again);
      letGoOfPayload(again);
    }, 'a holder lets go once');
    t.throws(() => holdPayload(again), 'nobody has it any more');
  }
});

t.test('small payloads share a slab, which is free when all of them are', async (t) => {
  const payloads = Array.from({ length: 60 }, () => allocatePayload(4096));
  const [slab] = new Set(payloads.map(({ buffer }) => buffer));
  const inSlab = payloads.filter(({ buffer }) => buffer === slab);
  t.ok(inSlab.length > 1 && inSlab.length <= 16);
  const taken = (): boolean =>
    Array.from({ length: 40 }, () => allocatePayload(4096)).some(({ buffer }) => buffer === slab);
  for (const payload of inSlab.slice(1)) letGoOfPayload(payload);
  t.notOk(taken(), 'one of them is held');
  letGoOfPayload(inSlab[0] as Buffer); // there is one
  t.ok(taken());
});

t.test('payloads that are held at the same time never overlap', async (t) => {
  const random = seededRandom(7);
  let held: { readonly payload: Buffer; readonly value: number }[] = [];
  let intact = true;
  for (let value = 1; value < 20_000; value += 1) {
    const payload = allocatePayload(1 + random.below(random.below(8) === 0 ? 200_000 : 20_000));
    payload.fill(value & 0xff, 0, 1).fill(value & 0xff, payload.byteLength - 1);
    held.push({ payload, value: value & 0xff });
    if (held.length < 200) continue;
    for (const each of held)
      intact &&= each.payload[0] === each.value && each.payload.at(-1) === each.value;
    const gone = held.filter(() => random.below(3) > 0);
    for (const each of gone) letGoOfPayload(each.payload);
    held = held.filter((each) => !gone.includes(each));
  }
  t.ok(intact);
});

t.test('buffers from elsewhere and the largest ones are left to the collector', async (t) => {
  for (const buffer of [Buffer.alloc(5000), allocatePayload(limits.requestBytesMax)]) {
    t.doesNotThrow(() => {
      letGoOfPayload(buffer);
      holdPayload(buffer);
      letGoOfPayload(buffer);
    });
  }
});

t.test('free memory is bounded', async (t) => {
  const count = limits.freePayloadBytes / MiB + 8;
  const buffers = Array.from({ length: count }, () => allocatePayload(MiB));
  for (const buffer of buffers) letGoOfPayload(buffer);
  const known = new Set(buffers.map(({ buffer }) => buffer));
  const again = Array.from({ length: count }, () => allocatePayload(MiB));
  t.equal(again.filter(({ buffer }) => known.has(buffer)).length, count - 8);
});
