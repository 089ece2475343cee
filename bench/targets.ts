/** The servers of the block suite: dvce through its own blockd, as a VM gets it, and the peers. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, fsyncSync, openSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { systemClock, systemTimers } from '../src/base/index.ts';
import { BlockdClient, dataDirectory, ensureBlockd } from '../src/blockd/index.ts';

export type PeerName =
  | 'qemu-nbd-raw'
  | 'qemu-nbd-sparse'
  | 'qemu-nbd-qcow2'
  | 'nbdkit-file'
  | 'disk'
  | 'dvce-zstd';

export interface Target {
  readonly name: string;
  /** Starts with nothing allocated; not filled before the measurement. */
  readonly startsSparse: boolean;
  fioTarget(depth: number): readonly string[];
  /** Before a write row: a sparse peer starts sparse each time. */
  prepare(): Promise<void>;
  /** After a write row: until nothing is left to do. Part of the measured time. */
  drain(): Promise<void>;
  /** The same outside of the measured time. */
  settle(): void;
  stop(): Promise<void>;
}

export function startPeer(
  name: PeerName | 'dvce',
  directory: string,
  spanBytes: number,
  journalBytes: number,
): Promise<Target> {
  if (name === 'dvce' || name === 'dvce-zstd')
    return startDvce(name, directory, spanBytes, journalBytes);
  if (name === 'disk') return Promise.resolve(diskTarget(join(directory, 'disk.raw'), spanBytes));
  return startServer(name, directory, spanBytes);
}

const nbd = (socket: string, exportName = ''): readonly string[] => [
  '--ioengine=nbd',
  `--uri=nbd+unix:///${encodeURIComponent(exportName)}?socket=${socket}`,
];

async function startDvce(
  name: 'dvce' | 'dvce-zstd',
  directory: string,
  spanBytes: number,
  journalBytes: number,
): Promise<Target> {
  const data = join(directory, name);
  await ensureBlockd({ dataDirectory: data, clock: systemClock, timers: systemTimers });
  const client = new BlockdClient({
    socketPath: dataDirectory(data).controlSocket,
    timers: systemTimers,
  });
  const path = '/bench';
  const compression = name === 'dvce' ? 'none' : 'zstd';
  await client.call('volume.create', { path, sizeBytes: spanBytes, journalBytes, compression });
  const { socketPath, exportName } = await client.call('volume.attach', {
    path,
    attachId: 'bench',
    vm: 'bench',
  });
  let cuts = 0;
  const drain = async (): Promise<void> => {
    // A snapshot publishes everything and writes a root; then the journal must be empty.
    cuts += 1;
    const snapshot = { path, name: `cut-${cuts}` };
    await client.call('snapshot.create', snapshot, { timeoutMs: 600_000 });
    for (;;) {
      const { open } = await client.call('volume.get', { path });
      if (open === null || open.journalBytes === 0) break;
      await pause(10);
    }
    await client.call('snapshot.delete', snapshot, { timeoutMs: 600_000 });
  };
  return {
    name,
    startsSparse: false,
    fioTarget: () => nbd(socketPath, exportName),
    prepare: async () => {},
    drain,
    settle: () => {},
    async stop() {
      await client
        .call('shutdown', { graceful: true }, { timeoutMs: 120_000 })
        .catch((error: unknown) => {
          process.stderr.write(`blockd did not stop: ${String(error)}\n`);
        });
      client.close();
    },
  };
}

function syncFile(path: string): void {
  const file = openSync(path, 'r+');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

function run(command: string, args: readonly string[]): void {
  const done = spawnSync(command, args, { encoding: 'utf8' });
  if (done.status !== 0) throw new Error(`${command} ${args.join(' ')} failed: ${done.stderr}`);
}

/** A file of which every block is allocated and written. */
function writeWhole(path: string, bytes: number): void {
  run('dd', [
    'if=/dev/zero',
    `of=${path}`,
    'bs=1M',
    `count=${Math.ceil(bytes / 1024 ** 2)}`,
    'conv=fsync',
    'status=none',
  ]);
}

function makeFile(name: PeerName, path: string, bytes: number): void {
  if (name === 'qemu-nbd-qcow2')
    run('qemu-img', ['create', '-q', '-f', 'qcow2', path, String(bytes)]);
  else if (name === 'qemu-nbd-sparse') run('truncate', ['-s', String(bytes), path]);
  else writeWhole(path, bytes);
}

async function startServer(name: PeerName, directory: string, spanBytes: number): Promise<Target> {
  const path = join(directory, `${name}.img`);
  const socket = join(directory, `${name}.sock`);
  let child = await launch(name, path, socket, spanBytes);
  const restart = async (): Promise<void> => {
    await end(child);
    run('rm', ['-f', path, socket]);
    child = await launch(name, path, socket, spanBytes);
  };
  return {
    name,
    startsSparse: name === 'qemu-nbd-sparse',
    fioTarget: () => nbd(socket),
    prepare: async () => {
      if (name === 'qemu-nbd-sparse') await restart();
    },
    drain: async () => syncFile(path),
    settle: () => syncFile(path),
    stop: () => end(child),
  };
}

async function launch(
  name: PeerName,
  path: string,
  socket: string,
  spanBytes: number,
): Promise<ChildProcess> {
  makeFile(name, path, spanBytes);
  const format = name === 'qemu-nbd-qcow2' ? 'qcow2' : 'raw';
  const child =
    name === 'nbdkit-file'
      ? spawn('nbdkit', ['-f', '-U', socket, 'file', path], { stdio: 'ignore' })
      : spawn(
          'qemu-nbd',
          [
            '-k',
            socket,
            '-f',
            format,
            '-e',
            '32',
            '-t',
            '--cache=writeback',
            '--aio=threads',
            '--discard=unmap',
            path,
          ],
          { stdio: 'ignore' },
        );
  for (let tries = 0; tries < 500; tries += 1) {
    if (statSync(socket, { throwIfNoEntry: false })?.isSocket()) return child;
    await pause(20);
  }
  throw new Error(`${name} did not start`);
}

function end(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    if (child.exitCode !== null || child.signalCode !== null) return resolve();
    child.once('exit', () => resolve());
    child.kill('SIGTERM');
  });
}

/** The disk itself: a preallocated, fully written file by libaio and O_DIRECT. */
function diskTarget(path: string, spanBytes: number): Target {
  writeWhole(path, spanBytes);
  return {
    name: 'disk',
    startsSparse: false,
    fioTarget: () => ['--ioengine=libaio', '--direct=1', `--filename=${path}`],
    prepare: async () => {},
    drain: async () => syncFile(path),
    settle: () => {},
    stop: async () => {},
  };
}
