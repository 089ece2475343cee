/**
 * The watch over one guest: a hypervisor that says what it is told to, a real process (it sleeps), and time that runs twenty
 * times as fast.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import type { Test } from 'tap';
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

const timers: Timers = {
  ...systemTimers,
  after: (delayMs, task) => systemTimers.after(delayMs / 20, task),
};
const clock: Clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() * 20 };

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

interface Question {
  readonly execute: string;
  readonly id: number;
  readonly arguments?: { readonly shutdown?: string };
}

export class WatchedGuest {
  readonly guest: Guest;
  readonly process: ChildProcess;
  readonly seen: VmObservation[] = [];
  readonly ends: VmObservation[] = [];
  readonly commands: string[] = [];
  /** What a power-off does, as it was set last. */
  action = 'poweroff';
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
        const { execute, id, arguments: args } = JSON.parse(line) as Question;
        if (execute !== 'query-status') this.commands.push(execute);
        if (execute === 'set-action') this.action = args?.shutdown ?? '';
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

/** @param owned the guest was started here, else it is one that was found */
export async function watchedGuest(t: Test, owned = true): Promise<WatchedGuest> {
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
  const made = new WatchedGuest(
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
