/** The client of the guest agent, against one that answers late, wrong, or what nobody asked. */
import { mkdtempSync, rmSync } from 'node:fs';
import t, { type Test } from 'tap';
import { systemClock, systemRandom, systemTimers } from '../../src/base/index.ts';
import { GuestAgent } from '../../src/vm/guest-agent.ts';
import { type ScriptedAgent, scriptedAgent } from '../support/scripted-agent.ts';

const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));

async function rig(t: Test): Promise<{ agent: GuestAgent; guest: ScriptedAgent }> {
  const directory = mkdtempSync('/tmp/dvce-ga-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const path = `${directory}/agent.sock`;
  const guest = await scriptedAgent(t, path);
  const world = { clock: systemClock, timers: systemTimers, random: systemRandom };
  return { guest, agent: new GuestAgent({ path, vm: 'web1', ...world }) };
}

t.test('answers that an earlier conversation left are skipped', async (t) => {
  const { agent, guest } = await rig(t);
  guest.begin();
  guest.leftovers = '{"return": "thawed"}\n\n{"error": {"desc": "old"}}\n{"return": 5}\n';
  guest.answers.set('guest-fsfreeze-status', 'frozen');
  t.equal(await agent.freezeStatus(), 'frozen');
});

t.test(
  'an agent that does not answer costs the deadline, and the next question works',
  async (t) => {
    const { agent, guest } = await rig(t);
    t.equal(await agent.ping(50), false);
    await t.rejects(agent.freeze(50), { code: 'TIMED_OUT', message: /web1/ });
    guest.begin();
    t.equal(await agent.ping(5000), true);
  },
);

t.test('addresses, and what is no list of them', async (t) => {
  const { agent, guest } = await rig(t);
  guest.begin();
  const address = { 'ip-address': '10.0.2.15', 'ip-address-type': 'ipv4', prefix: 24 };
  guest.answers.set('guest-network-get-interfaces', [
    { name: 'lo' },
    { name: 'eth0', 'hardware-address': '52:54:00:00:00:01', 'ip-addresses': [address] },
  ]);
  t.strictSame(await agent.interfaces(), [
    { name: 'lo', mac: null, addresses: [] },
    { name: 'eth0', mac: '52:54:00:00:00:01', addresses: ['10.0.2.15'] },
  ]);
  guest.answers.set('guest-network-get-interfaces', [{ name: 7 }]);
  await t.rejects(agent.interfaces(), { code: 'PROTOCOL' });
});

t.test('freeze and thaw; a refusal says what the guest said', async (t) => {
  const { agent, guest } = await rig(t);
  guest.begin();
  guest.answers.set('guest-fsfreeze-freeze', 2);
  t.equal(await agent.freeze(1000), 2);
  await t.rejects(agent.thaw(1000), { code: 'UNSUPPORTED', message: /unknown/ });
});

t.test('a guest that obeys a shutdown does not answer; one that refuses does', async (t) => {
  const { agent, guest } = await rig(t);
  guest.begin();
  await t.rejects(agent.shutdown('reboot'), { code: 'UNSUPPORTED' });
  guest.answers.set('guest-shutdown', {});
  await agent.shutdown('reboot');
  t.ok(guest.commands.includes('guest-shutdown'));
});

t.test('conversations take turns', async (t) => {
  const { agent, guest } = await rig(t);
  guest.begin();
  guest.answers.set('guest-fsfreeze-status', 'thawed');
  const all = await Promise.all([agent.ping(), agent.freezeStatus(), agent.ping()]);
  t.strictSame(all, [true, 'thawed', true]);
  const words = guest.commands.filter((word) => word !== 'guest-sync');
  t.strictSame(words, ['guest-ping', 'guest-fsfreeze-status', 'guest-ping']);
});
