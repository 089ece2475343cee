/**
 * The journal's directory: its files, its incarnation, and what it last knew of the store.
 *
 *   <journals>/<volume>/state        JSON line + CRC line: incarnation, log, lastSegment, clean (see JournalState)
 *   <journals>/<volume>/slot-NN      files of equal size, recycled
 *   <journals>/free/<bytes>-<uuid>   files of closed volumes, taken before new ones are made
 *
 * Invariants:
 * - the incarnation is raised and durable before anything of it is written anywhere (J2, R1);
 * - every slot is allocated and zero-written, and its name durable, before the volume serves (J8);
 * - a store that has less than this node saw is refused (S4);
 * - a journal of another volume is refused before anything in its directory is changed.
 */
import {
  asLogId,
  crc32c,
  DvceError,
  dataSync,
  isUuid,
  type LogId,
  limits,
  randomUuid,
  systemCode,
  toDvceError,
  type VolumeId,
  writeFully,
} from '../base/index.ts';
import { readLog } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { Slot } from './journal-slot.ts';

export interface JournalState {
  /** Whose journal it is; one that was written first by an early release does not say. */
  readonly volume?: string;
  readonly incarnation: number;
  readonly log: string;
  /** Highest segment of `log` that this node knows to exist. */
  readonly lastSegment: number;
  /** Closed cleanly: nothing of the journal is needed. */
  readonly clean: boolean;
  /** Size of every slot. */
  readonly fileBytes?: number;
}

const directoryOf = (context: HlfsContext, volume: VolumeId): string =>
  `${context.journalDirectory}/${volume}`;
const poolOf = (context: HlfsContext): string => `${context.journalDirectory}/free`;

/** Read a small file whole; undefined when it is absent. */
async function readSmall(context: HlfsContext, path: string): Promise<Buffer | undefined> {
  const stat = await context.files.stat(path);
  if (stat === undefined) return undefined;
  const file = context.files.openSync(path, 'read');
  try {
    const bytes = Buffer.alloc(Math.min(stat.sizeBytes, limits.documentBytesMax));
    return bytes.subarray(0, file.readSync(bytes, 0));
  } finally {
    file.closeSync();
  }
}

export async function readJournalState(
  context: HlfsContext,
  volume: VolumeId,
): Promise<JournalState | undefined> {
  const path = `${directoryOf(context, volume)}/state`;
  const bytes = await readSmall(context, path);
  if (bytes === undefined) return undefined;
  const [line = '', sum = ''] = bytes.toString('utf8').split('\n');
  if (crc32c(Buffer.from(line)) !== Number.parseInt(sum, 16))
    throw new DvceError('JOURNAL_DAMAGED', {
      name: volume,
      reason: `${path} does not fit its checksum`,
    });
  return JSON.parse(line);
}

/** Replace the state file; durable when it resolves. */
export async function writeJournalState(
  context: HlfsContext,
  volume: VolumeId,
  state: JournalState,
): Promise<void> {
  const directory = directoryOf(context, volume);
  const temporary = `${directory}/state.new`;
  if ((await context.files.stat(temporary)) !== undefined) await context.files.remove(temporary);
  const line = Buffer.from(JSON.stringify({ ...state, volume }));
  const file = context.files.openSync(temporary, 'create');
  try {
    await writeFully(file, [line, Buffer.from(`\n${crc32c(line).toString(16)}\n`)], 0);
    await dataSync(file);
  } finally {
    file.closeSync();
  }
  await context.files.rename(temporary, `${directory}/state`);
  await context.files.syncDirectory(directory);
}

export async function makeJournalDirectory(context: HlfsContext, volume: VolumeId): Promise<void> {
  await context.files.makeDirectory(directoryOf(context, volume));
  await context.files.makeDirectory(poolOf(context));
  await context.files.syncDirectory(context.journalDirectory);
}

/**
 * Open the slots that exist, then take from the pool or make what the quota asks for. A slot gets its name only when it is
 * complete, so one of another size was damaged; it is replaced only when nothing in it can be needed.
 */
