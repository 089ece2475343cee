// limit: 180 s
/** B-24: a store that is full. A write either fails or is there later; never success and loss. Reads go on (S9). */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmdirSync } from 'node:fs';
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
    await roomy.disconnect();
    await node.stop();
  },
);
