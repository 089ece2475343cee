/** What the agent's process was told: by its command line, and by the configuration behind it. */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { Shutdown } from '../api/index.ts';
import { DvceError } from '../base/index.ts';
import {
  type Configuration,
  type ConfigurationSources,
  dataDirectoryOf,
  loadConfiguration,
  secretFile,
} from '../config/index.ts';
import type { ApiOptions } from './serve-api.ts';

export interface CommandLine {
  readonly configuration: Configuration;
  /** To read the same again. */
  readonly sources: ConfigurationSources;
  readonly dataDirectory: string;
  readonly socket: string | undefined;
  readonly stopRequest: Shutdown | undefined;
  readonly blockdOptions: readonly string[];
  readonly logPath: string | undefined;
  readonly isBlockdExternal: boolean;
  readonly api: ApiOptions;
  readonly imageFiles: {
    readonly catalogueFile: string | undefined;
    readonly authoritiesFile: string | undefined;
  };
  readonly qemu: string | undefined;
  readonly cgroupParent: string | undefined;
}

/** Options that are settings, too. */
const flags = {
  'data-dir': 'data.dir',
  'api-socket': 'api.socket',
  'api-listen': 'api.listen',
  'api-cert-file': 'api.cert_file',
  'api-key-file': 'api.key_file',
  'image-catalogue': 'images.catalogue',
} as const;
const paths = new Set(['data-dir', 'api-socket', 'api-cert-file', 'image-catalogue']);

/** @throws INVALID_CONFIG, INVALID_ARGUMENT */
export async function readCommandLine(
  argv: readonly string[],
  environment: NodeJS.ProcessEnv,
): Promise<CommandLine> {
  const text = { type: 'string' } as const;
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      'data-dir': text,
      'api-socket': text,
      'api-listen': text,
      'api-cert-file': text,
      'api-key-file': text,
      'image-catalogue': text,
      log: text,
      stop: text,
      blockd: { type: 'string', default: 'own' },
    },
  });
  if (values.blockd !== 'own' && values.blockd !== 'external')
    throw new DvceError('INVALID_ARGUMENT', {
      what: '--blockd',
      reason: `${JSON.stringify(values.blockd)} is neither own nor external`,
      advice: 'external: systemd runs it; own: the agent starts it.',
    });
  const given = Object.entries(flags).flatMap(([flag, name]) => {
    const value = values[flag as keyof typeof flags];
    if (value === undefined || value === '') return [];
    return [[name, { flag: `--${flag}`, value: paths.has(flag) ? resolve(value) : value }]];
  });
  const sources = {
    environment: { ...environment },
    flags: Object.fromEntries(given) as ConfigurationSources['flags'] & object,
  };
  const configuration = await loadConfiguration(sources);
  return {
    configuration,
    sources,
    dataDirectory: dataDirectoryOf(configuration, environment),
    socket: configuration.text('api.socket'),
    stopRequest: values.stop === undefined ? undefined : (JSON.parse(values.stop) as Shutdown),
    blockdOptions: positionals,
    logPath: values.log,
    isBlockdExternal: values.blockd === 'external',
    api: {
      listen: configuration.text('api.listen'),
      certFile: configuration.text('api.cert_file'),
      keyFile: secretFile(configuration, 'api.key_file', environment),
      accessLog: environment['DVCE_ACCESS_LOG'],
    },
    imageFiles: {
      catalogueFile: configuration.text('images.catalogue'),
      authoritiesFile: configuration.text('images.authorities'),
    },
    qemu: configuration.text('vm.qemu'),
    cgroupParent: configuration.text('vm.cgroup'),
  };
}
