/** Snapshots of several volumes at one instant (G5), and coordinators that are never heard of again. */
import type { Administration } from './administration.ts';
import type { Guest } from './guest.ts';
import type { Operation } from './operations.ts';
import type { Moments } from './oracle.ts';
import { haveInstant } from './oracle.ts';
import { type Run, type Session, Violation } from './session.ts';

interface Member {
  readonly session: Session;
  readonly administration: Administration;
  /** What was acknowledged before the set was asked for is in it. */
  readonly least: number;
}

interface Pending {
  readonly name: string;
  readonly members: readonly Member[];
  /** Its coordinator never came as far as the set's document. */
  readonly isDead: boolean;
}

/** Enough for the time from the first HOLD to the last release. */
const writesAcross = 30;
/** Of HOLD, MARK, release and document, for each member. */
const stepsOfMember = 4;
/** A coordinator that is not heard of any more is waited for so long: longer than a hold lasts. */
const waitMs = 2500;

export class Sets {
  readonly #run: Run;
  readonly #guests: readonly Guest[];
  readonly #administrations: readonly Administration[];
  #pending: Pending | undefined;

  constructor(run: Run, guests: readonly Guest[], administrations: readonly Administration[]) {
    this.#run = run;
    this.#guests = guests;
    this.#administrations = administrations;
  }

  async take({ name, steps }: Extract<Operation, { kind: 'set' }>): Promise<void> {
    const members = this.#run.present.flatMap((session): Member[] => {
      const administration = this.#administrations[session.number];
      if (administration === undefined) return [];
      return [{ session, administration, least: session.oracle.acknowledgedEnd }];
    });
    const { takeSet } = this.#run.program;
    const isTaken = members.some(({ session }) => session.snapshots.has(name));
    if (takeSet === undefined || isTaken) return;
    this.#run.calmStore();
    const isDead = steps !== null;
    this.#pending = { name, members, isDead };
    const numbers = members.map(({ session }) => session.number);
    const stepsMax = Math.min(
      steps ?? Number.POSITIVE_INFINITY,
      stepsOfMember * members.length - 1,
    );
    const lasting = isDead ? stepsMax : Number.POSITIVE_INFINITY;
    let isHolding = false;
    const taking = takeSet.call(this.#run.program, numbers, name, lasting, () => {
      isHolding = true;
    });
    if (isDead) return this.#leave(taking, members.length, stepsMax);
    let isOver = false;
    const outcomes = this.#run.await(taking).then((outcome) => {
      isOver = true;
      return outcome;
    });
    if (this.#run.observe === undefined) {
      await this.#run.waitAWhile(() => isHolding || isOver);
      await this.#writeAcross(numbers, () => isOver);
    }
    const outcome = await outcomes;
    if (outcome.kind === 'down') return;
    this.#pending = undefined;
    if (outcome.kind === 'failed') return this.#run.adminError('a snapshot set', outcome.error);
    await this.#remember(name, members, (session) => session.oracle.sent);
    this.#run.note(`set of ${members.length} snapshots`);
  }

  /** Each write is sent after the one on the other volume was answered: members of different moments would show. */
  async #writeAcross(numbers: readonly number[], isOver: () => boolean): Promise<void> {
    const { random } = this.#run.host;
    for (let i = 0; i < writesAcross && !isOver() && !this.#run.host.isDown; i += 1) {
      const guest = this.#guests[numbers[i % numbers.length] ?? 0];
      const first = 8 * random.below(16);
      await guest?.change({ kind: 'write', first, count: 8, fua: false, wait: true });
      await this.#run.waitAWhile(() => false, random.below(300) / 1000);
    }
  }

  /** The coordinator dies: holds must end by themselves, and nothing of the set may ever be seen. */
  async #leave(taking: Promise<void>, members: number, steps: number): Promise<void> {
    let isOver = false;
    taking.then(
      () => {
        isOver = true;
      },
      () => {
        isOver = true;
      },
    );
    await this.#run.waitAWhile(() => isOver, waitMs);
    const step = steps < members ? 'HOLD' : steps < 2 * members ? 'MARK' : 'later';
    this.#run.note(`scenario 15: the coordinator of a set dies (${step})`);
  }

  /** After a crash: the set is there whole or not at all. */
  async judge(mostOf: (session: Session) => number): Promise<void> {
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending === undefined) return;
    const members: Member[] = [];
    for (const member of pending.members)
      if (member.session.state === 'there')
        if ((await member.administration.listed()).includes(pending.name)) members.push(member);
    if (this.#run.host.isDown) {
      this.#pending = pending;
      return;
    }
    const present = pending.members.filter(({ session }) => session.state === 'there').length;
    if (members.length > 0 && members.length < present)
      throw new Violation(`set ${pending.name}: ${members.length} of ${present} are there`);
    if (members.length === 0) return;
    if (pending.isDead) throw new Violation(`set ${pending.name} is there, which nobody committed`);
    await this.#remember(pending.name, members, mostOf);
    this.#run.note('a set that was cut off is there');
  }

  async #remember(
    name: string,
    members: readonly Member[],
    mostOf: (session: Session) => number,
  ): Promise<void> {
    const spans: Moments[][] = [];
    for (const { session, administration, least } of members) {
      const found = await administration.readSnapshot(name);
      if (found === undefined) return;
      const bounds = { least, most: mostOf(session) };
      const problem = session.oracle.check(found, bounds);
      if (problem !== undefined) throw new Violation(`set ${name}: ${problem}`);
      spans.push(session.oracle.moments(found, bounds));
      administration.remember(name, found);
    }
    if (!haveInstant(spans))
      throw new Violation(`set ${name}: its members are of different moments`);
  }
}
