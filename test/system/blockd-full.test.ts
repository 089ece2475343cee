// limit: 180 s
/** B-24: a store that is full. A write either fails or is there later; never success and loss. Reads go on (S9). */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmdirSync, symlinkSync } from 'node:fs';
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { run, testNode, until } from '../support/blockd-process.ts';
import { Failed, RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

const chunkBlocks = 64;
/** Half of the volume. */
const roomBytes = 64 * MiB;

async function mount(path: string, sizeBytes: number, ...more: string[]): Promise<boolean> {
  const options = [...more, `size=${sizeBytes}`].join(',');
  return (await run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', path])).code === 0;
}

const store = mkdtempSync('/tmp/dvce-full-');
const mounted = await mount(store, roomBytes);
t.teardown(async () => {
  if (mounted) await run(['umount', store]);
  rmdirSync(store);
});
const skip = mounted ? false : 'no permission to mount a file system';

t.test(
  'B-24 S9 a full store: an error or the data, reads go on, room helps',
  { skip },
  async (t) => {
    mkdirSync(`${store}/s`);
    const node = testNode(t, [
      '--workers',
      '1',
      '--store',
      `${store}/s`,
      '--journal-bytes',
      '16MiB',
    ]);
    await node.ensure();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 128 * MiB });
    const attach = { path: '/a', attachId: 'x', vm: 'v' };
    const { socketPath, exportName } = await node.client.call('volume.attach', attach);
    const connect = (): Promise<RawNbd> => RawNbd.connect({ path: socketPath }, exportName);
    const nbd = await connect();
    const acknowledged: number[] = [];
    const failed: number[] = [];
    const writeChunk = async (chunk: number): Promise<void> => {
      const first = chunk * chunkBlocks;
      // Noise, so that compression saves nothing; the first block says what it is.
      const noise = randomBytes((chunkBlocks - 1) * blockBytes);
      const data = Buffer.concat([stamp(first, chunk + 1), noise]);
      try {
        await nbd.write(first * blockBytes, data);
        acknowledged.push(chunk);
      } catch (error) {
        t.ok(
          error instanceof Failed && error.errno === 28,
          `the guest sees ENOSPC: ${String(error)}`,
        );
        failed.push(chunk);
      }
    };
    const chunks = (128 * MiB) / (chunkBlocks * blockBytes);
    let next = 0;
    while (next < chunks && failed.length === 0) {
      await writeChunk(next);
      next += 1;
    }
    t.equal(failed.length, 1, `${acknowledged.length} chunks were taken before the store was full`);
    const check = async (client: RawNbd, when: string): Promise<void> => {
      for (const chunk of acknowledged) {
        const first = chunk * chunkBlocks;
        const data = await client.read(first * blockBytes, blockBytes);
        if (readStamp(data, first) !== chunk + 1) t.fail(`${when}: chunk ${chunk} is lost`);
      }
      t.pass(when);
    };
    await check(nbd, 'reads go on while the store is full');
    await node.kill();
    const again = await until('the guest to be served', () => connect().catch(() => undefined));
    await check(again, 'after a crash with a full store');
    again.destroy();
    t.ok(await mount(store, 512 * MiB, 'remount'), 'room is made');
    const roomy = await connect();
    await until('writes to be taken again', () =>
      roomy.write(0, stamp(0, 1)).then(
        () => true,
        () => false,
      ),
    );
    await roomy.flush();
    await check(roomy, 'with room again');

    // The same store, read-only for a while: reads go on, writes wait in the journal, and nothing needs to be opened again.
    await node.client.call('snapshot.create', { path: '/a', name: 'before' });
    t.ok(await mount(store, 512 * MiB, 'remount', 'ro'), 'the store takes no writes');
    await roomy.write(7 * blockBytes, stamp(7, 77));
    await roomy.flush();
    const snapshot = node.client.call('snapshot.create', { path: '/a', name: 'after' });
    const waits = async (): Promise<string | null | undefined> =>
      (await node.client.call('metrics', {})).volumes[0]?.publishingWaits;
    t.equal(await until('publishing to wait', waits), 'STORE_UNAVAILABLE');
    await check(roomy, 'reads go on while the store is read-only');
    t.equal(readStamp(await roomy.read(7 * blockBytes, blockBytes), 7), 77);
    const { findings } = await node.client.call('volume.check', { path: '/a' });
    t.strictSame(findings, [], 'a check needs no writes');
    t.ok(await mount(store, 512 * MiB, 'remount', 'rw'), 'it takes writes again');
    t.match(await snapshot, { name: 'after' });
    const [open] = (await node.client.call('metrics', {})).volumes;
    t.match(open, { publishingWaits: null, readOnlyReason: null });
    await check(roomy, 'after the store was read-only');
    await roomy.disconnect();
    await node.stop();
  },
);

t.test(
  'J8 a journal disk that is full: the volume that needs it is refused, the others go on',
  { skip },
  async (t) => {
    const journal = mkdtempSync('/tmp/dvce-journal-');
    const room = 24 * MiB;
    t.ok(await mount(journal, room));
    const node = testNode(t, ['--workers', '1', '--journal-bytes', '16MiB']);
    mkdirSync(node.directory.root, { recursive: true });
    symlinkSync(journal, node.directory.journal);
    // Registered last, so it comes first: what uses the disk has ended then.
    t.teardown(async () => {
      await node.stop();
      await run(['umount', journal]);
      rmdirSync(journal);
    });
    await node.ensure();
    for (const path of ['/a', '/b'])
      await node.client.call('volume.create', { path, sizeBytes: 16 * MiB });
    const attach = (path: string) =>
      node.client.call('volume.attach', { path, attachId: `x${path.slice(1)}`, vm: 'v' });
    const { socketPath, exportName } = await attach('/a');
    const nbd = await RawNbd.connect({ path: socketPath }, exportName);
    await nbd.write(0, stamp(0, 1));
    await t.rejects(attach('/b'), { code: 'NO_SPACE', message: /the journal directory .*ENOSPC/ });
    await nbd.write(blockBytes, stamp(1, 2));
    await nbd.flush();
    t.ok(await mount(journal, 4 * room, 'remount'), 'room is made');
    const other = await attach('/b');
    const again = await RawNbd.connect({ path: other.socketPath }, other.exportName);
    await again.write(0, stamp(0, 3));
    await again.flush();
    t.equal(readStamp(await nbd.read(blockBytes, blockBytes), 1), 2);
    await nbd.disconnect();
    await again.disconnect();
  },
);
