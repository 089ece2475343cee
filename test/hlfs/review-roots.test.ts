/** A damaged newest root must not cost data (L3), and damage elsewhere stays where it is. */
import t, { type Test } from 'tap';
import { readHeader } from '../../src/hlfs/segments.ts';
import { filled, ReviewHost, read, reopen, within, write } from '../support/review-host.ts';

/** Three roots, the newest with a block that only it has. @returns the host with the volume killed */
async function threeRoots(t: Test) {
  const host = new ReviewHost(t);
  const context = await host.start();
  const id = await host.create(context);
  const volume = await reopen(context, id);
  let newest = 0;
  for (let round = 1; round < 4; round += 1) {
    await write(volume, round * 2 ** 20, filled(round));
    await volume.publishAll();
  }
  const { log } = volume;
  for (let number = 1; number < 20; number += 1) {
    const header = await readHeader(host.store, log, number);
    if (header !== undefined && header.rootBytes > 0) newest = number;
  }
  host.kill();
  const header = await readHeader(host.store, log, newest);
  if (header === undefined) throw new Error('no root');
  return { host, id, header, key: `/${String(newest).padStart(10, '0')}` };
}

const overlaps = (at: number, length: number, from: number, bytes: number): boolean =>
  at < from + bytes && from < at + length;

const places = [
  ['first copy of the header', 20, 1],
  ['root record', -1, 40],
  ['map pages', 4096, 1],
] as const;

for (const [what, from, bytes] of places)
  t.test(`L3 the newest root has a damaged ${what}: nothing is lost`, async (t) => {
    const { host, id, header, key } = await threeRoots(t);
    const start = from < 0 ? header.rootOffset : from;
    host.alterRead = (name, offset, target) => {
      if (!name.endsWith(key) || !overlaps(offset, target.length, start, bytes)) return;
      const at = Math.max(0, start - offset);
      target[at] = (target[at] ?? 0) ^ 0x10;
    };
    const volume = await within(5000, reopen(await host.start(), id), 'opening');
    for (let round = 1; round < 4; round += 1)
      t.same(await read(volume, round * 2 ** 20, 4096), filled(round), `block ${round}`);
    await within(5000, write(volume, 0, filled(9)), 'a write');
    await within(5000, volume.publishAll(), 'a root');
  });

t.test(
  'B-25 a newest root of which nothing can be read is an error, never old content',
  async (t) => {
    const { host, id, header, key } = await threeRoots(t);
    host.alterRead = (name, offset, target) => {
      if (!name.endsWith(key)) return;
      if (offset === 0 || offset === header.totalBytes - 256) target.fill(0x55);
    };
    let found: Buffer | undefined;
    try {
      const volume = await within(5000, reopen(await host.start(), id), 'opening');
      found = await read(volume, 3 * 2 ** 20, 4096);
    } catch (error) {
      t.match(error, { code: /SEGMENT_DAMAGED|LOG_GAP|JOURNAL_DAMAGED/ });
      return;
    }
    t.same(found, filled(3));
  },
);
