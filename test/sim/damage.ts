/**
 * One bit flips at rest. Whatever it hits, each read gives an error or what was written, never anything else; an error is
 * confined to what the bit can spoil; and once the bit is put right everything is there again, so nothing was destroyed in
 * answer to the damage (B-25, L2, L3, N7).
 */
import { DvceError } from '../../src/base/index.ts';
import type { Guest } from './guest.ts';
import type { Operation } from './operations.ts';
import { type Run, type Session, show, Violation } from './session.ts';
import type { Flip } from './target.ts';

/** Sectors of a block, which is what a read of damaged data loses at least. */
const blockSectors = 8;
const partSectors = 128;
/** Long enough for the cleaner to meet the damage. */
const workMs = 6000;

export interface DamageParts {
  readonly run: Run;
  readonly guests: readonly Guest[];
  /** Kill the process and start it on the disk as it is. */
  readonly restart: () => void;
}

export class Damage {
  readonly #parts: DamageParts;
  readonly #run: Run;

  constructor(parts: DamageParts) {
    this.#parts = parts;
    this.#run = parts.run;
  }

  /** Everything is settled. Afterwards the process has to be killed and started again; then all is as before. */
  async flip(operation: Extract<Operation, { kind: 'flip' }>): Promise<void> {
    const run = this.#run;
    const flip = run.program.flip?.(operation.what);
    if (flip === undefined) return;
    run.note(`bit flip: ${flip.where}`);
    run.isDisturbed = true;
    if (operation.when === 'at rest') {
      this.#parts.restart();
      run.isDisturbed = true;
      if (!(await this.#openDamaged(flip))) return flip.heal();
    }
    await this.#examine(flip);
    if (operation.when === 'at work') {
      await this.#work();
      await this.#examine(flip);
    }
    if (!run.host.isDown) run.host.kill();
    flip.heal();
  }

  /** @returns whether anything is left to look at */
  async #openDamaged(flip: Flip): Promise<boolean> {
    const run = this.#run;
    const started = await run.await(run.program.start());
    if (started.kind !== 'done') {
      if (started.kind === 'failed') this.#refused('it does not start', flip, started.error);
      run.host.kill();
      return false;
    }
    const opened = await run.await(
      Promise.allSettled(run.present.map(({ target }) => target.open())),
    );
    if (opened.kind !== 'done') return false;
    let isAny = false;
    for (const one of opened.value)
      if (one.status === 'fulfilled') isAny = true;
      else this.#refused('it does not open', flip, one.reason);
    if (!isAny || opened.value.some(({ status }) => status === 'rejected')) {
      // What could be opened is looked at by the runs in which all could.
      run.host.kill();
      return false;
    }
    return true;
  }

  #refused(what: string, flip: Flip, error: unknown): void {
    if (!(error instanceof DvceError) || error.code === 'INTERNAL')
      throw new Violation(`${what} with a flipped bit (${flip.where}): ${show(error)}`);
    this.#run.note(`damage refused: ${error.code}`);
  }

  async #examine(flip: Flip): Promise<void> {
    for (const session of this.#run.present) {
      if (this.#run.host.isDown) return;
      await this.#examineVolume(session, flip);
      await this.#examineSnapshots(session, flip);
    }
  }

  async #examineVolume(session: Session, flip: Flip): Promise<void> {
    const { sectors } = this.#run.maker;
    let lost = 0;
    for (let at = 0; at < sectors; at += partSectors) {
      if (await this.#examinePart(session, at, partSectors, flip)) continue;
      for (let block = at; block < at + partSectors; block += blockSectors)
        if (!(await this.#examinePart(session, block, blockSectors, flip))) lost += 1;
      if (this.#run.host.isDown) return;
    }
    if (lost > 0) this.#run.note('damage was met by a read');
    if (lost > flip.blocksMax)
      throw new Violation(`one flipped bit (${flip.where}) makes ${lost} blocks unreadable`);
  }

  /** @returns whether it could be read; then it was right */
  async #examinePart(session: Session, first: number, count: number, flip: Flip): Promise<boolean> {
    const { oracle } = session;
    const sentAt = oracle.readSent();
    const outcome = await this.#run.await(session.read(first, count));
    if (outcome.kind === 'failed') this.#refused('a read fails', flip, outcome.error);
    if (outcome.kind !== 'done') return outcome.kind === 'down';
    const problem = oracle.checkRead(first, outcome.value, sentAt);
    if (problem !== undefined)
      throw new Violation(`with a flipped bit (${flip.where}): ${problem}`);
    return true;
  }

  async #examineSnapshots(session: Session, flip: Flip): Promise<void> {
    for (const [name, content] of session.snapshots) {
      const outcome = await this.#run.await(session.readSnapshot(name));
      if (outcome.kind === 'failed') this.#refused('a snapshot fails', flip, outcome.error);
      if (outcome.kind !== 'done') continue;
      const { value } = outcome;
      const wrong = content.findIndex((each, sector) => each !== (value[sector] ?? 0));
      if (wrong >= 0)
        throw new Violation(
          `snapshot ${name} differs in sector ${wrong} with a flipped bit (${flip.where})`,
        );
    }
  }

  /** The guest goes on, batches are published, the cleaner has its turn. */
  async #work(): Promise<void> {
    const { random } = this.#run.host;
    for (const session of this.#run.present) {
      const guest = this.#parts.guests[session.number];
      for (let i = 0; i < 3 && !this.#run.host.isDown; i += 1) {
        const first = blockSectors * random.below(32);
        // Whole blocks: the damaged rest of a block of which a part is written is given up for good.
        const count = blockSectors * (1 + random.below(8));
        const write = { kind: 'write', first, count } as const;
        await guest?.change({ ...write, fua: i === 0, wait: true });
      }
      if (this.#run.host.isDown) return;
      const publishing = session.target.publish?.();
      if (publishing === undefined) continue;
      let isOver = false;
      const over = (): void => {
        isOver = true;
      };
      publishing.then(over, over);
      await this.#run.waitAWhile(() => isOver, workMs);
    }
    await this.#run.waitAWhile(() => false, workMs);
  }
}
