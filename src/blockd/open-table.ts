/**
 * The open table (rule N3): which volumes this blockd has to have open, kept durably so that after a restart their exports
 * come back by themselves, before any agent speaks.
 *
 *   <data>/state/open.json
 *   { "format": 1,
 *     "attached": [{ "volume", "path", "attachId", "vm", "epoch" }],   path: the one at the time of the attachment; the export's
 *                                                                      name is made of it and stays although the volume is renamed
 *                  "export": { "readOnly", "atMs" }                    in an attachment that "volume export" made
 *     "held":     [{ "id", "volume", "path", "snapshot", "atMs" }],    snapshots that "volume export" keeps from being deleted
 *     "opening":  [{ "volume", "atMs" }],                              an open has begun and not ended
 *     "crashes":  [{ "volume", "atMs", "reason" }] }                   rule N4
 *
 * Invariants:
 * - the file is replaced whole; a change is durable when its promise resolves;
 * - an attachment is in the table before its socket is named to anyone, and leaves it only by `detach`;
 * - a crash is charged to the volumes that were being opened when it happened. The first crash of a parallel start is charged
 *   to several; from then on `openOneByOne` is true, so that only the guilty one comes to `limits.crashLoopCount`.
 * - a file that cannot be read is set aside, never taken for the truth and never overwritten: the agent states its intent
 *   again (attach is idempotent).
 *
 * The wall clock is right here: the times must be comparable across restarts, and no decision about data hangs on them.
 */
import {
  asSnapshotName,
  asVolumeId,
  type Clock,
  DvceError,
  type FileSystem,
  type Logger,
  limits,
  type SnapshotName,
  schemaGuard,
  Type,
  type VolumeId,
} from '../base/index.ts';
import { type CrashRecord, forgetCrash, readCrash } from './crash-record.ts';
import { readWhole, writeDurably } from './durable-file.ts';
import { isRecord } from './lines.ts';

const tableFormat = 1;
const tableBytesMax = 16 * 1024 * 1024;

const uuid = Type.String({ pattern: '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' });
const attachmentSchema = Type.Object({
  volume: uuid,
  path: Type.String(),
  attachId: Type.String(),
  vm: Type.String(),
  epoch: Type.String(),
  export: Type.Optional(Type.Object({ readOnly: Type.Boolean(), atMs: Type.Number() })),
});
const heldSchema = Type.Object({
  id: Type.String(),
  volume: uuid,
  path: Type.String(),
  snapshot: Type.String(),
  atMs: Type.Number(),
});
const tableSchema = Type.Object({
  format: Type.Integer(),
  attached: Type.Array(attachmentSchema),
  // Absent in tables of earlier releases.
  held: Type.Optional(Type.Array(heldSchema)),
  opening: Type.Array(Type.Object({ volume: uuid, atMs: Type.Number() })),
  crashes: Type.Array(Type.Object({ volume: uuid, atMs: Type.Number(), reason: Type.String() })),
});
interface Table {
  format: number;
  attached: {
    volume: string;
    path: string;
    attachId: string;
    vm: string;
    epoch: string;
    export?: { readOnly: boolean; atMs: number };
  }[];
  held?: { id: string; volume: string; path: string; snapshot: string; atMs: number }[];
  opening: { volume: string; atMs: number }[];
  crashes: { volume: string; atMs: number; reason: string }[];
}
const isTable = schemaGuard<Table>(tableSchema);

export interface Attachment {
  readonly volume: VolumeId;
  readonly path: string;
  readonly attachId: string;
  readonly vm: string;
  readonly epoch: string;
  /** Of an attachment that is an export held by hand. */
  readonly export?: { readonly readOnly: boolean; readonly atMs: number };
}

/** A snapshot that is exported by hand. */
export interface HeldSnapshot {
  readonly id: string;
  readonly volume: VolumeId;
  readonly path: string;
  readonly snapshot: SnapshotName;
  readonly atMs: number;
}

export interface OpenTableOptions {
  readonly files: FileSystem;
  readonly path: string;
  readonly crashPath: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

const emptyTable: Table = { format: tableFormat, attached: [], opening: [], crashes: [] };

export class OpenTable {
  readonly #options: OpenTableOptions;
  #table: Table;
  #version = 0;
  #savedVersion = 0;
  #writing: Promise<void> | undefined;

  private constructor(options: OpenTableOptions, table: Table) {
    this.#options = options;
    this.#table = table;
  }

