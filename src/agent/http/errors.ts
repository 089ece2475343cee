/**
 * Every error of the API as a problem document (RFC 9457), those too that HTTP itself or the framework finds: unknown routes and
 * methods, types, lengths, malformed and late requests.
 */
import type { Socket } from 'node:net';
import type { ErrorObject } from 'ajv';
import type { ConnectionError, FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { problemType, toProblem } from '../../api/index.ts';
import {
  DvceError,
  type ErrorCode,
  type ErrorContext,
  type Logger,
  limits,
  toDvceError,
} from '../../base/index.ts';
import type { Server } from '../routes/types.ts';

/** An error of the table for which HTTP has a status of its own; code, exit code and retry are those of the table. */
export class HttpRefusal extends DvceError {
  readonly #status: number;

  constructor(status: number, code: ErrorCode, context: ErrorContext, cause?: unknown) {
    super(code, context, cause);
    this.#status = status;
  }
  override get httpStatus(): number {
    return this.#status;
  }
}

const see = 'See docs/reference/openapi.json, or GET /v1/openapi.json.';

/** What fastify or a handler threw, as an error of the table. */
export function explain(error: FastifyError): DvceError {
  const [first] = (error.validation ?? []) as ErrorObject[];
  if (first !== undefined)
    return new DvceError(
      'INVALID_ARGUMENT',
      {
        what: `${fieldOf(first, error.validationContext ?? 'request')}`,
        reason: reasonOf(first),
        advice: 'See docs/reference/openapi.json.',
      },
      error,
    );
  return ofFramework(error) ?? toDvceError(error);
}

function ofFramework(error: FastifyError): DvceError | undefined {
  const body = (status: number, reason: string): DvceError =>
    new HttpRefusal(
      status,
      'INVALID_ARGUMENT',
      { what: 'the body', reason, advice: 'Send a JSON object.' },
      error,
    );
  switch (error.code) {
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return body(400, 'it is not JSON');
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return body(400, 'it is empty');
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return body(415, 'it is not application/json');
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return body(400, 'its length is not what was announced');
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new DvceError(
        'TOO_LARGE',
        { what: 'the body', reason: `at most ${limits.apiBodyBytesMax} bytes`, advice: '' },
        error,
      );
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new DvceError(
        'INVALID_ARGUMENT',
        { what: 'the URL', reason: 'it is not percent-encoded text, or too long', advice: see },
        error,
      );
    default:
      return error instanceof SyntaxError ? body(400, 'it is not JSON') : undefined;
  }
}

/** `memoryBytes` of the body, `/disks/0/path` when it lies deeper. */
function fieldOf({ instancePath, params, keyword }: ErrorObject, context: string): string {
  const missing: unknown = params['missingProperty'] ?? params['additionalProperty'];
  const parts = instancePath.split('/').slice(1);
  if (typeof missing === 'string') parts.push(missing);
  if (parts.length === 0)
    return keyword === 'type' ? `the ${context}` : `a field of the ${context}`;
  return `the field ${parts.join('.')} of the ${context}`;
}

function reasonOf({ keyword, message, params }: ErrorObject): string {
  if (keyword === 'required') return 'it is missing';
  if (keyword === 'additionalProperties') return 'it is not known here';
  if (keyword === 'enum')
    return `it is none of ${(params['allowedValues'] as unknown[]).join(', ')}`;
  return `it ${message ?? 'does not fit'}`;
}

export function sendProblem(reply: FastifyReply, error: DvceError): FastifyReply {
  return reply
    .code(error.httpStatus)
    .type(problemType)
    .serializer((value: unknown) => JSON.stringify(value))
    .send(toProblem(error));
}

/** For `frameworkErrors`: a URL that never reaches a route. */
export const refuseUrl = (error: FastifyError, _: FastifyRequest, reply: FastifyReply): void => {
  sendProblem(reply, explain(error));
};

export function answerErrors(server: Server, logger: Logger): void {
  const routes: { readonly method: string; readonly pattern: RegExp }[] = [];
  server.addHook('onRoute', ({ url, method }) => {
    const pattern = url
      .replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&')
      .replaceAll(/:[A-Za-z]+/g, '[^/]+');
    for (const one of [method].flat())
      routes.push({ method: one, pattern: new RegExp(`^${pattern}$`) });
  });
  // fastify reads plain text, too, unless it is told not to.
  server.removeContentTypeParser('text/plain');
  server.addHook('onRequest', async ({ headers, routeOptions }) => {
    const { accept } = headers;
    if (accept === undefined || accepts(accept, typesOf(routeOptions.schema))) return;
    throw new HttpRefusal(406, 'INVALID_ARGUMENT', {
      what: `the header Accept: ${accept.slice(0, 80)}`,
      reason: `the answer is ${typesOf(routeOptions.schema).join(' or ')}`,
      advice: 'Leave it out.',
    });
  });
  server.setErrorHandler((error: FastifyError, request, reply) => {
    const known = explain(error);
    const level = known.httpStatus >= 500 ? 'error' : 'info';
    const { id, method, url } = request;
    logger[level]({ request: id, err: known, method, url }, 'a request failed');
    return sendProblem(reply, known);
  });
  server.setNotFoundHandler((request, reply) => {
    const [path = ''] = request.url.split('?', 1);
    const allowed = routes.flatMap(({ method, pattern }) => (pattern.test(path) ? [method] : []));
    const what = `the request ${request.method} ${path.slice(0, 200)}`;
    if (allowed.length > 0) reply.header('allow', allowed.join(', '));
    const reason =
      allowed.length > 0 ? `only ${allowed.join(', ')} go there` : 'the API has no such route';
    return sendProblem(
      reply,
      new HttpRefusal(allowed.length > 0 ? 405 : 404, 'INVALID_ARGUMENT', {
        what,
        reason,
        advice: see,
      }),
    );
  });
}

const clientErrors: Readonly<Record<string, readonly [status: number, reason: string]>> = {
  HPE_HEADER_OVERFLOW: [431, `its headers have more than ${limits.apiHeaderBytesMax} bytes`],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'it did not arrive in time'],
};

