/** Snapshots, clones, forks, rollbacks, resizes and reopens of one volume, and what must be true of them. */
import { DvceError } from '../../src/base/index.ts';
import type { Guest } from './guest.ts';
import type { Operation } from './operations.ts';
import { type Bounds, sectorBytes } from './oracle.ts';
import { type Run, type Session, show, Violation } from './session.ts';

export class Administration {
  readonly #session: Session;
  readonly #run: Run;
  readonly #guest: Guest;
  /** Snapshots whose deletion was begun; a crash may have cut it off, and any process may finish it. */
  readonly #deletions = new Set<string>();
  #pendingSnapshot: { name: string; least: number } | undefined;
  #pendingRollback: Int32Array | undefined;
  #flattening:
    | { program: Run['program']; cancel: AbortController; running: Promise<void> }
    | undefined;

  constructor(session: Session, guest: Guest) {
    this.#session = session;
    this.#run = session.run;
    this.#guest = guest;
  }

  /** A rollback was under way when the process died: the content that it would have. */
  takePendingRollback(): Int32Array | undefined {
    const content = this.#pendingRollback;
    this.#pendingRollback = undefined;
    return content;
  }

  async administer(operation: Operation): Promise<void> {
    const { snapshots } = this.#session.target;
    if (operation.kind === 'resize') return this.#resize(operation.sectors);
    if (snapshots === undefined || !('name' in operation)) return;
    const known = this.#session.snapshots.get(operation.name);
    if (operation.kind === 'snapshot') {
      if (known === undefined) await this.#snapshot(operation.name);
    } else if (known !== undefined) await this.#useSnapshot(operation, known);
  }

