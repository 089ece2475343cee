/** Which agent is meant: its data directory and its socket. */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { Problem } from '../config/index.ts';

export interface Place {
  readonly dataDirectory: string;
  readonly socketPath: string;
  /** What is wrong with the configuration; a client goes on with the rest of it. */
  readonly problems: readonly Problem[];
}

/** As in src/config, which is loaded only where a file could say something: it costs a fifth of a start. */
const usualFile = '/etc/dvce/dvce.yaml';

const nonEmpty = (text: unknown): string | undefined =>
  typeof text === 'string' && text !== '' ? text : undefined;

/** Flag, environment, file, default. */
export async function placeOf(given: unknown, environment: NodeJS.ProcessEnv): Promise<Place> {
  const named = nonEmpty(given) ?? nonEmpty(environment['DVCE_DATA_DIR']);
  const socket = nonEmpty(environment['DVCE_API_SOCKET']);
  if (named !== undefined) return place(resolve(named), socket, []);
  const file = nonEmpty(environment['DVCE_CONFIG']) ?? usualFile;
  if (!existsSync(file) && !existsSync(join(dirname(file), 'conf.d')))
    return place(usualDirectory(environment), socket, []);
  const { readConfiguration } = await import('../config/index.ts');
  const { configuration, problems } = await readConfiguration({ environment });
  const directory = configuration.text('data.dir') ?? usualDirectory(environment);
  return place(directory, socket ?? configuration.text('api.socket'), problems);
}

function usualDirectory(environment: NodeJS.ProcessEnv): string {
  if (process.getuid?.() === 0) return '/var/lib/dvce';
  return join(nonEmpty(environment['XDG_STATE_HOME']) ?? join(homedir(), '.local/state'), 'dvce');
}

const place = (
  dataDirectory: string,
  socket: string | undefined,
  problems: readonly Problem[],
): Place => ({
  dataDirectory,
  socketPath: socket === undefined ? join(dataDirectory, 'run/agent.sock') : resolve(socket),
  problems,
});
