/**
 * VM documents: what an operator wants, one document a VM in the store (stored-documents.ts, kind `vms`).
 *
 * | field | meaning |
 * |---|---|
 * | format | 1; a newer one is refused |
 * | id | UUID; the attach id of its volumes |
 * | desired | `running` or `stopped` |
 * | half | `creating` or `deleting` while that is under way; finished or undone at the next start of the agent |
 * | disks | name, path and id of the volume, whether it was made with the VM |
 * | the rest | vm-guest-fields.ts, vm-life-fields.ts |
 *
 * Invariants
 * - a change is a function of the newest document, repeated when somebody was faster: no change undoes another one;
 * - N7: a document that cannot be read changes nothing. Its VM is listed as unreadable; it is never started, stopped, deleted
 *   or overwritten. A store that does not answer makes the call fail;
 * - S10: fields that this program does not know survive a change;
 * - release 0.1.0 kept the documents as files of the host. They are taken over once; one that cannot be read stays where it
 *   is, and its VM is unreadable.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import Type, { type Static } from 'typebox';
import {
  checkName,
  DvceError,
  type FileSystem,
  type Logger,
  limits,
  systemCode,
} from '../base/index.ts';
import type { DataProcess } from './data-process.ts';
import { type Entry, StoredDocuments } from './stored-documents.ts';
import { guestFields } from './vm-guest-fields.ts';
import { lifeFields, transit } from './vm-life-fields.ts';

const format = 1;

export const VmDocumentSchema = Type.Object({
  format: Type.Integer({ minimum: 1 }),
  id: Type.String({ pattern: '^[0-9a-f-]{36}$' }),
  name: Type.String({ minLength: 1, maxLength: 63 }),
  desired: Type.Union([Type.Literal('running'), Type.Literal('stopped')]),
  half: Type.Optional(Type.Union([Type.Literal('creating'), Type.Literal('deleting')])),
  cpus: Type.Integer({ minimum: 1 }),
  memoryBytes: Type.Integer({ minimum: 1 }),
  machine: Type.String({ minLength: 1 }),
  firmware: Type.Union([Type.Literal('bios'), Type.Literal('uefi')]),
  ...guestFields,
  ...lifeFields,
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
      transit,
    }),
  ),
});
export type VmDocument = Static<typeof VmDocumentSchema>;
export type VmDocumentDisk = VmDocument['disks'][number];

/** A document, or why there is none to be had. */
export type VmEntry =
  | { readonly name: string; readonly document: VmDocument; readonly revision: number }
  | { readonly name: string; readonly error: DvceError };

export interface VmDocumentsOptions {
  readonly blockd: DataProcess;
  readonly files: FileSystem;
  readonly logger: Logger;
  /** Where release 0.1.0 kept them. */
  readonly oldDirectory: string;
}

const suffix = '.json';

export class VmDocuments {
  readonly #options: VmDocumentsOptions;
  readonly #stored: StoredDocuments<typeof VmDocumentSchema>;
  /** Old files that could not be read. */
  readonly #left = new Map<string, DvceError>();

  constructor(options: VmDocumentsOptions) {
    this.#options = options;
    const { blockd } = options;
    this.#stored = new StoredDocuments({ blockd, kind: 'vms', schema: VmDocumentSchema });
  }

