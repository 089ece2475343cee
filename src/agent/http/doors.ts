/**
 * The doors of the API, and who one is who comes through them:
 *
 *   run/agent.sock            0660, group `dvce`           admin
 *   run/agent-readonly.sock   0660, group `dvce-viewer`    viewer
 *   HTTPS, when asked for     bearer token                 what the token grants
 *
 * A group that does not exist on this host is left out: the socket is then for the user of the agent alone (and root). The system
 * judges who may open a socket; nothing here trusts a header for that.
 *
 * Against whom wants to keep the agent busy: headers, bodies and handshakes have deadlines, headers and connections a number, and an
 * address of the network only some of them (limits.api*).
 */

import * as fs from 'node:fs/promises';
import { readFile } from 'node:fs/promises';
import * as http from 'node:http';
import * as https from 'node:https';
import type { Socket } from 'node:net';
import { DvceError, type Logger, limits, systemCode } from '../../base/index.ts';
import { type Identity, localAdmin, localViewer } from '../access.ts';
import type { Tokens } from '../tokens.ts';
import type { Identification } from './certificate.ts';
import { refuseConnection } from './errors.ts';

type Door = 'admin' | 'viewer' | 'remote';
type Handler = (request: http.IncomingMessage, response: http.ServerResponse) => void;
export type HttpServer = http.Server | https.Server;

const timeouts = {
  headersTimeout: limits.apiHeadersMs,
  requestTimeout: limits.apiReceiveMs,
  keepAliveTimeout: limits.apiKeepAliveMs,
  connectionsCheckingInterval: limits.apiHeadersMs / 4,
  maxHeaderSize: limits.apiHeaderBytesMax,
} as const;

export class Doors {
  readonly #tokens: Tokens;
  readonly #logger: Logger;
  readonly #origins = new WeakMap<http.IncomingMessage, Door>();
  readonly #servers: HttpServer[] = [];
  readonly #sockets: string[] = [];

  constructor(tokens: Tokens, logger: Logger) {
    this.#tokens = tokens;
    this.#logger = logger;
  }

  /** Who sent this. What did not come through a door comes from the agent itself. @throws UNAUTHENTICATED, BUSY */
  readonly identify = (request: http.IncomingMessage): Identity => {
    const door = this.#origins.get(request);
    if (door === undefined || door === 'admin') return localAdmin;
    if (door === 'viewer') return localViewer;
    return this.#tokens.identify(request.headers.authorization, addressOf(request.socket));
  };

  /** An HTTP server whose requests are known to come through this door. */
  server(door: 'admin' | 'viewer', handler: Handler): http.Server {
    return this.#bound(
      http.createServer(timeouts, (request, response) => {
        this.#origins.set(request, door);
        handler(request, response);
      }),
      door,
    );
  }

  #bound<S extends HttpServer>(server: S, door: Door): S {
    server.maxConnections = limits.apiConnectionsMax;
    server.on('clientError', refuseConnection);
    // Before any other listener of `upgrade` asks who it is.
    server.prependListener('upgrade', (request) => this.#origins.set(request, door));
    return server;
  }

  async openViewer(path: string, handler: Handler): Promise<http.Server> {
    const server = this.server('viewer', handler);
    await listenUnix(server, path, 'dvce-viewer', this.#logger);
    this.#servers.push(server);
    this.#sockets.push(path);
    return server;
  }

  async openRemote(
    where: { readonly host: string; readonly port: number },
    { cert, key }: Identification,
    handler: Handler,
  ): Promise<https.Server> {
    const options = {
      ...timeouts,
      cert,
      key,
      minVersion: 'TLSv1.2',
      ALPNProtocols: ['http/1.1'],
      handshakeTimeout: limits.apiHeadersMs,
    } as const;
    const server = this.#bound(
      https.createServer(options, (request, response) => {
        this.#origins.set(request, 'remote');
        handler(request, response);
      }),
      'remote',
    );
    limitAddresses(server);
    await listen(server, where, `${where.host}:${where.port}`);
    this.#servers.push(server);
    return server;
  }

  async close(): Promise<void> {
    for (const server of this.#servers) {
      server.close();
      server.closeAllConnections();
    }
    for (const path of this.#sockets) await fs.rm(path, { force: true });
  }
}

const addressOf = (socket: Socket): string => socket.remoteAddress ?? 'unknown';

/** The TCP connection counts, before its handshake costs anything. */
function limitAddresses(server: https.Server): void {
  const counts = new Map<string, number>();
  server.on('connection', (socket: Socket) => {
    const address = addressOf(socket);
    const count = (counts.get(address) ?? 0) + 1;
    if (count > limits.apiConnectionsPerAddress) {
      socket.destroy();
      return;
    }
    counts.set(address, count);
    socket.once('close', () => {
      const left = (counts.get(address) ?? 1) - 1;
      if (left <= 0) counts.delete(address);
      else counts.set(address, left);
    });
  });
}

function listen(
  server: HttpServer,
  where: { readonly path: string } | { readonly host: string; readonly port: number },
  name: string,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      const code = systemCode(error);
      reject(
        code === 'EADDRINUSE' ? new DvceError('ADDRESS_IN_USE', { where: name }, error) : error,
      );
    };
    server.once('error', fail);
    server.listen(where, () => {
      server.off('error', fail);
      resolve();
    });
  });
}

const socketMode = 0o660;

/** A socket that only its group can open; the agent's lock is held, so one that is there is that of a killed agent. */
async function listenUnix(
  server: HttpServer,
  path: string,
  group: string,
  logger: Logger,
): Promise<void> {
  await fs.rm(path, { force: true });
  await listen(server, { path }, path);
  await handOver(path, group, logger);
}

/** Give a socket to a group of the system, when there is one of this name and we may. */
export async function handOver(path: string, group: string, logger: Logger): Promise<void> {
  await fs.chmod(path, 0o600);
  const id = await groupId(group);
  if (id !== undefined)
    try {
      await fs.chown(path, process.getuid?.() ?? 0, id);
    } catch (error) {
      if (systemCode(error) !== 'EPERM') throw error;
      logger.warn({ path, group }, 'this user may not give the socket to its group');
    }
  await fs.chmod(path, socketMode);
}

/** Members of the groups pass through to `run`; what lies beside it keeps its own modes. */
export async function letThrough(directories: readonly string[], logger: Logger): Promise<void> {
  const groups = await Promise.all(['dvce', 'dvce-viewer'].map(groupId));
  if (groups.every((id) => id === undefined) || process.getuid?.() !== 0) return;
  for (const path of directories) {
    const { mode } = await fs.stat(path);
    if ((mode & 0o001) !== 0) continue;
    logger.info({ path }, 'letting the groups of the sockets pass');
    await fs.chmod(path, (mode & 0o777) | 0o001);
  }
}

async function groupId(name: string): Promise<number | undefined> {
  let lines: string;
  try {
    lines = await readFile('/etc/group', 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  const line = lines.split('\n').find((one) => one.startsWith(`${name}:`));
  const id = Number(line?.split(':')[2]);
  return line !== undefined && Number.isInteger(id) ? id : undefined;
}
