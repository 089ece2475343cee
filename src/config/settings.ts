/**
 * Every setting of a host, as one table: the configuration file, its JSON Schema, the environment variables, the reference page
 * and `dvce config` follow from it.
 *
 * The name of a setting is `section.key`; its environment variable is DVCE_SECTION_KEY. A secret is never a value here but a
 * file (`..._file`).
 */
import { GiB, MiB } from '../base/units.ts';

/** How the text of a value is read; `size` gives bytes, `duration` milliseconds, `address` stays HOST:PORT. */
export type SettingKind =
  | 'path'
  | 'secret-file'
  | 'text'
  | 'size'
  | 'duration'
  | 'count'
  | 'switch'
  | 'address'
  | 'choice';

export interface SettingSpec {
  readonly kind: SettingKind;
  readonly text: string;
  /** As one would write it; undefined: none, or `otherwise` says what. */
  readonly default?: string | number | boolean;
  /** What is done without it, when that is no fixed value. */
  readonly otherwise?: string;
  readonly choices?: readonly string[];
  readonly min?: number;
  readonly max?: number;
  /** Taken over by a running agent at `dvce config reload` or SIGHUP; the others at its next start. */
  readonly reload?: true;
  /** Belongs to one data directory: a file's value does not hold for another one that a flag or variable names. */
  readonly local?: true;
  /** Older names of the environment variable. */
  readonly alias?: string;
}

const day = 86_400_000;

export const settings = {
  data: {
    dir: {
      kind: 'path',
      text: 'where this node keeps its state; one agent and one blockd per directory',
      otherwise: '/var/lib/dvce for root, $XDG_STATE_HOME/dvce for others',
    },
    store: {
      kind: 'path',
      text: 'embedded store: the place of truth',
      otherwise: 'DATA/store',
      local: true,
    },
  },
  api: {
    socket: {
      kind: 'path',
      text: 'unix socket of the API',
      otherwise: 'DATA/run/agent.sock',
      local: true,
    },
    listen: {
      kind: 'address',
      text: 'serve the API over HTTPS too, for holders of tokens',
      otherwise: 'not at all',
      local: true,
    },
    cert_file: {
      kind: 'path',
      text: 'certificate of the HTTPS door',
      otherwise: 'one made by the agent, in DATA/state/tls',
      local: true,
    },
    key_file: {
      kind: 'secret-file',
      text: 'its private key; a name without a slash is a credential of systemd (LoadCredential)',
      otherwise: 'one made by the agent, in DATA/state/tls',
      local: true,
    },
  },
  log: {
    level: {
      kind: 'choice',
      text: 'how much agent and blockd log; blockd takes it at its next start',
      default: 'info',
      choices: ['debug', 'info', 'warn', 'error'],
      reload: true,
    },
  },
  nbd: {
    listen: {
      kind: 'address',
      text: 'serve volumes over TCP too; needs tls_dir or insecure',
      otherwise: 'not at all',
      local: true,
    },
    tls_dir: {
      kind: 'path',
      text: 'server-cert.pem, server-key.pem and, to demand client certificates, ca-cert.pem',
      otherwise: 'no TLS',
    },
    insecure: { kind: 'switch', text: 'serve TCP without TLS', default: false },
  },
  blockd: {
    workers: {
      kind: 'count',
      text: 'worker threads',
      otherwise: 'as many as cores, at most 4',
      min: 1,
      max: 64,
    },
    journal_size: {
      kind: 'size',
      text: 'journal quota of a new volume that names none',
      default: '128MiB',
      min: MiB,
      max: 64 * GiB,
    },
    read_cache: {
      kind: 'size',
      text: 'memory for blocks that were read, shared by all volumes and given back when idle; 0: none',
      default: '64MiB',
      min: 0,
      max: 64 * GiB,
    },
    export_idle: {
      kind: 'duration',
      text: 'a volume opened on demand is closed when it had no client for so long',
      default: '60s',
      min: 0,
      max: day,
    },
    trash_window: {
      kind: 'duration',
      text: 'how long a deleted volume can be had back; 0s: not at all',
      default: '7d',
      min: 0,
      max: 365 * day,
    },
    trash_free_min: {
      kind: 'size',
      text: 'while less than this is free the trash is emptied, oldest first',
      default: '4GiB',
      min: 0,
      max: Number.MAX_SAFE_INTEGER,
    },
    scrub_rate: {
      kind: 'size',
      text: 'bytes that the background scrub reads in a second; 0: none',
      default: '8MiB',
      min: 0,
      max: 64 * GiB,
    },
    scrub_period: {
      kind: 'duration',
      text: 'each volume is scrubbed once in this time',
      default: '7d',
      min: 60_000,
      max: 365 * day,
    },
  },
  images: {
    catalogue: {
      kind: 'path',
      text: 'catalogue of cloud images (names, URLs, checksums)',
      otherwise: 'the one that comes with the program',
    },
    authorities: {
      kind: 'path',
      text: 'certificates of authorities that downloads may trust beside the usual ones',
      otherwise: 'the usual ones alone',
    },
  },
  vm: {
    cpus: {
      kind: 'count',
      text: 'virtual CPUs of a VM that names none',
      default: 1,
      min: 1,
      max: 255,
      reload: true,
    },
    memory: {
      kind: 'size',
      text: 'memory of a VM that names none',
      default: '512MiB',
      min: 32 * MiB,
      max: 4096 * GiB,
      reload: true,
    },
    machine: {
      kind: 'choice',
      text: 'machine type of a VM that names none',
      default: 'q35',
      choices: ['q35', 'pc'],
      reload: true,
    },
    firmware: {
      kind: 'choice',
      text: 'firmware of a VM that names none',
      default: 'bios',
      choices: ['bios', 'uefi'],
      reload: true,
    },
    stop_timeout: {
      kind: 'duration',
      text: 'time that a guest has to shut down when a stop names none',
      default: '60s',
      min: 0,
      max: 3_600_000,
      reload: true,
    },
    qemu: {
      kind: 'text',
      text: "the hypervisor's program",
      otherwise: 'qemu-system-x86_64 on the path',
      alias: 'DVCE_QEMU',
    },
    cgroup: {
      kind: 'text',
      text: 'the group of cgroup v2, as a directory, in which guests with a share get theirs',
      otherwise: 'dvce below the mount of cgroup v2',
    },
  },
} as const satisfies Readonly<Record<string, Readonly<Record<string, SettingSpec>>>>;

type Table = typeof settings;
/** `nbd.listen` and the others. */
export type SettingName = {
  [S in keyof Table]: `${S & string}.${keyof Table[S] & string}`;
}[keyof Table];

/** All settings in the order of the table. */
export const settingList: readonly (SettingSpec & { readonly name: SettingName })[] =
  Object.entries(settings).flatMap(([section, keys]) =>
    Object.entries(keys as Readonly<Record<string, SettingSpec>>).map(([key, spec]) => ({
      ...spec,
      name: `${section}.${key}` as SettingName,
    })),
  );

export const variableOf = (name: string): string => `DVCE_${name.replace('.', '_').toUpperCase()}`;