  /** Read the table, charge the last crash, forget old ones. */
  static async load(options: OpenTableOptions): Promise<OpenTable> {
    const { files, path, crashPath, clock } = options;
    const table = await readTable(options);
    const crash = readCrash(files, crashPath);
    const now = clock.wallMs();
    const charged = crash === undefined ? [] : chargedVolumes(table, crash);
    if (crash !== undefined)
      options.logger.warn({ reason: crash.reason, volumes: charged }, 'the last blockd crashed');
    const crashes = [
      ...table.crashes.filter(({ atMs }) => Math.abs(now - atMs) < limits.crashLoopWindowMs),
      ...charged.map((volume) => ({ volume, atMs: now, reason: crash?.reason ?? '' })),
    ];
    const loaded = new OpenTable(options, { ...table, opening: [], crashes });
    await writeDurably(files, path, loaded.#text());
    forgetCrash(crashPath);
    return loaded;
  }

  get attached(): readonly Attachment[] {
    return this.#table.attached.map(({ export: held, ...entry }) => ({
      ...entry,
      volume: asVolumeId(entry.volume),
      ...(held === undefined ? {} : { export: held }),
    }));
  }

  get held(): readonly HeldSnapshot[] {
    return (this.#table.held ?? []).map((entry) => ({
      ...entry,
      volume: asVolumeId(entry.volume),
      snapshot: asSnapshotName(entry.snapshot),
    }));
  }

  find(volume: VolumeId): Attachment | undefined {
    return this.attached.find((attachment) => attachment.volume === volume);
  }

  /** After a crash that was charged to anyone, volumes are opened one by one. */
  get openOneByOne(): boolean {
    return this.#table.crashes.length > 0;
  }

  /** Why the volume may only be opened read-only (N4), or null; `hopeless`: it crashed when opened read-only, too. */
  crashLoop(volume: VolumeId): { readonly reason: string; readonly hopeless: boolean } | null {
    const crashes = this.#table.crashes.filter((crash) => crash.volume === volume);
    if (crashes.length < limits.crashLoopCount) return null;
    return {
      reason: `blockd crashed ${crashes.length} times with it, last: ${crashes.at(-1)?.reason ?? ''}`,
      hopeless: crashes.length > limits.crashLoopCount,
    };
  }

  /** On failure the attachment is not in the table, neither in memory nor after a restart. */
  async attach(attachment: Attachment): Promise<void> {
    const others = this.#without(attachment.volume);
    this.#table = { ...this.#table, attached: [...others, { ...attachment }] };
    try {
      await this.#save();
    } catch (error) {
      this.#table = { ...this.#table, attached: this.#without(attachment.volume) };
      throw error;
    }
  }

  async detach(volume: VolumeId): Promise<void> {
    this.#table = { ...this.#table, attached: this.#without(volume) };
    await this.#save();
  }

  async hold(held: HeldSnapshot): Promise<void> {
    const before = this.#table.held ?? [];
    this.#table = { ...this.#table, held: [...before, { ...held }] };
    try {
      await this.#save();
    } catch (error) {
      this.#table = { ...this.#table, held: before };
      throw error;
    }
  }

  async unhold(id: string): Promise<void> {
    const held = (this.#table.held ?? []).filter((entry) => entry.id !== id);
    this.#table = { ...this.#table, held };
    await this.#save();
  }

  #without(volume: VolumeId): Table['attached'] {
    return this.#table.attached.filter((attachment) => attachment.volume !== volume);
  }

  async opening(volume: VolumeId): Promise<void> {
    const mark = { volume, atMs: this.#options.clock.wallMs() };
    this.#table = { ...this.#table, opening: [...this.#table.opening, mark] };
    await this.#save();
  }

  async opened(volume: VolumeId): Promise<void> {
    this.#table = {
      ...this.#table,
      opening: this.#table.opening.filter((mark) => mark.volume !== volume),
    };
    await this.#save();
  }

  /** Resolves when a write that began after this call's change is durable; concurrent changes share one write. */
  async #save(): Promise<void> {
    this.#version += 1;
    const wanted = this.#version;
    while (this.#savedVersion < wanted) {
      this.#writing ??= this.#write();
      await this.#writing;
    }
  }

  async #write(): Promise<void> {
    const version = this.#version;
    try {
      await writeDurably(this.#options.files, this.#options.path, this.#text());
      this.#savedVersion = version;
    } finally {
      this.#writing = undefined;
    }
  }

  #text(): string {
    return `${JSON.stringify(this.#table, undefined, 1)}\n`;
  }
}

function chargedVolumes(table: Table, crash: CrashRecord): string[] {
  const volumes = new Set(table.opening.map(({ volume }) => volume));
  if (crash.volume !== null) volumes.add(crash.volume);
  return [...volumes];
}

async function readTable({ files, path, logger }: OpenTableOptions): Promise<Table> {
  const text = readWhole(files, path, tableBytesMax);
  if (text === undefined) return emptyTable;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    value = undefined;
  }
  const format = isRecord(value) ? value['format'] : undefined;
  if (typeof format === 'number' && format > tableFormat)
    throw new DvceError('FORMAT_TOO_NEW', { what: path, found: format, known: tableFormat });
  if (isTable(value)) return value;
  await files.rename(path, `${path}.damaged`);
  logger.error({ path: `${path}.damaged` }, 'the open table cannot be read; it was set aside');
  return emptyTable;
}
