/** What every suite writes: bench/out/SUITE.json and the same as a table. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, loadavg, release, totalmem } from 'node:os';

export interface Row {
  readonly name: string;
  readonly unit: string;
  /** Median over the rounds. */
  readonly ours: number | null;
  readonly peer: number | null;
  readonly peerName: string | null;
  /** ours / peer; null when there is no peer. */
  readonly ratio: number | null;
  /** Smallest and largest value of each side over the rounds. */
  readonly spread: {
    readonly ours: readonly [number, number] | null;
    readonly peer: readonly [number, number] | null;
  };
  /** What is wanted at most: of our own figure, or of the ratio; or at least, of the ratio. */
  readonly reach?:
    | { readonly figure: number }
    | { readonly ratio: number }
    | { readonly ratioMin: number };
}

/** Median of at least one value. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const high = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? high : ((sorted[middle - 1] ?? high) + high) / 2;
}

export const spreadOf = (values: readonly number[]): readonly [number, number] => [
  Math.min(...values),
  Math.max(...values),
];

/** The machine; ask before the measurement, which is a load of its own. */
export function hostFacts(): Record<string, string | number> {
  const model = /^model name\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '';
  return {
    cores: availableParallelism(),
    cpu: model,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    loadBefore: loadavg()[0] ?? 0,
  };
}

/** Write and print the report. */
export function report(suite: string, rows: readonly Row[], host = hostFacts()): void {
  mkdirSync(new URL('./out/', import.meta.url), { recursive: true });
  const path = new URL(`./out/${suite}.json`, import.meta.url);
  writeFileSync(path, `${JSON.stringify({ suite, host, rows }, null, 2)}\n`);
  const shown = (value: number | null): string =>
    value === null
      ? '-'
      : value >= 100
        ? Math.round(value).toLocaleString('en-US')
        : value !== 0 && Math.abs(value) < 0.01
          ? value.toPrecision(2)
          : value.toFixed(2);
  const range = (spread: readonly [number, number] | null): string =>
    spread === null ? '' : ` (${shown(spread[0])}..${shown(spread[1])})`;
  const hasReach = rows.some(({ reach }) => reach !== undefined);
  const lines = rows.map((row) => [
    row.name,
    row.unit,
    shown(row.ours) + range(row.spread.ours),
    row.peerName ?? '-',
    shown(row.peer) + range(row.spread.peer),
    row.ratio === null ? '-' : `${row.ratio.toFixed(2)}x`,
    ...(hasReach ? [reachText(row)] : []),
  ]);
  const head = ['row', 'unit', 'dvce', 'peer', 'value', 'ratio', ...(hasReach ? ['reach'] : [])];
  const widths = head.map((_, i) =>
    Math.max(...[head, ...lines].map((line) => (line[i] ?? '').length)),
  );
  for (const line of [head, ...lines])
    process.stdout.write(
      `${line
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd()}\n`,
    );
  const { cores, cpu, memoryBytes, kernel, node, loadBefore } = host;
  const memory = `${Math.round(Number(memoryBytes) / 1024 ** 3)} GiB`;
  const load = Number(loadBefore).toFixed(2);
  process.stdout.write(
    `machine: ${cores} cores, ${cpu}, ${memory}, kernel ${kernel}, node ${node}, load ${load} before\n`,
  );
  process.stdout.write(`written: bench/out/${suite}.json\n`);
}

function reachText({ reach, ours, ratio }: Row): string {
  if (reach === undefined) return '-';
  if ('ratioMin' in reach) {
    const { ratioMin } = reach;
    return `>= ${ratioMin}x: ${ratio !== null && ratio >= ratioMin ? 'yes' : 'NO'}`;
  }
  const [value, wanted] = 'ratio' in reach ? [ratio, reach.ratio] : [ours, reach.figure];
  const unit = 'ratio' in reach ? 'x' : '';
  return `<= ${wanted}${unit}: ${value !== null && value <= wanted ? 'yes' : 'NO'}`;
}
