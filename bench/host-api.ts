/** The API, the processes behind it and the start of the program, in the host suite. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { urls } from '../src/api/index.ts';
import { GiB, MiB } from '../src/base/index.ts';
import { each, freePort, HostNode } from './host-node.ts';

const volumeCount = 1000;
const vmCount = 200;
/** Requests under way while the host is filled. */
const atOnce = 8;

const range = (count: number): number[] => Array.from({ length: count }, (_, at) => at);
const volumePath = (at: number): string => `/bench/folder${at % 10}/disk${at}`;
const vmName = (at: number): string => `vm${at}`;

function volumesOf({ api }: HostNode, count: number): Promise<void> {
  return each(range(count), atOnce, (at) =>
    api.volumes.create({ path: volumePath(at), sizeBytes: GiB }),
  );
}

const kinds = {
  'list-volumes': () => '/v1/volumes',
  'list-vms': () => '/v1/vms',
  'show-volume': (at: number) => urls.volume(volumePath((at * 7) % volumeCount)),
  'show-vm': (at: number) => urls.vm(vmName((at * 7) % vmCount)),
} as const;
export type ApiKind = keyof typeof kinds;
export const apiKinds = Object.keys(kinds) as readonly ApiKind[];

export interface ApiFigures {
  /** Per round: 99 of 100 requests were answered in this many milliseconds. */
  readonly socket: Readonly<Record<ApiKind, readonly number[]>>;
  readonly https: Readonly<Record<ApiKind, readonly number[]>>;
}

type Get = (path: string) => Promise<{ readonly ms: number; readonly bytes: number }>;

export async function measureApi(
  parent: string,
  rounds: number,
  requests: number,
): Promise<ApiFigures> {
  const node = await HostNode.start(parent, ['--api-listen', `127.0.0.1:${await freePort()}`]);
  const figures = { socket: emptyFigures(), https: emptyFigures() };
  try {
    const startedMs = performance.now();
    await volumesOf(node, volumeCount);
    await each(range(vmCount), atOnce, (at) =>
      node.api.vms.create({
        name: vmName(at),
        memoryBytes: 64 * MiB,
        nics: [{ kind: 'user' }],
        disks: [{ path: volumePath(at) }],
        labels: { tier: at % 2 === 0 ? 'gold' : 'silver' },
      }),
    );
    const filled = ((performance.now() - startedMs) / 1000).toFixed(1);
    process.stderr.write(`${volumeCount} volumes and ${vmCount} VMs defined in ${filled} s\n`);
    const doors = { socket: overSocket(node), https: await overHttps(node) };
    for (let round = 0; round <= rounds; round += 1)
      for (const door of ['socket', 'https'] as const)
        for (const kind of apiKinds) {
          // Round 0 is short and warms the code.
          const count = round === 0 ? Math.min(20, requests) : requests;
          const value = await percentile99(doors[door], kinds[kind], count);
          if (round === 0) continue;
          figures[door][kind].push(value);
          process.stderr.write(`api ${round} ${door} ${kind}: p99 ${value.toFixed(1)} ms\n`);
        }
  } finally {
    await node.stop();
  }
  return figures;
}

const emptyFigures = (): Record<ApiKind, number[]> => ({
  'list-volumes': [],
  'list-vms': [],
  'show-volume': [],
  'show-vm': [],
});

async function percentile99(
  get: Get,
  path: (at: number) => string,
  requests: number,
): Promise<number> {
  const times: number[] = [];
  for (let at = 0; at < requests; at += 1) times.push((await get(path(at))).ms);
  times.sort((a, b) => a - b);
  return times[Math.ceil(times.length * 0.99) - 1] ?? Number.NaN;
}

/** Until the last byte is there; a connection for each request, as the program does it. */
const overSocket =
  ({ socket }: HostNode): Get =>
  (path) =>
    timed((done) =>
      httpRequest({ socketPath: socket, agent: false, path, headers: { host: 'dvce' } }, done),
    );

