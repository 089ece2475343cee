/**
 * The option phase of the server: greeting, client flags, options, until an export is chosen or the client leaves.
 *
 * Input may come byte by byte or all at once. One option is worked on at a time; while a provider is asked the caller
 * stops reading (`busy`). A refusal is an answer with text for a human and consumes exactly the bytes of its option; the
 * connection is dropped only where the protocol leaves no other way, or at a limit.
 *
 * Everything negotiated lives in `#negotiated` and is forgotten at STARTTLS, so nothing said in plain text survives into
 * TLS; plain bytes already received behind STARTTLS end the connection.
 *
 *   greeting sent -> client flags -> option* -> GO or EXPORT_NAME: transmit
 *                                            -> STARTTLS: a new handshake on the secured stream (client flags kept)
 *                                            -> ABORT, error, limit: closed
 */
import { DvceError, limits, toDvceError } from '../base/index.ts';
import {
  allocationContext,
  handshakeFlags,
  infoTypes,
  magics,
  optionErrors,
  optionReplies,
  options,
  type ReplyMode,
} from './constants.ts';
import { ExportCache } from './export-cache.ts';
import { blockSizes, exportFlags } from './export-facts.ts';
import type { ExportProvider, OpenedExport, PeerFacts } from './exports.ts';
import {
  infoBlockSize,
  infoExport,
  infoText,
  metaContext,
  optionReply,
  parseInfoRequest,
  parseMetaContextRequest,
  parseString,
  serverReply,
  writeSize,
} from './option-data.ts';
import { optionErrorFor, tlsNeeded } from './option-errors.ts';
import { errorText } from './replies.ts';

export type TlsMode = 'none' | 'optional' | 'required';

export interface HandshakeIo {
  readonly provider: ExportProvider;
  readonly tlsMode: TlsMode;
  /** Whether a client without fixed newstyle may choose an export here. */
  readonly allowOldClients: boolean;
  peer(): PeerFacts;
  shuttingDown(): boolean;
  send(bytes: Buffer): void;
  /** Close in order, after what was sent. */
  end(): void;
  /** Drop the connection. */
  destroy(reason: string): void;
  /** Everything said so far is void; the bytes that follow are TLS. */
  startTls(): void;
  /** `rest` was received behind the choice and belongs to the transmission phase. */
  transmit(opened: OpenedExport, mode: ReplyMode, blockStatus: boolean, rest: Buffer): void;
  /** The client may send more (true) or an option is being worked on (false). */
  ready(ready: boolean): void;
  released(released: void | Promise<void>): void;
}

interface NegotiatedState {
  mode: ReplyMode;
  /** Export for which base:allocation was selected, or null. */
  contextFor: string | null;
}

const fresh = (): NegotiatedState => ({ mode: 'compact', contextFor: null });

export class Handshake {
  readonly #io: HandshakeIo;
  readonly #exports: ExportCache;
  #pending: Buffer = Buffer.alloc(0);
  #negotiated = fresh();
  #clientFlags: number | null = null;
  #optionCount = 0;
  /** Bytes of a refused option that are still to come. */
  #drainLeft = 0;
  #busy = false;
  #over = false;

  constructor(io: HandshakeIo) {
    this.#io = io;
    this.#exports = new ExportCache(io.provider, io.released);
  }

  greet(): void {
    const greeting = Buffer.allocUnsafe(18);
    greeting.writeUInt32BE(magics.greetingHigh, 0);
    greeting.writeUInt32BE(magics.greetingLow, 4);
    greeting.writeUInt32BE(magics.optionHigh, 8);
    greeting.writeUInt32BE(magics.optionLow, 12);
    greeting.writeUInt16BE(handshakeFlags.fixedNewstyle | handshakeFlags.noZeroes, 16);
    this.#io.send(greeting);
  }

