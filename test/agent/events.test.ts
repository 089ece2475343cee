/** Events: one order, resume, refusal instead of gaps, ends for those who cannot keep up. */
import t from 'tap';
import { changeOf } from '../../src/agent/change-events.ts';
import { Events, matches, parsePatterns } from '../../src/agent/events.ts';
import type { Event } from '../../src/api/index.ts';
import { limits, silentLogger, systemClock } from '../../src/base/index.ts';

const make = (wallMs = 1_700_000_000_000): Events =>
  new Events({ clock: { ...systemClock, wallMs: () => wallMs }, logger: silentLogger });

t.test('who comes back with a number gets what was missed, once and in order', async (t) => {
  const events = make();
  events.emit('vm.created', '/v1/vms/a');
  const since = events.newest;
  for (let n = 0; n < 5; n += 1) events.emit('vm.changed', '/v1/vms/a', { n });
  events.emit('volume.created', '/v1/volumes/b');
  const heard: Event[] = [];
  const stop = events.follow(since, ['vm.*'], (event) => heard.push(event), t.fail);
  events.emit('vm.deleted', '/v1/vms/a');
  stop();
  events.emit('vm.created', '/v1/vms/c');
  t.strictSame(
    heard.map(({ seq }) => seq - since),
    [1, 2, 3, 4, 5, 7],
  );
  t.equal(heard.at(-1)?.type, 'vm.deleted');
  t.equal(events.listeners, 0);
});

t.test('too far behind, or of another run: GONE, never a gap', async (t) => {
  const events = make();
  const first = events.newest;
  for (let n = 0; n <= limits.eventsKept; n += 1) events.emit('vm.changed', '/v1/vms/a');
  t.throws(() => events.after(first), { code: 'GONE', httpStatus: 410 });
  t.equal(events.after(first + 1).length, limits.eventsKept, 'the ring is all used');
  t.equal(events.after(events.newest).length, 0);
  t.throws(() => events.after(events.newest + 1), { code: 'GONE' });
  t.equal(events.after(0).length, limits.eventsKept, '0: all that is kept');
  const later = make(1_700_000_000_500);
  t.throws(() => later.after(events.newest), { code: 'GONE' }, 'the next run of the agent');
  t.throws(() => later.after(1), { code: 'GONE' });
});

t.test('listeners are bounded; one that fails is ended and hurts no other', async (t) => {
  const events = make();
  let ended = 0;
  events.follow(
    undefined,
    [],
    () => {
      throw new Error('broken');
    },
    () => {
      ended += 1;
    },
  );
  const heard: Event[] = [];
  events.follow(undefined, [], (event) => heard.push(event), t.fail);
  events.emit('node.changed', '/v1/status');
  t.equal(ended, 1);
  t.equal(heard.length, 1);
  while (events.listeners < limits.eventListenersMax)
    events.follow(
      undefined,
      [],
      () => {},
      () => {
        ended += 1;
      },
    );
  t.throws(
    () =>
      events.follow(
        undefined,
        [],
        () => {},
        () => {},
      ),
    { code: 'BUSY', httpStatus: 429 },
  );
});

t.test('patterns', async (t) => {
  t.ok(matches([], 'vm.state'));
  t.ok(matches(parsePatterns('vm.*, operation.ended'), 'operation.ended'));
  t.notOk(matches(parsePatterns('vm.*'), 'volume.created'));
  t.notOk(matches(parsePatterns('vm.state'), 'vm.state-more'));
  for (const bad of ['', 'vms.*', 'vm', 'vm.', 'vm.*,', '../*', 'vm.\n', '*,'.repeat(40)])
    t.throws(() => parsePatterns(bad), { code: 'INVALID_ARGUMENT' }, JSON.stringify(bad));
});

t.test('requests that changed something, and those that did not', async (t) => {
  const change = (method: string, url: string, status: number, location?: string) => {
    const made = changeOf(method, url, status, location);
    return made === undefined ? '-' : `${made.type} ${made.resource}`;
  };
  t.equal(change('POST', '/v1/vms', 201, '/v1/vms/a'), 'vm.created /v1/vms/a');
  t.equal(change('POST', '/v1/clones', 201, '/v1/volumes/x'), 'volume.created /v1/volumes/x');
  t.equal(change('DELETE', '/v1/volumes/a%2Fb', 204), 'volume.deleted /v1/volumes/a%2Fb');
  t.equal(change('POST', '/v1/volumes/a/resize', 200), 'volume.changed /v1/volumes/a');
  t.equal(
    change('DELETE', '/v1/volumes/a/snapshots/s', 204),
    'snapshot.deleted /v1/volumes/a/snapshots/s',
  );
  t.equal(change('GET', '/v1/vms', 200), '-');
  t.equal(change('DELETE', '/v1/vms/a?dryRun=true', 200), '-');
  t.equal(change('POST', '/v1/vms/a/start', 202), '-', 'its operation tells');
  t.equal(change('DELETE', '/v1/vms/a', 409), '-');
  t.equal(change('POST', '/v1/shutdown', 204), '-');
});
