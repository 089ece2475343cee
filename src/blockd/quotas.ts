/**
 * Quotas of folders: how large all volumes at or below a path may be together, how many they may be, and from how many stored
 * bytes on a warning is given.
 *
 *   quotas/<first 32 hex of the sha256 of the path>    { path, sizeBytes, volumes, storedBytes }, null: no such limit
 *
 * Invariants
 * - a volume comes below a quota only through `guarded` (create, clone, growing, rename, undelete), and those below any quota
 *   go one at a time from the look at the sum to the end of the work; this process is the only one that makes volumes. So two
 *   at once never both take the last place;
 * - a quota below what is used already is allowed: it stops growth and takes nothing away;
 * - a quota that cannot be read makes everything below any path fail, rather than be taken for none (N7).
 */
import { createHash } from 'node:crypto';
import {
  asVolumePath,
  DvceError,
  formatSize,
  type LogId,
  limits,
  schemaGuard,
  Type,
  type VolumeId,
} from '../base/index.ts';
import type { HlfsContext } from '../hlfs/index.ts';
import type { CatalogView, Viewed } from './catalog-view.ts';
import type { QuotaInfo } from './protocol.ts';
import { Turns } from './turns.ts';

const uint = Type.Union([Type.String({ pattern: '^(0|[1-9][0-9]{0,15})$' }), Type.Null()]);
const quotaSchema = Type.Object({
  path: Type.String({ minLength: 1 }),
  sizeBytes: uint,
  volumes: Type.Union([Type.Integer({ minimum: 0 }), Type.Null()]),
  storedBytes: uint,
});
interface QuotaDocument {
  path: string;
  sizeBytes: string | null;
  volumes: number | null;
  storedBytes: string | null;
}
const isQuota = schemaGuard<QuotaDocument>(quotaSchema);

interface Quota {
  readonly version: number;
  readonly document: QuotaDocument;
}

/** What is about to come below a path. */
export interface Coming {
  readonly sizeBytes: number;
  /** A volume that is there already and does not count twice: it grows or moves. */
  readonly volume?: VolumeId;
}

export interface QuotaLimits {
  readonly sizeBytes: number | null;
  readonly volumes: number | null;
  readonly storedBytes: number | null;
}

const keyOf = (path: string): string =>
  `quotas/${createHash('sha256').update(path).digest('hex').slice(0, 32)}`;

const asFolder = (path: string): string => (path === '/' ? '/' : asVolumePath(path));

const covers = (folder: string, path: string): boolean =>
  folder === '/' || folder === path || path.startsWith(`${folder}/`);

const numberOf = (text: string | null): number | null => (text === null ? null : Number(text));
const textOf = (value: number | null): string | null => (value === null ? null : String(value));

export class Quotas {
  readonly #context: HlfsContext;
  readonly #view: CatalogView;
  readonly #turns = new Turns();
  #known: Promise<Map<string, Quota>> | undefined;

  constructor(context: HlfsContext, view: CatalogView) {
    this.#context = context;
    this.#view = view;
  }

  /** Run what makes or enlarges a volume at `path`. @throws QUOTA_EXCEEDED before anything is done */
  async guarded<T>(path: string, coming: Coming, task: () => Promise<T>): Promise<T> {
    const quotas = await this.#load();
    if (![...quotas.keys()].some((folder) => covers(folder, path))) return task();
    return this.#turns.run('quotas', async () => {
      for (const [folder, { document }] of await this.#load())
        if (covers(folder, path)) refuse(document, await this.#view.list(folder), coming);
      return task();
    });
  }

