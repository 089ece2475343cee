/** The options of a blockd process, from its command line. */
import { parseArgs } from 'node:util';
import { DvceError, limits, parseDuration, parseSize } from '../base/index.ts';

export const logLevels = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

export interface BlockdOptions {
  readonly dataDirectory: string;
  /** undefined: `<data>/store`. */
  readonly storeDirectory: string | undefined;
  readonly nbdTcp: { readonly host: string; readonly port: number } | null;
  /** Holds server-cert.pem, server-key.pem and, for client certificates, ca-cert.pem. */
  readonly nbdTlsDirectory: string | null;
  /** Serve TCP without TLS. */
  readonly nbdInsecure: boolean;
  /** Journal quota of volumes created without one of their own. */
  readonly journalBytes: number;
  /** Memory of all read caches together; 0: none. */
  readonly readCacheBytes: number;
  /** undefined: as many as there are cores, at most 4. */
  readonly workers: number | undefined;
  /** A volume opened on demand is closed when it had no client for so long. */
  readonly exportIdleMs: number;
  /** How long a deleted volume can be had back; 0: not at all. */
  readonly trashWindowMs: number;
  /** With less free space the trash is emptied, oldest first. */
  readonly trashFreeBytesMin: number;
  /** Rate of the background scrub; 0: off. */
  readonly scrubBytesPerSecond: number;
  /** Every volume is scrubbed once in this time. */
  readonly scrubPeriodMs: number;
  readonly logLevel: LogLevel;
  /** Write the log to stderr too. */
  readonly foreground: boolean;
}

export const blockdUsage = `Usage: dvce blockd --data-dir DIR [options]

The data process of a node: opens volumes and serves them over NBD.

Options:
  --data-dir DIR         where this node keeps its state; one blockd per directory
  --store DIR            embedded store (default: DIR/store)
  --nbd-tcp HOST:PORT    serve NBD over TCP too; needs --nbd-tls-dir or --nbd-insecure
  --nbd-tls-dir DIR      server-cert.pem, server-key.pem, ca-cert.pem (client certificates are required when it is there)
  --nbd-insecure         serve TCP without TLS
  --journal-bytes SIZE   default journal quota of a new volume (default: 128MiB)
  --read-cache SIZE      memory for blocks that were read, given back when idle; 0 for none (default: 64MiB)
  --workers N            worker threads (default: cores, at most 4)
  --export-idle TIME     close a volume that had no client for so long (default: 60s)
  --trash-window TIME    how long a deleted volume can be had back, 0s for not at all (default: 7d)
  --trash-free-min SIZE  empty the trash, oldest first, while less than this is free (default: 4GiB)
  --scrub-rate SIZE      bytes that the background scrub reads in a second, 0 for none (default: 8MiB)
  --scrub-period TIME    each volume is scrubbed once in this time (default: 7d)
  --log-level LEVEL      debug, info, warn or error (default: info)
  --foreground           write the log to stderr too
  --supervise            keep a blockd running: start it detached, restart it when it dies
  --help                 this text
`;

const optionTable = {
  'data-dir': { type: 'string' },
  store: { type: 'string' },
  'nbd-tcp': { type: 'string' },
  'nbd-tls-dir': { type: 'string' },
  'nbd-insecure': { type: 'boolean' },
  'journal-bytes': { type: 'string' },
  'read-cache': { type: 'string' },
  workers: { type: 'string' },
  'export-idle': { type: 'string' },
  'trash-window': { type: 'string' },
  'trash-free-min': { type: 'string' },
  'scrub-rate': { type: 'string' },
  'scrub-period': { type: 'string' },
  'log-level': { type: 'string' },
  foreground: { type: 'boolean' },
  supervise: { type: 'boolean' },
  help: { type: 'boolean' },
} as const;

export type BlockdCommand =
  | { readonly kind: 'help' }
  | { readonly kind: 'run' | 'supervise'; readonly options: BlockdOptions };

function invalid(what: string, reason: string, advice: string): DvceError {
  return new DvceError('INVALID_ARGUMENT', { what, reason, advice });
}

type Values = ReturnType<typeof parse>['values'];

function parse(argv: readonly string[]) {
  try {
    return parseArgs({ args: [...argv], options: optionTable, strict: true });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw invalid('the command line of blockd', reason, 'See: dvce blockd --help');
  }
}

/** Throws INVALID_ARGUMENT that names the option. */
export function parseBlockdArguments(argv: readonly string[]): BlockdCommand {
  const { values } = parse(argv);
  if (values.help === true) return { kind: 'help' };
  const dataDirectory = values['data-dir'];
  if (dataDirectory === undefined || dataDirectory === '')
    throw invalid('the command line of blockd', '--data-dir is missing', 'See: dvce blockd --help');
  const options: BlockdOptions = {
    dataDirectory,
    storeDirectory: values.store,
    ...parseNetwork(values),
    journalBytes:
      values['journal-bytes'] === undefined
        ? limits.journalBytes
        : parseSize(values['journal-bytes']),
    readCacheBytes: parseReadCache(values['read-cache']),
    workers: parseWorkers(values.workers),
    exportIdleMs:
      values['export-idle'] === undefined
        ? limits.exportIdleMs
        : parseDuration(values['export-idle']),
    trashWindowMs: parseWindow(values['trash-window']),
    trashFreeBytesMin:
      values['trash-free-min'] === undefined
        ? limits.trashFreeBytesMin
        : parseSize(values['trash-free-min']),
    ...parseScrub(values),
    logLevel: parseLevel(values['log-level']),
    foreground: values.foreground ?? false,
  };
  return { kind: values.supervise === true ? 'supervise' : 'run', options };
}

