/**
 * VM documents: what an operator wants, one JSON file per VM in `<data>/state/vms`.
 *
 * | field | meaning |
 * |---|---|
 * | format | 1; a newer one is refused |
 * | id | UUID; the attach id of its volumes |
 * | desired | `running` or `stopped` |
 * | half | `creating` or `deleting` while that is under way; finished or undone at the next start of the agent |
 * | disks | name, path and id of the volume, whether it was made with the VM |
 *
 * Invariants
 * - a file is replaced whole: temporary file, data sync, rename, directory sync. A crash leaves the old or the new one;
 * - N7: a file that cannot be read changes nothing. Its VM is listed as unreadable; it is never started, stopped, deleted or
 *   overwritten;
 * - S10: fields that this program does not know survive a rewrite.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import Type, { type Static } from 'typebox';
import {
  checkName,
  DvceError,
  dataSync,
  type FileSystem,
  limits,
  systemCode,
  writeFully,
} from '../base/index.ts';
import { guestFields } from './vm-guest-fields.ts';

const format = 1;

const VmDocumentSchema = Type.Object({
  format: Type.Literal(format),
  id: Type.String({ pattern: '^[0-9a-f-]{36}$' }),
  name: Type.String({ minLength: 1, maxLength: 63 }),
  desired: Type.Union([Type.Literal('running'), Type.Literal('stopped')]),
  half: Type.Optional(Type.Union([Type.Literal('creating'), Type.Literal('deleting')])),
  cpus: Type.Integer({ minimum: 1 }),
  memoryBytes: Type.Integer({ minimum: 1 }),
  machine: Type.String({ minLength: 1 }),
  firmware: Type.Union([Type.Literal('bios'), Type.Literal('uefi')]),
  ...guestFields,
  readyPattern: Type.Union([Type.String(), Type.Null()]),
  labels: Type.Record(Type.String(), Type.String()),
  createdAt: Type.String(),
  startedAt: Type.Union([Type.String(), Type.Null()]),
  disks: Type.Array(
    Type.Object({
      name: Type.String({ minLength: 1 }),
      path: Type.String({ minLength: 1 }),
      /** Empty until the volume exists. */
      volumeId: Type.String(),
      readOnly: Type.Boolean(),
      bootOrder: Type.Union([Type.Integer(), Type.Null()]),
      owned: Type.Boolean(),
    }),
  ),
});
export type VmDocument = Static<typeof VmDocumentSchema>;
export type VmDocumentDisk = VmDocument['disks'][number];

/** A document, or why there is none to be had. */
export type VmEntry =
  | { readonly name: string; readonly document: VmDocument }
  | { readonly name: string; readonly error: DvceError };

const check = new Ajv({ allErrors: false }).compile<VmDocument>(VmDocumentSchema);
const suffix = '.json';

export class VmDocuments {
  readonly #directory: string;
  readonly #files: FileSystem;

  constructor(directory: string, files: FileSystem) {
    this.#directory = directory;
    this.#files = files;
  }

  /** Make the directory; remove what an interrupted write left. Before anything else is done here. */
  async open(): Promise<void> {
    await this.#files.makeDirectory(this.#directory);
    for (const file of await this.#files.list(this.#directory))
      if (file.endsWith(`${suffix}.new`)) await this.#files.remove(join(this.#directory, file));
  }

  /** By name; unreadable ones too. */
  async list(): Promise<VmEntry[]> {
    const names = (await this.#files.list(this.#directory)).sort();
    const entries: VmEntry[] = [];
    for (const file of names) {
      if (!file.endsWith(suffix)) continue;
      const entry = await this.read(file.slice(0, -suffix.length));
      if (entry !== undefined) entries.push(entry);
    }
    return entries;
  }

  /** undefined only when the file is truly absent. */
  async read(name: string): Promise<VmEntry | undefined> {
    const path = this.#path(name);
    try {
      return { name, document: parse(await readFile(path, 'utf8'), name) };
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return undefined;
      if (error instanceof DvceError) return { name, error };
      const reason = error instanceof Error ? error.message : String(error);
      return { name, error: new DvceError('DOCUMENT_DAMAGED', { name: path, reason }, error) };
    }
  }

  async write(document: VmDocument): Promise<void> {
    const path = this.#path(checkName(document.name));
    const text = Buffer.from(`${JSON.stringify(document, null, 2)}\n`);
    if (text.byteLength > limits.documentBytesMax)
      throw new DvceError('TOO_LARGE', {
        what: `the document of VM ${document.name}`,
        reason: `it has ${text.byteLength} bytes`,
        advice: 'Use fewer labels.',
      });
    const temporary = `${path}.new`;
    if ((await this.#files.stat(temporary)) !== undefined) await this.#files.remove(temporary);
    const file = this.#files.openSync(temporary, 'create');
    try {
      await writeFully(file, [text], 0);
      await dataSync(file);
    } finally {
      file.closeSync();
    }
    await this.#files.rename(temporary, path);
    await this.#files.syncDirectory(this.#directory);
  }

  async remove(name: string): Promise<void> {
    await this.#files.remove(this.#path(name));
    await this.#files.syncDirectory(this.#directory);
  }

  #path(name: string): string {
    return join(this.#directory, `${name}${suffix}`);
  }
}

function parse(text: string, name: string): VmDocument {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DvceError(
      'DOCUMENT_DAMAGED',
      { name: `of VM ${name}`, reason: 'it is not JSON' },
      error,
    );
  }
  const found = typeof value === 'object' && value !== null && 'format' in value ? value.format : 0;
  if (typeof found === 'number' && found > format)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: `the document of VM ${name}`,
      found,
      known: format,
    });
  if (!check(value)) {
    const { instancePath = '', message = '' } = check.errors?.[0] ?? {};
    throw new DvceError('DOCUMENT_DAMAGED', {
      name: `of VM ${name}`,
      reason: `${instancePath === '' ? 'it' : instancePath} ${message}`,
    });
  }
  if (value.name !== name)
    throw new DvceError('DOCUMENT_DAMAGED', {
      name: `of VM ${name}`,
      reason: `it names ${value.name}`,
    });
  return value;
}
