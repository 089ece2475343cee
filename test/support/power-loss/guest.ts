/**
 * The program inside of the machine whose power fails: starts the real blockd on /data, says what the volume holds, then
 * writes the history of this boot until the machine is gone. What it says on the console (lines that begin with `@ `):
 *
 *   @ stamps FROM N,N,...   the stamps of blocks FROM, FROM + 1, ..
 *   @ verified              all blocks were said
 *   @ w N                   write N and all before it are acknowledged
 *   @ f N                   a flush is acknowledged that began when write N was
 *   @ broken TEXT           something that must not be; the end
 */
import { spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import { MiB, seededRandom, systemTimers } from '../../../src/base/index.ts';
import { BlockdClient, blockdEntry, dataDirectory } from '../../../src/blockd/index.ts';
import { RawNbd } from '../nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../stamped-load.ts';
import { historyBlocks, numbersPerBoot, writeOf } from './history.ts';

const depth = 8;
const readBlocks = 64;
/** A write is acknowledged on the console every so many; the serial line is slow. */
const sayEvery = 16;
const flushOneIn = 24;
const startMsMax = 120_000;

const seed = Number(process.env['seed']);
const boot = Number(process.env['boot']);
const directory = dataDirectory('/data/node');

const say = (line: string): void => void writeSync(1, `@ ${line}\n`);

function broken(reason: unknown): never {
  say(`broken ${reason instanceof Error ? reason.stack?.replaceAll('\n', ' | ') : reason}`);
  process.exit(1);
}

async function insist<T>(attempt: () => Promise<T>): Promise<T> {
  const endMs = performance.now() + startMsMax;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (performance.now() > endMs) throw error;
      await new Promise((wake) => setTimeout(wake, 50));
    }
  }
}

/** The volume, open, as an agent would leave it: attached since the first boot. */
async function openVolume(): Promise<RawNbd> {
  const child = spawn(
    process.execPath,
    [
      ...['--disable-warning=ExperimentalWarning', blockdEntry, '--data-dir', directory.root],
      ...['--workers', '1', '--log-level', 'error', '--foreground'],
    ],
    { stdio: 'inherit', env: { ...process.env, UV_THREADPOOL_SIZE: '8' } },
  );
  child.on('exit', (code, signal) => broken(`blockd ended: ${code ?? signal}`));
  const client = new BlockdClient({ socketPath: directory.controlSocket, timers: systemTimers });
  await insist(() => client.hello());
  const { volumes } = await client.call('volume.list', {});
  if (volumes.length === 0)
    await client.call('volume.create', {
      path: '/disk',
      sizeBytes: historyBlocks * blockBytes,
      journalBytes: 16 * MiB,
    });
  const { socketPath, exportName } = await client.call(
    'volume.attach',
    { path: '/disk', attachId: 'run-1', vm: 'guest' },
    { timeoutMs: startMsMax },
  );
  return insist(() => RawNbd.connect({ path: socketPath }, exportName));
}

async function sayContent(nbd: RawNbd): Promise<void> {
  for (let from = 0; from < historyBlocks; from += readBlocks) {
    const data = await nbd.read(from * blockBytes, readBlocks * blockBytes);
    const stamps = Array.from({ length: readBlocks }, (_, i) =>
      readStamp(data.subarray(i * blockBytes, (i + 1) * blockBytes), from + i),
    );
    say(`stamps ${from} ${stamps.join()}`);
  }
  say('verified');
}

/** Writes are sent in the order of their numbers on one connection, so that is the order in which they are journaled (J1). */
async function load(nbd: RawNbd): Promise<never> {
  const random = seededRandom(seed + boot);
  const base = boot * numbersPerBoot;
  let sent = base;
  let acknowledged = base;
  const lane = async (): Promise<never> => {
    for (;;) {
      sent += 1;
      const number = sent;
      const { first, count } = writeOf(seed, number);
      const blocks = Array.from({ length: count }, (_, i) => stamp(first + i, number));
      await nbd.write(first * blockBytes, Buffer.concat(blocks));
      if (number !== acknowledged + 1)
        broken(`J1: write ${number} was acknowledged after ${acknowledged}`);
      acknowledged = number;
      if (number % sayEvery === 0) say(`w ${number}`);
      if (random.below(flushOneIn) === 0) {
        const covered = acknowledged;
        await nbd.flush();
        say(`f ${covered}`);
      }
    }
  };
  return Promise.race(Array.from({ length: depth }, lane));
}

try {
  const nbd = await openVolume();
  await sayContent(nbd);
  await load(nbd);
} catch (error) {
  broken(error);
}
