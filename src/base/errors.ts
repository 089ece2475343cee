/**
 * The one error table. HTTP status, NBD errno, CLI exit code and retry behaviour of every failure derive from it;
 * nothing else in the project decides them.
 *
 * A message says what was being done, to which object and why it failed (`template`); `advice` says what to do next.
 * `{name}` in either is filled from the error's context.
 */

/** CLI exit codes, as documented in docs/reference/errors.md. */
export const exitCodes = {
  ok: 0,
  failed: 1,
  unhealthy: 2,
  exists: 3,
  noSpace: 4,
  notFound: 5,
  conflict: 6,
  notAllowed: 7,
  placement: 8,
  timedOut: 9,
  usage: 64,
  interrupted: 130,
} as const;

/** NBD error numbers that may appear on the wire (protocol text, "Error values"). */
export const nbdErrnos = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

interface ErrorRow {
  readonly template: string;
  readonly advice: string;
  readonly http: number;
  readonly nbd: keyof typeof nbdErrnos;
  readonly exit: keyof typeof exitCodes;
  readonly retryable: boolean;
}

const row = (
  template: string,
  advice: string,
  http: number,
  nbd: keyof typeof nbdErrnos,
  exit: keyof typeof exitCodes,
  retryable = false,
): ErrorRow => ({ template, advice, http, nbd, exit, retryable });

