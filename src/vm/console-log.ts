/**
 * The log of a guest's serial console. QEMU appends to `console.log` from the start of the guest to its end, agent or not;
 * what came before the last start, or before the log outgrew its limit, is `console.log.1`.
 *
 * Cutting a log that QEMU has open is copy and truncate: bytes that the guest prints between the two are lost. QEMU opens it
 * for appending, so it goes on at the new end.
 */
import { copyFile, type FileHandle, open, rename, stat, truncate } from 'node:fs/promises';
import { StringDecoder } from 'node:string_decoder';
import { createContext, Script } from 'node:vm';
import { DvceError, limits, systemCode } from '../base/index.ts';

const previous = (path: string): string => `${path}.1`;

/** A new boot gets a new log. */
export async function startConsoleLog(path: string): Promise<void> {
  try {
    await rename(path, previous(path));
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
}

/** Keep the log below its limit. @returns whether it was cut */
export async function limitConsoleLog(
  path: string,
  bytesMax: number = limits.vmConsoleLogBytesMax,
): Promise<boolean> {
  const sizeBytes = await sizeOf(path);
  if (sizeBytes <= bytesMax) return false;
  await copyFile(path, previous(path));
  await truncate(path, 0);
  return true;
}

export async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return 0;
    throw error;
  }
}

/** The end of a text file, for messages. */
export async function tail(path: string, bytesMax: number): Promise<string> {
  const sizeBytes = await sizeOf(path);
  if (sizeBytes === 0) return '';
  const file = await open(path, 'r');
  try {
    const { bytesRead, buffer } = await file.read({
      buffer: Buffer.alloc(Math.min(bytesMax, sizeBytes)),
      position: Math.max(0, sizeBytes - bytesMax),
    });
    return buffer.subarray(0, bytesRead).toString('utf8');
  } finally {
    await file.close();
  }
}

const chunkBytes = 64 * 1024;

/** Looks for a pattern in a console log that grows. */
export class ConsoleSearch {
  readonly #path: string;
  readonly #matches: (line: string) => boolean;
  readonly #decoder = new StringDecoder('utf8');
  #position = 0;
  #rest = '';

  constructor(path: string, pattern: string, position = 0) {
    this.#path = path;
    this.#position = position;
    this.#matches = compilePattern(pattern);
  }

  /** @returns whether the pattern is in what was printed since the last call, the unfinished line included */
  async advance(): Promise<boolean> {
    const sizeBytes = await sizeOf(this.#path);
    if (sizeBytes < this.#position) this.#position = 0; // the log was cut
    if (sizeBytes === this.#position) return false;
    const file = await open(this.#path, 'r');
    try {
      return await this.#read(file, sizeBytes);
    } finally {
      await file.close();
    }
  }

  async #read(file: FileHandle, endBytes: number): Promise<boolean> {
    const buffer = Buffer.alloc(chunkBytes);
    while (this.#position < endBytes) {
      const { bytesRead } = await file.read(buffer, 0, chunkBytes, this.#position);
      if (bytesRead === 0) return false;
      this.#position += bytesRead;
      if (this.#search(this.#decoder.write(buffer.subarray(0, bytesRead)))) return true;
    }
    return false;
  }

  #search(text: string): boolean {
    const lines = (this.#rest + text).split(/\r?\n|\r/);
    // A prompt ends without a line end, so the last piece is tried too, and again when it has grown.
    this.#rest = (lines.at(-1) ?? '').slice(0, limits.vmConsoleLineBytesMax);
    return lines.some((line) => this.#matches(line.slice(0, limits.vmConsoleLineBytesMax)));
  }
}

/**
 * A test for one line. A pattern can be written so that a match takes years; it runs under the deadline of node:vm, which
 * interrupts regular expressions, and counts as no match when that ends it.
 */
export function compilePattern(pattern: string): (line: string) => boolean {
  if (pattern.length === 0 || pattern.length > limits.vmReadyPatternCharactersMax)
    throw invalidPattern(`it needs 1 to ${limits.vmReadyPatternCharactersMax} characters`);
  let expression: RegExp;
  try {
    expression = new RegExp(pattern, 'u');
  } catch (error) {
    throw invalidPattern(error instanceof Error ? error.message : String(error));
  }
  const scope = createContext({ expression, line: '' });
  const script = new Script('expression.test(line)');
  return (line) => {
    scope['line'] = line;
    try {
      return script.runInContext(scope, { timeout: limits.vmReadyPatternMs }) === true;
    } catch (error) {
      if (isTimeout(error)) return false;
      throw error;
    }
  };
}

/** The error is made by the script's own realm, so it is no instance of this one's Error. */
const isTimeout = (error: unknown): boolean =>
  typeof error === 'object' &&
  error !== null &&
  'code' in error &&
  error.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT';

function invalidPattern(reason: string): DvceError {
  return new DvceError('INVALID_ARGUMENT', {
    what: 'the ready pattern',
    reason,
    advice: 'Give a regular expression that matches one line of the serial console.',
  });
}
