/**
 * The scale suite: what a volume costs when it is large, deep, often snapshotted, or one of several.
 *
 * Every group of rows has a blockd of its own in a fresh directory. Ratios are medians of rounds in which both sides alternate;
 * the order turns from round to round. Memory and processor time are what the kernel counts for the process of blockd.
 */
import { parseArgs } from 'node:util';
import { parseSize } from '../src/base/index.ts';
import { type Measured, note, type Settings } from './alternate.ts';
import { clearAtEnd, clearDirectory, freshDirectory } from './host-node.ts';
import { hostFacts, median, type Row, report, spreadOf } from './report.ts';
import { deepClone, manySnapshots, snapshotStall, twoVolumes } from './scale-rows.ts';
import { largeMap } from './scale-tebibyte.ts';

const help = `usage: npm run bench -- scale [options]

  --quick           fewer rounds, less data: shows that it works, no figures to quote
  --rounds N        how often each side of a ratio is measured (3)
  --groups A,B      only these: clones, snapshots, stall, tebibyte, volumes
  --snapshots N     of the volume with many (1000)
  --large SIZE      size of the large volume (1TiB)
  --random-blocks N random blocks written to it, one in each leaf of its map first (2097152; the full figure asks for 16777216,
                    which takes 64 GiB and more of disk)
  --seconds N       length of a timed measurement (10)
  --dir DIR         where the files lie (a new directory below the system's temporary one)
`;

const groups: Readonly<Record<string, (settings: Settings) => Promise<Measured[]>>> = {
  clones: deepClone,
  snapshots: manySnapshots,
  stall: snapshotStall,
  volumes: twoVolumes,
  tebibyte: largeMap,
};

export async function measureScale(options: readonly string[]): Promise<void> {
  const { values } = parseArgs({
    args: [...options],
    options: {
      help: { type: 'boolean', default: false },
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      groups: { type: 'string' },
      snapshots: { type: 'string' },
      large: { type: 'string', default: '1TiB' },
      'random-blocks': { type: 'string' },
      seconds: { type: 'string' },
      dir: { type: 'string', default: '/tmp' },
    },
  });
  if (values.help) {
    process.stdout.write(help);
    return;
  }
  const { quick } = values;
  const largeBytes = parseSize(values.large);
  const leaves = largeBytes / 2 ** 20;
  const settings = {
    rounds: Number(values.rounds ?? (quick ? 1 : 3)),
    snapshots: Number(values.snapshots ?? (quick ? 100 : 1000)),
    largeBytes,
    randomBlocks: Number(values['random-blocks'] ?? (quick ? leaves / 8 : 2 * leaves)),
    seconds: Number(values.seconds ?? (quick ? 4 : 10)),
  };
  const host = hostFacts();
  const rows: Measured[] = [];
  clearAtEnd();
  const names = values.groups?.split(',') ?? Object.keys(groups);
  for (const name of names) rows.push(...(await measureGroup(name, settings, values.dir)));
  report('scale', rows.map(rowOf), host);
}

/** What the other groups found is worth its time: one that fails is named, and the command with it. */
async function measureGroup(
  name: string,
  settings: Omit<Settings, 'directory'>,
  parent: string,
): Promise<Measured[]> {
  const group = groups[name];
  if (group === undefined) throw new Error(`there is no group ${name}`);
  const directory = freshDirectory(parent);
  try {
    return await group({ ...settings, directory });
  } catch (error) {
    note(`the group ${name} failed: ${String(error)}`);
    process.exitCode = 1;
    return [];
  } finally {
    clearDirectory(directory);
  }
}

function rowOf({ name, unit, peerName, reach, ours, peer }: Measured): Row {
  const hasPeer = peer.length > 0;
  const value = median(ours);
  return {
    name,
    unit,
    ours: value,
    peer: hasPeer ? median(peer) : null,
    peerName,
    ratio: hasPeer ? value / median(peer) : null,
    spread: { ours: spreadOf(ours), peer: hasPeer ? spreadOf(peer) : null },
    ...(reach ? { reach } : {}),
  };
}
