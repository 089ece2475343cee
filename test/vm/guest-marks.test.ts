/** What was begun with a guest and outlives whoever began it: restarts by the power button, frozen file systems. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import t, { type Test } from 'tap';
import {
  limits,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { Freezing } from '../../src/vm/freezing.ts';
import { GuestAgent } from '../../src/vm/guest-agent.ts';
import { until } from '../support/blockd-process.ts';
import { type ScriptedAgent, scriptedAgent } from '../support/scripted-agent.ts';
import { type WatchedGuest, watchedGuest } from '../support/watched-guest.ts';

const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));
const never = new AbortController().signal;

async function withAgent(
  t: Test,
  owned = true,
): Promise<{ r: WatchedGuest; agent: ScriptedAgent }> {
  const r = await watchedGuest(t, owned);
  const agent = await scriptedAgent(t, r.guest.paths.agent);
  agent.begin();
  agent.answers.set('guest-fsfreeze-status', 'thawed');
  agent.answers.set('guest-fsfreeze-freeze', 2);
  agent.answers.set('guest-fsfreeze-thaw', 2);
  agent.answers.set('guest-shutdown', {});
  return { r, agent };
}

const times = (all: readonly string[], one: string): number =>
  all.filter((each) => each === one).length;

t.test('a guest that restarts by the button is reset once, and ends the next time', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  await r.guest.askToReboot(60_000);
  const { restarting } = r.guest.paths;
  t.equal(r.action, 'pause');
  t.ok(existsSync(restarting));
  r.effect = (command) => {
    if (command === 'system_reset') r.event('RESET', { guest: false, reason: 'host-qmp' });
    if (command === 'cont') r.status = 'running';
  };
  r.status = 'shutdown';
  r.event('STOP');
  await until('it is the end again', () => r.action === 'poweroff' && !existsSync(restarting));
  t.equal(times(r.commands, 'system_reset'), 1);
  t.equal(r.guest.resets, 1);
});

t.test('a guest that ignored the button ends when it is shut down later', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  await r.guest.askToReboot(1000);
  t.equal(r.action, 'pause');
  await until('the time is over', () => r.action === 'poweroff');
  await until('the mark is gone', () => !existsSync(r.guest.paths.restarting));
  t.notOk(r.commands.includes('system_reset'));
});

t.test('one with an agent resets itself: a power-off stays an end', async (t) => {
  const { r, agent } = await withAgent(t);
  await r.guest.begin(never);
  await r.guest.askToReboot(60_000);
  t.ok(agent.commands.includes('guest-shutdown'));
  t.equal(r.action, 'poweroff');
  t.notOk(existsSync(r.guest.paths.restarting));
});

t.test('the watch of a dead agent is taken over', async (t) => {
  await t.test('nobody restarts it: a power-off is an end', async (t) => {
    const r = await watchedGuest(t, false);
    r.action = 'pause';
    await r.guest.begin(never);
    t.equal(r.action, 'poweroff');
  });
  await t.test('it was to restart and has powered off: it begins anew', async (t) => {
    const r = await watchedGuest(t, false);
    writeFileSync(r.guest.paths.restarting, '');
    r.status = 'shutdown';
    r.effect = (command) => {
      if (command === 'system_reset') r.event('RESET');
      if (command === 'cont') r.status = 'running';
    };
    await r.guest.begin(never);
    await r.phase('running');
    t.equal(times(r.commands, 'system_reset'), 1);
    await until('the mark is gone', () => !existsSync(r.guest.paths.restarting));
  });
  await t.test('it was to restart and never did: a power-off is an end, in time', async (t) => {
    const r = await watchedGuest(t, false);
    writeFileSync(r.guest.paths.restarting, '');
    r.action = 'pause';
    await r.guest.begin(never);
    t.equal(r.action, 'pause');
    await until('the time is over', () => r.action === 'poweroff');
    t.notOk(r.commands.includes('system_reset'));
  });
  await t.test('it was reset and not continued: it goes on', async (t) => {
    const r = await watchedGuest(t, false);
    writeFileSync(r.guest.paths.restarting, '');
    r.status = 'paused';
    r.effect = (command) => {
      if (command === 'cont') r.status = 'running';
    };
    await r.guest.begin(never);
    t.equal(r.guest.observation.phase, 'running');
  });
  await t.test('it was frozen: it thaws, and is asked until it says so', async (t) => {
    const { r, agent } = await withAgent(t, false);
    writeFileSync(r.guest.paths.frozen, '');
    agent.answers.delete('guest-fsfreeze-thaw');
    await r.guest.begin(never);
    await until('it is asked', () => agent.commands.includes('guest-fsfreeze-thaw'));
    t.ok(existsSync(r.guest.paths.frozen), 'it refused');
    agent.answers.set('guest-fsfreeze-thaw', 2);
    await until('it goes on', () => !existsSync(r.guest.paths.frozen));
  });
  await t.test('what somebody else froze stays frozen', async (t) => {
    const { r, agent } = await withAgent(t, false);
    agent.answers.set('guest-fsfreeze-status', 'frozen');
    await r.guest.begin(never);
    await new Promise((done) => setTimeout(done, 200)); // several looks of the watch
    t.notOk(agent.commands.includes('guest-fsfreeze-thaw'));
  });
});

t.test('frozen and thawed', async (t) => {
  const { r, agent } = await withAgent(t);
  await r.guest.begin(never);
  const { freezing, paths } = r.guest;
  agent.onCommand = (command) => {
    if (command === 'guest-fsfreeze-freeze') t.ok(existsSync(paths.frozen), 'the mark is first');
  };
  await freezing.freeze(5000);
  await t.rejects(freezing.freeze(5000), { code: 'VM_STATE' });
  t.ok(existsSync(paths.frozen));
  await freezing.thaw(5000);
  t.notOk(existsSync(paths.frozen));
  t.equal(times(agent.commands, 'guest-fsfreeze-freeze'), 1);
});

t.test('a guest that nobody thaws goes on, and whoever thaws it too late is told', async (t) => {
  const { r } = await withAgent(t);
  await r.guest.begin(never);
  const startMs = performance.now();
  await r.guest.freezing.freeze(5000);
  await until('it goes on', () => !existsSync(r.guest.paths.frozen));
  t.ok(performance.now() - startMs >= limits.vmFrozenMs / 20);
  await t.rejects(r.guest.freezing.thaw(5000), { code: 'TIMED_OUT', message: /not frozen/ });
});

t.test('a guest that was thawed from inside is told of as well', async (t) => {
  const { r, agent } = await withAgent(t);
  await r.guest.begin(never);
  await r.guest.freezing.freeze(5000);
  agent.answers.set('guest-fsfreeze-thaw', 0);
  await t.rejects(r.guest.freezing.thaw(5000), { code: 'TIMED_OUT' });
});

t.test('a freeze without an answer is thawed, one that was refused need not be', async (t) => {
  const { r, agent } = await withAgent(t);
  await r.guest.begin(never);
  agent.answers.delete('guest-fsfreeze-freeze');
  await t.rejects(r.guest.freezing.freeze(5000), { code: 'UNSUPPORTED' });
  t.notOk(existsSync(r.guest.paths.frozen));
  agent.answers.set('guest-fsfreeze-freeze', 2);
  agent.silent.add('guest-fsfreeze-freeze');
  await t.rejects(r.guest.freezing.freeze(5000), { code: 'TIMED_OUT' });
  await until('it is thawed', () => !existsSync(r.guest.paths.frozen));
  t.equal(times(agent.commands, 'guest-fsfreeze-thaw'), 1);
});

t.test(
  'the first look after a freeze without an answer thaws, one in its time does not',
  async (t) => {
    const { r, agent } = await withAgent(t);
    const { agent: path, frozen: mark } = r.guest.paths;
    const world = { clock: systemClock, timers: systemTimers, random: systemRandom };
    const freezing = new Freezing({
      ...{ mark, vm: 'web1', logger: silentLogger },
      agent: new GuestAgent({ path, vm: 'web1', ...world }),
      clock: { wallMs: () => 0, monotonicMs: () => 0 },
    });
    mkdirSync(dirname(mark), { recursive: true });
    await t.resolves(freezing.freeze(5000));
    await freezing.look();
    t.ok(existsSync(mark));
    await freezing.thaw(5000);
    agent.silent.add('guest-fsfreeze-freeze');
    await t.rejects(freezing.freeze(200), { code: 'TIMED_OUT' });
    await freezing.look();
    t.notOk(existsSync(mark));
  },
);

t.test('a guest without an agent is not frozen', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  await t.rejects(r.guest.freezing.freeze(1000));
  t.notOk(existsSync(r.guest.paths.frozen));
});
