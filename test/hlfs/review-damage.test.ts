/** Hostile stores: damage and failing reads stay with the operation that meets them. */
import t from 'tap';
import { DvceError, limits } from '../../src/base/index.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import { filled, flush, ReviewHost, read, reopen, until, write } from '../support/review-host.ts';

t.test('B-34 a damaged block that cleaning meets does not make the volume read-only', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  await write(volume, 0, filled(1, 2 ** 21));
  await volume.publishAll();
  // Most of the first segment dies; two roots postdate that.
  for (let round = 2; round < 5; round += 1) {
    await write(volume, 0, filled(round, 2 ** 21 - 4096));
    await volume.publishAll();
  }
  let met = 0;
  host.alterRead = (key, offset, target) => {
    if (!key.endsWith('/0000000001') || offset === 0 || target.length !== 4096) return;
    met += 1;
    target[7] = 0xee;
  };
  await until(async () => met > 0, 'cleaning', limits.reclaimDelayMs + 8000);
  await write(volume, 0, filled(9));
  await flush(volume);
  t.same(await read(volume, 0, 4096), filled(9));
  t.equal(volume.statistics().readOnlyReason, null);
  await t.rejects(read(volume, 2 ** 21 - 4096, 4096), { code: 'SEGMENT_DAMAGED' });
  await volume.publishAll();
});

t.test(
  'B-34 map pages that cannot be read for a while do not fill the store with copies of a batch',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const id = await host.create(context, '/large', 2 ** 30);
    // One batch of 300 leaves fits; opened again, none of them is in memory.
    const options = { mapCacheBytes: 2 ** 21 };
    const first = await reopen(context, id, options);
    const mebibytes = 300;
    for (let at = 0; at < mebibytes; at += 1) await write(first, at * 2 ** 20, filled(at % 250));
    await first.close();
    const volume = await reopen(context, id, options);
    let failures = 0;
    host.failRead = () => {
      failures += 1;
      return failures > 6
        ? undefined
        : new DvceError('STORE_UNAVAILABLE', { where: 'memory', reason: 'a while' });
    };
    const before = (await listSegments(host.store, volume.log)).length;
    for (let at = 0; at < mebibytes; at += 1) await write(volume, at * 2 ** 20 + 4096, filled(77));
    await volume.publishAll();
    const after = (await listSegments(host.store, volume.log)).length;
    t.ok(failures >= 6, `${failures} reads failed`);
    t.ok(after - before <= 4, `${after - before} segments`);
    for (const at of [0, 150, 299]) {
      t.same(await read(volume, at * 2 ** 20, 4096), filled(at % 250));
      t.same(await read(volume, at * 2 ** 20 + 4096, 4096), filled(77));
    }
  },
);
