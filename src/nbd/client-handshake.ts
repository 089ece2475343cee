/** The client's side of the option phase: structured or extended replies, base:allocation, GO; TLS before all of it. */
import { DvceError, limits } from '../base/index.ts';
import {
  allocationContext,
  handshakeFlags,
  infoTypes,
  magics,
  optionErrors,
  optionReplies,
  options,
  type ReplyMode,
  transmissionFlags,
} from './constants.ts';

/** Exactly the bytes asked for, in order. */
export interface ByteSource {
  read(lengthBytes: number): Promise<Buffer>;
  write(bytes: Buffer): void;
}

export interface RemoteExport {
  readonly mode: ReplyMode;
  readonly sizeBytes: number;
  readonly flags: number;
  readonly minimumBlockBytes: number;
  readonly maximumPayloadBytes: number;
  readonly description: string;
  readonly blockStatus: boolean;
}

export interface Wishes {
  readonly exportName: string;
  readonly where: string;
  readonly structured: boolean;
  readonly extended: boolean;
}

interface OptionAnswer {
  readonly type: number;
  readonly body: Buffer;
}

export function protocolError(where: string, reason: string): DvceError {
  return new DvceError('PROTOCOL', { peer: `the NBD server at ${where}`, reason });
}

export async function readGreeting(source: ByteSource, where: string): Promise<void> {
  const greeting = await source.read(18);
  const fits =
    greeting.readUInt32BE(0) === magics.greetingHigh &&
    greeting.readUInt32BE(4) === magics.greetingLow &&
    greeting.readUInt32BE(8) === magics.optionHigh &&
    greeting.readUInt32BE(12) === magics.optionLow;
  if (!fits) throw protocolError(where, 'the greeting is not that of a newstyle server');
  const wanted = handshakeFlags.fixedNewstyle | handshakeFlags.noZeroes;
  if ((greeting.readUInt16BE(16) & wanted) !== wanted)
    throw protocolError(where, 'it does not offer fixed newstyle');
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(wanted);
  source.write(flags);
}

/** Ask for TLS; when it resolves the stream must be secured before anything else is said. */
export async function askForTls(source: ByteSource, where: string): Promise<void> {
  const [answer] = await ask(source, where, options.startTls, Buffer.alloc(0));
  if (answer?.type !== optionReplies.ack) throw refusal(answer, where, 'STARTTLS');
}

export async function negotiate(source: ByteSource, wishes: Wishes): Promise<RemoteExport> {
  const mode = await negotiateMode(source, wishes);
  const blockStatus = mode !== 'compact' && (await selectContext(source, wishes));
  const name = Buffer.from(wishes.exportName);
  const request = Buffer.alloc(4 + name.length + 2 + 4);
  request.writeUInt32BE(name.length, 0);
  request.set(name, 4);
  request.writeUInt16BE(2, 4 + name.length);
  request.writeUInt16BE(infoTypes.description, 6 + name.length);
  request.writeUInt16BE(infoTypes.blockSize, 8 + name.length);
  const answers = await ask(source, wishes.where, options.go, request);
  const last = answers.at(-1);
  if (last?.type !== optionReplies.ack) throw refusal(last, wishes.where, wishes.exportName);
  return exportOf(answers, mode, blockStatus, wishes);
}

async function negotiateMode(source: ByteSource, wishes: Wishes): Promise<ReplyMode> {
  const empty = Buffer.alloc(0);
  const attempts: readonly [boolean, number, ReplyMode][] = [
    [wishes.extended, options.extendedHeaders, 'extended'],
    [wishes.structured, options.structuredReply, 'structured'],
  ];
  for (const [wanted, option, mode] of attempts) {
    if (!wanted) continue;
    const [answer] = await ask(source, wishes.where, option, empty);
    if (answer?.type === optionReplies.ack) return mode;
  }
  return 'compact';
}