function parseNetwork(
  values: Values,
): Pick<BlockdOptions, 'nbdTcp' | 'nbdTlsDirectory' | 'nbdInsecure'> {
  const nbdTcp = values['nbd-tcp'] === undefined ? null : parseAddress(values['nbd-tcp']);
  const nbdTlsDirectory = values['nbd-tls-dir'] ?? null;
  const nbdInsecure = values['nbd-insecure'] ?? false;
  // Invariant 10: a port that anyone may reach needs TLS, or somebody who said that it does not.
  if (nbdTcp !== null && nbdTlsDirectory === null && !nbdInsecure)
    throw invalid(
      '--nbd-tcp',
      'NBD over TCP needs TLS',
      'Give --nbd-tls-dir DIR, or --nbd-insecure where the network is trusted.',
    );
  if (nbdTlsDirectory !== null && nbdInsecure)
    throw invalid('--nbd-insecure', 'it contradicts --nbd-tls-dir', 'Give one of them.');
  return { nbdTcp, nbdTlsDirectory, nbdInsecure };
}

/** `HOST:PORT`, `[V6]:PORT`. */
function parseAddress(text: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535)
    throw invalid(
      '--nbd-tcp',
      `${JSON.stringify(text)} is not HOST:PORT`,
      'For example 0.0.0.0:10809.',
    );
  return { host, port };
}

function parseWorkers(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const count = Number(text);
  if (!/^\d+$/.test(text) || count < 1 || count > limits.workersMax)
    throw invalid(
      '--workers',
      `${JSON.stringify(text)} is not a number from 1 to ${limits.workersMax}`,
      '',
    );
  return count;
}

function parseReadCache(text: string | undefined): number {
  const bytes = text === undefined ? limits.readCacheBytes : parseSize(text);
  if (bytes > limits.readCacheBytesMax)
    throw invalid('--read-cache', `${JSON.stringify(text)} is more than 64GiB`, '');
  return bytes;
}

function parseWindow(text: string | undefined): number {
  const windowMs = text === undefined ? limits.trashWindowMs : parseDuration(text);
  if (windowMs > limits.trashWindowMsMax)
    throw invalid('--trash-window', `${JSON.stringify(text)} is longer than a year`, '');
  return windowMs;
}

function parseScrub(values: Values): Pick<BlockdOptions, 'scrubBytesPerSecond' | 'scrubPeriodMs'> {
  const { 'scrub-rate': rate, 'scrub-period': period } = values;
  const scrubPeriodMs = period === undefined ? limits.scrubPeriodMs : parseDuration(period);
  if (scrubPeriodMs < limits.scrubPeriodMsMin)
    throw invalid('--scrub-period', `${JSON.stringify(period)} is shorter than a minute`, '');
  const scrubBytesPerSecond = rate === undefined ? limits.scrubBytesPerSecond : parseSize(rate);
  return { scrubBytesPerSecond, scrubPeriodMs };
}

function parseLevel(text: string | undefined): LogLevel {
  if (text === undefined) return 'info';
  const level = logLevels.find((known) => known === text);
  if (level === undefined)
    throw invalid(
      '--log-level',
      `${JSON.stringify(text)} is not one of ${logLevels.join(', ')}`,
      '',
    );
  return level;
}

/** The command line that gives these options again; the launcher starts blockd with it. */
export function formatBlockdArguments(options: BlockdOptions): string[] {
  const argv = ['--data-dir', options.dataDirectory];
  if (options.storeDirectory !== undefined) argv.push('--store', options.storeDirectory);
  if (options.nbdTcp !== null) {
    const { host, port } = options.nbdTcp;
    argv.push('--nbd-tcp', `${host.includes(':') ? `[${host}]` : host}:${port}`);
  }
  if (options.nbdTlsDirectory !== null) argv.push('--nbd-tls-dir', options.nbdTlsDirectory);
  if (options.nbdInsecure) argv.push('--nbd-insecure');
  argv.push('--journal-bytes', String(options.journalBytes));
  argv.push('--read-cache', String(options.readCacheBytes));
  if (options.workers !== undefined) argv.push('--workers', String(options.workers));
  argv.push('--export-idle', `${options.exportIdleMs}ms`);
  argv.push('--trash-window', `${options.trashWindowMs}ms`);
  argv.push('--trash-free-min', String(options.trashFreeBytesMin));
  argv.push('--scrub-rate', String(options.scrubBytesPerSecond));
  argv.push('--scrub-period', `${options.scrubPeriodMs}ms`);
  argv.push('--log-level', options.logLevel);
  if (options.foreground) argv.push('--foreground');
  return argv;
}
