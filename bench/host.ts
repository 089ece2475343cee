/**
 * The host suite: what an operator waits for, and what the processes of an idle host cost.
 *
 * Everything is measured on real processes in fresh data directories: the agent and blockd that `dvce up` starts, QEMU, and
 * requests over the agent's own doors. What was started is gone at the end, also after ^C.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { apiKinds, measureApi, measureMemory, measureStart } from './host-api.ts';
import { measureBoots, measureClones } from './host-guests.ts';
import { clearAtEnd } from './host-node.ts';
import { hostFacts, median, type Row, report, spreadOf } from './report.ts';

const help = `usage: npm run bench -- host [options]

  --rounds N      boots of each side (5); other rows take fewer
  --requests N    requests of each kind and round of the API (300)
  --quick         one round and 100 requests: an indication in a minute and a half
  --rows A,B      only these: boot, clones, api, memory, start
  --dir DIR       where the files lie (/tmp); names of sockets below it must stay short

examples:
  npm run bench -- host
  npm run bench -- host --quick --rows api,memory
`;

const parts = ['start', 'memory', 'api', 'clones', 'boot'] as const;
type Part = (typeof parts)[number];

interface Settings {
  readonly rounds: number;
  readonly requests: number;
  readonly parts: ReadonlySet<Part>;
  readonly directory: string;
}

function settingsOf(options: readonly string[]): Settings | undefined {
  const { values } = parseArgs({
    args: [...options],
    options: {
      help: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      requests: { type: 'string' },
      rows: { type: 'string' },
      dir: { type: 'string', default: '/tmp' },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return undefined;
  }
  const chosen = values.rows?.split(',') ?? parts;
  const unknown = chosen.find((name) => !parts.some((part) => part === name));
  if (unknown !== undefined) throw new Error(`there is no row ${unknown}; see --help`);
  return {
    rounds: countOf(values.rounds, values.quick ? 1 : 5),
    requests: countOf(values.requests, values.quick ? 100 : 300),
    parts: new Set(parts.filter((part) => chosen.includes(part))),
    directory: values.dir,
  };
}

function countOf(text: string | undefined, otherwise: number): number {
  const count = text === undefined ? otherwise : Number(text);
  if (!Number.isInteger(count) || count < 1) throw new Error(`${text} is no count; see --help`);
  return count;
}

/** `reach`: at most this much of the figure, or of the ratio when there is a peer that it is about. */
interface Figures {
  readonly name: string;
  readonly unit: string;
  readonly ours: readonly number[];
  readonly peer?: { readonly name: string; readonly values: readonly number[] };
  readonly reach?: Row['reach'];
}

function rowOf({ name, unit, ours, peer, reach }: Figures): Row {
  const figure = median(ours);
  const theirs = peer === undefined ? null : median(peer.values);
  return {
    name,
    unit,
    ours: figure,
    peer: theirs,
    peerName: peer?.name ?? null,
    ratio: theirs === null ? null : figure / theirs,
    spread: { ours: spreadOf(ours), peer: peer === undefined ? null : spreadOf(peer.values) },
    ...(reach === undefined ? {} : { reach }),
  };
}

const measures: Readonly<Record<Part, (settings: Settings) => Promise<Figures[]>>> = {
  async boot({ directory, rounds }) {
    const { dvce, bare } = await measureBoots(directory, rounds);
    const peer = { name: 'bare-qemu', values: bare };
    return [{ name: 'vm-start-to-ready', unit: 's', ours: dvce, peer, reach: { ratio: 1.15 } }];
  },

  async clones({ directory, rounds }) {
    const { served, running } = await measureClones(directory, Math.min(rounds, 3));
    const name = 'clone-and-start-16-seconds-each';
    return [
      { name, unit: 's', ours: served, reach: { figure: 0.3 } },
      { name: `${name}-running`, unit: 's', ours: running },
    ];
  },

  async api({ directory, rounds, requests }) {
    const { socket, https } = await measureApi(directory, Math.min(rounds, 3), requests);
    const worst = (socket[apiKinds[0] ?? 'list-vms'] ?? []).map((_, round) =>
      Math.max(...apiKinds.map((kind) => socket[kind][round] ?? Number.NaN)),
    );
    const one = (name: string, ours: readonly number[]): Figures => ({
      name,
      unit: 'ms',
      ours,
      reach: { figure: 20 },
    });
    return [
      one('api-get-p99-ms', worst),
      ...apiKinds.map((kind) => one(`api-${kind}-p99-ms`, socket[kind])),
      ...apiKinds.map((kind) => one(`api-https-${kind}-p99-ms`, https[kind])),
    ];
  },

  async start({ rounds }) {
    const { dvce, node } = measureStart(rounds * 4 + 1);
    const peer = { name: 'node', values: node };
    return [{ name: 'cli-start-ms', unit: 'ms', ours: dvce, peer, reach: { figure: 150 } }];
  },

  async memory({ directory, rounds }) {
    const figures = await measureMemory(directory, Math.min(rounds, 2));
    const one = (name: string, ours: readonly number[], reach?: Row['reach']): Figures => ({
      name,
      unit: 'MiB',
      ours,
      ...(reach === undefined ? {} : { reach }),
    });
    return [
      one('agent-rss-mib', figures.agent, { figure: 150 }),
      one('agent-rss-peak-mib', figures.agentPeak),
      one('blockd-rss-mib', figures.blockd, { figure: 120 }),
      one('blockd-rss-peak-mib', figures.blockdPeak),
    ];
  },
};

export async function measureHost(options: readonly string[]): Promise<void> {
  const settings = settingsOf(options);
  if (settings === undefined) return;
  clearAtEnd();
  refuseRealTime();
  const host = hostFacts();
  const rows: Row[] = [];
  for (const part of settings.parts) rows.push(...(await measures[part](settings)).map(rowOf));
  report('host', rows, host);
}

/** Processes of a fixed priority that spin while they wait for each other do so for ever when they are more than the processors. */
function refuseRealTime(): void {
  const policy = readFileSync('/proc/self/stat', 'utf8').split(') ')[1]?.split(' ')[38];
  if (policy === '1' || policy === '2')
    throw new Error('not under chrt: its processes would starve each other and the rest');
}
