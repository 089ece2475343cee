/**
 * `node src/blockd/dump-main.ts segment|journal ...`: what a segment or journal file says, as one JSON object. It only reads, so it
 * runs beside a blockd at work as well as without one. What is wrong with the files is in the answer; an error is
 * `{"error": {"code", "context"}}` and exit code 1.
 *
 *   segment --file FILE | --data-dir DIR --volume PATH [--number N] | --data-dir DIR --log LOG [--number N]
 *   journal --file FILE | --data-dir DIR --volume PATH
 */
import { closeSync, fstatSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  asLogId,
  asNodeId,
  asVolumePath,
  DvceError,
  isUuid,
  type LogId,
  limits,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemCode,
  systemRandom,
  systemTimers,
  toDvceError,
  type VolumeId,
} from '../base/index.ts';
import {
  dumpJournalFile,
  dumpSegment,
  type HlfsContext,
  listPlaces,
  openDocuments,
  readHead,
  segmentKey,
} from '../hlfs/index.ts';
import { openLocalStore } from '../stores/index.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'data-dir': { type: 'string', default: '.' },
    store: { type: 'string' },
    file: { type: 'string' },
    volume: { type: 'string' },
    log: { type: 'string' },
    number: { type: 'string' },
    limit: { type: 'string', default: '1000' },
  },
});
const dataDirectory = values['data-dir'];
const storeDirectory = values.store ?? join(dataDirectory, 'store');
const limit = Number(values.limit);

/** Read a file in pieces; its length now. */
function withFile<T>(
  path: string,
  use: (read: (offset: number, length: number) => Buffer, bytes: number) => T,
): T {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    if (systemCode(error) === 'ENOENT')
      throw new DvceError('NOT_FOUND', { kind: 'file', name: path }, error);
    throw toDvceError(error, path);
  }
  try {
    const read = (offset: number, length: number): Buffer => {
      const target = Buffer.alloc(length);
      return target.subarray(0, readSync(file, target, 0, length, offset));
    };
    const stat = fstatSync(file);
    if (!stat.isFile())
      throw new DvceError('INVALID_ARGUMENT', {
        what: path,
        reason: 'it is no file',
        advice: 'Give the path of a file.',
      });
    return use(read, stat.size);
  } finally {
    closeSync(file);
  }
}

const segmentIn = (path: string): object =>
  withFile(path, (read, bytes) => {
    if (bytes > limits.segmentBytesMax)
      throw new DvceError('TOO_LARGE', {
        what: path,
        reason: `it has ${bytes} bytes, a segment at most ${limits.segmentBytesMax}`,
        advice: 'It is no segment.',
      });
    return { file: path, ...dumpSegment(read(0, bytes), path, limit) };
  });

const journalIn = (path: string): object =>
  withFile(path, (read, bytes) => ({ file: path, ...dumpJournalFile(read, bytes, limit) }));

async function headOf(text: string) {
  const path = asVolumePath(text);
  const store = await openLocalStore({
    root: storeDirectory,
    files: nodeFileSystem,
    random: systemRandom,
    create: false,
  });
  const nobody = asNodeId('00000000-0000-4000-8000-000000000000');
  const context: HlfsContext = {
    ...{ store, documents: openDocuments(store), files: nodeFileSystem, clock: systemClock },
    ...{ timers: systemTimers, random: systemRandom, logger: silentLogger },
    // Nothing is written: there is no scope to write through.
    ...{ node: nobody, scope: '', journalDirectory: join(dataDirectory, 'journal') },
  };
  const place = (await listPlaces(context)).find((one) => one.path === path);
  const head = place === undefined ? undefined : await readHead(context, place.volume);
  if (head === undefined) throw new DvceError('NOT_FOUND', { kind: 'volume', name: path });
  return head.value;
}

function listSegmentFiles(log: LogId): object {
  const root = join(storeDirectory, 'logs', log, 'seg');
  const names = filesIn(root).flatMap((shard) => filesIn(join(root, shard)));
  const segments = names
    .filter((name) => /^\d{10}$/.test(name))
    .map(Number)
    .sort((a, b) => a - b)
    .map((number) => ({ number, file: join(storeDirectory, segmentKey(log, number)) }))
    .flatMap(({ number, file }) => {
      const stat = statSync(file, { throwIfNoEntry: false });
      return stat === undefined ? [] : [{ number, bytes: stat.size, file }];
    });
  return { kind: 'segments', log, segments };
}

function filesIn(directory: string): string[] {
  try {
    return readdirSync(directory).sort();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw toDvceError(error, directory);
  }
}

async function segment(): Promise<object> {
  if (values.file !== undefined) return segmentIn(values.file);
  if (values.log !== undefined && !isUuid(values.log))
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the log ${JSON.stringify(values.log.slice(0, 80))}`,
      reason: 'it is no UUID',
      advice: 'See it with: dvce volume show PATH',
    });
  const log =
    values.log === undefined ? (await headOf(values.volume ?? '')).log : asLogId(values.log);
  if (values.number === undefined) return listSegmentFiles(log);
  return segmentIn(join(storeDirectory, segmentKey(log, Number(values.number))));
}

async function journal(): Promise<object> {
  if (values.file !== undefined) return journalIn(values.file);
  const volume: VolumeId = (await headOf(values.volume ?? '')).volume;
  const directory = join(dataDirectory, 'journal', volume);
  const files = filesIn(directory)
    .filter((name) => name.startsWith('slot-'))
    .map((name) => join(directory, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true);
  return { kind: 'journals', volume, files: files.map(journalIn) };
}

try {
  const found = positionals[0] === 'journal' ? await journal() : await segment();
  process.stdout.write(`${JSON.stringify(found)}\n`);
} catch (error) {
  const { code, context } = toDvceError(error);
  process.stdout.write(`${JSON.stringify({ error: { code, context } })}\n`);
  process.exitCode = 1;
}
