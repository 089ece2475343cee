/** The command line of blockd with what the configuration says in front of it: what was given stands behind, and wins. */
import { resolve } from 'node:path';
import { blockdOptions, dataDirectoryOf, loadConfiguration } from '../config/index.ts';

/** @throws INVALID_CONFIG */
export async function withConfiguration(
  argv: readonly string[],
  environment: NodeJS.ProcessEnv,
): Promise<string[]> {
  const at = argv.lastIndexOf('--data-dir');
  const named = argv[at + 1];
  const configuration = await loadConfiguration({
    environment,
    ...(at < 0 || named === undefined
      ? {}
      : { flags: { 'data.dir': { flag: '--data-dir', value: resolve(named) } } }),
  });
  const directory = dataDirectoryOf(configuration, environment);
  return ['--data-dir', directory, ...blockdOptions(configuration), ...argv];
}
