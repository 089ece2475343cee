// limit: 120 s
/**
 * Points in time through the real program (DD-0013): flushes of an NBD client, blockd killed in the middle, and every flush had
 * back: by its number, before another, at a time; read-only, as a clone, by rolling back.
 */
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { exitCodes } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

interface Page {
  readonly points: readonly { readonly flush: number; readonly time: string }[];
  readonly next: number | null;
}

async function fails(t: Test, dvce: Dvce, words: string[], code: number, text: RegExp) {
  const outcome = await dvce.run(words);
  t.equal(outcome.code, code, `${words.join(' ')}: ${outcome.stderr}`);
  t.match(outcome.stderr, text, words.join(' '));
}

async function killBlockd(dvce: Dvce): Promise<void> {
  const pid = dvce.holder('lock');
  if (pid === undefined) throw new Error('no blockd');
  process.kill(pid, 'SIGKILL');
  await until('blockd to be back', async () => (await dvce.cli('volume list')).code === 0);
}

t.test('every flush can be had back, from before a kill of blockd and after it', async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  const front = { path: join(dvce.data, 'run/nbd.sock') };
  await fails(
    t,
    dvce,
    ['volume', 'create', '/cdp/x', '--size', '16MiB', '--retain', '5s'],
    exitCodes.usage,
    /60000|a minute/,
  );
  await dvce.ok('volume create /cdp/a --size 16MiB --retain 24h');
  const flushes: number[] = [];
  const write = async (client: RawNbd, count: number): Promise<void> => {
    await client.write(0, stamp(0, count));
    await client.write(blockBytes * count, stamp(count, count));
    await client.flush();
    flushes.push(count);
  };
  const client = await RawNbd.connect(front, '/cdp/a');
  for (let count = 1; count <= 4; count += 1) await write(client, count);
  const between = new Date().toISOString();
  await until('another millisecond', () => new Date().toISOString() > between);
  await write(client, 5);
  await client.write(0, stamp(0, 99));
  await killBlockd(dvce);
  const again = await RawNbd.connect(front, '/cdp/a');
  t.equal(readStamp(await again.read(0, blockBytes), 0), 99, 'what was acknowledged is there');
  for (let count = 6; count <= 8; count += 1) await write(again, count);

  const { points } = await dvce.json<Page>('volume points /cdp/a');
  t.equal(points.length, flushes.length, 'one for each flush');
  const numbers = points.map(({ flush }) => flush).reverse();
  const page = await dvce.json<Page>('volume points /cdp/a --limit 3');
  t.same([page.points.length, page.next], [3, numbers[5]]);
  t.equal((await dvce.json<Page>(`volume points /cdp/a --until ${between}`)).points.length, 4);
  t.match(await dvce.ok('volume show /cdp/a'), /points in time +every flush of the last 1d/);
  t.match(await dvce.json('volume show /cdp/a'), {
    retainMs: 86_400_000,
    points: { oldest: { flush: numbers[0] }, newest: { flush: numbers[7] } },
  });

  const holds = async (name: string, count: number): Promise<void> => {
    const reader = await RawNbd.connect(front, name);
    t.equal(readStamp(await reader.read(0, blockBytes), 0), count, name);
    for (let index = 1; index <= 8; index += 1) {
      const found = readStamp(await reader.read(index * blockBytes, blockBytes), index);
      t.equal(found, index <= count ? index : 0, `${name}: block ${index}`);
    }
    await reader.disconnect();
  };
  await dvce.ok(`volume at /cdp/a --time ${between}`);
  await holds(`/cdp/a@at-flush-${numbers[3]}`, 4);
  await dvce.ok(`volume at /cdp/a --before-flush ${numbers[5]} --snapshot lost`);
  await holds('/cdp/a@lost', 5);
  const exported = await dvce.ok(`volume at /cdp/a --flush ${numbers[6]} --export`);
  t.match(exported, /nbd\+unix:/);
  await holds(`/cdp/a@at-flush-${numbers[6]}`, 7);
  await killBlockd(dvce);
  await dvce.ok(`volume at /cdp/a --flush ${numbers[1]} --clone /cdp/b`);
  await holds('/cdp/b', 2);
  await holds('/cdp/a@lost', 5);
  const gone = ['volume', 'at', '/cdp/a', '--time', '2001-01-01T00:00:00'];
  await fails(t, dvce, gone, exitCodes.notFound, new RegExp(`oldest.* flush ${numbers[0]} `));
  await fails(t, dvce, ['volume', 'at', '/cdp/a'], exitCodes.usage, /exactly one/);
  await fails(t, dvce, ['volume', 'points', '/cdp/b'], exitCodes.notFound, /--retain 24h/);

  await dvce.ok('snapshot rollback /cdp/a@lost --yes');
  await holds('/cdp/a', 5);
  await dvce.ok('volume check /cdp/a');
  t.match(await dvce.ok('volume update /cdp/a --retain off'), /no points in time/);
  t.match(await dvce.json('volume show /cdp/a'), { retainMs: null });
});