export const errorTable = {
  // what the caller asked for
  INVALID_ARGUMENT: row('{what} is not valid: {reason}', '{advice}', 400, 'EINVAL', 'usage'),
  INVALID_NAME: row(
    'the name {name} is not valid: {reason}',
    'A path is /part/part...; each part has 1 to 63 characters out of letters, digits, ".", "_" and "-" and starts with a letter or digit; at most 16 parts.',
    400,
    'EINVAL',
    'usage',
  ),
  INVALID_CONFIG: row('{where}: {reason}', '{advice}', 400, 'EINVAL', 'usage'),
  INVALID_SIZE: row(
    'the size {size} is not valid: {reason}',
    'Give a multiple of 512 bytes from 1MiB to 16TiB, for example 10GiB.',
    400,
    'EINVAL',
    'usage',
  ),
  NOT_FOUND: row(
    '{kind} {name} does not exist',
    'List what exists with: dvce {kind} list',
    404,
    'EINVAL',
    'notFound',
  ),
  POINT_NOT_KEPT: row(
    'volume {name} has no point in time {what}: {reason}',
    'See which flushes are kept with: dvce volume points {name}',
    404,
    'EINVAL',
    'notFound',
  ),
  ALREADY_EXISTS: row(
    '{kind} {name} exists already',
    'Choose another name, or pass --if-not-exists.',
    409,
    'EINVAL',
    'exists',
  ),
  FILE_EXISTS: row(
    'the file {name} exists already',
    'Choose another name, or pass --force to replace it.',
    409,
    'EINVAL',
    'exists',
  ),
  IN_USE: row('{kind} {name} is in use: {reason}', '{advice}', 409, 'EPERM', 'conflict'),
  PROTECTED: row(
    '{kind} {name} is protected',
    'Remove the protection first: dvce {kind} update {name} --no-protect',
    409,
    'EPERM',
    'notAllowed',
  ),
  CONFLICT: row(
    '{kind} {name} was changed by someone else: {reason}',
    'Look at it again and repeat the command.',
    409,
    'EIO',
    'conflict',
    true,
  ),
  UNSUPPORTED: row('{what} is not supported: {reason}', '{advice}', 501, 'ENOTSUP', 'failed'),
  READ_ONLY: row(
    'volume {name} is read-only: {reason}',
    'See the reason with: dvce volume show {name}',
    403,
    'EPERM',
    'notAllowed',
  ),
  OUT_OF_RANGE: row(
    'the range {offset}+{length} lies outside of {name}',
    'Keep the request inside of the volume.',
    400,
    'EINVAL',
    'usage',
  ),
  CHECKSUM_MISMATCH: row(
    '{what} has {algorithm} {actual}, expected {expected}',
    'The source is damaged or is not the one meant; nothing was kept.',
    422,
    'EIO',
    'failed',
  ),
  DOWNLOAD_FAILED: row(
    '{what} could not be fetched: {reason}',
    'Check the address and try again: what has arrived already is kept where the server says that it did not change.',
    502,
    'EIO',
    'failed',
    true,
  ),
  BAD_IMAGE: row('image {name} cannot be used: {reason}', '{advice}', 422, 'EIO', 'failed'),
  NOT_ALLOWED: row('{what} is not allowed: {reason}', '{advice}', 403, 'EPERM', 'notAllowed'),
  CANCELLED: row('{what} was cancelled', 'Start it again when wanted.', 409, 'EIO', 'interrupted'),
  INTERRUPTED: row('{what} was interrupted', '{advice}', 409, 'EIO', 'interrupted'),
  TIMED_OUT: row(
    '{what} did not finish within {ms} ms',
    'It may still finish; look again, or raise the limit.',
    504,
    'EIO',
    'timedOut',
    true,
  ),

  UNAUTHENTICATED: row(
    'the request is not authenticated: {reason}',
    'Send a token: authorization: Bearer TOKEN. An administrator makes one with: dvce token create',
    401,
    'EPERM',
    'notAllowed',
  ),
  GONE: row('{what} is no longer kept: {reason}', '{advice}', 410, 'EINVAL', 'conflict'),
  BUSY: row(
    '{what} is busy: {reason}',
    'Wait a little and try again.',
    429,
    'EIO',
    'unhealthy',
    true,
  ),

  // space
  NO_SPACE: row(
    'no space left on {where}: {reason}',
    'Delete snapshots or volumes that are not needed, or enlarge the disk.',
    507,
    'ENOSPC',
    'noSpace',
  ),
  QUOTA_EXCEEDED: row(
    'the quota of {name} does not allow it: {reason}',
    'Delete or shrink what is not needed below it, or raise it: dvce quota set {name}',
    507,
    'ENOSPC',
    'noSpace',
  ),
  TOO_LARGE: row('{what} is too large: {reason}', '{advice}', 413, 'EINVAL', 'usage'),

  // store, journal, formats
  STORE_UNAVAILABLE: row(
    'the store {where} did not answer: {reason}',
    'Check the store; the operation is repeated when it is back.',
    503,
    'EIO',
    'unhealthy',
    true,
  ),
  IO_FAILED: row(
    '{what} on {where} failed: {reason}',
    'Check the disk and its kernel messages.',
    500,
    'EIO',
    'failed',
  ),
  FENCED: row(
    'this writer of {name} was fenced: {reason}',
    'Another writer has taken over; nothing of this one is applied any more.',
    409,
    'EPERM',
    'conflict',
  ),
  SEGMENT_DAMAGED: row(
    'segment {name} is damaged: {reason}',
    'Run: dvce volume check; restore the blocks that it names from a backup or clone.',
    500,
    'EIO',
    'failed',
  ),
  SEGMENT_MISSING: row(
    'segment {name} is missing',
    'Run: dvce volume check; bring the store directory back from a copy.',
    500,
    'EIO',
    'failed',
  ),
  LOG_GAP: row(
    'log {name} has a gap: {reason}',
    'Segments beyond the gap were left alone; run: dvce volume check',
    500,
    'EIO',
    'failed',
  ),
  JOURNAL_DAMAGED: row(
    'the journal of {name} is damaged: {reason}',
    'Bring the journal file back, or accept the loss of what follows: dvce volume recover {name} --accept-loss',
    500,
    'EIO',
    'failed',
  ),
  JOURNAL_FOREIGN: row(
    'the journal of {name} is another one: {reason}',
    'Put the right one back. If it is lost, move this one away, then: dvce volume recover {name} --accept-loss',
    500,
    'EIO',
    'failed',
  ),
  DOCUMENT_DAMAGED: row(
    'document {name} cannot be read: {reason}',
    'Run: dvce volume check; bring the store directory back from a copy.',
    500,
    'EIO',
    'failed',
  ),
  FORMAT_TOO_NEW: row(
    '{what} has format version {found}; this program reads up to {known}',
    'Use the dvce release that wrote it, or a newer one.',
    500,
    'EIO',
    'failed',
  ),
  LOCKED: row(
    '{what} is in use by process {pid}',
    'Stop that process, or use another data directory.',
    409,
    'EIO',
    'conflict',
  ),
  VOLUME_CLOSED: row(
    'volume {name} is closed',
    'Open it again.',
    409,
    'ESHUTDOWN',
    'conflict',
    true,
  ),

  // processes, host
  BLOCKD_UNAVAILABLE: row(
    'blockd does not answer on {where}: {reason}',
    'See its log, or run: dvce doctor',
    503,
    'EIO',
    'unhealthy',
    true,
  ),
  AGENT_UNAVAILABLE: row(
    'the agent does not answer on {where}: {reason}',
    'Start it with: dvce up',
    503,
    'EIO',
    'unhealthy',
    true,
  ),
  REMOTE_UNAVAILABLE: row(
    'the agent at {where} cannot be used: {reason}',
    'Look at its address and certificate: dvce context list',
    503,
    'EIO',
    'unhealthy',
    true,
  ),
  ADDRESS_IN_USE: row(
    'the address {where} is in use',
    'Stop what listens there, or configure another address.',
    409,
    'EIO',
    'failed',
  ),
  PATH_TOO_LONG: row(
    'the socket path {where} has {length} bytes; the system takes at most {max}',
    'Use a data directory with a shorter path.',
    400,
    'EINVAL',
    'usage',
  ),
  TOOL_MISSING: row('{tool} was not found', 'Install it: {advice}', 503, 'EIO', 'unhealthy'),
  NOT_ADMITTED: row(
    'VM {name} gets no promise of {what}: {reason}',
    'Stop one of them, or lower a minimum: dvce vm show {name}',
    409,
    'EIO',
    'placement',
  ),
  POOL_EXHAUSTED: row('{what} has nothing free: {reason}', '{advice}', 409, 'EIO', 'noSpace'),
  HOST_UNPREPARED: row(
    '{what} is not possible on this host: {reason}',
    '{advice}',
    409,
    'EIO',
    'failed',
  ),
  VM_STATE: row('VM {name} is {state}: {reason}', '{advice}', 409, 'EIO', 'conflict'),
  HYPERVISOR_FAILED: row(
    'the hypervisor failed on VM {name}: {reason}',
    'See: dvce vm log {name}',
    500,
    'EIO',
    'failed',
  ),
  PROTOCOL: row(
    '{peer} broke the protocol: {reason}',
    'Update both ends to releases that fit.',
    502,
    'EINVAL',
    'failed',
  ),
  INTERNAL: row(
    'unexpected condition: {reason}',
    'This is a defect; please report it with the log.',
    500,
    'EIO',
    'failed',
  ),
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof errorTable;
export type ErrorContext = Readonly<Record<string, string | number | boolean>>;

const fill = (template: string, context: ErrorContext): string =>
  template.replace(/\{(\w+)\}/g, (_, name: string) => String(context[name] ?? `{${name}}`));

/** An error of the table. `context` names the object; `cause` keeps what lay beneath. */
export class DvceError extends Error {
  override readonly name = 'DvceError';
  readonly code: ErrorCode;
  readonly context: ErrorContext;

  constructor(code: ErrorCode, context: ErrorContext = {}, cause?: unknown) {
    super(fill(errorTable[code].template, context), cause === undefined ? {} : { cause });
    this.code = code;
    this.context = context;
  }

  /** What the user should do next: what the place that threw knows better, else what the table says. */
  get advice(): string {
    const { advice: general } = errorTable[this.code];
    const { advice: own } = this.context;
    const isOwn = typeof own === 'string' && !general.includes('{advice}');
    return isOwn ? own : fill(general, this.context);
  }
  get httpStatus(): number {
    return errorTable[this.code].http;
  }
  get nbdErrno(): number {
    return nbdErrnos[errorTable[this.code].nbd];
  }
  get exitCode(): number {
    return exitCodes[errorTable[this.code].exit];
  }
  get retryable(): boolean {
    return errorTable[this.code].retryable;
  }
}

/** Make a table error out of anything thrown; a table error passes unchanged. */
export function toDvceError(error: unknown, where = 'this process'): DvceError {
  if (error instanceof DvceError) return error;
  const code = systemCode(error);
  const reason = error instanceof Error ? error.message : String(error);
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG')
    return new DvceError('NO_SPACE', { where, reason }, error);
  if (code !== undefined)
    return new DvceError('IO_FAILED', { what: 'an operation', where, reason }, error);
  return new DvceError('INTERNAL', { reason }, error);
}

/** The `code` of a Node system error (`ENOENT`, ...), or undefined. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** Programmer errors end the operation (and, uncaught, the process); they are never worked around. */
export function assert(condition: unknown, reason: string): asserts condition {
  if (!condition) throw new DvceError('INTERNAL', { reason });
}
