/**
 * `GET /v1/vms/{name}/console` with `Upgrade: dvce-console`: after `101 Switching Protocols` the connection carries the raw
 * bytes of the serial console, both ways. No framing: a terminal is a stream of bytes, and socat can speak it.
 */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { consoleProtocol, problemType, toProblem } from '../api/index.ts';
import { DvceError, type Logger, toDvceError } from '../base/index.ts';
import { demand, pathOf } from './access.ts';
import type { Agent } from './agent.ts';
import type { HttpServer } from './http/doors.ts';
import type { Identify } from './http/guard.ts';
import type { RecordConsole } from './http/records.ts';

const route = /^\/v1\/vms\/([^/?]+)\/console$/;

export function serveConsoles(
  server: HttpServer,
  agent: Agent,
  logger: Logger,
  identify: Identify,
  record: RecordConsole,
): void {
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    // Until someone else listens: a client that goes away is no error of the agent.
    socket.on('error', () => {});
    let who = 'unknown';
    const identifyFirst: Identify = (asked) => {
      const identity = identify(asked);
      who = identity.name;
      return identity;
    };
    connect(agent, identifyFirst, request, socket, head).then(
      () => record(request, who, 101),
      (error: unknown) => {
        const known = toDvceError(error);
        logger.info({ err: known, url: request.url }, 'a console was refused');
        record(request, who, known.httpStatus);
        refuse(socket, known);
      },
    );
  });
}

async function connect(
  { vms, consoles }: Agent,
  identify: Identify,
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  const identity = identify(request);
  const encoded = route.exec(request.url ?? '')?.[1];
  if (encoded === undefined || request.headers.upgrade?.toLowerCase() !== consoleProtocol)
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the upgrade of ${request.url}`,
      reason: `only /v1/vms/NAME/console can be upgraded, to ${consoleProtocol}`,
      advice: 'Use: dvce console NAME',
    });
  const name = decodeName(encoded);
  const what = `the console of VM ${name}`;
  demand(identity, { role: 'operator', path: pathOf('vms', name) }, what);
  const join = await consoles.open(await vms.consoleSocket(name), name);
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: ${consoleProtocol}\r\n\r\n`,
  );
  if (head.byteLength > 0) socket.unshift(head);
  join(socket);
}

function decodeName(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch (error) {
    throw new DvceError(
      'INVALID_NAME',
      { name: JSON.stringify(encoded), reason: 'it is not percent-encoded text' },
      error,
    );
  }
}

function refuse(socket: Duplex, error: DvceError): void {
  if (socket.destroyed) return;
  const body = JSON.stringify(toProblem(error));
  socket.end(
    `HTTP/1.1 ${error.httpStatus} Refused\r\nconnection: close\r\ncontent-type: ${problemType}\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
