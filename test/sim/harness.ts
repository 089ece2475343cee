/**
 * Runs a list of operations against a program on a simulated host, crashes it, starts it again and asks the oracles.
 *
 * One seed decides everything: the options, the operations, the order of events, what a crash leaves of the disk. The result is
 * either a count of what happened or a problem with the operations that led to it.
 */
import { Administration } from './administration.ts';
import { Damage } from './damage.ts';
import type { Fault } from './file-system.ts';
import { Guest } from './guest.ts';
import type { Operation } from './operations.ts';
import { withLimits } from './options.ts';
import { randomOperations } from './random-operations.ts';
import { EndOfRun, Run, type Session, show, Violation } from './session.ts';
import { Sets } from './sets.ts';
import type { SimTargetMaker } from './target.ts';
import { SimHost } from './world.ts';

export interface SimResult {
  readonly seed: number;
  /** What is wrong; undefined: nothing. */
  readonly problem: string | undefined;
  /** How often each thing happened, scenarios among them. */
  readonly counts: ReadonlyMap<string, number>;
  /** Events of the simulated world. */
  readonly events: number;
}

export interface SimulationOptions {
  /** Told what can be seen of the volumes; then every look waits until nothing is under way. */
  readonly observe?: (what: string, content: Int32Array) => void;
}

class Simulation {
  readonly #run: Run;
  readonly #guests: readonly Guest[];
  readonly #administrations: readonly Administration[];
  readonly #sets: Sets;
  readonly #damage: Damage;

  constructor(maker: SimTargetMaker, seed: number, { observe }: SimulationOptions) {
    const run = new Run(maker, seed);
    const guests = run.disks.map((session) => new Guest(session));
    const administrations = run.disks.map(
      (session, number) => new Administration(session, guests[number] ?? new Guest(session)),
    );
    const restart = (): void => this.#restart();
    this.#run = run;
    this.#guests = guests;
    this.#administrations = administrations;
    this.#sets = new Sets(run, guests, administrations);
    this.#damage = new Damage({ run, guests, restart });
    run.observe = observe;
    run.host.isCalm = observe !== undefined;
  }

  get counts(): ReadonlyMap<string, number> {
    return this.#run.counts;
  }
  get events(): number {
    return this.#run.host.scheduler.ran;
  }

