/**
 * What the parts of a simulation share: the host, the device under test, the oracle, and ways to wait that end when the
 * simulated process dies.
 */
import { DvceError } from '../../src/base/index.ts';
import { Oracle, sectorBytes } from './oracle.ts';
import type { SimTarget, SimTargetMaker, StoreState } from './target.ts';
import { SimHost } from './world.ts';

/** Something that must not happen. */
export class Violation extends Error {}

export type Outcome<T> =
  | { readonly kind: 'done'; readonly value: T }
  | { readonly kind: 'failed'; readonly error: unknown }
  | { readonly kind: 'down' };

/** A request that the caller waits for may take so long; then the caller goes on without it. */
export const patienceMs = 3000;
/** Anything that has to end must end within so much simulated time. */
const deadlineMs = 3_600_000;

export const show = (error: unknown): string =>
  error instanceof DvceError
    ? `${error.code} ${error.message}`
    : error instanceof Error
      ? (error.stack ?? error.message)
      : JSON.stringify(error);

export class Session {
  readonly host: SimHost;
  readonly counts = new Map<string, number>();
  readonly maker: SimTargetMaker;
  readonly oracle: Oracle;
  target: SimTarget;
  /** Errors are expected in this boot. */
  isDisturbed = false;
  /** The device gave up; only a restart helps. */
  hasFailed = false;
  /** The disk refused something of the journal in this boot. */
  hasFaults = false;
  store: StoreState = 'up';
  /** Found outside of the operation that caused it. */
  violation: Violation | undefined;
  /** What ends the process when the planned crash comes. */
  ending: 'power loss' | 'kill' = 'power loss';

  constructor(maker: SimTargetMaker, seed: number) {
    this.host = new SimHost(seed);
    this.maker = maker;
    this.oracle = new Oracle(maker.sectors);
    this.target = this.boot();
  }

  /** The program under test in the process that the host runs now; nothing is disturbed. */
  boot(): SimTarget {
    this.host.log.faults.length = 0;
    this.isDisturbed = false;
    this.hasFailed = false;
    this.hasFaults = false;
    this.store = 'up';
    this.target = this.maker.boot(this.host, (what) => this.note(what));
    return this.target;
  }

  note(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  guestError(what: string, error: DvceError): void {
    this.note(`guest error ${error.code}`);
    if (!this.isDisturbed)
      this.violation ??= new Violation(`${what} failed: ${error.code} ${error.message}`);
    if (
      error.code !== 'NO_SPACE' &&
      error.code !== 'CANCELLED' &&
      error.code !== 'STORE_UNAVAILABLE'
    )
      this.hasFailed = true;
  }

  adminError(what: string, error: unknown): void {
    const code = error instanceof DvceError ? error.code : 'unknown';
    this.note(`admin error ${code}`);
    const isExpected = ['IN_USE', 'CONFLICT', 'NOT_FOUND', 'ALREADY_EXISTS'].includes(code);
    if (!this.isDisturbed && !isExpected) throw new Violation(`${what} failed: ${show(error)}`);
    if (!isExpected) this.hasFailed = true;
  }

  setStore(state: StoreState): void {
    if (this.target.setStore === undefined) return;
    if (state !== 'up') this.isDisturbed = true;
    this.store = state;
    this.target.setStore(state);
  }

  readBytes(first: number, count: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.target.device.read(first * sectorBytes, count * sectorBytes, (error, parts) => {
        if (error) reject(error);
        else
          resolve(
            Buffer.concat(
              parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part)),
            ),
          );
      });
    });
  }

  async open(): Promise<void> {
    const outcome = await this.await(this.target.open());
    if (outcome.kind === 'failed') throw new Violation(`it does not open: ${show(outcome.error)}`);
  }

  async waitAWhile(isDone: () => boolean, ms = patienceMs): Promise<void> {
    const endMs = this.host.scheduler.nowMs + ms;
    await this.host.scheduler.run(
      () => isDone() || this.host.isDown || this.host.scheduler.nowMs > endMs,
    );
  }

  async until(isDone: () => boolean, what: string): Promise<void> {
    const endMs = this.host.scheduler.nowMs + deadlineMs;
    const { scheduler } = this.host;
    const didEnd = await scheduler.run(
      () => isDone() || this.host.isDown || scheduler.nowMs > endMs,
    );
    if (!didEnd || scheduler.nowMs > endMs) throw new Violation(what);
  }

  async await<T>(promise: Promise<T>): Promise<Outcome<T>> {
    let outcome: Outcome<T> | undefined;
    promise.then(
      (value) => {
        outcome = { kind: 'done', value };
      },
      (error: unknown) => {
        outcome = { kind: 'failed', error };
      },
    );
    await this.until(() => outcome !== undefined, 'an operation does not end');
    if (this.host.isDown) return { kind: 'down' };
    return outcome ?? { kind: 'down' };
  }
}
