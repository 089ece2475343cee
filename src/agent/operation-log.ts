/**
 * Operations on disk: one entry per operation, written when it begins and when it ends, so that after a restart of the agent
 * it is known what was under way and how the last thousand ended; and the lines that each of them said.
 *
 *   ID          the operation         (ids are base 36, so they come after `!`)
 *   !ID!00012   a line of its log
 *
 * The log may be lost without harm: a log that cannot be opened is put aside and a new one begun.
 */
import { ClassicLevel } from 'classic-level';
import type { Operation } from '../api/index.ts';
import { type FileSystem, type Logger, toDvceError } from '../base/index.ts';

export class OperationLog {
  readonly #level: ClassicLevel<string, Operation | string>;

  private constructor(level: ClassicLevel<string, Operation | string>) {
    this.#level = level;
  }

  static async open(
    directory: string,
    files: FileSystem,
    logger: Logger,
    wallMs: number,
  ): Promise<OperationLog> {
    await files.makeDirectory(directory);
    try {
      return await OperationLog.#try(directory);
    } catch (error) {
      const aside = `${directory}.damaged-${wallMs}`;
      logger.warn({ err: error, aside }, 'the operation log cannot be opened; beginning a new one');
      await files.rename(directory, aside);
      await files.makeDirectory(directory);
      return OperationLog.#try(directory);
    }
  }

  static async #try(directory: string): Promise<OperationLog> {
    const level = new ClassicLevel<string, Operation | string>(directory, {
      valueEncoding: 'json',
    });
    try {
      await level.open();
    } catch (error) {
      throw toDvceError(error, directory);
    }
    return new OperationLog(level);
  }

  /** All entries, oldest first: an id begins with its time. */
  async read(): Promise<Operation[]> {
    const all: Operation[] = [];
    for await (const value of this.#level.values({ gt: '!~' }))
      if (typeof value === 'object') all.push(whole(value));
    return all;
  }

  async write(operation: Operation): Promise<void> {
    await this.#level.put(operation.id, operation, { sync: operation.status === 'running' });
  }

  async forget(ids: readonly string[]): Promise<void> {
    await this.#level.batch(ids.map((key) => ({ type: 'del', key })));
    for (const id of ids) await this.#level.clear(linesOf(id));
  }

  /** The `at`th line of an operation; lost with the power, kept when the agent is killed. */
  async writeLine(id: string, at: number, text: string): Promise<void> {
    await this.#level.put(`!${id}!${String(at).padStart(5, '0')}`, text);
  }

  async readLines(id: string): Promise<string[]> {
    const values = await this.#level.values(linesOf(id)).all();
    return values.filter((value) => typeof value === 'string');
  }

  async close(): Promise<void> {
    await this.#level.close();
  }
}

const linesOf = (id: string) => ({ gt: `!${id}!`, lt: `!${id}!~` });

/** Entries of agents before 0.2 do not name who asked. */
const whole = (entry: Operation): Operation => ({
  ...entry,
  requestedBy: entry.requestedBy ?? 'local',
  node: entry.node ?? '',
});