  /** By name; unreadable ones too. */
  async list(): Promise<VmEntry[]> {
    const entries = (await this.#stored.list()).map(asEntry);
    for (const [name, error] of this.#left)
      if (!entries.some((entry) => entry.name === name)) entries.push({ name, error });
    return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** undefined only when it is truly absent. */
  async read(name: string): Promise<VmEntry | undefined> {
    const entry = await this.#stored.read(name);
    if (entry !== undefined) return asEntry(entry);
    const error = this.#left.get(name);
    return error === undefined ? undefined : { name, error };
  }

  async create(document: VmDocument): Promise<void> {
    const error = this.#left.get(document.name);
    if (error !== undefined) throw error;
    await this.#stored.create(checkName(document.name), document);
  }

  /**
   * Change a document as it is now. `change` may run more than once, and may throw to refuse.
   * @throws NOT_FOUND when it was deleted, also when another VM has its name now
   */
  async update(
    { id, name }: Pick<VmDocument, 'id' | 'name'>,
    change: (document: VmDocument) => VmDocument,
  ): Promise<VmDocument> {
    for (let attempt = 1; ; attempt += 1) {
      const entry = await this.#present(id, name);
      const next = change(entry.document);
      if (next === entry.document) return next;
      try {
        return (await this.#stored.replace(name, entry.revision, next)).value;
      } catch (error) {
        const lost = error instanceof DvceError && error.code === 'CONFLICT';
        if (!lost || attempt >= limits.documentTries) throw error;
      }
    }
  }

  async #present(id: string, name: string): Promise<Extract<VmEntry, { document: unknown }>> {
    const entry = await this.read(name);
    if (entry === undefined || ('document' in entry && entry.document.id !== id))
      throw new DvceError('NOT_FOUND', { kind: 'vm', name });
    if ('error' in entry) throw entry.error;
    return entry;
  }

  async remove({ id, name }: Pick<VmDocument, 'id' | 'name'>): Promise<void> {
    const entry = await this.read(name);
    if (entry === undefined || !('document' in entry) || entry.document.id !== id) return;
    await this.#stored.remove(name, entry.revision);
  }

  /** Move the files of release 0.1.0 into the store; each is removed when the store has it. */
  async takeOver(): Promise<void> {
    const { files, oldDirectory, logger } = this.#options;
    this.#left.clear();
    for (const file of await oldFiles(files, oldDirectory)) {
      const name = file.slice(0, -suffix.length);
      try {
        const document = parse(await readFile(join(oldDirectory, file), 'utf8'), name);
        const there = await this.#stored.read(name);
        if (there === undefined) await this.#stored.create(name, document);
        else if ('error' in there || there.value.id !== document.id)
          throw new DvceError('ALREADY_EXISTS', { kind: 'vm', name });
        await files.remove(join(oldDirectory, file));
        await files.syncDirectory(oldDirectory);
        logger.info({ vm: name }, 'the document of a VM was taken over into the store');
      } catch (error) {
        // A store that does not answer is no reason to call the VM damaged.
        if (!(error instanceof DvceError) || error.retryable) throw error;
        logger.error({ err: error, vm: name }, 'the document of a VM cannot be taken over');
        this.#left.set(name, error);
      }
    }
  }
}

async function oldFiles(files: FileSystem, directory: string): Promise<string[]> {
  try {
    return (await files.list(directory)).filter((file) => file.endsWith(suffix)).sort();
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  }
}

function asEntry(entry: Entry<VmDocument>): VmEntry {
  if ('error' in entry) return entry;
  const { name, version, value } = entry;
  try {
    return { name, document: checked(value, name), revision: version };
  } catch (error) {
    if (error instanceof DvceError) return { name, error };
    throw error;
  }
}

/** What the schema does not say. */
function checked(document: VmDocument, name: string): VmDocument {
  if (document.format > format)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: `the document of VM ${name}`,
      found: document.format,
      known: format,
    });
  if (document.name !== name)
    throw new DvceError('DOCUMENT_DAMAGED', {
      name: `of VM ${name}`,
      reason: `it names ${document.name}`,
    });
  return document;
}

const isDocument = new Ajv({ allErrors: false }).compile<VmDocument>(VmDocumentSchema);

function parse(text: string, name: string): VmDocument {
  const damaged = (reason: string, cause?: unknown): DvceError =>
    new DvceError('DOCUMENT_DAMAGED', { name: `of VM ${name}`, reason }, cause);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damaged('it is not JSON', error);
  }
  if (isDocument(value)) return checked(value, name);
  const { instancePath = '', message = '' } = isDocument.errors?.[0] ?? {};
  throw damaged(`${instancePath === '' ? 'it' : instancePath} ${message}`);
}
