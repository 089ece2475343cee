/**
 * One version of a document as bytes.
 *
 *   line 1   the JSON object, UTF-8, without line breaks; its field `format` is the document's format version
 *   line 2   marks: hexadecimal, separated by commas; this version's own first, then those of the versions before it,
 *            newest first, at most `limits.documentMarks` of them
 *   line 3   CRC-32C of everything before it, 8 hexadecimal digits
 *
 * Each line ends with a line feed. The last line keeps this place and meaning in every later format, so that a flipped bit
 * and a newer format are told apart. A mark names one attempt to write a version (scope, attempt, content): a writer whose
 * version was pruned behind its back finds its mark in the versions that follow and so learns whether it had won (S2).
 */
import { crc32c, DvceError, limits } from '../base/index.ts';
import { storeFormatVersion } from './schema.ts';

export interface DecodedDocument {
  readonly value: Readonly<Record<string, unknown>>;
  /** Own mark first, then those of the predecessors. */
  readonly marks: readonly string[];
}

const hex = (value: number): string => value.toString(16).padStart(8, '0');

/** Numbers that JSON cannot carry exactly must be strings (S10). */
function checkedNumber(this: unknown, key: string, value: unknown): unknown {
  if (typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER)
    throw new DvceError('INTERNAL', { reason: `the document field ${key} is no exact number` });
  return value;
}

/** @param attempt tells this attempt to write from every other one of any writer */
export function encodeDocument(
  key: string,
  value: object,
  attempt: string,
  predecessors: readonly string[],
): { body: Buffer; mark: string } {
  const json = JSON.stringify({ format: storeFormatVersion, ...value }, checkedNumber);
  const mark = hex(crc32c(Buffer.from(`${attempt}\n${json}`)));
  const marks = [mark, ...predecessors].slice(0, limits.documentMarks);
  const covered = Buffer.from(`${json}\n${marks.join(',')}\n`);
  const body = Buffer.concat([covered, Buffer.from(`${hex(crc32c(covered))}\n`)]);
  if (body.byteLength > limits.documentBytesMax)
    throw new DvceError('TOO_LARGE', {
      what: `document ${key}`,
      reason: `it has ${body.byteLength} bytes; at most ${limits.documentBytesMax} are stored`,
      advice: 'Remove labels that are not needed.',
    });
  return { body, mark };
}

const trailerPattern = /^[0-9a-f]{8}\n$/;
const marksPattern = /^[0-9a-f]{8}(,[0-9a-f]{8})*$/;
const trailerBytes = 9;

/** @throws DOCUMENT_DAMAGED or FORMAT_TOO_NEW, naming `key`; never takes damage for absence (N7) */
export function decodeDocument(key: string, body: Buffer): DecodedDocument {
  const damaged = (reason: string, cause?: unknown): DvceError =>
    new DvceError('DOCUMENT_DAMAGED', { name: key, reason }, cause);
  const covered = body.subarray(0, Math.max(0, body.byteLength - trailerBytes));
  const trailer = body.subarray(covered.byteLength).toString('latin1');
  if (!trailerPattern.test(trailer)) throw damaged('its last line is no checksum');
  if (trailer.slice(0, 8) !== hex(crc32c(covered))) throw damaged('its checksum does not fit');

  const [json = '', marks = ''] = covered.toString('utf8').split('\n');
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    throw damaged('its first line is no JSON', error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw damaged('it is no JSON object');
  const format = 'format' in value ? value.format : undefined;
  if (typeof format !== 'number' || !Number.isInteger(format) || format < 1)
    throw damaged('its format version is missing');
  if (format > storeFormatVersion)
    throw new DvceError('FORMAT_TOO_NEW', {
      what: `document ${key}`,
      found: format,
      known: storeFormatVersion,
    });
  if (!marksPattern.test(marks)) throw damaged('its marks cannot be read');
  return { value: value as Readonly<Record<string, unknown>>, marks: marks.split(',') };
}
