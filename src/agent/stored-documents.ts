/**
 * Wanted state in the store: one kind of document (VMs, networks, schedules, ...) as typed values, over blockd's document
 * methods.
 *
 * Invariants
 * - a document changes only by compare-and-swap from the version that was read: of two changes at once one gets CONFLICT;
 * - N7: what cannot be read is an entry with an error. It is not absent, and nothing overwrites or removes it. A store that
 *   does not answer makes the whole call fail;
 * - S10: fields that this program does not know survive, because callers spread the value that they read.
 *
 * Values are remembered after the first `list`. This process is the only one that changes them while it holds the lock of the
 * data directory, so what is remembered is what is stored; after any failed change the document is read anew.
 */
import { Ajv, type ValidateFunction } from 'ajv';
import type { Static, TSchema } from 'typebox';
import { DvceError, limits } from '../base/index.ts';
import type { StateDocument } from '../blockd/index.ts';
import type { DataProcess } from './data-process.ts';

export type Stored<T> = { readonly name: string; readonly version: number; readonly value: T };
export type Entry<T> = Stored<T> | { readonly name: string; readonly error: DvceError };

export interface StoredDocumentsOptions<S extends TSchema> {
  readonly blockd: DataProcess;
  /** Directory in the store: lower case letters and `-`, e.g. `vms`. */
  readonly kind: string;
  /** Must allow fields that it does not name. */
  readonly schema: S;
}

export class StoredDocuments<S extends TSchema> {
  readonly #blockd: DataProcess;
  readonly #kind: string;
  readonly #isValid: ValidateFunction<Static<S>>;
  #known: Map<string, Entry<Static<S>>> | null = null;
  /** Changes so far, whatever their outcome. */
  #changes = 0;
  #loading: Promise<Map<string, Entry<Static<S>>>> | null = null;

  constructor({ blockd, kind, schema }: StoredDocumentsOptions<S>) {
    this.#blockd = blockd;
    this.#kind = kind;
    this.#isValid = new Ajv({ allErrors: false, strict: false }).compile<Static<S>>(schema);
  }

  /** By name; unreadable ones too. @throws BLOCKD_UNAVAILABLE and what else keeps the store from answering */
  async list(): Promise<Entry<Static<S>>[]> {
    const known = await this.#load();
    return [...known.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** undefined only when it is truly absent. */
  async read(name: string): Promise<Entry<Static<S>> | undefined> {
    const entry = (await this.#load()).get(name);
    // What could not be read may be readable by now.
    return entry !== undefined && 'error' in entry ? this.#refresh(name) : entry;
  }

  /** @throws ALREADY_EXISTS, TOO_LARGE */
  async create(name: string, value: Static<S>): Promise<Stored<Static<S>>> {
    const { version } = await this.#change(name, () =>
      this.#blockd.call('document.create', { kind: this.#kind, name, value: asObject(value) }),
    );
    return this.#remember({ name, version, value });
  }

  /** @throws CONFLICT when it is no longer at `version`, TOO_LARGE */
  async replace(name: string, version: number, value: Static<S>): Promise<Stored<Static<S>>> {
    const kind = this.#kind;
    const { version: next } = await this.#change(name, () =>
      this.#blockd.call('document.replace', { kind, name, version, value: asObject(value) }),
    );
    return this.#remember({ name, version: next, value });
  }

  /** @throws CONFLICT when it is no longer at `version` */
  async remove(name: string, version: number): Promise<void> {
    await this.#change(name, () =>
      this.#blockd.call('document.delete', { kind: this.#kind, name, version }),
    );
    this.#known?.delete(name);
  }

  async #load(): Promise<Map<string, Entry<Static<S>>>> {
    if (this.#known !== null) return this.#known;
    // Those who ask at the same time share one load; a failed one is not remembered.
    this.#loading ??= this.#loadAll().finally(() => {
      this.#loading = null;
    });
    const known = await this.#loading;
    this.#known ??= known;
    return this.#known;
  }

  async #loadAll(): Promise<Map<string, Entry<Static<S>>>> {
    for (let attempt = 0; attempt < limits.documentTries; attempt += 1) {
      const changes = this.#changes;
      const known = await this.#loadOnce();
      // Something was changed meanwhile: what was read may be older than that.
      if (changes === this.#changes) return known;
    }
    throw new DvceError('CONFLICT', {
      kind: this.#kind,
      name: '',
      reason: 'they changed too often while they were read',
    });
  }

  async #loadOnce(): Promise<Map<string, Entry<Static<S>>>> {
    const known = new Map<string, Entry<Static<S>>>();
    let after: string | undefined;
    do {
      const page = await this.#blockd.call('document.list', {
        kind: this.#kind,
        ...(after === undefined ? {} : { after }),
      });
      for (const document of page.documents) known.set(document.name, this.#entry(document));
      after = page.next ?? undefined;
    } while (after !== undefined);
    return known;
  }

  async #refresh(name: string): Promise<Entry<Static<S>> | undefined> {
    const { document } = await this.#blockd.call('document.read', { kind: this.#kind, name });
    if (document === null) {
      this.#known?.delete(name);
      return undefined;
    }
    return this.#remember(this.#entry(document));
  }

  /** A change whose outcome is not known (a lost answer) may have happened: the next look is at the store. */
  async #change<T>(name: string, change: () => Promise<T>): Promise<T> {
    const known = await this.#load();
    if (!known.has(name) && known.size >= limits.stateDocumentsMax)
      throw new DvceError('TOO_LARGE', {
        what: `the list of ${this.#kind}`,
        reason: `there are ${known.size} already`,
        advice: 'Delete what is no longer needed.',
      });
    try {
      return await change();
    } catch (error) {
      this.#known = null;
      throw error;
    } finally {
      this.#changes += 1;
    }
  }

  #remember<E extends Entry<Static<S>>>(entry: E): E {
    this.#known?.set(entry.name, entry);
    return entry;
  }

  #entry(document: StateDocument): Entry<Static<S>> {
    const { name } = document;
    if ('error' in document)
      return { name, error: new DvceError(document.error.code, document.error.context) };
    if (this.#isValid(document.value))
      return { name, version: document.version, value: document.value };
    const [first] = this.#isValid.errors ?? [];
    const field = first?.instancePath.slice(1).replaceAll('/', '.') ?? '';
    return {
      name,
      error: new DvceError('DOCUMENT_DAMAGED', {
        name: `state/${this.#kind}/${name}`,
        reason: `${field === '' ? 'it' : `its field ${field}`} ${first?.message ?? 'does not fit'}`,
      }),
    };
  }
}

const asObject = (value: unknown): Readonly<Record<string, unknown>> =>
  value as Readonly<Record<string, unknown>>;