/** What is no HTTP request at all, or comes too slowly: an answer as well, then the end of the connection. */
export function refuseConnection(error: ConnectionError, socket: Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed) return;
  // Without a handshake there is nothing to say it through, and the end of what is written would never come.
  if (/^ERR_(TLS|SSL)_/.test(error.code ?? '')) {
    socket.destroy();
    return;
  }
  const [status, reason] = clientErrors[error.code] ?? [400, 'it is not HTTP/1.1'];
  const refusal = new HttpRefusal(status, 'INVALID_ARGUMENT', {
    what: 'the request',
    reason,
    advice: see,
  });
  const body = JSON.stringify(toProblem(refusal));
  if (socket.writable)
    socket.write(
      `HTTP/1.1 ${status} Refused\r\nconnection: close\r\ncontent-type: ${problemType}\r\n` +
        `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
  socket.destroySoon();
}

/** The media types of a route's good answers. */
function typesOf(schema: unknown): readonly string[] {
  const { response = {} } = Object(schema) as { response?: Record<string, { content?: object }> };
  const good = Object.entries(response).filter(([status]) => status.startsWith('2'));
  const types = good.flatMap(([, { content }]) => Object.keys(content ?? {}));
  return types.length > 0 ? types : ['application/json'];
}

/** Weights are not looked at: there is one form of each answer. */
function accepts(header: string, types: readonly string[]): boolean {
  return header.split(',').some((part) => {
    const range = (part.split(';', 1)[0] ?? '').trim().toLowerCase();
    return range === '*/*' || range === problemType || types.some((type) => fits(range, type));
  });
}

const fits = (range: string, type: string): boolean =>
  range.endsWith('/*') ? type.startsWith(range.slice(0, -1)) : range === type;