  async #snapshot(name: string): Promise<void> {
    this.#run.calmStore();
    this.#pendingSnapshot = { name, least: this.#session.oracle.acknowledgedEnd };
    const outcome = await this.#run.await(
      this.#session.target.snapshots?.create(name) ?? Promise.resolve(),
    );
    if (outcome.kind === 'down') return;
    if (outcome.kind === 'failed') {
      this.#pendingSnapshot = undefined;
      return this.#run.adminError('snapshot', outcome.error);
    }
    await this.#rememberSnapshot(name, {
      least: this.#pendingSnapshot.least,
      most: this.#session.oracle.sent,
    });
    this.#session.note('snapshot taken');
  }

  /** The first look at a snapshot decides what it contains; it never changes afterwards. */
  async #rememberSnapshot(name: string, bounds: Bounds): Promise<void> {
    const found = await this.readSnapshot(name);
    if (found === undefined) return;
    const problem = this.#session.oracle.check(found, bounds);
    if (problem !== undefined) throw new Violation(`snapshot ${name}: ${problem}`);
    this.remember(name, found);
    this.#pendingSnapshot = undefined;
  }

  remember(name: string, content: Int32Array): void {
    this.#session.snapshots.set(name, content);
    this.#deletions.delete(name);
    this.#session.observe(`snapshot ${name}`, content);
  }

  /** undefined: the process died meanwhile. */
  async readSnapshot(name: string): Promise<Int32Array | undefined> {
    const read = await this.#run.await(this.#session.readSnapshot(name));
    if (read.kind === 'failed')
      throw new Violation(`snapshot ${name} cannot be read: ${show(read.error)}`);
    return read.kind === 'done' ? read.value : undefined;
  }

  async #useSnapshot(operation: Operation & { name: string }, content: Int32Array): Promise<void> {
    this.#run.calmStore();
    const { name } = operation;
    switch (operation.kind) {
      case 'deleteSnapshot':
        return this.#deleteSnapshot(name);
      case 'clone':
        return this.#clone(name, operation.race, content);
      case 'fork':
        return this.#fork(name, operation.to, content);
      case 'rollback':
        return this.#rollback(name, content);
      default:
        return;
    }
  }

  async #rollback(name: string, content: Int32Array): Promise<void> {
    const { snapshots } = this.#session.target;
    if (snapshots === undefined) return;
    await this.#guest.settle();
    if (this.#run.host.isDown) return;
    this.#session.note('scenario 10: rollback');
    this.#pendingRollback = content;
    await this.reopen(() => snapshots.rollback(name));
    if (this.#run.host.isDown || this.#pendingRollback === undefined) return;
    this.#pendingRollback = undefined;
    this.#session.oracle.restart(content);
    await this.#compareAll(`after the rollback to ${name}`);
  }

  async #deleteSnapshot(name: string): Promise<void> {
    this.#deletions.add(name);
    const outcome = await this.#run.await(
      this.#session.target.snapshots?.delete(name) ?? Promise.resolve(),
    );
    if (outcome.kind === 'done') {
      this.#session.snapshots.delete(name);
      this.#session.note('scenario 10: snapshot deleted');
    } else if (outcome.kind === 'failed')
      this.#run.adminError('deleting a snapshot', outcome.error);
  }

  async #clone(name: string, race: boolean, content: Int32Array): Promise<void> {
    const { snapshots } = this.#session.target;
    if (snapshots === undefined) return;
    if (race) this.#deletions.add(name);
    const deleting = race ? this.#run.await(snapshots.delete(name)) : undefined;
    const outcome = await this.#run.await(snapshots.clone(name));
    const deleted = await deleting;
    if (deleted?.kind === 'done') this.#session.snapshots.delete(name);
    if (race) this.#session.note('scenario 11: clone against deletion of its snapshot');
    if (outcome.kind === 'failed') {
      if (!race) this.#run.adminError('a clone', outcome.error);
      return;
    }
    if (outcome.kind !== 'done' || outcome.value === undefined) return;
    const found = this.#session.oracle.decode(outcome.value);
    compare(found, content, `a clone of ${name}`);
    this.#session.note('scenario 11: clone verified');
  }

  /** A volume that starts from the snapshot and goes on by itself, sharing segments with this one. */
  async #fork(name: string, to: number, content: Int32Array): Promise<void> {
    const made = this.#run.disks[to];
    const { snapshots } = this.#session.target;
    if (made?.state !== 'absent' || snapshots === undefined) return;
    made.state = 'making';
    made.origin = content;
    const outcome = await this.#run.await(snapshots.fork(name, to));
    if (outcome.kind === 'down') return;
    if (outcome.kind === 'failed') {
      // Whether it exists is seen at the next start.
      this.#run.adminError('a fork', outcome.error);
      this.#run.hasFailed = true;
      return;
    }
    made.begin(content);
    this.#session.note('scenario 11: a clone that is written to');
    const read = await this.#run.await(made.readAll());
    if (read.kind === 'failed') throw new Violation(`a fork cannot be read: ${show(read.error)}`);
    if (read.kind === 'done') compare(read.value, content, `a fork of ${name}`);
  }

  /** Delete the volume, whatever was cloned from it. */
  async drop(): Promise<void> {
    const { target, number } = this.#session;
    if (number === 0 || target.remove === undefined) return;
    await this.#guest.settle();
    if (this.#run.host.isDown) return;
    const hasClones = this.#run.present.some((other) => other.number > number);
    this.#session.state = 'dropping';
    const outcome = await this.#run.await(target.device.close().then(() => target.remove?.()));
    if (outcome.kind === 'failed') {
      this.#run.adminError('deleting a volume', outcome.error);
      this.#run.hasFailed = true;
    }
    if (outcome.kind !== 'done') return;
    this.#session.state = 'absent';
    this.#session.note(`scenario 11: volume deleted${hasClones ? ' in the middle' : ''}`);
  }

  /** Where it is cut off the next one goes on. */
  async flatten(wait: boolean): Promise<void> {
    const { target } = this.#session;
    if (target.flatten === undefined) return;
    this.#run.calmStore();
    const cancel = new AbortController();
    const running = target.flatten(cancel.signal).then(
      (how) => this.#session.note(`scenario 11: ${how}`),
      (error: unknown) => this.#flattenFailed(error),
    );
    this.#flattening = { program: this.#run.program, cancel, running };
    if (wait) await this.#run.await(running);
  }

  #flattenFailed(error: unknown): void {
    const code = error instanceof DvceError ? error.code : 'unknown';
    this.#session.note(`a flatten was cut off: ${code}`);
    if (this.#run.isDisturbed || cutOffs.has(code)) return;
    this.#run.violation ??= new Violation(`a flatten failed: ${show(error)}`);
  }

  /** Cancelled and over. */
  async endFlatten(): Promise<void> {
    const flattening = this.#flattening;
    this.#flattening = undefined;
    // That of a process that died ends no more.
    if (flattening?.program !== this.#run.program || this.#run.host.isDown) return;
    flattening.cancel.abort(new DvceError('CANCELLED', { what: 'the request' }));
    await this.#run.await(flattening.running);
  }

  async #resize(sectors: number): Promise<void> {
    const { shrinkAndGrow } = this.#session.target;
    if (shrinkAndGrow === undefined) return;
    await this.#guest.settle();
    if (this.#run.host.isDown) return;
    const zeros = this.#session.oracle.sendZeros(sectors, this.#run.maker.sectors - sectors);
    const closed = await this.#run.await(this.#session.target.device.close());
    if (closed.kind === 'down') return;
    const outcome = await this.#run.await(
      shrinkAndGrow.call(this.#session.target, sectors * sectorBytes),
    );
    if (outcome.kind === 'failed') {
      this.#session.oracle.fail(zeros);
      return this.#giveUp('shrink and grow', outcome.error);
    }
    if (outcome.kind !== 'done') return;
    this.#session.oracle.acknowledge(zeros, true);
    this.#session.note('scenario 10: shrink and grow');
    await this.#compareAll('after shrink and grow');
  }

  /** Close cleanly, do something with the closed device, open it. */
  async reopen(between: () => Promise<void>): Promise<void> {
    await this.#guest.settle();
    if (this.#run.host.isDown) return;
    const closed = await this.#run.await(this.#session.target.device.close());
    if (closed.kind === 'failed') {
      this.#run.adminError('close', closed.error);
      this.#pendingRollback = undefined;
      return this.#run.host.kill();
    }
    if (closed.kind === 'down') return;
    const outcome = await this.#run.await(between());
    if (outcome.kind === 'failed') {
      this.#run.adminError('work on the closed device', outcome.error);
      this.#pendingRollback = undefined;
    }
    if (outcome.kind === 'down') return;
    const opened = await this.#run.await(this.#session.target.open());
    if (opened.kind === 'failed') this.#giveUp('opening', opened.error);
  }

  /** The disk may refuse while it is told to; the next process goes on. */
  #giveUp(what: string, error: unknown): void {
    if (!this.#run.isDisturbed) throw new Violation(`${what} failed: ${show(error)}`);
    this.#run.adminError(what, error);
    this.#run.host.kill();
  }

  async publish(): Promise<void> {
    const { target } = this.#session;
    if (target.publish !== undefined) await this.call('publish', () => target.publish?.());
  }

  async call(what: string, operation: () => Promise<void> | undefined): Promise<void> {
    this.#run.calmStore();
    const outcome = await this.#run.await(Promise.resolve(operation()));
    if (outcome.kind === 'failed') this.#run.adminError(what, outcome.error);
  }

  /** Names of the snapshots that are there now. */
  async listed(): Promise<readonly string[]> {
    const { snapshots } = this.#session.target;
    if (snapshots === undefined) return [];
    const listed = await this.#run.await(snapshots.list());
    if (listed.kind === 'failed')
      throw new Violation(`snapshots cannot be listed: ${show(listed.error)}`);
    return listed.kind === 'done' ? listed.value : [];
  }

  async judgeSnapshots(bounds: Bounds): Promise<void> {
    const listed = await this.listed();
    if (this.#run.host.isDown) return;
    const pending = this.#pendingSnapshot;
    if (pending !== undefined && listed.includes(pending.name))
      await this.#rememberSnapshot(pending.name, { least: pending.least, most: bounds.most });
    this.#pendingSnapshot = undefined;
    for (const name of this.#session.snapshots.keys()) {
      if (listed.includes(name)) continue;
      if (!this.#deletions.has(name)) throw new Violation(`snapshot ${name} is gone`);
      this.#session.snapshots.delete(name);
    }
  }

  /** At the end: everything that is reachable, by the program's own check and by reading every snapshot. */
  async verify(): Promise<void> {
    for (const [name, content] of this.#session.snapshots) {
      const found = await this.readSnapshot(name);
      if (found === undefined) throw new Violation(`snapshot ${name} cannot be read: it is down`);
      compare(found, content, `snapshot ${name}`);
      this.#session.note('snapshot verified at the end');
    }
    const found = await this.#run.await(this.#session.target.verify?.() ?? Promise.resolve([]));
    if (found.kind !== 'done') throw new Violation(`the check failed: ${show(found)}`);
    if (found.value.length > 0) throw new Violation(`the check found: ${found.value.join('; ')}`);
    const content = await this.#run.await(this.#session.readAll());
    if (content.kind === 'done') this.#session.observe('the end', content.value);
  }

  async #compareAll(what: string): Promise<void> {
    const read = await this.#run.await(this.#session.readAll());
    if (read.kind !== 'done') return;
    const { oracle } = this.#session;
    const problem = oracle.check(read.value, oracle.afterKill());
    if (problem !== undefined) throw new Violation(`${what}: ${problem}`);
    this.#session.observe(what, read.value);
  }
}

/** Closed, cancelled, or one is under way. */
const cutOffs: ReadonlySet<string> = new Set(['VOLUME_CLOSED', 'CANCELLED', 'CONFLICT']);

function compare(found: Int32Array, content: Int32Array, what: string): void {
  const wrong = content.findIndex((value, sector) => value !== (found[sector] ?? 0));
  if (wrong >= 0) throw new Violation(`${what} differs in sector ${wrong}`);
}
