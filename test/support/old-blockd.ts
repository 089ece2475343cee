/**
 * A blockd of an earlier release, made of the present one: a door before its control socket that knows only the methods and
 * the params that were frozen then, and lets only the members of answers through that there were.
 */
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { Ajv } from 'ajv';
import { DvceError, systemTimers } from '../../src/base/index.ts';
import { encodeError } from '../../src/blockd/calls.ts';
import { BlockdClient, type ControlMethod } from '../../src/blockd/index.ts';
import { type FrozenControl, prune } from './control-freeze.ts';

interface Request {
  readonly id?: number;
  readonly method?: string;
  readonly params?: unknown;
}

export class OldBlockd {
  /** Requests that the earlier release would have refused, although it could have done the work. */
  readonly refused: string[] = [];
  readonly asked = new Set<string>();
  readonly #frozen: FrozenControl;
  readonly #ajv = new Ajv({ strict: false });
  readonly #client: BlockdClient;
  readonly #server: Server;
  readonly #path: string;

  constructor(frozen: FrozenControl, present: string, path: string) {
    this.#frozen = frozen;
    this.#path = path;
    this.#client = new BlockdClient({ socketPath: present, timers: systemTimers });
    this.#server = createServer((socket) => this.#accept(socket));
  }

  async listen(): Promise<void> {
    rmSync(this.#path, { force: true });
    await new Promise<void>((done) => this.#server.listen(this.#path, done));
  }

  close(): void {
    this.#server.close();
    this.#client.close();
  }

  #accept(socket: Socket): void {
    let rest = '';
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      const lines = `${rest}${chunk.toString('utf8')}`.split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) void this.#answer(socket, JSON.parse(line) as Request);
    });
  }

  async #answer(socket: Socket, { id, method, params }: Request): Promise<void> {
    if (id === undefined || method === undefined) return;
    const post = (message: object): void =>
      void socket.write(`${JSON.stringify({ id, ...message })}\n`);
    try {
      post({ result: await this.#call(method, params) });
    } catch (error) {
      post({ error: encodeError(error) });
    }
  }

  async #call(method: string, params: unknown): Promise<unknown> {
    const { version, methods } = this.#frozen;
    if (method === 'hello') return { ...(await this.#client.hello()), version };
    const known = methods[method];
    this.asked.add(method);
    if (known === undefined) {
      this.refused.push(`it asks for ${method}, which version ${version} has not`);
      throw new DvceError('UNSUPPORTED', { what: method, reason: 'unknown', advice: '' });
    }
    if (!this.#ajv.validate(known.params, params)) {
      this.refused.push(`${method}: ${this.#ajv.errorsText()}`);
      throw new DvceError('INVALID_ARGUMENT', { what: method, reason: 'unknown', advice: '' });
    }
    const result = await this.#client.call(method as ControlMethod, params as never);
    return known.result === undefined ? result : prune(result, known.result);
  }
}