  async list(): Promise<QuotaInfo[]> {
    const found: QuotaInfo[] = [];
    for (const { document } of (await this.#load()).values())
      found.push(describe(document, await this.#view.list(document.path), null));
    return found.sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /** With what is stored: counts the segments of the volumes below it. */
  async get(path: string): Promise<QuotaInfo> {
    const folder = asFolder(path);
    const found = (await this.#load()).get(folder);
    if (found === undefined) throw noQuota(folder);
    const below = await this.#view.list(folder);
    let stored = 0;
    for (const { record } of below)
      for (const log of record.head.logs) stored += await storedIn(this.#context, log);
    return describe(found.document, below, stored);
  }

  async set(path: string, wanted: QuotaLimits): Promise<QuotaInfo> {
    const folder = asFolder(path);
    if (wanted.sizeBytes === null && wanted.volumes === null && wanted.storedBytes === null)
      throw new DvceError('INVALID_ARGUMENT', {
        what: `the quota of ${folder}`,
        reason: 'it limits nothing',
        advice: `To take it away: dvce quota delete ${folder}`,
      });
    await this.#turns.run('quotas', async () => {
      const { documents, scope } = this.#context;
      const known = await this.#load();
      const present = known.get(folder);
      if (present === undefined && known.size >= limits.quotasMax)
        throw new DvceError('TOO_LARGE', {
          what: 'the list of quotas',
          reason: `there are ${known.size} already`,
          advice: 'Delete one that is not needed: dvce quota delete PATH',
        });
      const document: QuotaDocument = {
        ...present?.document,
        path: folder,
        sizeBytes: textOf(wanted.sizeBytes),
        volumes: wanted.volumes,
        storedBytes: textOf(wanted.storedBytes),
      };
      const key = keyOf(folder);
      const isDone =
        present === undefined
          ? await documents.create(scope, key, document)
          : await documents.replace(scope, key, present.version, document);
      this.#settled(folder, isDone);
    });
    return this.get(folder);
  }

  async delete(path: string): Promise<void> {
    const folder = asFolder(path);
    await this.#turns.run('quotas', async () => {
      const present = (await this.#load()).get(folder);
      if (present === undefined) throw noQuota(folder);
      const { documents, scope } = this.#context;
      this.#settled(folder, await documents.delete(scope, keyOf(folder), present.version));
    });
  }

  /** Read anew after every change. */
  #settled(folder: string, isDone: boolean): void {
    this.#known = undefined;
    if (!isDone)
      throw new DvceError('CONFLICT', {
        kind: 'quota',
        name: folder,
        reason: 'it was changed meanwhile',
      });
  }

  #load(): Promise<Map<string, Quota>> {
    this.#known ??= this.#read().catch((error: unknown) => {
      this.#known = undefined;
      throw error;
    });
    return this.#known;
  }

  async #read(): Promise<Map<string, Quota>> {
    const { documents } = this.#context;
    const found = new Map<string, Quota>();
    for (const name of await documents.names('quotas')) {
      const key = `quotas/${name}`;
      const stored = await documents.read<unknown>(key);
      if (stored === undefined) continue;
      const { value, version } = stored;
      if (!isQuota(value) || keyOf(value.path) !== key)
        throw new DvceError('DOCUMENT_DAMAGED', { name: key, reason: 'it is no quota' });
      found.set(value.path, { version, document: value });
    }
    return found;
  }
}

/** Bytes of the segments that a log wrote itself. */
async function storedIn(context: HlfsContext, log: LogId): Promise<number> {
  let bytes = 0;
  for await (const shard of allBelow(context, `logs/${log}/seg`))
    for await (const key of allBelow(context, shard))
      bytes += (await context.store.stat(key))?.lengthBytes ?? 0;
  return bytes;
}

async function* allBelow({ store }: HlfsContext, prefix: string): AsyncGenerator<string> {
  const page = limits.listPageEntries;
  let after: string | undefined;
  for (;;) {
    const entries = await store.list(prefix, after, page);
    for (const { key } of entries) yield key;
    if (entries.length < page) return;
    after = entries.at(-1)?.key;
  }
}

const noQuota = (folder: string): DvceError =>
  new DvceError('NOT_FOUND', { kind: 'quota', name: folder });

const usedBy = (below: readonly Viewed[]): number =>
  below.reduce((sum, { info }) => sum + info.sizeBytes, 0);

function refuse(
  { path, sizeBytes, volumes }: QuotaDocument,
  below: readonly Viewed[],
  coming: Coming,
): void {
  const others = below.filter(({ record }) => record.id !== coming.volume);
  const used = usedBy(others);
  const isNew = others.length === below.length;
  if (sizeBytes !== null && used + coming.sizeBytes > Number(sizeBytes))
    throw new DvceError('QUOTA_EXCEEDED', {
      name: path,
      reason: `${formatSize(coming.sizeBytes)} more than the ${formatSize(used)} that its other volumes have are above ${formatSize(Number(sizeBytes))}`,
    });
  if (isNew && volumes !== null && others.length + 1 > volumes)
    throw new DvceError('QUOTA_EXCEEDED', {
      name: path,
      reason: `it has ${others.length} volumes, and ${volumes} are allowed`,
    });
}

const describe = (
  { path, sizeBytes, volumes, storedBytes }: QuotaDocument,
  below: readonly Viewed[],
  usedStoredBytes: number | null,
): QuotaInfo => ({
  path,
  sizeBytes: numberOf(sizeBytes),
  volumes,
  storedBytes: numberOf(storedBytes),
  usedBytes: usedBy(below),
  usedVolumes: below.length,
  usedStoredBytes,
});