/** One connection that is kept: what is timed is the request, not the handshake. */
async function overHttps({ api, data }: HostNode): Promise<Get> {
  const grants = [{ role: 'viewer', path: '/' }] as const;
  const { secret, door } = await api.tokens.create({ name: 'bench', grants: [...grants] });
  if (door === null) throw new Error('the agent does not listen for HTTPS');
  const [host = '', port = ''] = door.listen.split(':');
  // The certificate signs itself; it comes from the agent's own directory.
  const ca = readFileSync(join(data, 'state', 'tls', 'api.crt'));
  const agent = new HttpsAgent({ keepAlive: true, maxSockets: 1, ca });
  const headers = { authorization: `Bearer ${secret}` };
  return (path) => timed((done) => httpsRequest({ host, port, agent, path, headers }, done));
}

function timed(
  send: (done: (answer: IncomingMessage) => void) => ClientRequest,
): Promise<{ ms: number; bytes: number }> {
  return new Promise((resolve, reject) => {
    const startedMs = performance.now();
    let bytes = 0;
    send((answer) => {
      answer.on('data', (part: Buffer) => {
        bytes += part.byteLength;
      });
      answer.on('error', reject);
      answer.on('end', () => {
        if (answer.statusCode === 200) resolve({ ms: performance.now() - startedMs, bytes });
        else reject(new Error(`the agent answered with status ${answer.statusCode}`));
      });
    })
      .on('error', reject)
      .end();
  });
}

const definedCount = 200;
const openCount = 10;
/** A thread gives memory back when it has been quiet for a while (src/base/quiet-memory.ts). */
const settleMs = 25_000;

export interface MemoryFigures {
  readonly agent: number[];
  readonly agentPeak: number[];
  readonly blockd: number[];
  readonly blockdPeak: number[];
}

/** MiB in memory of an idle host: 200 volumes were defined, 10 are open, and nothing has happened for a while. */
export async function measureMemory(parent: string, rounds: number): Promise<MemoryFigures> {
  const figures: MemoryFigures = { agent: [], agentPeak: [], blockd: [], blockdPeak: [] };
  for (let round = 0; round <= rounds; round += 1) {
    const node = await HostNode.start(parent);
    try {
      // The first start of a checkout has types to strip and code to compile; an installed package and later starts have not.
      if (round === 0) continue;
      await volumesOf(node, definedCount);
      for (const at of range(openCount)) await node.api.exports.create({ path: volumePath(at) });
      await pause(settleMs);
      for (const [name, pid] of [
        ['agent', node.agentPid],
        ['blockd', node.blockdPid],
      ] as const) {
        const { now, peak } = memoryOf(pid);
        figures[name].push(now);
        figures[`${name}Peak`].push(peak);
        process.stderr.write(
          `${name}-rss-mib ${round}: ${now.toFixed(1)} (peak ${peak.toFixed(1)})\n`,
        );
      }
    } finally {
      await node.stop();
    }
  }
  return figures;
}

function memoryOf(pid: number): { now: number; peak: number } {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kibibytes = (name: string): number =>
    Number(new RegExp(`^${name}:\\s*(\\d+) kB$`, 'm').exec(text)?.[1] ?? Number.NaN);
  return { now: kibibytes('VmRSS') / 1024, peak: kibibytes('VmHWM') / 1024 };
}

/** Milliseconds of `dvce --version`, and of its Node doing nothing. The two alternate. */
export function measureStart(times: number): { dvce: number[]; node: number[] } {
  const program = resolve(import.meta.dirname, '../bin/dvce');
  const dvce: number[] = [];
  const node: number[] = [];
  for (let round = 0; round <= times; round += 1) {
    const ours = runtimeMs(program, ['--version']);
    const theirs = runtimeMs(process.execPath, ['--eval', '0']);
    if (round === 0) continue; // the first keeps the compiled code
    dvce.push(ours);
    node.push(theirs);
  }
  return { dvce, node };
}

function runtimeMs(command: string, args: readonly string[]): number {
  const startedMs = performance.now();
  const { status, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: 60_000 });
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed: ${stderr}`);
  return performance.now() - startedMs;
}
