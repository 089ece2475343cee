/**
 * Runs a list of operations against a device on a simulated host, crashes it, starts it again and asks the oracle.
 *
 * One seed decides everything: the operations, the order of events, what a crash leaves of the disk. The result is either a
 * count of what happened or a problem with the operations that led to it.
 */
import { DvceError } from '../../src/base/index.ts';
import type { Fault } from './file-system.ts';
import { type Operation, printOperations, randomOperations, shrink } from './operations.ts';
import { Oracle, sectorBytes, stamp, type WriteRecord } from './oracle.ts';
import type { SimTarget, SimTargetMaker, StoreState } from './target.ts';
import { SimHost } from './world.ts';

export interface SimResult {
  readonly seed: number;
  /** What is wrong; undefined: nothing. */
  readonly problem: string | undefined;
  /** How often each thing happened, scenarios among them. */
  readonly counts: ReadonlyMap<string, number>;
}

/** Something that must not happen. */
class Violation extends Error {}

interface InFlight {
  readonly record: WriteRecord;
  readonly origin: { alive: boolean };
  readonly resend: () => void;
  isLost: boolean;
}

type Outcome<T> =
  | { readonly kind: 'done'; readonly value: T }
  | { readonly kind: 'failed'; readonly error: unknown }
  | { readonly kind: 'down' }
  | { readonly kind: 'slow' };

/** A request that the caller waits for may take so long; then the caller goes on without it. */
const patienceMs = 3000;
/** Anything that has to end must end within so much simulated time. */
const deadlineMs = 3_600_000;

export class Simulation {
  readonly host: SimHost;
  readonly counts = new Map<string, number>();
  readonly #maker: SimTargetMaker;
  readonly #oracle: Oracle;
  readonly #snapshots = new Map<string, Int32Array>();
  readonly #inFlight = new Set<InFlight>();
  #target: SimTarget;
  #values = 0;
  /** Errors are expected in this boot. */
  #isDisturbed = false;
  #hasFailed = false;
  #hasFaults = false;
  #store: StoreState = 'up';
  #pendingSnapshot: { name: string; least: number } | undefined;
  #pendingRollback: Int32Array | undefined;
  #violation: Violation | undefined;
  /** Which ending the planned crash has. */
  #ending: 'power loss' | 'kill' = 'power loss';
  #crashes = 0;

  constructor(maker: SimTargetMaker, seed: number) {
    this.host = new SimHost(seed);
    this.#maker = maker;
    this.#oracle = new Oracle(maker.sectors);
    this.#target = maker.boot(this.host, (scenario) => this.#note(scenario));
  }

  async run(operations: readonly Operation[]): Promise<void> {
    await this.host.scheduler.complete(this.#maker.create(this.host));
    await this.#open();
    for (const operation of operations) {
      await this.#perform(operation);
      this.#raise();
    }
    await this.#perform({ kind: 'settle' });
    await this.#crash('power loss');
    await this.#verify();
  }

  #note(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  #raise(): void {
    if (this.#violation !== undefined) throw this.#violation;
  }

  async #perform(operation: Operation): Promise<void> {
    if (this.host.isDown) await this.#recover();
    if (this.#hasFailed) {
      this.#note('restart after a failed device');
      await this.#crash('kill');
    }
    this.#note(`op ${operation.kind}`);
    await this.#dispatch(operation);
    if (this.host.isDown) await this.#recover();
  }

