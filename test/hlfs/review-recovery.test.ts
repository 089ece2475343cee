/** Hostile recovery: what is on disk after a kill is damaged, cut, old or missing in ways that must be seen. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { asSnapshotName, asVolumePath } from '../../src/base/index.ts';
import {
  cloneVolume,
  findSnapshot,
  readRanges,
  rollbackVolume,
  shrinkHead,
} from '../../src/hlfs/index.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import {
  filled,
  flush,
  ReviewHost,
  read,
  reopen,
  until,
  within,
  write,
} from '../support/review-host.ts';

const plain = { labels: {}, protected: false };
const unused = () => undefined;

t.test('a volume works, is killed and keeps what was flushed', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  await write(volume, 0, filled(1));
  await flush(volume);
  const again = await reopen(await host.start(), id);
  t.same(await read(again, 0, 4096), filled(1));
});

t.test(
  'B-25 J7 a flipped bit in the header of a journal file does not lose flushed writes silently',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const id = await host.create(context);
    const volume = await reopen(context, id);
    await write(volume, 0, filled(1));
    await flush(volume);
    host.kill();
    t.equal(
      host.alterSlots(id, (bytes) => {
        bytes[60] = (bytes[60] ?? 0) ^ 4;
        return true;
      }),
      1,
    );
    const next = await host.start();
    await t.rejects(reopen(next, id), { code: 'JOURNAL_DAMAGED' });
  },
);

t.test('J7 a journal that ends before a flush which a root remembers is stale', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  await write(volume, 0, filled(1));
  let open = (): void => {};
  const closed = new Promise<void>((resolve) => {
    open = resolve;
  });
  let reached = (): void => {};
  const atPut = new Promise<void>((resolve) => {
    reached = resolve;
  });
  host.gate = (call) => {
    if (!call.includes('/seg/')) return undefined;
    reached();
    return closed;
  };
  const published = volume.publishAll();
  await atPut;
  await write(volume, 4096, filled(2));
  await flush(volume);
  open();
  await published;
  host.kill();
  // An older copy of the file: the last record was not in it yet.
  const marker = filled(2);
  t.equal(
    host.alterSlots(id, (bytes) => {
      const at = bytes.indexOf(marker);
      if (at < 0) return false;
      bytes.fill(0, at - 80, at + 4096);
      return true;
    }),
    1,
  );
  await t.rejects(reopen(await host.start(), id), { code: 'JOURNAL_DAMAGED' });
});

t.test(
  'a journal directory that is gone is noticed also when nothing was published yet',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const id = await host.create(context);
    const volume = await reopen(context, id);
    await write(volume, 0, filled(1));
    await flush(volume);
    host.kill();
    rmSync(join(host.directory, 'journal', id), { recursive: true });
    await t.rejects(reopen(await host.start(), id), { code: 'JOURNAL_DAMAGED' });
  },
);

t.test('a kill right after a snapshot was marked does not block the next open', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  await write(volume, 0, filled(1));
  await volume.publishAll();
  let reached = (): void => {};
  const atPut = new Promise<void>((resolve) => {
    reached = resolve;
  });
  host.gate = (call) => {
    if (!call.includes('/seg/')) return undefined;
    reached();
    return new Promise<void>(() => {});
  };
  volume.snapshot(asSnapshotName('s'), plain).catch(() => {});
  await atPut;
  const again = await reopen(await host.start(), id);
  await within(5000, write(again, 4096, filled(2)), 'a write');
  await within(5000, flush(again), 'a flush');
  t.same(await read(again, 0, 4096), filled(1));
});

t.test('G6 J1 shrinking a volume that was killed keeps its journal tail', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  await write(volume, 0, filled(1));
  await flush(volume);
  const next = await host.start();
  await shrinkHead(next, { id, path: asVolumePath('/v') }, 32 * 2 ** 20, unused);
  const again = await reopen(next, id);
  t.same(await read(again, 0, 4096), filled(1));
});

t.test('L2 a clone of a volume with a raised epoch recovers its own segments', async (t) => {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const target = { id, path: asVolumePath('/v') };
  let volume = await reopen(context, id);
  await write(volume, 0, filled(1));
  await volume.snapshot(asSnapshotName('one'), plain);
  await volume.close();
  await rollbackVolume(context, target, 'one', readRanges, unused);
  volume = await reopen(context, id);
  await write(volume, 4096, filled(2));
  await volume.snapshot(asSnapshotName('two'), plain);
  await volume.close();
  const { value: two } = await findSnapshot(context, id, 'two');
  const made = await cloneVolume(
    context,
    target,
    two,
    '/c',
    { journalBytes: 16 * 2 ** 20 },
    readRanges,
  );
  const clone = await reopen(context, made.id);
  await write(clone, 8192, filled(3));
  // More than a batch takes, so that a segment is published without a root behind it.
  for (let at = 2 ** 20; at < 7 * 2 ** 20; at += 2 ** 18)
    await write(clone, at, filled(6, 2 ** 18));
  const log = clone.log;
  await until(async () => (await listSegments(host.store, log)).length > 0, 'a segment');
  await write(clone, 12288, filled(4));
  await flush(clone);
  const again = await reopen(await host.start(), made.id);
  for (const [i, value] of [1, 2, 3, 4].entries())
    t.same(await read(again, i * 4096, 4096), filled(value), `block ${i}`);
  await within(5000, write(again, 0, filled(5)), 'a write');
});
