/** Reads that wait for the disk: so many at a time, in turns of the logs. */
import t from 'tap';
import type { FileSystem, OpenFile } from '../../src/base/index.ts';
import { FileCache } from '../../src/stores/file-cache.ts';
import { logOf, ReadGate } from '../../src/stores/read-gate.ts';

t.test('N5 no more than so many at a time, and each once', async (t) => {
  const gate = new ReadGate(3);
  const started: string[] = [];
  for (let i = 0; i < 20; i += 1) gate.enter('a', () => void started.push(`a${i}`));
  t.equal(started.length, 3);
  gate.enter('b', () => void started.push('b0'));
  gate.enter('b', () => void started.push('b1'));
  for (let i = 0; i < 4; i += 1) gate.leave();
  t.same(started.slice(3), ['a3', 'b0', 'a4', 'b1'], 'in turns');
  for (let i = 0; i < 18; i += 1) gate.leave();
  t.equal(started.length, 22);
  t.equal(new Set(started).size, 22);
  gate.enter('c', () => void started.push('c0'));
  t.equal(started.at(-1), 'c0', 'room again');
});

t.test('reads that end at once do not pile up on each other', async (t) => {
  const gate = new ReadGate(1);
  let count = 0;
  gate.enter('a', () => {});
  for (let i = 0; i < 50_000; i += 1)
    gate.enter('a', () => {
      count += 1;
      gate.leave();
    });
  gate.leave();
  t.equal(count, 50_000);
});

t.test('a flood of one log in the cache of files: the read of another comes soon', async (t) => {
  const pending: (() => void)[] = [];
  let most = 0;
  const file = {
    read: (_target: Uint8Array, _at: number, done: (error: null, count: number) => void) => {
      pending.push(() => done(null, 4096));
      most = Math.max(most, pending.length);
    },
    closeSync: () => {},
  } as unknown as OpenFile; // what the cache uses of one
  const files = { openSync: () => file } as unknown as FileSystem; // likewise
  const cache = new FileCache({ files, root: '/s', threads: 3 }, 10);
  const [a, b] = ['a', 'b'].map((one) => `logs/${one}/seg/00000000/0000000001`);
  const ended: string[] = [];
  const read = (key: string): void =>
    cache.read(key, 0, Buffer.alloc(4096), () => void ended.push(logOf(key)));
  for (let i = 0; i < 200; i += 1) read(a ?? '');
  read(b ?? '');
  while (pending.length > 0) pending.shift()?.();
  t.equal(most, 4);
  t.equal(ended.length, 201);
  t.ok(ended.indexOf('logs/b') <= 6, `${ended.indexOf('logs/b')} of the flood before it`);
  await cache.close();
});
