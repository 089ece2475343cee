/**
 * The audit log: who changed or tried to change what, one line of JSON each, in `<data>/log/audit.log`.
 *
 * Invariants: every change that reached the agent has a line, refused ones and failed logins too; no bodies, no queries and no headers are
 * in it, so no secrets; it is written with each line, moved to `audit.log.1` ... beyond limits.auditFileBytes and bounded by
 * limits.auditFiles. What cannot be written is told in the agent's log, and the change goes on: it is done already.
 */
import { appendFile, chmod, readFile, rename, stat } from 'node:fs/promises';
import type { AuditEntry } from '../api/index.ts';
import { type Logger, limits, systemCode } from '../base/index.ts';

export class AuditLog {
  readonly #path: string;
  readonly #logger: Logger;
  #last: Promise<void> = Promise.resolve();
  #waiting = 0;
  #bytes: number | undefined;
  #seq = 0;

  constructor(path: string, logger: Logger) {
    this.#path = path;
    this.#logger = logger;
  }

  /** Write a line, after those before it. */
  add(entry: Omit<AuditEntry, 'id'>): void {
    if (this.#waiting >= limits.auditWaitingMax) {
      this.#logger.error({ ...entry }, 'the audit log is too slow; this entry is only here');
      return;
    }
    this.#seq += 1;
    const id = `${Date.parse(entry.at).toString(36)}-${this.#seq.toString(36).padStart(6, '0')}`;
    const line = `${JSON.stringify({ id, ...entry })}\n`;
    this.#waiting += 1;
    this.#last = this.#last
      .then(() => this.#write(line))
      .catch((error: unknown) =>
        this.#logger.error({ err: error, ...entry }, 'the audit log cannot be written'),
      )
      .finally(() => {
        this.#waiting -= 1;
      });
  }

  async #write(line: string): Promise<void> {
    if (this.#bytes === undefined) this.#bytes = await sizeOf(this.#path);
    if (this.#bytes > limits.auditFileBytes) await this.#rotate();
    await appendFile(this.#path, line, { mode: 0o600 });
    if (this.#bytes === 0) await chmod(this.#path, 0o600);
    this.#bytes += Buffer.byteLength(line);
  }

  async #rotate(): Promise<void> {
    for (let number = limits.auditFiles - 1; number >= 1; number -= 1)
      await rename(this.#name(number - 1), this.#name(number)).catch(ignoreMissing);
    this.#bytes = 0;
  }

  #name(number: number): string {
    return number === 0 ? this.#path : `${this.#path}.${number}`;
  }

  /** The newest entries, newest first. */
  async list(most: number): Promise<AuditEntry[]> {
    await this.#last;
    const found: AuditEntry[] = [];
    for (let number = 0; number < limits.auditFiles && found.length < most; number += 1) {
      const text = await readFile(this.#name(number), 'utf8').catch(ignoreMissing);
      const lines = (text ?? '').split('\n').reverse();
      for (const line of lines) {
        const entry = parse(line);
        if (entry !== undefined && found.push(entry) >= most) break;
      }
    }
    return found;
  }

  /** All lines are written. */
  async close(): Promise<void> {
    await this.#last;
  }
}

function ignoreMissing(error: unknown): undefined {
  if (systemCode(error) === 'ENOENT') return undefined;
  throw error;
}

const sizeOf = async (path: string): Promise<number> =>
  (await stat(path).catch(ignoreMissing))?.size ?? 0;

/** A line that a crash cut short is left out. */
function parse(line: string): AuditEntry | undefined {
  try {
    return line === '' ? undefined : (JSON.parse(line) as AuditEntry);
  } catch {
    return undefined;
  }
}
