/**
 * The trash against everything that could take its volume or its name at the same time: whatever the interleaving, a volume
 * that is usable has one name, one that has none is in the trash or on its way out, and nothing is half of both (N1, N2).
 */
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import {
  createVolume,
  listTrash,
  listVolumes,
  reap,
  restoreVolume,
  trashVolume,
} from '../../src/hlfs/index.ts';
import { audit } from '../support/catalog-audit.ts';
import { cleanUp, create, emptyTrash, raceAll, restore, trash } from '../support/catalog-race.ts';
import { crashingAt, reclaimLog, World } from '../support/catalog-world.ts';

raceAll(
  t,
  {
    'N1 undelete, a new volume of that name': [restore(), create('/t/old')],
    'N1 undelete, reaper': [restore('/x/old'), cleanUp],
    'N2 undelete, the end of the trash': [restore(), emptyTrash],
    'N1 undelete, twice': [restore('/x'), restore('/y')],
    'N1 deletion into the trash, undelete of it': [trash('/m'), restore('/m')],
  },
  40,
);

t.test(
  'N2 an intent that was left behind does not undo a volume that is in the trash',
  async (t) => {
    let met = 0;
    for (let at = 1; at < 40; at += 1) {
      const world = new World(at);
      const context = await world.start();
      const dying = world.through(context, crashingAt(world.store, at));
      await createVolume(dying, '/a', { sizeBytes: MiB }).catch(() => undefined);
      const helper = await world.helper();
      if ((await listVolumes(helper)).length === 0) continue;
      if ((await helper.documents.names('intents')).length === 0) break;
      met += 1;
      await trashVolume(helper, '/a', () => undefined, 1000);
      const next = await world.start();
      await reap(next, reclaimLog);
      const [kept] = await listTrash(next);
      t.equal(kept?.trash.path, '/a');
      if (kept !== undefined) await restoreVolume(next, kept.id);
      await reap(next, reclaimLog);
      t.same([...(await audit(next, { reaped: true })).volumes.keys()], ['/a']);
    }
    t.ok(met > 0, `${met} crashes between the head and the end of the intent`);
  },
);
