/** Records that were appended and are not known to be on stable storage: kept in memory, to be written elsewhere (J5). */
import { letGoOfPayload } from '../base/index.ts';

interface Journaled {
  readonly seq: number;
  readonly entry: { readonly payload: Buffer | null };
}

export class UnsyncedRecords<R extends Journaled> {
  readonly #records: R[] = [];
  bytes = 0;

  /** Oldest first. */
  get all(): readonly R[] {
    return this.#records;
  }

  add(record: R): void {
    this.#records.push(record);
    this.bytes += record.entry.payload?.byteLength ?? 0;
  }

  /** Records up to `seq` are stable, here or in the store. */
  dropUpTo(seq: number): void {
    let drop = 0;
    for (const { seq: each, entry } of this.#records) {
      if (each > seq) break;
      if (entry.payload !== null) {
        this.bytes -= entry.payload.byteLength;
        letGoOfPayload(entry.payload);
      }
      drop += 1;
    }
    if (drop > 0) this.#records.splice(0, drop);
  }
}
