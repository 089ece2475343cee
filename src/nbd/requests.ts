/**
 * What a request must look like: the table of commands in docs/reference/nbd.md, as one function.
 *
 *   command        flags beside FUA      beyond the end   read-only   length 0
 *   READ           DF (if advertised)    EINVAL           served      success
 *   WRITE          PAYLOAD_LEN (ext)     ENOSPC           EPERM       success; with FUA a sync point
 *   FLUSH          -                     offset, length must be 0     success
 *   TRIM           -                     EINVAL           EPERM       success
 *   CACHE          -                     EINVAL           served      success
 *   WRITE_ZEROES   NO_HOLE, FAST_ZERO    ENOSPC           EPERM       success
 *   BLOCK_STATUS   REQ_ONE, PAYLOAD_LEN  EINVAL           served      EINVAL
 *   others         -                     EINVAL
 *
 * FUA is accepted on every command. Checks run in the order: command, flags, write permission, length, range.
 */
import { DvceError, limits } from '../base/index.ts';
import {
  allocationContext,
  commandFlags,
  commandName,
  commands,
  type ReplyMode,
} from './constants.ts';

/** One request as parsed; numbers beyond 2^53 arrive as Infinity, so that no rounded value passes a range check. */
export interface Request {
  readonly type: number;
  readonly flags: number;
  /** Cookies and the offset are echoed as the words they came in. */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
  readonly offset: number;
  readonly length: number;
  /** What it counts for in the session's limit of bytes in flight. */
  readonly accountedBytes: number;
  /** Set by the first completion: a backend that completes twice is a defect. */
  answered: boolean;
  /** When it came, for its meter. */
  startedAt: number;
}

export interface RequestRules {
  readonly mode: ReplyMode;
  readonly readOnly: boolean;
  readonly sizeBytes: number;
  /** A context was selected: BLOCK_STATUS may be asked. */
  readonly blockStatus: boolean;
}

const allowedFlags: readonly number[] = [
  commandFlags.df,
  commandFlags.payloadLength,
  0,
  0,
  0,
  0,
  commandFlags.noHole | commandFlags.fastZero,
  commandFlags.reqOne | commandFlags.payloadLength,
];

/** `a * 2^32 + b`, or Infinity where a double would round. */
export const fromWords = (high: number, low: number): number =>
  high > 0x1f_ffff ? Number.POSITIVE_INFINITY : high * 0x1_0000_0000 + low;

const invalid = (request: Request, reason: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', {
    what: `NBD request ${commandName(request.type)}`,
    reason,
    advice: 'The client sent a request that the protocol does not allow.',
  });

const writes = (type: number): boolean =>
  type === commands.write || type === commands.trim || type === commands.writeZeroes;

/** Commands whose length is moved through memory, and so limited. */
const carriesBytes = (type: number): boolean => type === commands.read || type === commands.write;

/** The error that a request deserves before it reaches the backend, or null. */
export function checkRequest(request: Request, rules: RequestRules): DvceError | null {
  const { type, flags, length } = request;
  const allowed = allowedFlags[type];
  if (allowed === undefined || type === commands.disconnect)
    return invalid(request, 'the server does not know this command');
  if ((flags & ~(allowed | commandFlags.fua)) !== 0 || !flagsFit(request, rules))
    return invalid(request, `flags 0x${flags.toString(16)} do not fit the command`);
  if (rules.readOnly && writes(type))
    return new DvceError('READ_ONLY', { name: 'export', reason: 'it is served read-only' });
  if (type === commands.flush)
    return length === 0 && request.offset === 0
      ? null
      : invalid(request, 'offset and length must be 0');
  if (carriesBytes(type) && length > limits.requestBytesMax)
    return invalid(request, `length is above ${limits.requestBytesMax} bytes`);
  if (request.offset > rules.sizeBytes || length > rules.sizeBytes - request.offset)
    return beyondTheEnd(request);
  return type === commands.blockStatus ? checkBlockStatus(request, rules) : null;
}

function flagsFit({ type, flags }: Request, rules: RequestRules): boolean {
  if (type === commands.read) return (flags & commandFlags.df) === 0 || rules.mode !== 'compact';
  if (type === commands.write)
    return ((flags & commandFlags.payloadLength) !== 0) === (rules.mode === 'extended');
  if (type === commands.blockStatus)
    return (flags & commandFlags.payloadLength) === 0 || rules.mode === 'extended';
  return true;
}

function beyondTheEnd(request: Request): DvceError {
  if (request.type === commands.write || request.type === commands.writeZeroes)
    return new DvceError('NO_SPACE', {
      where: 'the export',
      reason: `${commandName(request.type)} reaches beyond its end`,
    });
  return new DvceError('OUT_OF_RANGE', {
    offset: request.offset,
    length: request.length,
    name: `the export (${commandName(request.type)})`,
  });
}

function checkBlockStatus(request: Request, rules: RequestRules): DvceError | null {
  if (!rules.blockStatus) return invalid(request, 'no metadata context was selected');
  return request.length === 0 ? invalid(request, 'length is 0') : null;
}

/** The errno for the wire: ENOTSUP may only answer FAST_ZERO. */
export function errnoFor(request: Request, error: DvceError): number {
  const errno = error.nbdErrno;
  const notSupported = 95;
  const fast = request.type === commands.writeZeroes && request.flags & commandFlags.fastZero;
  return errno === notSupported && !fast ? 22 : errno;
}

/** BLOCK_STATUS in its payload form: u64 effect length, then the ids of the contexts to answer. */
export function withPayload(request: Request, payload: Buffer): Request | DvceError {
  const ids = (payload.length - 8) / 4;
  if (ids !== 1 || payload.readUInt32BE(8) !== allocationContext.id)
    return new DvceError('INVALID_ARGUMENT', {
      what: 'NBD request BLOCK_STATUS',
      reason: 'the payload names a context that was not selected, or one twice',
      advice: 'Ask for selected contexts only.',
    });
  const length = fromWords(payload.readUInt32BE(0), payload.readUInt32BE(4));
  return { ...request, length };
}