  async run(operations: readonly Operation[]): Promise<void> {
    const { host, maker } = this.#run;
    await host.scheduler.complete(maker.create(host));
    await this.#run.open();
    for (const operation of operations) {
      await this.#perform(operation);
      if (this.#run.violation !== undefined) throw this.#run.violation;
    }
    await this.#perform({ kind: 'settle' });
    await this.#crash('power loss');
    for (const { number } of this.#run.present) await this.#administrations[number]?.verify();
  }

  async #perform(operation: Operation): Promise<void> {
    if (this.#run.host.isDown) await this.#recover();
    if (this.#run.hasFailed) {
      this.#run.note('restart after a failed device');
      await this.#crash('kill');
    }
    this.#run.note(`op ${operation.kind}`);
    if (this.#run.observe !== undefined && isLook(operation)) await this.#answered();
    if (this.#run.host.isDown) await this.#recover();
    await this.#dispatch(operation);
    if (this.#run.host.isDown) await this.#recover();
  }

  async #dispatch(operation: Operation): Promise<void> {
    switch (operation.kind) {
      case 'settle':
        return this.#settle();
      case 'idle':
        return this.#run.waitAWhile(() => false, operation.ms);
      case 'stall':
        this.#run.host.scheduler.nowMs += operation.ms;
        return this.#run.note('scenario 15: event loop stalls');
      case 'clock':
        this.#run.host.scheduler.wallOffsetMs += operation.ms;
        return this.#run.note(`clock set ${operation.ms < 0 ? 'back' : 'forward'}`);
      case 'reap':
        return this.#administrations[0]?.call('reap', () => this.#run.program.reap?.());
      case 'reconnect':
        for (const { number } of this.#run.present) await this.#guests[number]?.reconnect();
        return;
      case 'fault':
        return this.#inject(operation.fault);
      case 'store':
        return this.#run.setStore(operation.state);
      case 'crash':
        this.#run.ending = operation.ending;
        return this.#run.host.crashAt({ io: operation.io, when: operation.when });
      case 'restart':
        await this.#settle();
        return this.#run.host.isDown ? undefined : this.#crash(operation.ending);
      case 'set':
        return this.#sets.take(operation);
      case 'flip':
        return this.#flip(operation);
      default:
        return this.#dispatchToVolume(operation, this.#run.disk(operation.disk));
    }
  }

  async #dispatchToVolume(operation: VolumeOperation, session: Session): Promise<void> {
    const guest = this.#guests[session.number];
    const administration = this.#administrations[session.number];
    if (guest === undefined || administration === undefined) return;
    switch (operation.kind) {
      case 'write':
      case 'mimic':
      case 'trim':
      case 'zero':
        return guest.change(operation);
      case 'read':
        return guest.read(operation.first, operation.count);
      case 'flush':
        return guest.flush(operation.wait);
      case 'hold':
        return this.#run.note(session.target.hold?.(operation.end) ?? 'no hold');
      case 'publish':
        return administration.publish();
      case 'reopen':
        return administration.reopen(async () => {});
      case 'drop':
        return administration.drop();
      case 'flatten':
        return administration.flatten(operation.wait);
      default:
        return administration.administer(operation);
    }
  }

  async #settle(): Promise<void> {
    for (const { number } of this.#run.present) {
      await this.#guests[number]?.settle();
      if (this.#run.host.isDown) return;
    }
  }

  async #answered(): Promise<void> {
    for (const guest of this.#guests) await guest.answered();
  }

  async #flip(operation: Extract<Operation, { kind: 'flip' }>): Promise<void> {
    if (this.#run.program.flip === undefined) return;
    await this.#settle();
    // With a failed journal file or a store away "everything is there" would not be known.
    if (this.#run.host.isDown || this.#run.isDisturbed || this.#run.hasFailed) return;
    this.#run.host.log.crashPlan = undefined;
    this.#run.ending = 'kill';
    // A part of a block in the journal is completed from its segment; what cannot be read of that is given up by design.
    if (operation.what === 'segment')
      for (const { target } of this.#run.present)
        if (target.publish !== undefined) await this.#run.await(target.publish());
    if (this.#run.host.isDown) return;
    for (const administration of this.#administrations) await administration.endFlatten();
    if (this.#run.host.isDown) return;
    await this.#damage.flip(operation);
  }

  #inject(kind: Extract<Operation, { kind: 'fault' }>['fault']): void {
    const { host } = this.#run;
    this.#run.isDisturbed = true;
    const fault = (io: Fault['matches'], effect: Fault['effect']): void =>
      host.log.inject({ matches: io, times: 1, effect });
    const error: Fault['effect'] = { kind: 'error', code: 'EIO' };
    const on =
      (ioKind: string, what: string, then = (): void => {}): Fault['matches'] =>
      (io) => {
        const matches = io.kind === ioKind && this.#run.program.isJournal(io.path);
        if (matches) {
          this.#run.note(`scenario 8: ${what}`);
          this.#run.hasFaults ||= what.includes('EIO');
          then();
        }
        return matches;
      };
    if (kind === 'syncError') fault(on('dataSync', 'fdatasync EIO once'), error);
    else if (kind === 'writeError') fault(on('write', 'write EIO'), error);
    else if (kind === 'shortWrite')
      fault(on('write', 'short write'), { kind: 'short', bytes: 1 + host.random.below(5000) });
    else {
      const kill = (): void => {
        this.#run.ending = 'kill';
        host.scheduler.after(0, () => host.kill(), host.process);
      };
      fault(on('dataSync', 'fdatasync EIO, then killed before anyone saw it', kill), error);
    }
  }

  async #crash(ending: 'power loss' | 'kill'): Promise<void> {
    this.#run.ending = ending;
    this.#run.host.kill();
    await this.#recover();
  }

  /** The process ends as it was said, and the next one begins. */
  #restart(): void {
    this.#run.note(this.#run.ending);
    this.#run.program.died?.(this.#run.ending);
    if (this.#run.ending === 'power loss') this.#run.host.reboot();
    else this.#run.host.restart();
    for (const guest of this.#guests) guest.forget();
    this.#run.boot();
  }

  async #recover(): Promise<void> {
    // Pages that a failing disk refused may leave the cache with the process: then nothing but flushes is promised.
    const isPowerLost = this.#run.ending === 'power loss' || this.#run.hasFaults;
    for (let attempt = 1; ; attempt += 1) {
      this.#restart();
      const { host } = this.#run;
      // Recovery may crash as well.
      if (attempt < 3 && host.random.below(4) === 0) {
        host.crashAt({ io: 1 + host.random.below(40), when: 'after' });
        this.#run.note('crash planned in recovery');
      }
      await this.#run.open();
      if (host.isDown) continue;
      host.log.crashPlan = undefined;
      await this.#judge(isPowerLost);
      if (!host.isDown) return;
    }
  }

  /** After a crash: is what is there allowed? */
  async #judge(isPowerLost: boolean): Promise<void> {
    const boundsOf = ({ oracle }: Session): { least: number; most: number } =>
      isPowerLost ? oracle.afterPowerLoss() : oracle.afterKill();
    await this.#sets.judge((session) => boundsOf(session).most);
    for (const session of this.#run.present) {
      await this.#administrations[session.number]?.judgeSnapshots(boundsOf(session));
      if (this.#run.host.isDown) return;
    }
    for (const session of this.#run.present) {
      await this.#judgeVolume(session, boundsOf(session));
      if (this.#run.host.isDown) return;
    }
  }

  async #judgeVolume(session: Session, bounds: { least: number; most: number }): Promise<void> {
    const read = await this.#run.await(session.readAll());
    if (read.kind === 'failed') throw new Violation(`it cannot be read: ${show(read.error)}`);
    if (read.kind !== 'done') return;
    const found = read.value;
    const problem = session.oracle.check(found, bounds);
    const target = this.#administrations[session.number]?.takePendingRollback();
    const isRolledBack = target?.every((value, sector) => value === found[sector]) === true;
    if (problem !== undefined && !isRolledBack)
      throw new Violation(`volume ${session.number} after ${this.#run.ending}: ${problem}`);
    if (session.oracle.sent > bounds.least) this.#run.note('something unpromised was under way');
    if (isRolledBack || this.#run.ending === 'power loss') session.oracle.restart(found);
    else session.oracle.survive(found, bounds);
  }
}

type WorldOperation = Extract<
  Operation,
  {
    kind:
      | 'settle'
      | 'idle'
      | 'stall'
      | 'clock'
      | 'reap'
      | 'reconnect'
      | 'fault'
      | 'store'
      | 'crash'
      | 'restart'
      | 'set'
      | 'flip';
  }
>;
type VolumeOperation = Exclude<Operation, WorldOperation>;

/** Does it see, or end, what was written before? */
const isLook = ({ kind }: Operation): boolean =>
  !['write', 'trim', 'zero', 'flush', 'idle', 'stall', 'clock'].includes(kind);

export async function simulate(
  maker: SimTargetMaker,
  seed: number,
  operations: readonly Operation[],
  options: SimulationOptions = {},
): Promise<SimResult> {
  return withLimits(maker.options, async () => {
    const simulation = new Simulation(maker, seed, options);
    let problem: string | undefined;
    try {
      await simulation.run(operations);
    } catch (error) {
      if (!(error instanceof EndOfRun))
        problem = error instanceof Violation ? error.message : show(error);
    }
    return { seed, problem, counts: simulation.counts, events: simulation.events };
  });
}

export const operationsOf = (maker: SimTargetMaker, seed: number, count: number): Operation[] =>
  randomOperations(new SimHost(seed ^ 0x0b5).random, count, maker.sectors);
