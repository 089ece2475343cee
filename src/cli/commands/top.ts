/** `dvce top`: two looks at the counters of the agent make one table of rates. */
import { setTimeout as after } from 'node:timers/promises';
import type { Usage } from '../../api/index.ts';
import type { Column } from '../column.ts';
import type { Context } from '../context.ts';
import { duration, orDash, size } from '../format.ts';
import { Output, usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

interface GuestRate {
  readonly name: string;
  readonly phase: string;
  /** Of all its virtual processors together; null: does not run. */
  readonly cpuPercent: number | null;
  readonly residentBytes: number | null;
  readonly memoryBytes: number;
  readonly readBytesPerSecond: number;
  readonly writtenBytesPerSecond: number;
}

interface VolumeRate {
  readonly path: string;
  readonly vm: string | null;
  readonly readsPerSecond: number;
  readonly writesPerSecond: number;
  readonly flushesPerSecond: number;
  readonly readBytesPerSecond: number;
  readonly writtenBytesPerSecond: number;
  /** Share of the time in which requests waited for a limit. */
  readonly throttledPercent: number;
  readonly flushLagMs: number;
}

export interface Rates {
  readonly vms: readonly GuestRate[];
  readonly volumes: readonly VolumeRate[];
}

/** A counter that began anew (process or blockd restarted) counts from zero. */
const grown = (before: number | undefined, now: number): number =>
  before === undefined || now < before ? now : now - before;

/** What happened between two looks, for each second. */
export function ratesOf(before: Usage, now: Usage): Rates {
  const seconds = Math.max(0.001, (now.atMs - before.atMs) / 1000);
  const volumesBefore = new Map(before.volumes.map((one) => [one.path, one]));
  const volumes = now.volumes.map((one): VolumeRate => {
    const old = volumesBefore.get(one.path);
    // A volume that was opened meanwhile has done all of it meanwhile.
    const rate = (key: 'reads' | 'writes' | 'flushes' | 'readBytes' | 'writtenBytes'): number =>
      Math.round(grown(old?.[key] ?? 0, one[key]) / seconds);
    return {
      path: one.path,
      vm: one.vm,
      readsPerSecond: rate('reads'),
      writesPerSecond: rate('writes'),
      flushesPerSecond: rate('flushes'),
      readBytesPerSecond: rate('readBytes'),
      writtenBytesPerSecond: rate('writtenBytes'),
      throttledPercent: Math.round(
        grown(old?.throttledMs ?? 0, one.throttledMs ?? 0) / seconds / 10,
      ),
      flushLagMs: one.flushLagMs,
    };
  });
  const guestsBefore = new Map(before.vms.map((one) => [one.name, one]));
  const vms = now.vms.map((one): GuestRate => {
    const old = guestsBefore.get(one.name);
    const cpuMs =
      one.cpuMs === null ? null : grown(old?.pid === one.pid ? (old.cpuMs ?? 0) : 0, one.cpuMs);
    const own = volumes.filter(({ vm }) => vm === one.name);
    const sum = (key: 'readBytesPerSecond' | 'writtenBytesPerSecond'): number =>
      own.reduce((total, volume) => total + volume[key], 0);
    return {
      name: one.name,
      phase: one.phase,
      cpuPercent: cpuMs === null ? null : Math.round(cpuMs / seconds / 10),
      residentBytes: one.residentBytes,
      memoryBytes: one.memoryBytes,
      readBytesPerSecond: sum('readBytesPerSecond'),
      writtenBytesPerSecond: sum('writtenBytesPerSecond'),
    };
  });
  return { vms, volumes };
}

const guestColumns: readonly Column<GuestRate>[] = [
  { title: 'name', value: ({ name }) => name },
  { title: 'phase', value: ({ phase }) => phase },
  { title: 'cpu %', value: ({ cpuPercent }) => orDash(cpuPercent), right: true },
  { title: 'resident', value: ({ residentBytes }) => size(residentBytes), right: true },
  { title: 'memory', value: ({ memoryBytes }) => size(memoryBytes), right: true },
  { title: 'read', value: (row) => size(row.readBytesPerSecond), right: true },
  { title: 'written', value: (row) => size(row.writtenBytesPerSecond), right: true },
];

const volumeColumns: readonly Column<VolumeRate>[] = [
  { title: 'path', value: ({ path }) => path },
  { title: 'vm', value: ({ vm }) => orDash(vm) },
  { title: 'reads', value: ({ readsPerSecond }) => `${readsPerSecond}`, right: true },
  { title: 'writes', value: ({ writesPerSecond }) => `${writesPerSecond}`, right: true },
  { title: 'flushes', value: ({ flushesPerSecond }) => `${flushesPerSecond}`, right: true },
  { title: 'read', value: (row) => size(row.readBytesPerSecond), right: true },
  { title: 'written', value: (row) => size(row.writtenBytesPerSecond), right: true },
  { title: 'throttled %', value: (row) => `${row.throttledPercent}`, right: true },
  { title: 'flush lag', value: ({ flushLagMs }) => duration(flushLagMs), right: true },
];

async function print(output: Output, rates: Rates, given: Given): Promise<void> {
  const only = given.flag('volumes') !== given.flag('vms');
  const vms = !only || given.flag('vms');
  const volumes = !only || given.flag('volumes');
  if (output.json)
    return output.object({
      ...(vms ? { vms: rates.vms } : {}),
      ...(volumes ? { volumes: rates.volumes } : {}),
    });
  if (vms) await output.list(rates.vms, ({ name }) => name, guestColumns);
  if (vms && volumes && !output.names) output.line('');
  if (volumes) await output.list(rates.volumes, ({ path }) => path, volumeColumns);
}

const defaultMs = 2000;

export const top: Run = async (context, given) => {
  const intervalMs = given.number('interval') ?? defaultMs;
  if (intervalMs < 100)
    throw usageError('--interval', 'it is shorter than 100ms', 'For example 2s.');
  const { api, output } = context;
  let before = await api.usage();
  if (given.flag('once') || process.stdout.isTTY !== true) {
    await after(intervalMs);
    return print(output, ratesOf(before, await api.usage()), given);
  }
  const { signal, leave } = keys(context);
  try {
    while (!signal.aborted) {
      await after(intervalMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) break;
      const now = await api.usage();
      await draw(context, ratesOf(before, now), given);
      before = now;
    }
  } finally {
    leave();
  }
};

/** The screen is written at once, so that it does not flicker. */
async function draw(context: Context, rates: Rates, given: Given): Promise<void> {
  let text = '';
  // All that Output uses of a stream.
  const page = { write: (part: string) => (text += part) } as unknown as NodeJS.WritableStream;
  await print(new Output(page, process.stderr, context.output.options), rates, given);
  const rows = (process.stdout.rows ?? 24) - 2;
  const lines = text.trimEnd().split('\n').slice(0, rows);
  context.output.raw(`\x1b[H\x1b[J${lines.join('\n')}\n\nq or Ctrl-C: end`);
}

/** q, Ctrl-C and the end of the input end it; the terminal is left as it was. */
function keys({ input, output }: Context): { signal: AbortSignal; leave: () => void } {
  const stop = new AbortController();
  const end = (): void => stop.abort();
  const onKey = (bytes: Buffer): void => {
    if (bytes.includes(0x03) || bytes.includes(0x71)) end();
  };
  const raw = input.isTTY === true;
  if (raw) {
    input.setRawMode(true);
    input.on('data', onKey);
    input.resume();
  }
  process.on('SIGINT', end);
  output.raw('\x1b[?1049h\x1b[?25l');
  return {
    signal: stop.signal,
    leave: () => {
      process.off('SIGINT', end);
      input.off('data', onKey);
      if (raw) input.setRawMode(false);
      input.pause();
      output.raw('\x1b[?25h\x1b[?1049l');
    },
  };
}