  receive(bytes: Buffer): void {
    if (this.#over) return;
    // Copied: the caller may reuse its buffer. Bounded by one option and one chunk, since a busy handshake is not fed.
    this.#pending =
      this.#pending.length === 0 ? Buffer.from(bytes) : Buffer.concat([this.#pending, bytes]);
    this.#pump();
  }

  close(): void {
    this.#over = true;
    this.#pending = Buffer.alloc(0);
    this.#exports.close();
  }

  #pump(): void {
    while (!this.#busy && !this.#over && this.#step());
  }

  /** @returns whether there may be more to do with what was received */
  #step(): boolean {
    if (this.#clientFlags === null) return this.#readClientFlags();
    if (this.#drainLeft > 0) return this.#drain();
    if (this.#pending.length < 16) return false;
    if (
      this.#pending.readUInt32BE(0) !== magics.optionHigh ||
      this.#pending.readUInt32BE(4) !== magics.optionLow
    )
      return this.#drop('wrong option magic');
    const option = this.#pending.readUInt32BE(8);
    const length = this.#pending.readUInt32BE(12);
    if (length > limits.nbdOptionBytesMax) return this.#refuseLong(option, length);
    if (this.#pending.length < 16 + length) return false;
    const data = this.#pending.subarray(16, 16 + length);
    this.#pending = this.#pending.subarray(16 + length);
    return this.#begin(option, data);
  }

  #readClientFlags(): boolean {
    if (this.#pending.length < 4) return false;
    const flags = this.#pending.readUInt32BE(0);
    const known = handshakeFlags.fixedNewstyle | handshakeFlags.noZeroes;
    if ((flags & ~known) !== 0) return this.#drop('unknown client flags');
    if ((flags & handshakeFlags.fixedNewstyle) === 0 && !this.#io.allowOldClients)
      return this.#drop('the client does not speak fixed newstyle');
    this.#clientFlags = flags;
    this.#pending = this.#pending.subarray(4);
    return true;
  }

  #drain(): boolean {
    const taken = Math.min(this.#drainLeft, this.#pending.length);
    this.#drainLeft -= taken;
    this.#pending = this.#pending.subarray(taken);
    return this.#drainLeft === 0;
  }

  #refuseLong(option: number, length: number): boolean {
    if (length > limits.nbdDrainedOptionBytesMax) return this.#drop('option data is far too long');
    this.#pending = this.#pending.subarray(16);
    this.#drainLeft = length;
    if (option === options.exportName) return this.#drop('export name is too long');
    if (!this.#countOption()) return false;
    this.#refuse(option, optionErrors.tooBig, `at most ${limits.nbdOptionBytesMax} bytes of data`);
    return true;
  }

  #countOption(): boolean {
    this.#optionCount += 1;
    if (this.#optionCount <= limits.nbdOptionsMax) return true;
    return this.#drop('too many options');
  }

  /** Start an option; those that ask the provider finish later and pump again. */
  #begin(option: number, data: Buffer): boolean {
    if (!this.#countOption()) return false;
    if (option === options.abort) return this.#abort();
    if (((this.#clientFlags ?? 0) & handshakeFlags.fixedNewstyle) === 0)
      if (option !== options.exportName) return this.#drop('option without fixed newstyle');
    if (this.#refusedAtOnce(option)) return true;
    this.#busy = true;
    this.#io.ready(false);
    this.#work(option, data)
      .catch((error: unknown) => {
        const failure = toDvceError(error);
        this.#refuseWith(option, failure);
      })
      .finally(() => {
        this.#busy = false;
        if (this.#over) return;
        this.#io.ready(true);
        this.#pump();
      });
    return false;
  }

  /** Shutting down and required TLS come before everything else. */
  #refusedAtOnce(option: number): boolean {
    const tlsMissing = this.#io.tlsMode === 'required' && !this.#io.peer().tls;
    if (option === options.exportName) {
      if (tlsMissing) this.#drop('TLS is required');
      else if (this.#io.shuttingDown()) this.#drop('shutting down');
      return this.#over;
    }
    if (this.#io.shuttingDown())
      this.#refuse(option, optionErrors.shutdown, 'the server is shutting down');
    else if (tlsMissing && option !== options.startTls)
      this.#refuse(option, optionErrors.tlsRequired, 'this server serves nothing without TLS');
    else return false;
    return true;
  }

  async #work(option: number, data: Buffer): Promise<void> {
    switch (option) {
      case options.exportName:
        return this.#exportName(data);
      case options.list:
        return this.#list(data);
      case options.startTls:
        return this.#startTls(data);
      case options.info:
      case options.go:
        return this.#infoOrGo(option, data);
      case options.structuredReply:
        return this.#structuredReply(data);
      case options.extendedHeaders:
        return this.#extendedHeaders(data);
      case options.listMetaContext:
      case options.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#refuse(option, optionErrors.unsupported, 'this option is not supported');
    }
  }

  #abort(): boolean {
    this.#reply(options.abort, optionReplies.ack);
    this.#over = true;
    this.#exports.close();
    this.#io.end();
    return false;
  }

  async #exportName(data: Buffer): Promise<void> {
    // This option cannot report an error: every refusal is a disconnect.
    if (this.#negotiated.mode === 'extended')
      return this.#dropped('EXPORT_NAME after EXTENDED_HEADERS');
    const name = parseString(data);
    if (name === null) return this.#dropped('the export name is no string');
    const opened = await this.#open(name);
    if (this.#over) return;
    if (opened instanceof DvceError) return this.#dropped(opened.message);
    const { backend } = opened;
    const zeroes = ((this.#clientFlags ?? 0) & handshakeFlags.noZeroes) === 0 ? 124 : 0;
    const answer = Buffer.alloc(10 + zeroes);
    writeSize(answer, backend.sizeBytes, 0);
    const blockStatus = this.#contextSelected(name);
    answer.writeUInt16BE(exportFlags(backend.caps, this.#negotiated.mode, blockStatus), 8);
    this.#io.send(answer);
    this.#transmit(name);
  }

  async #list(data: Buffer): Promise<void> {
    if (data.length > 0)
      return this.#refuse(options.list, optionErrors.invalid, 'LIST takes no data');
    const peer = this.#io.peer();
    const exports = await this.#io.provider.list(peer);
    if (this.#over) return;
    const replies = exports
      .filter((each) => each.tlsRequired !== true || peer.tls)
      .slice(0, limits.nbdListMax)
      .map((each) => serverReply(options.list, each.name, each.description));
    replies.push(optionReply(options.list, optionReplies.ack));
    this.#io.send(Buffer.concat(replies));
  }

  #startTls(data: Buffer): void {
    const option = options.startTls;
    if (data.length > 0) {
      this.#refuse(option, optionErrors.invalid, 'STARTTLS takes no data');
      return;
    }
    if (this.#io.tlsMode === 'none') {
      this.#refuse(option, optionErrors.policy, 'this server has no TLS configured');
      return;
    }
    if (this.#io.peer().tls) {
      this.#refuse(option, optionErrors.invalid, 'TLS is on already');
      return;
    }
    if (this.#pending.length > 0) {
      this.#dropped('plain text behind STARTTLS');
      return;
    }
    this.#negotiated = fresh();
    this.#exports.forget();
    this.#reply(option, optionReplies.ack);
    this.#io.startTls();
  }

  async #infoOrGo(option: number, data: Buffer): Promise<void> {
    const request = parseInfoRequest(data);
    if (request === null)
      return this.#refuse(option, optionErrors.invalid, 'the lengths of the request do not add up');
    const opened = await this.#open(request.name);
    if (this.#over) return;
    if (opened instanceof DvceError) return this.#refuseWith(option, opened);
    const { backend, description } = opened;
    const blockStatus = this.#contextSelected(request.name);
    const flags = exportFlags(backend.caps, this.#negotiated.mode, blockStatus);
    const infos = [infoExport(backend.sizeBytes, flags)];
    const alias = opened.name !== undefined && opened.name !== request.name;
    if (alias || request.infos.has(infoTypes.name))
      infos.push(infoText(infoTypes.name, opened.name ?? request.name));
    if (description !== undefined && request.infos.has(infoTypes.description))
      infos.push(infoText(infoTypes.description, description));
    const { minimum, preferred, maximum } = blockSizes(backend.caps);
    infos.push(infoBlockSize(minimum, preferred, maximum));
    const replies = infos.map((info) => optionReply(option, optionReplies.info, info));
    replies.push(optionReply(option, optionReplies.ack));
    this.#io.send(Buffer.concat(replies));
    if (option === options.go) this.#transmit(request.name);
  }

  #structuredReply(data: Buffer): void {
    const option = options.structuredReply;
    const { mode } = this.#negotiated;
    if (data.length > 0)
      this.#refuse(option, optionErrors.invalid, 'STRUCTURED_REPLY takes no data');
    else if (mode === 'extended')
      this.#refuse(option, optionErrors.extendedHeadersRequired, 'extended headers are on');
    else if (mode === 'structured')
      this.#refuse(option, optionErrors.invalid, 'structured replies are on already');
    else {
      this.#negotiated.mode = 'structured';
      this.#reply(option, optionReplies.ack);
    }
  }

  #extendedHeaders(data: Buffer): void {
    const option = options.extendedHeaders;
    if (data.length > 0)
      this.#refuse(option, optionErrors.invalid, 'EXTENDED_HEADERS takes no data');
    else if (this.#negotiated.mode === 'extended')
      this.#refuse(option, optionErrors.invalid, 'extended headers are on already');
    else {
      this.#negotiated.mode = 'extended';
      this.#reply(option, optionReplies.ack);
    }
  }

  async #metaContext(option: number, data: Buffer): Promise<void> {
    const set = option === options.setMetaContext;
    // Every SET replaces the earlier selection, also when it fails.
    if (set) this.#negotiated.contextFor = null;
    if (set && this.#negotiated.mode === 'compact')
      return this.#refuse(option, optionErrors.invalid, 'structured replies come first');
    const request = parseMetaContextRequest(data, limits.nbdMetaQueriesMax);
    if (request === null)
      return this.#refuse(option, optionErrors.invalid, 'the lengths of the request do not add up');
    if (request.queryCount > limits.nbdMetaQueriesMax)
      return this.#refuse(
        option,
        optionErrors.tooBig,
        `at most ${limits.nbdMetaQueriesMax} queries`,
      );
    const opened = await this.#open(request.name);
    if (this.#over) return;
    if (opened instanceof DvceError) return this.#refuseWith(option, opened);
    const { queries } = request;
    const matches =
      queries.includes(allocationContext.name) ||
      (!set && (queries.length === 0 || queries.includes('base:')));
    const replies: Buffer[] = [];
    if (matches) {
      if (set) this.#negotiated.contextFor = request.name;
      const body = metaContext(set ? allocationContext.id : 0, allocationContext.name);
      replies.push(optionReply(option, optionReplies.metaContext, body));
    }
    replies.push(optionReply(option, optionReplies.ack));
    this.#io.send(Buffer.concat(replies));
  }

  async #open(name: string): Promise<OpenedExport | DvceError> {
    const peer = this.#io.peer();
    const opened = await this.#exports.open(name, peer);
    if (opened instanceof DvceError || opened.tlsRequired !== true || peer.tls) return opened;
    this.#exports.forget();
    return tlsNeeded();
  }

  #contextSelected(name: string): boolean {
    return this.#negotiated.contextFor === name && this.#negotiated.mode !== 'compact';
  }

  #transmit(name: string): void {
    const opened = this.#exports.take();
    if (opened === null) {
      this.#dropped('the export closed');
      return;
    }
    const rest = this.#pending;
    this.#over = true;
    this.#pending = Buffer.alloc(0);
    this.#io.transmit(opened, this.#negotiated.mode, this.#contextSelected(name), rest);
  }

  #reply(option: number, type: number): void {
    this.#io.send(optionReply(option, type));
  }

  #refuse(option: number, type: number, text: string): void {
    if (!this.#over) this.#io.send(optionReply(option, type, text));
  }

  #refuseWith(option: number, error: DvceError): void {
    if (option === options.exportName) {
      this.#dropped(error.message);
      return;
    }
    if (!this.#over) this.#io.send(optionReply(option, optionErrorFor(error), errorText(error)));
  }

  #drop(reason: string): false {
    this.#dropped(reason);
    return false;
  }

  #dropped(reason: string): void {
    if (this.#over) return;
    this.close();
    this.#io.destroy(reason);
  }
}
