/**
 * Runs a list of operations against a device on a simulated host, crashes it, starts it again and asks the oracle.
 *
 * One seed decides everything: the operations, the order of events, what a crash leaves of the disk. The result is either a
 * count of what happened or a problem with the operations that led to it.
 */
import { Administration } from './administration.ts';
import type { Fault } from './file-system.ts';
import { Guest } from './guest.ts';
import { type Operation, printOperations, randomOperations, shrink } from './operations.ts';
import { Session, show, Violation } from './session.ts';
import type { SimTargetMaker } from './target.ts';
import { SimHost } from './world.ts';

export interface SimResult {
  readonly seed: number;
  /** What is wrong; undefined: nothing. */
  readonly problem: string | undefined;
  /** How often each thing happened, scenarios among them. */
  readonly counts: ReadonlyMap<string, number>;
}

export class Simulation {
  readonly #session: Session;
  readonly #guest: Guest;
  readonly #administration: Administration;

  constructor(maker: SimTargetMaker, seed: number) {
    this.#session = new Session(maker, seed);
    this.#guest = new Guest(this.#session);
    this.#administration = new Administration(this.#session, this.#guest);
  }

  get counts(): ReadonlyMap<string, number> {
    return this.#session.counts;
  }

  async run(operations: readonly Operation[]): Promise<void> {
    const { host, maker } = this.#session;
    await host.scheduler.complete(maker.create(host));
    await this.#session.open();
    for (const operation of operations) {
      await this.#perform(operation);
      if (this.#session.violation !== undefined) throw this.#session.violation;
    }
    await this.#perform({ kind: 'settle' });
    await this.#crash('power loss');
    await this.#administration.verify();
  }

  async #perform(operation: Operation): Promise<void> {
    if (this.#session.host.isDown) await this.#recover();
    if (this.#session.hasFailed) {
      this.#session.note('restart after a failed device');
      await this.#crash('kill');
    }
    this.#session.note(`op ${operation.kind}`);
    await this.#dispatch(operation);
    if (this.#session.host.isDown) await this.#recover();
  }

  async #dispatch(operation: Operation): Promise<void> {
    switch (operation.kind) {
      case 'write':
      case 'mimic':
      case 'trim':
      case 'zero':
        return this.#guest.change(operation);
      case 'read':
        return this.#guest.read(operation.first, operation.count);
      case 'flush':
        return this.#guest.flush(operation.wait);
      case 'settle':
        return this.#guest.settle();
      case 'idle':
        return this.#guest.idle(operation.ms);
      case 'stall':
        this.#session.host.scheduler.nowMs += operation.ms;
        return this.#session.note('scenario 15: event loop stalls');
      case 'hold':
        return this.#session.note(this.#session.target.hold?.(operation.end) ?? 'no hold');
      case 'publish':
        return this.#administration.call(
          'publish',
          this.#session.target.publish?.bind(this.#session.target),
        );
      case 'reap':
        return this.#administration.call(
          'reap',
          this.#session.target.reap?.bind(this.#session.target),
        );
      case 'reopen':
        return this.#administration.reopen(async () => {});
      case 'reconnect':
        return this.#guest.reconnect();
      case 'fault':
        return this.#inject(operation.fault);
      case 'store':
        return this.#session.setStore(operation.state);
      case 'crash':
        this.#session.ending = operation.ending;
        return this.#session.host.crashAt({ io: operation.io, when: operation.when });
      default:
        return this.#administration.administer(operation);
    }
  }

  #inject(kind: Extract<Operation, { kind: 'fault' }>['fault']): void {
    this.#session.isDisturbed = true;
    const fired = (what: string): void => this.#session.note(`scenario 8: ${what}`);
    const isJournal = (path: string): boolean => this.#session.target.isJournal(path);
    const fault = (io: Fault['matches'], effect: Fault['effect']): void =>
      this.#session.host.log.inject({ matches: io, times: 1, effect });
    const error: Fault['effect'] = { kind: 'error', code: 'EIO' };
    const on =
      (ioKind: string, what: string, then = (): void => {}): Fault['matches'] =>
      (io) => {
        const matches = io.kind === ioKind && isJournal(io.path);
        if (matches) {
          fired(what);
          this.#session.hasFaults ||= what.includes('EIO');
          then();
        }
        return matches;
      };
    if (kind === 'syncError') fault(on('dataSync', 'fdatasync EIO once'), error);
    else if (kind === 'writeError') fault(on('write', 'write EIO'), error);
    else if (kind === 'shortWrite')
      fault(on('write', 'short write'), {
        kind: 'short',
        bytes: 1 + this.#session.host.random.below(5000),
      });
    else {
      const kill = (): void => {
        this.#session.ending = 'kill';
        this.#session.host.scheduler.after(
          0,
          () => this.#session.host.kill(),
          this.#session.host.process,
        );
      };
      fault(on('dataSync', 'fdatasync EIO, then killed before anyone saw it', kill), error);
    }
  }

  async #crash(ending: 'power loss' | 'kill'): Promise<void> {
    this.#session.ending = ending;
    this.#session.host.kill();
    await this.#recover();
  }

  async #recover(): Promise<void> {
    // Pages that a failing disk refused may leave the cache with the process: then nothing but flushes is promised.
    const isPowerLost = this.#session.ending === 'power loss' || this.#session.hasFaults;
    for (let attempt = 1; ; attempt += 1) {
      this.#session.note(this.#session.ending);
      this.#session.target.died?.(this.#session.ending);
      if (this.#session.ending === 'power loss') this.#session.host.reboot();
      else this.#session.host.restart();
      this.#guest.forget();
      this.#session.boot();
      // Recovery may crash as well.
      if (attempt < 3 && this.#session.host.random.below(4) === 0) {
        this.#session.host.crashAt({ io: 1 + this.#session.host.random.below(40), when: 'after' });
        this.#session.note('crash planned in recovery');
      }
      await this.#session.open();
      if (this.#session.host.isDown) continue;
      this.#session.host.log.crashPlan = undefined;
      await this.#judge(isPowerLost);
      if (!this.#session.host.isDown) return;
    }
  }

  /** After a crash: is what is there allowed? */
  async #judge(isPowerLost: boolean): Promise<void> {
    const bounds = isPowerLost
      ? this.#session.oracle.afterPowerLoss()
      : this.#session.oracle.afterKill();
    await this.#administration.judgeSnapshots(bounds);
    const read = await this.#session.await(this.#session.readBytes(0, this.#session.maker.sectors));
    if (read.kind === 'failed') throw new Violation(`it cannot be read: ${show(read.error)}`);
    if (read.kind !== 'done') return;
    const found = this.#session.oracle.decode(read.value);
    const problem = this.#session.oracle.check(found, bounds);
    const target = this.#administration.takePendingRollback();
    const isRolledBack = target?.every((value, sector) => value === found[sector]) === true;
    if (problem !== undefined && !isRolledBack)
      throw new Violation(`after ${this.#session.ending}: ${problem}`);
    if (this.#session.oracle.sent > bounds.least)
      this.#session.note('something unpromised was under way');
    this.#session.oracle.restart(found);
  }
}

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