  async #dispatch(operation: Operation): Promise<void> {
    switch (operation.kind) {
      case 'write':
      case 'mimic':
      case 'trim':
      case 'zero':
        return this.#change(operation);
      case 'read':
        return this.#read(operation.first, operation.count);
      case 'flush':
        return this.#flush(operation.wait);
      case 'settle':
        return this.#settle();
      case 'idle':
        return this.#idle(operation.ms);
      case 'stall':
        this.host.scheduler.nowMs += operation.ms;
        return this.#note('scenario 15: event loop stalls');
      case 'publish':
        return this.#call('publish', this.#target.publish?.bind(this.#target));
      case 'reap':
        return this.#call('reap', this.#target.reap?.bind(this.#target));
      case 'reopen':
        return this.#reopen(async () => {});
      case 'reconnect':
        return this.#reconnect();
      case 'fault':
        return this.#inject(operation.fault);
      case 'store':
        return this.#setStore(operation.state);
      case 'crash':
        this.#ending = operation.ending;
        return this.host.crashAt({ io: operation.io, when: operation.when });
      default:
        return this.#administer(operation);
    }
  }

  // ---- guest I/O ------------------------------------------------------------------------------------------------------

  async #change(
    operation: Extract<Operation, { kind: 'write' | 'mimic' | 'trim' | 'zero' }>,
  ): Promise<void> {
    let isDone = false;
    const done = (): void => {
      isDone = true;
    };
    if (operation.kind === 'write') {
      this.#values += 1;
      const { first, count, fua } = operation;
      this.#write(first, stamp(first, count, this.#values), this.#values, fua, done);
    } else if (operation.kind === 'mimic') this.#mimic(operation.first);
    else if (operation.kind === 'zero') {
      const { first, count, noHole } = operation;
      const record = this.#oracle.sendZeros(first, count);
      this.#track(record, done, (origin, end) =>
        this.#target.device.writeZeroes(
          first * sectorBytes,
          count * sectorBytes,
          { fua: false, noHole, origin },
          end,
        ),
      );
    } else this.#trim(operation.first, operation.count, done);
    if (operation.kind === 'write' && operation.wait) await this.#waitAWhile(() => isDone);
  }

  #write(first: number, bytes: Buffer, value: number, fua: boolean, done: () => void): void {
    const record = this.#oracle.send(first, bytes.byteLength / sectorBytes, value);
    this.#track(
      record,
      done,
      (origin, end) =>
        // A copy: the device owns what it is given.
        this.#target.device.write(first * sectorBytes, Buffer.from(bytes), { fua, origin }, end),
      fua,
      () => this.#write(first, bytes, value, fua, () => {}),
    );
  }

  /** J9: only whole blocks become zeros; a range that reaches the end takes the last block whole. */
  #trim(first: number, count: number, done: () => void): void {
    const start = Math.ceil(first / 8) * 8;
    const end = Math.floor((first + count) / 8) * 8;
    if (end <= start) {
      // It changes nothing, and may be answered before what was sent earlier.
      this.#target.device.trim(
        first * sectorBytes,
        count * sectorBytes,
        { fua: false, origin: { alive: true } },
        done,
      );
      return;
    }
    const record = this.#oracle.sendZeros(start, end - start);
    this.#track(record, done, (origin, finish) =>
      this.#target.device.trim(
        first * sectorBytes,
        count * sectorBytes,
        { fua: false, origin },
        finish,
      ),
    );
  }

  #mimic(first: number): void {
    const bytes = this.#target.journalSample?.();
    if (bytes === undefined) return;
    this.#note('scenario 9: payload that looks like records');
    this.#values += 1;
    for (let at = 0; at < bytes.byteLength; at += sectorBytes)
      bytes.writeUInt32LE(this.#values, at + sectorBytes - 4);
    this.#oracle.rememberPayload(bytes, this.#values);
    this.#write(first, bytes, this.#values, false, () => {});
  }

  #track(
    record: WriteRecord,
    done: () => void,
    submit: (origin: { alive: boolean }, end: (error: DvceError | null) => void) => void,
    fua = false,
    resend = (): void => {},
  ): void {
    const request: InFlight = { record, origin: { alive: true }, resend, isLost: false };
    const process = this.host.process;
    this.#inFlight.add(request);
    submit(request.origin, (error) => {
      if (!process.isAlive || process !== this.host.process || this.host.isDown) return;
      done();
      this.#inFlight.delete(request);
      if (request.isLost) return;
      if (error === null) this.#oracle.acknowledge(record, fua);
      else {
        this.#oracle.fail(record);
        this.#guestError('a write', error);
      }
    });
  }

  #guestError(what: string, error: DvceError): void {
    this.#note(`guest error ${error.code}`);
    if (!this.#isDisturbed)
      this.#violation ??= new Violation(`${what} failed: ${error.code} ${error.message}`);
    if (
      error.code !== 'NO_SPACE' &&
      error.code !== 'CANCELLED' &&
      error.code !== 'STORE_UNAVAILABLE'
    )
      this.#hasFailed = true;
  }

  async #read(first: number, count: number): Promise<void> {
    const sentAt = this.#oracle.readSent();
    const outcome = await this.#await(this.#readBytes(first, count));
    if (outcome.kind === 'failed') this.#guestError('a read', outcome.error as DvceError);
    if (outcome.kind !== 'done') return;
    const problem = this.#oracle.checkRead(
      first,
      this.#oracle.decode(outcome.value, first),
      sentAt,
    );
    if (problem !== undefined) throw new Violation(problem);
  }

  #readBytes(first: number, count: number): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.#target.device.read(first * sectorBytes, count * sectorBytes, (error, parts) => {
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

  async #flush(wait: boolean): Promise<void> {
    const promised = this.#oracle.flushSent();
    const process = this.host.process;
    let isDone = false;
    this.#target.device.flush((error) => {
      isDone = true;
      if (!process.isAlive || process !== this.host.process) return;
      if (error === null) this.#oracle.flushAcknowledged(promised);
      else this.#guestError('a flush', error);
    });
    // A promise of an older content must not be counted against a newer one.
    await this.#waitAWhile(() => isDone, wait ? patienceMs : 0);
  }

  /** N6: what was not answered is lost with its connection; the client sends it again on the next one. */
  async #reconnect(): Promise<void> {
    const lost = [...this.#inFlight].filter(({ isLost }) => !isLost);
    for (const request of lost) {
      request.isLost = true;
      request.origin.alive = false;
      this.#oracle.fail(request.record);
    }
    if (lost.length > 0) this.#note('scenario 16: held writes, connection lost, sent again');
    for (const { resend } of lost) resend();
  }

  async #settle(): Promise<void> {
    this.#setStore('up');
    await this.#until(() => this.#inFlight.size === 0, 'requests do not end');
    if (this.host.isDown) return;
    await this.#flush(true);
    this.#oracle.compact();
  }

  async #idle(ms: number): Promise<void> {
    let isOver = false;
    this.host.scheduler.after(ms, () => {
      isOver = true;
    });
    await this.host.scheduler.run(() => isOver || this.host.isDown);
  }

  // ---- administration -------------------------------------------------------------------------------------------------

  async #administer(operation: Operation): Promise<void> {
    const { snapshots } = this.#target;
    if (operation.kind === 'resize') return this.#resize(operation.sectors);
    if (snapshots === undefined || !('name' in operation)) return;
    const known = this.#snapshots.get(operation.name);
    if (operation.kind === 'snapshot') {
      if (known === undefined) await this.#snapshot(operation.name);
    } else if (known !== undefined) await this.#useSnapshot(operation, known);
  }

  async #snapshot(name: string): Promise<void> {
    this.#setStore(this.#store === 'late' ? 'late' : 'up');
    this.#pendingSnapshot = { name, least: this.#oracle.acknowledgedEnd };
    const outcome = await this.#await(this.#target.snapshots?.create(name) ?? Promise.resolve());
    if (outcome.kind === 'down') return;
    if (outcome.kind === 'failed') {
      this.#pendingSnapshot = undefined;
      return this.#adminError('snapshot', outcome.error);
    }
    await this.#rememberSnapshot(name, {
      least: this.#pendingSnapshot.least,
      most: this.#oracle.sent,
    });
    this.#note('snapshot taken');
  }

  /** The first look at a snapshot decides what it contains; it never changes afterwards. */
  async #rememberSnapshot(name: string, bounds: { least: number; most: number }): Promise<void> {
    const read = await this.#await(
      this.#target.snapshots?.read(name) ?? Promise.resolve(Buffer.alloc(0)),
    );
    if (read.kind === 'failed')
      throw new Violation(`snapshot ${name} cannot be read: ${String(read.error)}`);
    if (read.kind !== 'done') return;
    const found = this.#oracle.decode(read.value);
    const problem = this.#oracle.check(found, bounds);
    if (problem !== undefined) throw new Violation(`snapshot ${name}: ${problem}`);
    this.#snapshots.set(name, found);
    this.#pendingSnapshot = undefined;
  }

  async #useSnapshot(operation: Operation & { name: string }, content: Int32Array): Promise<void> {
    const { snapshots } = this.#target;
    if (snapshots === undefined) return;
    const { name } = operation;
    this.#setStore(this.#store === 'late' ? 'late' : 'up');
    if (operation.kind === 'deleteSnapshot') return this.#deleteSnapshot(name);
    if (operation.kind === 'clone') return this.#clone(name, operation.race, content);
    if (operation.kind !== 'rollback') return;
    await this.#settle();
    if (this.host.isDown) return;
    this.#note('scenario 10: rollback');
    this.#pendingRollback = content;
    await this.#reopen(() => snapshots.rollback(name));
    if (this.host.isDown || this.#pendingRollback === undefined) return;
    this.#pendingRollback = undefined;
    this.#oracle.restart(content);
    await this.#compareAll(`after the rollback to ${name}`);
  }

  async #deleteSnapshot(name: string): Promise<void> {
    const outcome = await this.#await(this.#target.snapshots?.delete(name) ?? Promise.resolve());
    if (outcome.kind === 'done') {
      this.#snapshots.delete(name);
      this.#note('scenario 10: snapshot deleted');
    } else if (outcome.kind === 'failed') this.#adminError('deleting a snapshot', outcome.error);
  }

  async #clone(name: string, race: boolean, content: Int32Array): Promise<void> {
    const { snapshots } = this.#target;
    if (snapshots === undefined) return;
    const deleting = race ? this.#await(snapshots.delete(name)) : undefined;
    const outcome = await this.#await(snapshots.clone(name));
    const deleted = await deleting;
    if (deleted?.kind === 'done') this.#snapshots.delete(name);
    if (race) this.#note('scenario 11: clone against deletion of its snapshot');
    if (outcome.kind === 'failed') {
      if (!race) this.#adminError('a clone', outcome.error);
      return;
    }
    if (outcome.kind !== 'done' || outcome.value === undefined) return;
    const found = this.#oracle.decode(outcome.value);
    const wrong = found.findIndex((value, sector) => value !== content[sector]);
    if (wrong >= 0) throw new Violation(`a clone of ${name} differs in sector ${wrong}`);
    this.#note('scenario 11: clone verified');
  }

  async #resize(sectors: number): Promise<void> {
    const { shrinkAndGrow } = this.#target;
    if (shrinkAndGrow === undefined) return;
    await this.#settle();
    if (this.host.isDown) return;
    const zeros = this.#oracle.sendZeros(sectors, this.#maker.sectors - sectors);
    const closed = await this.#await(this.#target.device.close());
    if (closed.kind === 'down') return;
    const outcome = await this.#await(shrinkAndGrow.call(this.#target, sectors * sectorBytes));
    if (outcome.kind === 'failed')
      throw new Violation(`shrink and grow failed: ${show(outcome.error)}`);
    if (outcome.kind !== 'done') return;
    this.#oracle.acknowledge(zeros, true);
    this.#note('scenario 10: shrink and grow');
    await this.#compareAll('after shrink and grow');
  }

  /** Close cleanly, do something with the closed device, open it. */
  async #reopen(between: () => Promise<void>): Promise<void> {
    await this.#settle();
    if (this.host.isDown) return;
    const closed = await this.#await(this.#target.device.close());
    if (closed.kind === 'failed') {
      this.#adminError('close', closed.error);
      this.#pendingRollback = undefined;
      return this.host.kill();
    }
    if (closed.kind === 'down') return;
    const outcome = await this.#await(between());
    if (outcome.kind === 'failed') {
      this.#adminError('work on the closed device', outcome.error);
      this.#pendingRollback = undefined;
    }
    if (outcome.kind !== 'down') await this.#open();
  }

  async #call(what: string, operation: (() => Promise<void>) | undefined): Promise<void> {
    if (operation === undefined) return;
    this.#setStore(this.#store === 'late' ? 'late' : 'up');
    const outcome = await this.#await(operation());
    if (outcome.kind === 'failed') this.#adminError(what, outcome.error);
  }

  #adminError(what: string, error: unknown): void {
    const code = error instanceof DvceError ? error.code : 'unknown';
    this.#note(`admin error ${code}`);
    const isExpected = ['IN_USE', 'CONFLICT', 'NOT_FOUND', 'ALREADY_EXISTS'].includes(code);
    if (!this.#isDisturbed && !isExpected) throw new Violation(`${what} failed: ${show(error)}`);
    if (!isExpected) this.#hasFailed = true;
  }

  // ---- disturbances ---------------------------------------------------------------------------------------------------

  #setStore(state: StoreState): void {
    if (this.#target.setStore === undefined) return;
    if (state !== 'up') this.#isDisturbed = true;
    if (state === 'full') this.#note('scenario 15: store full');
    if (state === 'late') this.#note('scenario 13: late requests and replies');
    this.#store = state;
    this.#target.setStore(state);
  }

  #inject(kind: Extract<Operation, { kind: 'fault' }>['fault']): void {
    this.#isDisturbed = true;
    const fired = (what: string): void => this.#note(`scenario 8: ${what}`);
    const isJournal = (path: string): boolean => this.#target.isJournal(path);
    const fault = (io: Fault['matches'], effect: Fault['effect']): void =>
      this.host.log.inject({ matches: io, times: 1, effect });
    const error: Fault['effect'] = { kind: 'error', code: 'EIO' };
    const on =
      (ioKind: string, what: string, then = (): void => {}): Fault['matches'] =>
      (io) => {
        const matches = io.kind === ioKind && isJournal(io.path);
        if (matches) {
          fired(what);
          this.#hasFaults ||= what.includes('EIO');
          then();
        }
        return matches;
      };
    if (kind === 'syncError') fault(on('dataSync', 'fdatasync EIO once'), error);
    else if (kind === 'writeError') fault(on('write', 'write EIO'), error);
    else if (kind === 'shortWrite')
      fault(on('write', 'short write'), { kind: 'short', bytes: 1 + this.host.random.below(5000) });
    else {
      const kill = (): void => {
        this.#ending = 'kill';
        this.host.scheduler.after(0, () => this.host.kill(), this.host.process);
      };
      fault(on('dataSync', 'fdatasync EIO, then killed before anyone saw it', kill), error);
    }
  }

  // ---- crash and recovery ---------------------------------------------------------------------------------------------

  async #crash(ending: 'power loss' | 'kill'): Promise<void> {
    this.#ending = ending;
    this.host.kill();
    await this.#recover();
  }

  async #recover(): Promise<void> {
    // Pages that a failing disk refused may leave the cache with the process: then nothing but flushes is promised.
    const isPowerLost = this.#ending === 'power loss' || this.#hasFaults;
    for (let attempt = 1; ; attempt += 1) {
      this.#crashes += 1;
      this.#note(this.#ending);
      if (this.#ending === 'power loss') this.host.reboot();
      else this.host.restart();
      this.#inFlight.clear();
      this.#target = this.#maker.boot(this.host, (scenario) => this.#note(scenario));
      this.host.log.faults.length = 0;
      this.#isDisturbed = false;
      this.#hasFailed = false;
      this.#hasFaults = false;
      this.#store = 'up';
      // Recovery may crash as well.
      if (attempt < 3 && this.host.random.below(4) === 0) {
        this.host.crashAt({ io: 1 + this.host.random.below(40), when: 'after' });
        this.#note('crash planned in recovery');
      }
      await this.#open();
      if (this.host.isDown) continue;
      this.host.log.crashPlan = undefined;
      await this.#judge(isPowerLost);
      if (!this.host.isDown) return;
    }
  }

  async #open(): Promise<void> {
    const outcome = await this.#await(this.#target.open());
    if (outcome.kind === 'failed') throw new Violation(`it does not open: ${show(outcome.error)}`);
  }

  /** After a crash: is what is there allowed? */
  async #judge(isPowerLost: boolean): Promise<void> {
    const bounds = isPowerLost ? this.#oracle.afterPowerLoss() : this.#oracle.afterKill();
    await this.#judgeSnapshots(bounds);
    const read = await this.#await(this.#readBytes(0, this.#maker.sectors));
    if (read.kind === 'failed') throw new Violation(`it cannot be read: ${show(read.error)}`);
    if (read.kind !== 'done') return;
    const found = this.#oracle.decode(read.value);
    const problem = this.#oracle.check(found, bounds);
    const target = this.#pendingRollback;
    this.#pendingRollback = undefined;
    const isRolledBack = target?.every((value, sector) => value === found[sector]) === true;
    if (problem !== undefined && !isRolledBack)
      throw new Violation(`after ${this.#ending}: ${problem}`);
    if (this.#oracle.sent > bounds.least) this.#note('something unpromised was under way');
    this.#oracle.restart(found);
  }

  async #judgeSnapshots(bounds: { least: number; most: number }): Promise<void> {
    const { snapshots } = this.#target;
    if (snapshots === undefined) return;
    const listed = await this.#await(snapshots.list());
    if (listed.kind !== 'done') throw new Violation(`snapshots cannot be listed: ${show(listed)}`);
    const pending = this.#pendingSnapshot;
    if (pending !== undefined && listed.value.includes(pending.name))
      await this.#rememberSnapshot(pending.name, { least: pending.least, most: bounds.most });
    this.#pendingSnapshot = undefined;
    for (const name of this.#snapshots.keys())
      if (!listed.value.includes(name)) this.#snapshots.delete(name);
  }

  /** At the end: everything that is reachable, by the program's own check and by reading every snapshot. */
  async #verify(): Promise<void> {
    const { snapshots } = this.#target;
    for (const [name, content] of this.#snapshots) {
      const read = await this.#await(snapshots?.read(name) ?? Promise.resolve(Buffer.alloc(0)));
      if (read.kind !== 'done')
        throw new Violation(`snapshot ${name} cannot be read: ${show(read)}`);
      const found = this.#oracle.decode(read.value);
      const wrong = found.findIndex((value, sector) => value !== content[sector]);
      if (wrong >= 0) throw new Violation(`snapshot ${name} changed in sector ${wrong}`);
      this.#note('snapshot verified at the end');
    }
    const found = await this.#await(this.#target.verify?.() ?? Promise.resolve([]));
    if (found.kind !== 'done') throw new Violation(`the check failed: ${show(found)}`);
    if (found.value.length > 0) throw new Violation(`the check found: ${found.value.join('; ')}`);
  }

  async #compareAll(what: string): Promise<void> {
    const read = await this.#await(this.#readBytes(0, this.#maker.sectors));
    if (read.kind !== 'done') return;
    const problem = this.#oracle.check(this.#oracle.decode(read.value), this.#oracle.afterKill());
    if (problem !== undefined) throw new Violation(`${what}: ${problem}`);
  }

  // ---- waiting --------------------------------------------------------------------------------------------------------

  async #waitAWhile(isDone: () => boolean, ms = patienceMs): Promise<void> {
    const endMs = this.host.scheduler.nowMs + ms;
    await this.host.scheduler.run(
      () => isDone() || this.host.isDown || this.host.scheduler.nowMs > endMs,
    );
  }

  async #until(isDone: () => boolean, what: string): Promise<void> {
    const endMs = this.host.scheduler.nowMs + deadlineMs;
    const { scheduler } = this.host;
    const didEnd = await scheduler.run(
      () => isDone() || this.host.isDown || scheduler.nowMs > endMs,
    );
    if (!didEnd || scheduler.nowMs > endMs) throw new Violation(what);
  }

  async #await<T>(promise: Promise<T>): Promise<Outcome<T>> {
    let outcome: Outcome<T> | undefined;
    promise.then(
      (value) => {
        outcome = { kind: 'done', value };
      },
      (error: unknown) => {
        outcome = { kind: 'failed', error };
      },
    );
    await this.#until(() => outcome !== undefined, 'an operation does not end');
    if (this.host.isDown) return { kind: 'down' };
    return outcome ?? { kind: 'down' };
  }
}

