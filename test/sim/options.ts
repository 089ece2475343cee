/**
 * Option sets of a simulated engine. The limits that ship are made for disks of terabytes; a simulation that keeps them writes
 * megabytes to reach any of them. Here they are small, so that a few hundred operations reach all: files and quota of the journal,
 * segments, overlays, roots, cleaning, caches. The code that keeps them is the one that ships.
 *
 * The limits are one table of the process, so one simulation runs at a time.
 */
import { KiB, type LimitName, limits, MiB } from '../../src/base/index.ts';
import type { Compression } from '../../src/hlfs/index.ts';

export interface SimOptions {
  readonly name: string;
  readonly limits: Readonly<Partial<Record<LimitName, number>>>;
  readonly blockBytes: 512 | 4096;
  readonly journalBytes: number;
  readonly sizeBytes: number;
  /** `changing`: another one at every opening and publishing. */
  readonly compression?: Compression | 'changing';
}

const smallLimits = {
  journalFileBytesMin: 256 * KiB,
  journalFileBytes: 256 * KiB,
  journalFileStepBytes: 64 * KiB,
  recordPayloadBytes: 64 * KiB,
  unsyncedBytes: 512 * KiB,
  keptPayloadBytes: 256 * KiB,
  segmentDataBytes: 512 * KiB,
  overlayEntries: 512,
  overlayPartialBlocks: 128,
  overlayTombstones: 8,
  tombstoneBlocksMin: 32,
  rootEverySegments: 6,
  pagesPerSegment: 3,
  cleanFreedBytesMin: 64 * KiB,
  cleanStoredBytesMin: 1 * MiB,
  cleanStepBytes: 64 * KiB,
  cleanBlocksPerPass: 256,
  deadRootBytes: 512 * KiB,
  reclaimBytesMin: 64 * KiB,
  listPageEntries: 40,
  openFilesPerStore: 8,
  segmentKeysMax: 16,
  storeDirectoriesKnown: 32,
  documentHints: 8,
} satisfies Partial<Record<LimitName, number>>;

const small: SimOptions = {
  name: 'small',
  limits: smallLimits,
  blockBytes: 512,
  journalBytes: 2 * MiB,
  sizeBytes: 2 * MiB,
};

const varied = (
  name: string,
  changed: Partial<Record<LimitName, number>>,
  others: Partial<Omit<SimOptions, 'name' | 'limits'>> = {},
): SimOptions => ({ ...small, ...others, name, limits: { ...smallLimits, ...changed } });

/** What must not change the history of a volume (`--metamorphic`); random runs take turns with them. */
export const optionSets: readonly SimOptions[] = [
  small,
  varied('tiny journal', { journalFilesMin: 4 }, { journalBytes: 1 * MiB }),
  varied('large journal', { journalFileBytes: 1 * MiB }, { journalBytes: 8 * MiB }),
  varied('tiny segments', { segmentDataBytes: 32 * KiB, overlayEntries: 24 }),
  varied('large segments', {
    segmentDataBytes: 4 * MiB,
    overlayEntries: 8192,
    keptPayloadBytes: 64 * MiB,
  }),
  varied('a root behind every segment', { rootEverySegments: 1 }),
  varied('hardly any root', { rootEverySegments: 64, pagesPerSegment: 12_288 }),
  varied('young batches', { batchAgeMs: 20, reclaimDelayMs: 5 }),
  varied('old batches', { batchAgeMs: 3_600_000 }),
  varied('eager cleaning', {
    cleanLivePercent: 98,
    cleanFreedBytesMin: 8 * KiB,
    cleanStoredBytesMin: 8 * KiB,
    cleanForcedPercent: 90,
    reclaimBytesMin: 4 * KiB,
    reclaimDelayMs: 50,
  }),
  varied('no cleaning', {
    cleanLivePercent: 0,
    cleanForcedPercent: 0,
    reclaimBytesMin: 64 * MiB,
  }),
  varied('no memory', {
    mapCacheBytes: 256 * KiB,
    keptPayloadBytes: 0,
    openFilesPerStore: 1,
    segmentKeysMax: 1,
    storeDirectoriesKnown: 2,
    documentHints: 1,
    listPageEntries: 3,
  }),
  varied('short records', { recordPayloadBytes: 4 * KiB, unsyncedBytes: 32 * KiB }),
  varied('many tombstones', { tombstoneBlocksMin: 1, overlayTombstones: 64 }),
  varied('whole blocks', {}, { blockBytes: 4096 }),
  varied('compressed', {}, { compression: 'zstd' }),
  varied(
    'compression changes, eager cleaning',
    {
      cleanLivePercent: 98,
      cleanFreedBytesMin: 8 * KiB,
      cleanStoredBytesMin: 8 * KiB,
      cleanForcedPercent: 90,
      reclaimBytesMin: 4 * KiB,
      reclaimDelayMs: 50,
      segmentDataBytes: 128 * KiB,
    },
    { compression: 'changing' },
  ),
];

/** The limits as they ship. */
export const shippedOptions: SimOptions = {
  name: 'shipped',
  limits: {},
  blockBytes: 512,
  journalBytes: 16 * MiB,
  sizeBytes: 2 * MiB,
};

/** Half of the runs have the small ones, the others take turns. */
export function optionsOf(seed: number): SimOptions {
  const chosen = seed % 2 === 0 ? small : optionSets[((seed - 1) / 2) % optionSets.length];
  return chosen ?? small;
}

/** Run `task` with these limits. */
export async function withLimits<T>(options: SimOptions, task: () => Promise<T>): Promise<T> {
  // The table is written here only: what reads it sees the limits of this simulation.
  const table = limits as Record<LimitName, number>;
  const before = { ...table };
  Object.assign(table, options.limits);
  try {
    return await task();
  } finally {
    Object.assign(table, before);
  }
}
