/** Phases of a guest, from what a scripted hypervisor says. */
import { once } from 'node:events';
import t from 'tap';
import { watchedGuest } from '../support/watched-guest.ts';

const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));

const never = new AbortController().signal;

t.test('a guest stopped by an I/O error is continued until it stays running', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  t.match(r.guest.observation, { phase: 'running', pid: r.process.pid, detail: null });
  r.status = 'io-error';
  r.event('BLOCK_IO_ERROR', { operation: 'write', reason: 'Input/output error', nospace: false });
  r.event('STOP');
  await r.phase('io-error');
  t.equal(r.guest.observation.detail, 'write failed: Input/output error');
  // The first three tries fail again.
  r.effect = (command) => {
    if (command === 'cont' && r.commands.filter((one) => one === 'cont').length > 3)
      r.status = 'running';
  };
  await r.phase('running');
  t.equal(r.commands.filter((one) => one === 'cont').length, 4);
  t.equal(r.guest.observation.detail, null);
});

t.test('no space left is said as such', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  r.status = 'io-error';
  r.event('BLOCK_IO_ERROR', { operation: 'write', reason: 'x', nospace: true });
  await r.until(({ detail }) => detail === 'write failed: no space left');
});

t.test('a guest paused by somebody is not continued', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  r.status = 'paused';
  r.event('STOP');
  await r.phase('paused');
  await new Promise((done) => setTimeout(done, 300)); // several looks of the watch
  t.notOk(r.commands.includes('cont'));
  r.status = 'running';
  r.event('RESUME');
  await r.phase('running');
});

t.test('the power button is pressed again until the guest listens', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  await r.guest.powerDown();
  t.equal(r.guest.observation.phase, 'stopping');
  r.effect = (command) => {
    if (command !== 'system_powerdown') return;
    r.event('SHUTDOWN', { guest: true, reason: 'guest-shutdown' });
    r.process.kill('SIGTERM');
    r.hangUp();
  };
  await r.phase('stopped');
  t.same(r.commands, ['qmp_capabilities', 'set-action', 'system_powerdown', 'system_powerdown']);
  t.match(r.ends, [{ phase: 'stopped', pid: null, ready: null, detail: 'guest-shutdown' }]);
});

for (const owned of [true, false])
  t.test(`how a guest ended: ${owned ? 'started here' : 'adopted'}`, async (t) => {
    await t.test('it vanished: crashed, with the last words of the hypervisor', async (t) => {
      const r = await watchedGuest(t, owned);
      await r.guest.begin(never);
      r.process.kill('SIGKILL');
      r.hangUp();
      await r.phase('crashed');
      t.match(r.ends, [{ phase: 'crashed', pid: null, detail: 'last words' }]);
    });
    await t.test('it panicked', async (t) => {
      const r = await watchedGuest(t, owned);
      await r.guest.begin(never);
      r.event('SHUTDOWN', { guest: true, reason: 'guest-panic' });
      await new Promise((done) => setTimeout(done, 20));
      r.process.kill('SIGKILL');
      r.hangUp();
      await r.phase('crashed');
    });
    await t.test('it was killed by us', async (t) => {
      const r = await watchedGuest(t, owned);
      await r.guest.begin(never);
      // The hypervisor answers `quit` and hangs.
      await r.guest.kill();
      t.match(r.ends, [{ phase: 'stopped', detail: 'killed' }]);
      t.ok(r.commands.includes('quit'));
    });
  });

t.test('a hypervisor that hangs up but lives is connected to again', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  r.hangUp();
  r.status = 'paused';
  await r.phase('paused');
  t.equal(r.commands.filter((one) => one === 'qmp_capabilities').length, 2);
  t.same(r.ends, []);
});

t.test('a start whose process ends says what the hypervisor said', async (t) => {
  const r = await watchedGuest(t);
  r.process.kill('SIGKILL');
  await once(r.process, 'exit');
  await t.rejects(r.guest.begin(never), { code: 'HYPERVISOR_FAILED', message: /last words/ });
});

t.test('closing the watch leaves the guest alone', async (t) => {
  const r = await watchedGuest(t);
  await r.guest.begin(never);
  r.guest.close();
  await new Promise((done) => setTimeout(done, 150));
  t.equal(r.process.signalCode, null);
  t.notOk(r.commands.includes('quit'));
  t.same(r.ends, []);
});
