/**
 * Phases of a guest, from what a scripted hypervisor says. The process is a real one (it sleeps), time runs twenty times
 * as fast.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import t, { type Test } from 'tap';
import {
  type Clock,
  MiB,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
  type Timers,
} from '../../src/base/index.ts';
import { guestPaths } from '../../src/vm/arguments.ts';
import { Guest } from '../../src/vm/guest.ts';
import type { VmDefinition, VmObservation } from '../../src/vm/index.ts';
import { identify } from '../../src/vm/processes.ts';

const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));

const timers: Timers = {
  ...systemTimers,
  after: (delayMs, task) => systemTimers.after(delayMs / 20, task),
};
const clock: Clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() * 20 };
const never = new AbortController().signal;

const vm: VmDefinition = {
  id: 'guest',
  name: 'guest',
  cpus: 1,
  memoryBytes: 64 * MiB,
  machine: 'q35',
  firmware: 'bios',
  nics: [],
  readyPattern: null,
  disks: [],
};

class Rig {
  readonly guest: Guest;
  readonly process: ChildProcess;
  readonly seen: VmObservation[] = [];
  readonly ends: VmObservation[] = [];
  readonly commands: string[] = [];
  /** What `query-status` answers. */
  status = 'running';
  /** What a command does, besides being answered. */
  effect: (command: string) => void = () => {};
  #socket: Socket | undefined;

  constructor(
    guest: Omit<ConstructorParameters<typeof Guest>[0], 'onChange' | 'onEnd'>,
    process: ChildProcess,
  ) {
    this.process = process;
    this.guest = new Guest({
      ...guest,
      onChange: (observation) => this.seen.push(observation),
      onEnd: (last) => this.ends.push(last),
    });
  }

  serve(socket: Socket): void {
    this.#socket = socket;
    socket.on('error', () => {}); // the guest hangs up
    socket.write('{"QMP": {}}\n');
    socket.on('data', (bytes: Buffer) => {
      for (const line of bytes
        .toString()
        .split('\n')
        .filter((text) => text !== '')) {
        const { execute, id } = JSON.parse(line) as { execute: string; id: number };
        if (execute !== 'query-status') this.commands.push(execute);
        this.effect(execute);
        const result = execute === 'query-status' ? { status: this.status, running: true } : {};
        socket.write(`${JSON.stringify({ return: result, id })}\n`);
      }
    });
  }

  event(event: string, data: object = {}): void {
    this.#socket?.write(`${JSON.stringify({ event, data })}\n`);
  }

  hangUp(): void {
    this.#socket?.destroy();
  }

  async until(what: (observation: VmObservation) => boolean): Promise<void> {
    const endMs = performance.now() + 5000;
    while (!what(this.guest.observation)) {
      if (performance.now() > endMs) throw new Error(JSON.stringify(this.guest.observation));
      await new Promise((turn) => setTimeout(turn, 2));
    }
  }
  phase(phase: string): Promise<void> {
    return this.until((observation) => observation.phase === phase);
  }
}

async function rig(t: Test, owned = true): Promise<Rig> {
  const directory = mkdtempSync('/tmp/dvce-watch-');
  const paths = guestPaths(directory, directory, vm.id);
  mkdirSync(paths.run);
  writeFileSync(paths.hypervisorLog, 'first line\nlast words\n');
  const child = spawn('sh', ['-c', 'echo; exec sleep 600'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  await once(child.stdout, 'data');
  const identity = await identify(child.pid ?? 0);
  if (identity === undefined) throw new Error('the process is not there');
  const made = new Rig(
    {
      vm,
      identity,
      paths,
      clock,
      timers,
      random: systemRandom,
      logger: silentLogger,
      child: owned ? child : undefined,
    },
    child,
  );
  const server = createServer((socket) => made.serve(socket));
  await new Promise<void>((listening) => server.listen(paths.control, listening));
  t.teardown(() => {
    made.guest.close();
    made.hangUp();
    server.close();
    child.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  });
  return made;
}

t.test('a guest stopped by an I/O error is continued until it stays running', async (t) => {
  const r = await rig(t);
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
  const r = await rig(t);
  await r.guest.begin(never);
  r.status = 'io-error';
  r.event('BLOCK_IO_ERROR', { operation: 'write', reason: 'x', nospace: true });
  await r.until(({ detail }) => detail === 'write failed: no space left');
});

t.test('a guest paused by somebody is not continued', async (t) => {
  const r = await rig(t);
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
  const r = await rig(t);
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
      const r = await rig(t, owned);
      await r.guest.begin(never);
      r.process.kill('SIGKILL');
      r.hangUp();
      await r.phase('crashed');
      t.match(r.ends, [{ phase: 'crashed', pid: null, detail: 'last words' }]);
    });
    await t.test('it panicked', async (t) => {
      const r = await rig(t, owned);
      await r.guest.begin(never);
      r.event('SHUTDOWN', { guest: true, reason: 'guest-panic' });
      await new Promise((done) => setTimeout(done, 20));
      r.process.kill('SIGKILL');
      r.hangUp();
      await r.phase('crashed');
    });
    await t.test('it was killed by us', async (t) => {
      const r = await rig(t, owned);
      await r.guest.begin(never);
      // The hypervisor answers `quit` and hangs.
      await r.guest.kill();
      t.match(r.ends, [{ phase: 'stopped', detail: 'killed' }]);
      t.ok(r.commands.includes('quit'));
    });
  });

t.test('a hypervisor that hangs up but lives is connected to again', async (t) => {
  const r = await rig(t);
  await r.guest.begin(never);
  r.hangUp();
  r.status = 'paused';
  await r.phase('paused');
  t.equal(r.commands.filter((one) => one === 'qmp_capabilities').length, 2);
  t.same(r.ends, []);
});

t.test('a start whose process ends says what the hypervisor said', async (t) => {
  const r = await rig(t);
  r.process.kill('SIGKILL');
  await once(r.process, 'exit');
  await t.rejects(r.guest.begin(never), { code: 'HYPERVISOR_FAILED', message: /last words/ });
});

t.test('closing the watch leaves the guest alone', async (t) => {
  const r = await rig(t);
  await r.guest.begin(never);
  r.guest.close();
  await new Promise((done) => setTimeout(done, 150));
  t.equal(r.process.signalCode, null);
  t.notOk(r.commands.includes('quit'));
  t.same(r.ends, []);
});
