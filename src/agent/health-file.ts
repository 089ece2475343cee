/**
 * What the health remembers over a restart of the agent, in `state/health.json`:
 *
 *   {"format":1,"causes":[{"code":"VM_CRASHED","object":"/v1/vms/web1","severity":"warning","since":"..."}],
 *    "blockd":[{"pid":4711,"atMs":1790000000000}]}
 *
 * Losing it loses times, nothing else: a file that cannot be read or written is reported in the log, and the health goes on.
 */

import { readFile } from 'node:fs/promises';
import { Ajv } from 'ajv';
import Type, { type Static } from 'typebox';
import type { HealthCause } from '../api/index.ts';
import { type FileSystem, type Logger, limits, systemCode, writeFully } from '../base/index.ts';

const Kept = Type.Object({
  code: Type.String({ maxLength: 64 }),
  object: Type.String({ maxLength: 4096 }),
  severity: Type.String({ maxLength: 16 }),
  since: Type.String({ maxLength: 64 }),
});
type Kept = Static<typeof Kept>;

const Content = Type.Object({
  format: Type.Literal(1),
  causes: Type.Array(Kept),
  blockd: Type.Array(Type.Object({ pid: Type.Number(), atMs: Type.Number() })),
});
type Content = Static<typeof Content>;
const isContent = new Ajv({ strict: false }).compile<Content>(Content);

export const keyOf = ({ code, object }: Pick<HealthCause, 'object'> & { code: string }): string =>
  `${code} ${object}`;

export class HealthFile {
  readonly #path: string;
  readonly #files: FileSystem;
  readonly #logger: Logger;
  #content: Content | undefined;
  #written = '';

  constructor(path: string, files: FileSystem, logger: Logger) {
    this.#path = path;
    this.#files = files;
    this.#logger = logger;
  }

  async load(): Promise<void> {
    if (this.#content !== undefined) return;
    this.#content = { format: 1, causes: [], blockd: [] };
    try {
      const text = await readFile(this.#path, 'utf8');
      const value: unknown = JSON.parse(text);
      if (!isContent(value)) throw new Error('it is not what this program writes');
      this.#content = value;
      this.#written = text;
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return;
      this.#logger.warn(
        { err: error, path: this.#path },
        'since when things are wrong is not known',
      );
    }
  }

  get #now(): Content {
    this.#content ??= { format: 1, causes: [], blockd: [] };
    return this.#content;
  }

  since(key: string): string | undefined {
    return this.#now.causes.find((one) => keyOf(one) === key)?.since;
  }

  /** What was wrong and is not in `causes`. */
  missing(causes: ReadonlyMap<string, unknown>): readonly Kept[] {
    return this.#now.causes.filter((one) => !causes.has(keyOf(one)));
  }

  /** @returns whether it is another blockd than the last time */
  sawBlockd({ pid }: { readonly pid: number }, nowMs: number): boolean {
    const { blockd } = this.#now;
    const last = blockd.at(-1);
    if (last?.pid === pid) return false;
    const recent = blockd.filter(({ atMs }) => nowMs - atMs < limits.crashLoopWindowMs);
    this.#now.blockd = [...recent.slice(1 - limits.blockdStartsKept), { pid, atMs: nowMs }];
    return last !== undefined;
  }

  starts(nowMs: number): number {
    return this.#now.blockd.filter(({ atMs }) => Math.abs(nowMs - atMs) < limits.crashLoopWindowMs)
      .length;
  }

  async forgetStarts(): Promise<void> {
    this.#now.blockd = [];
    await this.#keep();
  }

  async keep(causes: readonly HealthCause[]): Promise<void> {
    this.#now.causes = causes.map(({ code, object, severity, since }) => ({
      code,
      object,
      severity,
      since,
    }));
    await this.#keep();
  }

  async #keep(): Promise<void> {
    const text = `${JSON.stringify(this.#now)}\n`;
    if (text === this.#written) return;
    try {
      await this.#write(text);
      this.#written = text;
    } catch (error) {
      this.#logger.warn({ err: error, path: this.#path }, 'the health could not be kept');
    }
  }

  /** Replaced whole. Not synced: after a loss of power the times begin anew. */
  async #write(text: string): Promise<void> {
    const temporary = `${this.#path}.new`;
    if ((await this.#files.stat(temporary)) !== undefined) await this.#files.remove(temporary);
    const file = this.#files.openSync(temporary, 'create');
    try {
      await writeFully(file, [Buffer.from(text)], 0);
    } finally {
      file.closeSync();
    }
    await this.#files.rename(temporary, this.#path);
  }
}