const show = (error: unknown): string =>
  error instanceof DvceError
    ? `${error.code} ${error.message}`
    : error instanceof Error
      ? (error.stack ?? error.message)
      : JSON.stringify(error);

export async function simulate(
  maker: SimTargetMaker,
  seed: number,
  operations: readonly Operation[],
): Promise<SimResult> {
  const simulation = new Simulation(maker, seed);
  try {
    await simulation.run(operations);
    return { seed, problem: undefined, counts: simulation.counts };
  } catch (error) {
    const problem = error instanceof Violation ? error.message : show(error);
    return { seed, problem, counts: simulation.counts };
  }
}

export const operationsOf = (maker: SimTargetMaker, seed: number, count: number): Operation[] =>
  randomOperations(new SimHost(seed ^ 0x0b5).random, count, maker.sectors);

/** The shortest list found that fails with this seed, as text to be pasted into a test. */
export async function explain(
  maker: SimTargetMaker,
  seed: number,
  operations: readonly Operation[],
): Promise<string> {
  const fails = async (candidate: readonly Operation[]): Promise<boolean> =>
    (await simulate(maker, seed, candidate)).problem !== undefined;
  const shortest = await shrink(operations, fails);
  const { problem } = await simulate(maker, seed, shortest);
  return `seed ${seed}: ${problem}\n${shortest.length} of ${operations.length} operations:\n${printOperations(shortest)}`;
}
