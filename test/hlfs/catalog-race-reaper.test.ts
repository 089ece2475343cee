/** Scenario 11 [H], the documents' part: clone, rollback and deletions against the deletion of the middle clone and the reaper. */
import t from 'tap';
import { type Random, seededRandom } from '../../src/base/index.ts';
import {
  cleanUp,
  clone,
  dropVolume,
  race,
  raceAll,
  removeSnapshot,
  removeVolume,
  rollback,
} from '../support/catalog-race.ts';

raceAll(
  t,
  {
    'clone of the middle, deletion of the middle': [clone('/m', 'm', '/c'), removeVolume('/m')],
    'rollback to a retired log, deletion of that snapshot and reaper': [
      rollback('/r', 'v'),
      async (context) => {
        await removeSnapshot('/r', 'v')(context);
        await cleanUp(context);
      },
    ],
    'rollback, deletion of the volume': [rollback('/m', 'm'), dropVolume('/m')],
    'rollback, reaper': [rollback('/m', 'm'), cleanUp],
    'deletion of the middle, twice': [removeVolume('/m'), removeVolume('/m')],
  },
  20,
);

t.test(
  'G3 scenario 11: clone, snapshot delete, deletion of the middle, random schedules',
  async (t) => {
    const seen = new Map<string, number>();
    const schedule = (random: Random): ((waiting: readonly number[]) => number) => {
      let chosen = 0;
      return (waiting) => {
        if (random.below(4) === 0 || !waiting.includes(chosen))
          chosen = waiting[random.below(waiting.length)] as number;
        return chosen;
      };
    };
    for (let seed = 1; seed <= 60; seed += 1) {
      const tasks = [
        clone('/m', 'm', '/c'),
        removeSnapshot('/m', 'm'),
        removeVolume('/m'),
        clone('/a', 's', '/d'),
        removeSnapshot('/a', 's'),
      ];
      const { outcomes } = await race(seed, tasks, schedule(seededRandom(seed)));
      const key = outcomes.map((one) => ('value' in one ? 'y' : 'n')).join('');
      seen.set(key, (seen.get(key) ?? 0) + 1);
    }
    t.ok(seen.size > 3, `${[...seen].map(([key, count]) => `${key}:${count}`).join(' ')}`);
  },
);
