/** Hostile interleavings: a snapshot whose document is late, a flush answered while its batch leaves, damaged journal pages. */
import t from 'tap';
import { asSnapshotName } from '../../src/base/index.ts';
import {
  findSnapshot,
  openSnapshot,
  readRanges,
  reap,
  reclaimLog,
  requireHead,
  rollbackVolume,
} from '../../src/hlfs/index.ts';
import { filled, flush, ReviewHost, read, reopen, until, write } from '../support/review-host.ts';

const plain = { labels: {}, protected: false };

t.test(
  'G2 B-26 segments of a snapshot whose document is still being written are not deleted',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const id = await host.create(context);
    const volume = await reopen(context, id);
    await write(volume, 0, filled(1));
    let release = (): void => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    let reached = false;
    host.gate = (call) => {
      if (!call.startsWith('put') || !call.includes('/snap/')) return undefined;
      reached = true;
      return released;
    };
    const taking = volume.snapshot(asSnapshotName('late'), plain);
    await until(async () => reached, 'the document');
    for (let round = 2; round < 6; round += 1) {
      await write(volume, 0, filled(round));
      await volume.publishAll();
    }
    release();
    await taking;
    const { value: snapshot } = await findSnapshot(context, id, 'late');
    const reader = await openSnapshot(context, snapshot, 4096);
    const bytes = await new Promise<Buffer>((resolve, reject) => {
      reader.read(0, 4096, (error, [part]) =>
        error ? reject(error) : resolve(Buffer.isBuffer(part) ? part : Buffer.alloc(4096)),
      );
    });
    t.same(bytes, filled(1));
  },
);

t.test(
  'invariant 7: a partial write over a damaged journal block is not sealed with a good checksum',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const id = await host.create(context);
    const volume = await reopen(context, id);
    await write(volume, 0, filled(1));
    await flush(volume);
    await write(volume, 512, filled(2, 512));
    // The page rots while the volume is open: what is read back is not what was written.
    host.alterSlots(id, (bytes) => {
      const at = bytes.indexOf(filled(1));
      if (at < 0) return false;
      bytes[at + 2000] = 0x99;
      return true;
    });
    await volume.publishAll().catch(() => {});
    let got: Buffer | undefined;
    try {
      got = await read(volume, 0, 4096);
    } catch {
      t.pass('an error, not wrong data');
      return;
    }
    const wanted = filled(1);
    filled(2, 512).copy(wanted, 512);
    t.same(got, wanted);
  },
);

t.test(
  'B-52 a read in the callback of a flush finds its data while the batch leaves the journal',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const delayed: (() => void)[] = [];
    const { files } = context;
    const slow = {
      ...context,
      files: {
        ...files,
        openSync: (path: string, mode: 'read' | 'write' | 'create') => {
          const file = files.openSync(path, mode);
          if (!/slot-\d+$/.test(path)) return file;
          // The disk takes its time: the store is faster than the journal's sync.
          return new Proxy(file, {
            get(target, name) {
              if (name === 'dataSync')
                return (done: (error: Error | null) => void) =>
                  target.dataSync((error) => delayed.push(() => done(error)));
              const value = Reflect.get(target, name, target) as unknown;
              return typeof value === 'function' ? value.bind(target) : value;
            },
          });
        },
      },
    };
    const id = await host.create(slow);
    const volume = await reopen(slow, id);
    await write(volume, 0, filled(7));
    // Rewrites fill more than one journal file within one batch, so that the first file can be given free with it.
    for (let round = 0; round < 18; round += 1) await write(volume, 2 ** 20, filled(8, 2 ** 18));
    const outcome = new Promise<Buffer>((resolve, reject) => {
      volume.flush((error) => {
        if (error) reject(error);
        else read(volume, 0, 4096).then(resolve, reject);
      });
    });
    await volume.publishAll();
    t.same(await outcome, filled(7));
    for (const done of delayed) done();
  },
);

t.test(
  'the log that a rollback left is not removed under the writer that fences its scope',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const id = await host.create(context);
    const volume = await reopen(context, id);
    await write(volume, 0, filled(1));
    await volume.snapshot(asSnapshotName('s'), plain);
    await volume.close();
    const target = { id, path: '/v' };
    const back = () => rollbackVolume(context, target, 's', readRanges, () => undefined);
    const { log: left } = await back();
    // Written to, so that it has a writer; nothing keeps its content.
    const second = await reopen(context, id);
    await write(second, 0, filled(2));
    await second.close();
    await back();
    await reap(context, reclaimLog);
    const logs = async () => (await requireHead(context, id)).value.logs;
    t.ok((await logs()).includes(left), 'it waits for the writer');
    const third = await reopen(context, id);
    t.same(await read(third, 0, 4096), filled(1));
    await third.close();
    await reap(context, reclaimLog);
    t.notOk((await logs()).includes(left), 'then it goes');
    t.strictSame(await context.documents.names(`logs/${left}`), []);
  },
);

t.test(
  'an open goes on when the reaper takes a dead log out of the head at that moment',
  async (t) => {
    const host = new ReviewHost(t);
    const context = await host.start();
    const id = await host.create(context);
    let changes = 0;
    const real = context.documents.replace.bind(context.documents);
    const replace: typeof real = async (...args) => {
      changes += 1;
      // As the reaper leaves the head: another version, the same writer.
      if (changes === 1) {
        const { version, value } = await requireHead(context, id);
        await real(context.scope, args[1], version, { ...value, labels: { by: 'another' } });
      }
      return real(...args);
    };
    const documents = new Proxy(context.documents, {
      get: (target, key) => {
        if (key === 'replace') return replace;
        const value = Reflect.get(target, key, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const racing = { ...context, documents };
    const volume = await reopen(racing, id);
    await write(volume, 0, filled(1));
    await flush(volume);
    await volume.close();
    t.ok(changes >= 2, 'it lost once');
    t.strictSame(
      (await requireHead(context, id)).value.labels,
      { by: 'another' },
      'no change is lost',
    );
  },
);
