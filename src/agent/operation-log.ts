/**
 * Operations on disk: one entry per operation, written when it begins and when it ends, so that after a restart of the agent
 * it is known what was under way and how the last thousand ended.
 *
 * The log may be lost without harm: a log that cannot be opened is put aside and a new one begun.
 */
import { ClassicLevel } from 'classic-level';
import type { Operation } from '../api/index.ts';
import { type FileSystem, type Logger, toDvceError } from '../base/index.ts';

export class OperationLog {
  readonly #level: ClassicLevel<string, Operation>;

  private constructor(level: ClassicLevel<string, Operation>) {
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
    const level = new ClassicLevel<string, Operation>(directory, { valueEncoding: 'json' });
    try {
      await level.open();
    } catch (error) {
      throw toDvceError(error, directory);
    }
    return new OperationLog(level);
  }

  /** All entries, oldest first: an id begins with its time. */
  async read(): Promise<Operation[]> {
    return this.#level.values().all();
  }

  async write(operation: Operation): Promise<void> {
    await this.#level.put(operation.id, operation, { sync: operation.status === 'running' });
  }

  async forget(ids: readonly string[]): Promise<void> {
    await this.#level.batch(ids.map((key) => ({ type: 'del', key })));
  }

  async close(): Promise<void> {
    await this.#level.close();
  }
}
