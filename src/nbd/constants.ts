/**
 * Numbers of the NBD protocol (public protocol text, with extended headers). All fields are big-endian.
 * Early editions of the text number options 9 to 11 differently; these are the final ones.
 */

/** `NBDMAGIC`, `IHAVEOPT` and the magic of option replies as pairs of 32-bit words: no BigInt anywhere. */
export const magics = {
  greetingHigh: 0x4e42444d,
  greetingLow: 0x41474943,
  optionHigh: 0x49484156,
  optionLow: 0x454f5054,
  optionReplyHigh: 0x0003e889,
  optionReplyLow: 0x045565a9,
  request: 0x25609513,
  extendedRequest: 0x21e41c71,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
  extendedReply: 0x6e8a278c,
} as const;

export const handshakeFlags = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const options = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const optionReplies = { ack: 1, server: 2, info: 3, metaContext: 4 } as const;

export const optionErrors = {
  unsupported: 0x80000001,
  policy: 0x80000002,
  invalid: 0x80000003,
  platform: 0x80000004,
  tlsRequired: 0x80000005,
  unknown: 0x80000006,
  shutdown: 0x80000007,
  blockSizeRequired: 0x80000008,
  tooBig: 0x80000009,
  extendedHeadersRequired: 0x8000000a,
} as const;

export const infoTypes = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const transmissionFlags = {
  hasFlags: 1,
  readOnly: 2,
  sendFlush: 4,
  sendFua: 8,
  rotational: 16,
  sendTrim: 32,
  sendWriteZeroes: 64,
  sendDf: 128,
  canMultiConn: 256,
  sendCache: 1024,
  sendFastZero: 2048,
  blockStatusPayload: 4096,
} as const;

export const commands = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

const commandNames: readonly string[] = [
  'READ',
  'WRITE',
  'DISC',
  'FLUSH',
  'TRIM',
  'CACHE',
  'WRITE_ZEROES',
  'BLOCK_STATUS',
];

export const commandName = (type: number): string => commandNames[type] ?? `command ${type}`;

export const commandFlags = {
  fua: 1,
  noHole: 2,
  df: 4,
  reqOne: 8,
  fastZero: 16,
  payloadLength: 32,
} as const;

export const chunkTypes = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExtended: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;

/** The only flag of a reply chunk: it is the last of its reply. */
export const chunkDone = 1;

export const allocationContext = { name: 'base:allocation', id: 1, hole: 1, zero: 2 } as const;

export const requestBytes = 28;
export const extendedRequestBytes = 32;
/** Strings of the protocol (names, queries, error texts) have at most this many bytes. */
export const stringBytesMax = 4096;

/**
 * How requests and replies look after the handshake. `compact`: simple replies; `structured`: chunks where they carry
 * more; `extended`: 32-byte headers and chunks always.
 */
export type ReplyMode = 'compact' | 'structured' | 'extended';
