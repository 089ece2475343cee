/**
 * What lists show of the volumes, remembered: with a thousand volumes a list would otherwise read ten thousand documents.
 *
 * Invariants
 * - only lists and sums are answered from here; whoever changes a volume reads its documents itself, and every change is a
 *   compare-and-swap, so an entry that were wrong could misinform but never damage;
 * - all documents of this store are written by this process (N3), through `observed`: each write, of the main thread and of
 *   the workers, tells the key here before its caller hears of the outcome, whatever the outcome was. So who made a change and
 *   lists afterwards sees it;
 * - what was being read while anything changed is not kept;
 * - a doubt (a volume read afresh is not the version that is remembered) forgets everything.
 *
 * Remembered: the documents below `names/` (the walk through them is repeated, which costs little), and per volume its record
 * and the number of its snapshots.
 */
import { limits, type VolumeId } from '../base/index.ts';
import {
  countSnapshots,
  type Documents,
  type HeadDocument,
  type HlfsContext,
  isAt,
  isUsable,
  listPlaces,
  type Named,
  readHead,
  type VolumeRecord,
} from '../hlfs/index.ts';
import { observed } from './observed-documents.ts';
import type { VolumeInfo } from './protocol.ts';
import { describeVolume } from './volume-info.ts';

/** A volume as lists show it, without what it is doing while open. */
export interface Viewed {
  readonly record: VolumeRecord;
  readonly info: VolumeInfo;
}

interface Known {
  readonly version: number;
  readonly head: HeadDocument;
  readonly snapshots: number;
  /** As it was shown last; its path may be another by now. */
  shown?: Viewed;
}

const parentOf = (key: string): string => key.slice(0, key.lastIndexOf('/'));

export class CatalogView {
  readonly #context: HlfsContext;
  /** Reads of `names/`, of this view alone. */
  readonly #walking: HlfsContext;
  readonly #documents = new Map<string, unknown>();
  readonly #names = new Map<string, string[]>();
  #places: readonly Named[] | undefined;
  readonly #volumes = new Map<VolumeId, Known>();
  readonly #volumeOfLog = new Map<string, VolumeId>();
  /** Logs with snapshots of several volumes. */
  readonly #common = new Set<string>();
  /** Rises with every change; what was read across one is not kept. */
  #changes = 0;

  constructor(context: HlfsContext) {
    this.#context = context;
    const { documents } = context;
    const remembering: Documents = {
      ...observed(documents, () => {}),
      read: (key) => this.#remembered(this.#documents, key, () => documents.read(key)),
      names: (prefix) => this.#remembered(this.#names, prefix, () => documents.names(prefix)),
    };
    this.#walking = { ...context, documents: remembering };
  }

  /** A document was written, or may have been. */
  changed(key: string): void {
    this.#changes += 1;
    if (key.startsWith('names/')) {
      this.#documents.delete(key);
      this.#names.delete(parentOf(key));
      this.#places = undefined;
      return;
    }
    const [kind, id = '', part] = key.split('/');
    if (kind === 'volumes') this.#volumes.delete(id as VolumeId);
    const volume = kind === 'logs' && part === 'snap' ? this.#volumeOfLog.get(id) : undefined;
    if (volume !== undefined) this.#volumes.delete(volume);
    if (kind === 'logs' && part === 'snap' && this.#common.has(id)) this.#volumes.clear();
    // A set decides about snapshots of several logs at once.
    if (kind === 'sets') this.#volumes.clear();
  }

  forget(): void {
    this.#changes += 1;
    this.#documents.clear();
    this.#names.clear();
    this.#places = undefined;
    this.#volumes.clear();
    this.#volumeOfLog.clear();
    this.#common.clear();
  }

  /** Somebody read this volume afresh. */
  compare({ id, version }: VolumeRecord): void {
    const known = this.#volumes.get(id);
    if (known !== undefined && known.version !== version) this.forget();
  }

  /** Volumes at or below a path, in order of their paths. */
  async list(prefix = '/'): Promise<Viewed[]> {
    const below = prefix === '/' || prefix === '' ? '/' : `${prefix}/`;
    const places = (await this.#listPlaces()).filter(
      ({ path }) => path === prefix || path.startsWith(below),
    );
    const found: Viewed[] = [];
    for (let at = 0; at < places.length; at += limits.listReadsMax) {
      const some = places.slice(at, at + limits.listReadsMax);
      const known = some.map((place) => this.#volumes.get(place.volume));
      // Without waiting where all is known: that is nearly always.
      const read = known.includes(undefined)
        ? await Promise.all(some.map(({ volume }) => this.#read(volume)))
        : known;
      for (const [index, place] of some.entries()) {
        const one = read[index];
        if (one !== undefined && isUsable(one.head) && isAt(one.head, place))
          found.push(viewed(place, one));
      }
    }
    return found;
  }

  async #listPlaces(): Promise<readonly Named[]> {
    if (this.#places !== undefined) return this.#places;
    const before = this.#changes;
    const places = await listPlaces(this.#walking);
    if (before === this.#changes) this.#places = places;
    return places;
  }

  async #read(id: VolumeId): Promise<Known | undefined> {
    const present = this.#volumes.get(id);
    if (present !== undefined) return present;
    const before = this.#changes;
    const head = await readHead(this.#context, id);
    if (head === undefined) return undefined;
    const count = isUsable(head.value) ? await countSnapshots(this.#context, head.value) : 0;
    const known = { version: head.version, head: head.value, snapshots: count };
    if (before === this.#changes) {
      this.#volumes.set(id, known);
      for (const log of head.value.logs) this.#volumeOfLog.set(log, id);
      for (const log of head.value.snapshotLogs ?? []) this.#common.add(log);
    }
    return known;
  }

  async #remembered<T>(map: Map<string, unknown>, key: string, read: () => Promise<T>): Promise<T> {
    if (map.has(key)) return map.get(key) as T;
    const before = this.#changes;
    const value = await read();
    if (map.size >= limits.viewDocumentsMax) map.clear();
    if (before === this.#changes) map.set(key, value);
    return value;
  }
}

function viewed({ path }: Named, known: Known): Viewed {
  const { version, head, snapshots, shown } = known;
  if (shown?.record.path === path) return shown;
  const record: VolumeRecord = { path, id: head.volume, version, head };
  known.shown = { record, info: describeVolume(record, snapshots, null) };
  return known.shown;
}