export async function openSlots(
  context: HlfsContext,
  volume: VolumeId,
  options: {
    readonly quotaBytes: number;
    readonly fileBytes: number;
    readonly mayReplace: boolean;
  },
): Promise<Slot[]> {
  const { quotaBytes, fileBytes, mayReplace } = options;
  const directory = directoryOf(context, volume);
  const names = (await context.files.list(directory)).filter((name) => /^slot-\d+$/.test(name));
  const slots: Slot[] = [];
  try {
    for (const name of names.sort()) {
      const path = `${directory}/${name}`;
      const sizeBytes = (await context.files.stat(path))?.sizeBytes;
      if (sizeBytes === fileBytes) slots.push(openSlot(context, path, slots.length));
      else if (mayReplace) await context.files.remove(path);
      else
        throw new DvceError('JOURNAL_DAMAGED', {
          name: volume,
          reason: `${path} has ${sizeBytes} bytes instead of ${fileBytes}`,
        });
    }
    const count = Math.max(limits.journalFilesMin, Math.floor(quotaBytes / fileBytes));
    for (let number = 0; slots.length < count; number += 1) {
      const path = `${directory}/slot-${String(number).padStart(2, '0')}`;
      if (slots.some((slot) => slot.file.path === path)) continue;
      await takeOrMake(context, path, fileBytes);
      slots.push(openSlot(context, path, slots.length));
    }
    await context.files.syncDirectory(directory);
    return slots;
  } catch (error) {
    // What was made is used by the next open; nothing of it stays open until then.
    for (const { file } of slots) file.closeSync();
    throw toDvceError(error, `the journal directory ${directory}`);
  }
}

const openSlot = (context: HlfsContext, path: string, index: number): Slot => ({
  index,
  file: context.files.openSync(path, 'write'),
  state: 'free',
  lastSeq: 0,
  syncedSeq: 0,
  usedBytes: 0,
});

async function takeOrMake(context: HlfsContext, path: string, fileBytes: number): Promise<void> {
  const pool = poolOf(context);
  for (const name of await context.files.list(pool)) {
    if (!name.startsWith(`${fileBytes}-`)) continue;
    try {
      await context.files.rename(`${pool}/${name}`, path);
      return;
    } catch (error) {
      if (systemCode(error) !== 'ENOENT') throw error; // another volume was faster
    }
  }
  await makeFile(context, path, fileBytes);
}

/** A file whose blocks are allocated, so that a sync of overwritten pages flushes data only. */
async function makeFile(context: HlfsContext, path: string, fileBytes: number): Promise<void> {
  const temporary = `${path}.new`;
  if ((await context.files.stat(temporary)) !== undefined) await context.files.remove(temporary);
  const file = context.files.openSync(temporary, 'create');
  try {
    const zeros = Buffer.alloc(Math.min(fileBytes, 1 << 20));
    for (let at = 0; at < fileBytes; at += zeros.byteLength)
      await writeFully(file, [zeros.subarray(0, Math.min(zeros.byteLength, fileBytes - at))], at);
    await dataSync(file);
  } catch (error) {
    file.closeSync();
    await context.files.remove(temporary);
    throw error;
  }
  file.closeSync();
  await context.files.rename(temporary, path);
}

/** After a clean close: the files go to the pool while it has room, else away. */
export async function releaseSlots(
  context: HlfsContext,
  slots: readonly Slot[],
  fileBytes: number,
): Promise<void> {
  const pool = poolOf(context);
  let pooled = (await context.files.list(pool)).length;
  for (const slot of slots) {
    if (slot.state === 'failed' || pooled >= limits.journalPoolFiles) {
      await context.files.remove(slot.file.path);
      continue;
    }
    await context.files.rename(
      slot.file.path,
      `${pool}/${fileBytes}-${randomUuid(context.random)}`,
    );
    pooled += 1;
  }
}

/**
 * Somebody put the journal of another volume, or of another store, in the place of this one's. Nothing of it may be overwritten: it
 * may be the only copy of what was flushed to that other volume. Accepting a loss here is no reason to lose something there.
 * @throws JOURNAL_FOREIGN
 */
export async function refuseForeignJournal(
  context: HlfsContext,
  volume: VolumeId,
  state: JournalState | undefined,
): Promise<void> {
  if (state === undefined) return;
  const owner = state.volume ?? (await ownerOf(context, state.log)) ?? volume;
  if (owner === volume) return;
  const reason = `${directoryOf(context, volume)} is that of volume ${owner}`;
  throw new DvceError('JOURNAL_FOREIGN', { name: volume, reason });
}

/** Of a log that exists in this store. */
async function ownerOf(context: HlfsContext, log: string): Promise<VolumeId | undefined> {
  return isUuid(log) ? (await readLog(context, asLogId(log)))?.value.volume : undefined;
}

/** S4: the store must have what this node saw. */
export function refuseOlderStore(
  state: JournalState | undefined,
  volume: VolumeId,
  log: LogId,
  lastSegment: number,
): void {
  if (state === undefined || state.log !== log || lastSegment >= state.lastSegment) return;
  throw new DvceError('CONFLICT', {
    kind: 'volume',
    name: volume,
    reason: `the store ends at segment ${lastSegment}, this node saw segment ${state.lastSegment}; it is an older copy`,
  });
}
