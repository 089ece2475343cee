/**
 * The API served: the server behind its doors, and the end of both. What is listened on is the last thing of a start, so that whoever
 * gets an answer gets a whole agent.
 */
import { rm } from 'node:fs/promises';
import { type Clock, DvceError, type Logger, type Random, systemCode } from '../base/index.ts';
import type { Agent } from './agent.ts';
import { serveConsoles } from './console-upgrade.ts';
import { type CertificateFiles, identification } from './http/certificate.ts';
import { Doors, handOver, letThrough } from './http/doors.ts';
import { recordConsoles } from './http/records.ts';
import type { AgentLayout } from './layout.ts';
import type { Server } from './routes/types.ts';
import { buildServer } from './server.ts';

export interface ApiOptions extends CertificateFiles {
  /** `host:port` of the HTTPS door; none when not given. */
  readonly listen?: string | undefined;
  /** File for the names of the operations that were asked for (tests). */
  readonly accessLog?: string | undefined;
}

export interface ServeOptions {
  readonly api: ApiOptions;
  readonly layout: AgentLayout;
  readonly release: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** A socket that listens already, from the service manager. */
  readonly apiDescriptor?: number | undefined;
}

export interface ServedApi {
  readonly server: Server;
  close(): Promise<void>;
}

export async function serveApi(agent: Agent, options: ServeOptions): Promise<ServedApi> {
  const { api, layout, logger } = options;
  const doors = new Doors(agent.tokens, logger);
  const { accessLog } = api;
  const server = await buildServer(agent, logger, options.release, { doors, accessLog });
  const close = async (): Promise<void> => {
    // Consoles are no HTTP connections any more: the server would wait for them.
    agent.consoles.close();
    await doors.close();
    await server.close();
    // A socket that was handed in goes on queueing clients for the next agent.
    if (options.apiDescriptor === undefined) await rm(layout.socket, { force: true });
  };
  try {
    await open(server, doors, agent, options);
    return { server, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function open(
  server: Server,
  doors: Doors,
  agent: Agent,
  { api, layout, clock, random, logger, apiDescriptor }: ServeOptions,
): Promise<void> {
  const handler = server.routing.bind(server);
  const record = recordConsoles(agent.audit, clock, api.accessLog, logger);
  const consoles = (of: Parameters<typeof serveConsoles>[0]): void =>
    serveConsoles(of, agent, logger, doors.identify, record);
  if (api.listen !== undefined) {
    const where = parseListen(api.listen);
    const shown = await identification(api, layout.tls, where.host, random, clock.wallMs());
    consoles(await doors.openRemote(where, shown, handler));
    agent.tokens.door = { listen: api.listen, fingerprint: shown.fingerprint };
    logger.info({ ...where, fingerprint: shown.fingerprint }, 'the API answers over HTTPS');
  }
  consoles(await doors.openViewer(layout.viewerSocket, handler));
  consoles(server.server);
  await letThrough([layout.root, layout.run], logger);
  if (apiDescriptor !== undefined) return listenOn(server, apiDescriptor);
  await listen(server, layout.socket);
  await handOver(layout.socket, 'dvce', logger);
}

async function listenOn(server: Server, descriptor: number): Promise<void> {
  await server.ready();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.server.once('error', reject).listen({ fd: descriptor }, resolve);
  await promise;
  server.server.off('error', reject);
}

/** We hold the lock, so a socket that is there is that of an agent that was killed. */
async function listen(server: Server, socket: string): Promise<void> {
  await rm(socket, { force: true });
  try {
    await server.listen({ path: socket });
  } catch (error) {
    if (systemCode(error) !== 'EADDRINUSE') throw error;
    throw new DvceError('ADDRESS_IN_USE', { where: socket }, error);
  }
}

/** `host:port`, `[::1]:port`. @throws INVALID_ARGUMENT */
export function parseListen(text: string): { host: string; port: number } {
  const found = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})$/.exec(text);
  const port = Number(found?.[3]);
  const host = found?.[1] ?? found?.[2];
  if (host === undefined || !(port >= 1 && port <= 65_535))
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the address ${JSON.stringify(text.slice(0, 80))} of the API`,
      reason: 'it is not HOST:PORT',
      advice: 'For example 0.0.0.0:8443 or [::]:8443.',
    });
  return { host, port };
}
