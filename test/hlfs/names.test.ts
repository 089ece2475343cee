import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import {
  createVolume,
  deleteVolume,
  getVolume,
  type HlfsContext,
  listVolumes,
  reap,
  renameVolume,
  rootDirectory,
} from '../../src/hlfs/index.ts';
import { audit } from '../support/catalog-audit.ts';
import { crashingAt, reclaimLog, World, watched } from '../support/catalog-world.ts';

const free = (): undefined => undefined;
const size = { sizeBytes: MiB };

const paths = async (context: HlfsContext): Promise<string[]> =>
  (await listVolumes(context)).map(({ path }) => path);

t.test('N1 a volume gets another name, its identity stays (B-29)', async (t) => {
  const context = await new World().start();
  t.equal(rootDirectory, '00000000-0000-4000-8000-000000000000');
  const before = await createVolume(context, '/a/b/v', size);
  const after = await renameVolume(context, '/a/b/v', '/c/w');
  t.equal(after.id, before.id);
  t.match(after, { path: '/c/w', head: { name: 'w', log: before.head.log, epoch: '1' } });
  t.same(await paths(context), ['/c/w']);
  await t.rejects(getVolume(context, '/a/b/v'), { code: 'NOT_FOUND' });
  t.same(await renameVolume(context, '/c/w', '/c/w'), after, 'to itself');
  await createVolume(context, '/a', size);
  await audit(context, { reaped: true });
});

t.test(
  'N1 a volume and a directory cannot share a name; empty directories go by themselves',
  async (t) => {
    const context = await new World().start();
    await createVolume(context, '/a/b/v', size);
    await createVolume(context, '/x', size);
    for (const [from, to] of [
      ['/x', '/a/b'],
      ['/x', '/a'],
      ['/x', '/x/y'],
      ['/a/b/v', '/x'],
      ['/x', '/a/b/v/w'],
    ] as const)
      await t.rejects(
        renameVolume(context, from, to),
        { code: 'ALREADY_EXISTS' },
        `${from} to ${to}`,
      );
    t.same(await paths(context), ['/a/b/v', '/x']);
    await deleteVolume(context, '/a/b/v', free);
    await renameVolume(context, '/x', '/a');
    t.same(await paths(context), ['/a']);
    await deleteVolume(context, '/a', free);
    await reap(context, reclaimLog);
    await audit(context, { reaped: true });
    t.same(await paths(context), []);
  },
);

t.test('renaming a directory is not offered', async (t) => {
  const context = await new World().start();
  await createVolume(context, '/a/b/v', size);
  const refused = { code: 'UNSUPPORTED', advice: /one by one/ };
  await t.rejects(renameVolume(context, '/a/b', '/c'), refused);
  await t.rejects(renameVolume(context, '/a/c', '/c'), { code: 'NOT_FOUND' });
});

t.test('B-03 listing and finding change nothing', async (t) => {
  const world = new World();
  const context = await world.start();
  for (const path of ['/a/v', '/b', '/c/d/w']) await createVolume(context, path, size);
  const calls: string[] = [];
  const seen = world.through(
    context,
    watched(context.store, (call, isMutation) => void (isMutation && calls.push(call))),
  );
  await listVolumes(seen);
  await getVolume(seen, '/a/v');
  await t.rejects(getVolume(seen, '/a/none'), { code: 'NOT_FOUND' });
  t.same(calls, []);
});

t.test('N1 a rename cut short leaves one name of the two, and the next look repairs', async (t) => {
  for (let at = 1; ; at += 1) {
    const world = new World(at);
    const first = await world.start();
    const { id } = await createVolume(first, '/a/v', size);
    const dying = world.through(first, crashingAt(world.store, at));
    const isDone = await renameVolume(dying, '/a/v', '/b/w').then(
      () => true,
      () => false,
    );
    const context = await world.start();
    const listed = await paths(context);
    t.equal(listed.length, 1, `crash at ${at}: one name, ${listed}`);
    const [path = ''] = listed;
    t.equal((await getVolume(context, path)).id, id);
    const other = path === '/b/w' ? '/a/v' : '/b/w';
    await t.rejects(getVolume(context, other), { code: 'NOT_FOUND' });
    await createVolume(context, other, size);
    await deleteVolume(context, other, free);
    await reap(context, reclaimLog);
    await audit(context, { reaped: true });
    if (isDone) break;
  }
});

t.test(
  'N1 whoever drops a claim and the rename that made it: never a volume without a name',
  async (t) => {
    // The observer looks for the new name between each two calls of the rename.
    for (let at = 1; ; at += 1) {
      const world = new World(at);
      const context = await world.start();
      const { id } = await createVolume(context, '/a/v', size);
      let count = 0;
      const looked = watched(context.store, async () => {
        count += 1;
        if (count === at) await getVolume(context, '/b/w').catch(() => undefined);
      });
      await renameVolume(world.through(context, looked), '/a/v', '/b/w');
      t.equal((await getVolume(context, '/b/w')).id, id, `looked before call ${at}`);
      await audit(context, { reaped: false });
      await reap(context, reclaimLog);
      await audit(context, { reaped: true });
      if (count < at) break;
    }
  },
);

t.test('N1 two renames of one volume, and two volumes to one name', async (t) => {
  for (let seed = 1; seed <= 20; seed += 1) {
    const world = new World(seed);
    const context = await world.start();
    await createVolume(context, '/v', size);
    await createVolume(context, '/x/w', size);
    const slow = (): HlfsContext =>
      world.through(
        context,
        watched(context.store, async () => {
          for (let turns = world.random.below(6); turns > 0; turns -= 1) await Promise.resolve();
        }),
      );
    await Promise.allSettled([
      renameVolume(slow(), '/v', '/b/n'),
      renameVolume(slow(), '/v', '/c'),
      renameVolume(slow(), '/x/w', '/b/n'),
      deleteVolume(slow(), '/x/w', free),
      createVolume(slow(), '/b', size),
    ]);
    await audit(context, { reaped: false });
    await reap(context, reclaimLog);
    const { volumes } = await audit(context, { reaped: true });
    t.equal(volumes.size, (await paths(context)).length, `seed ${seed}: ${[...volumes.keys()]}`);
  }
});

t.test('N1 a directory that is being removed while a name is put into it', async (t) => {
  for (let at = 1; ; at += 1) {
    const world = new World(at);
    const context = await world.start();
    await createVolume(context, '/a/b/old', size);
    let count = 0;
    const looked = watched(context.store, async () => {
      count += 1;
      if (count === at) await createVolume(context, '/a/b/new', size);
    });
    await deleteVolume(world.through(context, looked), '/a/b/old', free);
    if (count < at) break;
    t.same(await paths(context), ['/a/b/new'], `made before call ${at}`);
    await reap(context, reclaimLog);
    await audit(context, { reaped: true });
  }
  for (let at = 1; ; at += 1) {
    const world = new World(at);
    const context = await world.start();
    await createVolume(context, '/a/b/old', size);
    let count = 0;
    const looked = watched(context.store, async () => {
      count += 1;
      if (count === at) await deleteVolume(context, '/a/b/old', free);
    });
    await createVolume(world.through(context, looked), '/a/b/new', size);
    if (count < at) break;
    t.same(await paths(context), ['/a/b/new'], `removed before call ${at}`);
    await reap(context, reclaimLog);
    await audit(context, { reaped: true });
  }
});