async function selectContext(source: ByteSource, wishes: Wishes): Promise<boolean> {
  const name = Buffer.from(wishes.exportName);
  const query = Buffer.from(allocationContext.name);
  const request = Buffer.alloc(12 + name.length + query.length);
  request.writeUInt32BE(name.length, 0);
  request.set(name, 4);
  request.writeUInt32BE(1, 4 + name.length);
  request.writeUInt32BE(query.length, 8 + name.length);
  request.set(query, 12 + name.length);
  const answers = await ask(source, wishes.where, options.setMetaContext, request);
  const refused = answers.at(-1)?.type !== optionReplies.ack;
  return !refused && answers.some((answer) => answer.type === optionReplies.metaContext);
}

/** Send an option and collect its replies up to ACK or an error. */
async function ask(
  source: ByteSource,
  where: string,
  option: number,
  data: Buffer,
): Promise<OptionAnswer[]> {
  const request = Buffer.alloc(16 + data.length);
  request.writeUInt32BE(magics.optionHigh, 0);
  request.writeUInt32BE(magics.optionLow, 4);
  request.writeUInt32BE(option, 8);
  request.writeUInt32BE(data.length, 12);
  request.set(data, 16);
  source.write(request);
  const answers: OptionAnswer[] = [];
  while (answers.length < limits.nbdOptionsMax) {
    const header = await source.read(20);
    const fits =
      header.readUInt32BE(0) === magics.optionReplyHigh &&
      header.readUInt32BE(4) === magics.optionReplyLow &&
      header.readUInt32BE(8) === option;
    if (!fits) throw protocolError(where, 'an option reply does not fit the option');
    const length = header.readUInt32BE(16);
    if (length > limits.nbdClientHandshakeBytesMax)
      throw protocolError(where, 'an option reply is too long');
    const type = header.readUInt32BE(12);
    answers.push({ type, body: await source.read(length) });
    if (type === optionReplies.ack || type >= 0x80000000) return answers;
  }
  throw protocolError(where, 'it does not end its option replies');
}

function refusal(answer: OptionAnswer | undefined, where: string, name: string): DvceError {
  const text = answer?.body.toString('utf8') ?? '';
  switch (answer?.type) {
    case optionErrors.unknown:
      return new DvceError('NOT_FOUND', { kind: 'export', name: `${name} at ${where}` });
    case optionErrors.policy:
    case optionErrors.tlsRequired:
      return new DvceError('NOT_ALLOWED', {
        what: `export ${name} at ${where}`,
        reason: text === '' ? 'the server refuses it' : text,
        advice: 'Ask whoever runs the server.',
      });
    case optionErrors.shutdown:
      return new DvceError('VOLUME_CLOSED', { name });
    default:
      return protocolError(where, `it refuses ${name}: ${text}`);
  }
}

function exportOf(
  answers: readonly OptionAnswer[],
  mode: ReplyMode,
  blockStatus: boolean,
  { where }: Wishes,
): RemoteExport {
  let facts: { sizeBytes: number; flags: number } | null = null;
  let minimumBlockBytes = 1;
  let maximumPayloadBytes: number = limits.requestBytesMax;
  let description = '';
  for (const { type, body } of answers) {
    if (type !== optionReplies.info || body.length < 2) continue;
    const info = body.readUInt16BE(0);
    if (info === infoTypes.export && body.length === 12)
      facts = { sizeBytes: Number(body.readBigUInt64BE(2)), flags: body.readUInt16BE(10) };
    else if (info === infoTypes.blockSize && body.length === 14) {
      minimumBlockBytes = body.readUInt32BE(2);
      maximumPayloadBytes = Math.min(maximumPayloadBytes, body.readUInt32BE(10));
    } else if (info === infoTypes.description) description = body.toString('utf8', 2);
  }
  if (facts === null || !Number.isSafeInteger(facts.sizeBytes) || maximumPayloadBytes === 0)
    throw protocolError(where, 'it does not say how large the export is');
  if ((facts.flags & transmissionFlags.hasFlags) === 0)
    throw protocolError(where, 'the transmission flags are not valid');
  return { mode, blockStatus, minimumBlockBytes, maximumPayloadBytes, description, ...facts };
}
