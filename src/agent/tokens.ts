/**
 * API tokens: `dvce_ID_SECRET`, shown once when made, for requests from other hosts.
 *
 * | field | meaning |
 * |---|---|
 * | id | 12 characters of the token itself, to find it by; no secret |
 * | hash | SHA-256 of the secret. 256 random bits cannot be guessed, so a slow hash would only serve who wants to keep us busy |
 * | grants | roles by path (access.ts) |
 * | expiresAt | always set, at most limits.tokenLifeMsMax ahead |
 * | lastUsedAt | to limits.tokenUsedMs exactly |
 *
 * Invariants
 * - secrets are nowhere but in the answer that made the token; hashes are in a file of mode 0600, replaced whole;
 * - the comparison takes the same time whatever is wrong; a token that is unknown, expired or revoked gets the same answer;
 * - an address with too many failures is told to wait, before anything is compared. A token that is right is never locked out.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import { chmod, open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Ajv } from 'ajv';
import Type, { type Static } from 'typebox';
import type { Token, TokenSecret } from '../api/index.ts';
import {
  type Clock,
  checkName,
  DvceError,
  type FileSystem,
  type Logger,
  limits,
  type Random,
  systemCode,
} from '../base/index.ts';
import { type Grant, grantPath, type Identity } from './access.ts';

const KeptToken = Type.Object({
  id: Type.String({ minLength: 1 }),
  name: Type.String({ minLength: 1 }),
  hash: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  grants: Type.Array(
    Type.Object({
      role: Type.Union([Type.Literal('viewer'), Type.Literal('operator'), Type.Literal('admin')]),
      path: Type.String({ minLength: 1 }),
    }),
    { minItems: 1 },
  ),
  createdAt: Type.String(),
  expiresAt: Type.String(),
  lastUsedAt: Type.Union([Type.String(), Type.Null()]),
});
type KeptToken = Static<typeof KeptToken>;
const File = Type.Object({ format: Type.Literal(1), tokens: Type.Array(KeptToken) });
const check = new Ajv().compile<Static<typeof File>>(File);

export interface TokensOptions {
  readonly path: string;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

export class Tokens {
  readonly #options: TokensOptions;
  readonly #failures = new Map<string, { count: number; sinceMs: number }>();
  #tokens: KeptToken[] = [];
  #writing: Promise<void> = Promise.resolve();
  #toldMs = 0;
  /** Where tokens are good for, when there is such a door. */
  door: TokenSecret['door'] = null;

  private constructor(options: TokensOptions) {
    this.#options = options;
  }

  /** @throws DOCUMENT_DAMAGED: without its tokens the agent would forget revocations, so it does not start */
  static async open(options: TokensOptions): Promise<Tokens> {
    const tokens = new Tokens(options);
    const { path } = options;
    try {
      const value: unknown = JSON.parse(await readFile(path, 'utf8'));
      if (!check(value)) throw new SyntaxError(check.errors?.[0]?.message ?? 'it does not fit');
      tokens.#tokens = value.tokens;
      await chmod(path, 0o600);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return tokens;
      const reason = error instanceof Error ? error.message : String(error);
      throw new DvceError('DOCUMENT_DAMAGED', { name: path, reason }, error);
    }
    return tokens;
  }

  list(): Token[] {
    return this.#tokens.map((token) => this.#view(token));
  }

  get(name: string): Token {
    return this.#view(this.#find(name));
  }

  #view({ hash: _, ...shown }: KeptToken): Token {
    return { ...shown, expired: Date.parse(shown.expiresAt) <= this.#options.clock.wallMs() };
  }

  #find(name: string): KeptToken {
    const found = this.#tokens.find((token) => token.name === checkName(name));
    if (found === undefined) throw new DvceError('NOT_FOUND', { kind: 'token', name });
    return found;
  }

  async create(request: {
    readonly name: string;
    readonly grants: readonly Grant[];
    readonly expiresMs?: number | undefined;
  }): Promise<TokenSecret> {
    const { random, clock } = this.#options;
    const name = checkName(request.name);
    const grants = request.grants.map(({ role, path }) => ({ role, path: grantPath(path) }));
    const paths = grants.map(({ path }) => path);
    const twice = paths.find((path, at) => paths.indexOf(path) !== at);
    if (twice !== undefined)
      throw new DvceError('INVALID_ARGUMENT', {
        what: 'the list of grants',
        reason: `${twice} is there twice`,
        advice: 'Give one role for each path.',
      });
    if (this.#tokens.some((token) => token.name === name))
      throw new DvceError('ALREADY_EXISTS', { kind: 'token', name });
    if (this.#tokens.length >= limits.tokensMax)
      throw new DvceError('TOO_LARGE', {
        what: 'the list of tokens',
        reason: `there are ${limits.tokensMax} already`,
        advice: 'Revoke those that are not needed: dvce token list',
      });
    const nowMs = clock.wallMs();
    const id = random.bytes(9).toString('base64url').replaceAll(/[_-]/g, 'x');
    const secret = `dvce_${id}_${random.bytes(32).toString('base64url')}`;
    const token: KeptToken = {
      id,
      name,
      hash: sha256(secret).toString('hex'),
      grants,
      createdAt: new Date(nowMs).toISOString(),
      expiresAt: new Date(nowMs + (request.expiresMs ?? limits.tokenLifeMs)).toISOString(),
      lastUsedAt: null,
    };
    this.#tokens = [...this.#tokens, token];
    try {
      await this.#write();
    } catch (error) {
      this.#tokens = this.#tokens.filter((one) => one.id !== id);
      throw error;
    }
    return { token: this.#view(token), secret, door: this.door };
  }

  /** From the moment when this is called the token is refused. */
  async revoke(name: string): Promise<void> {
    const { id } = this.#find(name);
    this.#tokens = this.#tokens.filter((token) => token.id !== id);
    await this.#write();
  }

  /** Who holds this token. `address`: where the request comes from. @throws UNAUTHENTICATED, BUSY */
  identify(header: string | undefined, address: string): Identity {
    const secret = /^Bearer +(dvce_([A-Za-z0-9]{12})_[A-Za-z0-9_-]{43})$/i.exec(header ?? '');
    const found = this.#tokens.find(({ id }) => id === secret?.[2]);
    const given = sha256(secret?.[1] ?? '');
    const wanted = found === undefined ? sha256('none') : Buffer.from(found.hash, 'hex');
    const isRight = timingSafeEqual(given, wanted);
    if (found === undefined || !isRight || !this.#lives(found))
      throw this.#refusal(address, header);
    this.#used(found);
    return { name: `token:${found.name}`, grants: found.grants, remote: true };
  }

  /** Whether who was let in is still to be let in; for connections that live long. */
  isValid({ name, remote }: Identity): boolean {
    const found = this.#tokens.find((token) => `token:${token.name}` === name);
    return !remote || (found !== undefined && this.#lives(found));
  }

  #lives({ expiresAt }: KeptToken): boolean {
    return Date.parse(expiresAt) > this.#options.clock.wallMs();
  }

  #refusal(address: string, header: string | undefined): DvceError {
    const nowMs = this.#options.clock.monotonicMs();
    const known = this.#failures.get(address);
    const now =
      known === undefined || nowMs - known.sinceMs > limits.loginWindowMs
        ? { count: 1, sinceMs: nowMs }
        : { count: known.count + 1, sinceMs: known.sinceMs };
    // Newest last, so that what is dropped is the oldest.
    this.#failures.delete(address);
    this.#failures.set(address, now);
    const [oldest] = this.#failures.keys();
    if (this.#failures.size > limits.loginAddressesMax && oldest !== undefined)
      this.#failures.delete(oldest);
    if (now.count > limits.loginFailuresMax)
      return new DvceError('BUSY', {
        what: 'the login',
        reason: `${address} has failed ${limits.loginFailuresMax} times within ${limits.loginWindowMs / 1000} s`,
      });
    return new DvceError('UNAUTHENTICATED', {
      reason:
        header === undefined ? 'there is no token' : 'the token is unknown, expired or revoked',
    });
  }

  #used(token: KeptToken): void {
    const { clock, logger } = this.#options;
    const nowMs = clock.wallMs();
    const lastMs = token.lastUsedAt === null ? 0 : Date.parse(token.lastUsedAt);
    if (nowMs - lastMs < limits.tokenUsedMs) return;
    token.lastUsedAt = new Date(nowMs).toISOString();
    if (nowMs - this.#toldMs < limits.tokenUsedMs) return;
    this.#toldMs = nowMs;
    this.#write().catch((error: unknown) =>
      logger.warn({ err: error }, 'the last use of a token was not kept'),
    );
  }

  /** Replace the file whole: temporary file, sync, rename, sync of the directory. */
  #write(): Promise<void> {
    const { path, files } = this.#options;
    const write = async (): Promise<void> => {
      const text = `${JSON.stringify({ format: 1, tokens: this.#tokens }, null, 2)}\n`;
      const file = await open(`${path}.new`, 'w', 0o600);
      try {
        await file.chmod(0o600);
        await file.writeFile(text);
        await file.datasync();
      } finally {
        await file.close();
      }
      await rename(`${path}.new`, path);
      await files.syncDirectory(dirname(path));
    };
    const done = this.#writing.then(write, write);
    this.#writing = done.catch(() => {});
    return done;
  }

  async close(): Promise<void> {
    await this.#writing;
  }
}
