/** Snapshots, clones, rollbacks, resizes and reopens of the device under test, and what must be true of them. */
import type { Guest } from './guest.ts';
import type { Operation } from './operations.ts';
import { type Bounds, sectorBytes } from './oracle.ts';
import { type Session, show, Violation } from './session.ts';

export class Administration {
  readonly #session: Session;
  readonly #guest: Guest;
  /** Content of every snapshot, as it was first seen. */
  readonly #snapshots = new Map<string, Int32Array>();
  #pendingSnapshot: { name: string; least: number } | undefined;
  #pendingRollback: Int32Array | undefined;

  constructor(session: Session, guest: Guest) {
    this.#session = session;
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
    const known = this.#snapshots.get(operation.name);
    if (operation.kind === 'snapshot') {
      if (known === undefined) await this.#snapshot(operation.name);
    } else if (known !== undefined) await this.#useSnapshot(operation, known);
  }

  async #snapshot(name: string): Promise<void> {
    this.#session.setStore(this.#session.store === 'late' ? 'late' : 'up');
    this.#pendingSnapshot = { name, least: this.#session.oracle.acknowledgedEnd };
    const outcome = await this.#session.await(
      this.#session.target.snapshots?.create(name) ?? Promise.resolve(),
    );
    if (outcome.kind === 'down') return;
    if (outcome.kind === 'failed') {
      this.#pendingSnapshot = undefined;
      return this.#session.adminError('snapshot', outcome.error);
    }
    await this.#rememberSnapshot(name, {
      least: this.#pendingSnapshot.least,
      most: this.#session.oracle.sent,
    });
    this.#session.note('snapshot taken');
  }

  /** The first look at a snapshot decides what it contains; it never changes afterwards. */
  async #rememberSnapshot(name: string, bounds: Bounds): Promise<void> {
    const read = await this.#session.await(
      this.#session.target.snapshots?.read(name) ?? Promise.resolve(Buffer.alloc(0)),
    );
    if (read.kind === 'failed')
      throw new Violation(`snapshot ${name} cannot be read: ${String(read.error)}`);
    if (read.kind !== 'done') return;
    const found = this.#session.oracle.decode(read.value);
    const problem = this.#session.oracle.check(found, bounds);
    if (problem !== undefined) throw new Violation(`snapshot ${name}: ${problem}`);
    this.#snapshots.set(name, found);
    this.#pendingSnapshot = undefined;
  }

  async #useSnapshot(operation: Operation & { name: string }, content: Int32Array): Promise<void> {
    const { snapshots } = this.#session.target;
    if (snapshots === undefined) return;
    const { name } = operation;
    this.#session.setStore(this.#session.store === 'late' ? 'late' : 'up');
    if (operation.kind === 'deleteSnapshot') return this.#deleteSnapshot(name);
    if (operation.kind === 'clone') return this.#clone(name, operation.race, content);
    if (operation.kind !== 'rollback') return;
    await this.#guest.settle();
    if (this.#session.host.isDown) return;
    this.#session.note('scenario 10: rollback');
    this.#pendingRollback = content;
    await this.reopen(() => snapshots.rollback(name));
    if (this.#session.host.isDown || this.#pendingRollback === undefined) return;
    this.#pendingRollback = undefined;
    this.#session.oracle.restart(content);
    await this.#compareAll(`after the rollback to ${name}`);
  }

  async #deleteSnapshot(name: string): Promise<void> {
    const outcome = await this.#session.await(
      this.#session.target.snapshots?.delete(name) ?? Promise.resolve(),
    );
    if (outcome.kind === 'done') {
      this.#snapshots.delete(name);
      this.#session.note('scenario 10: snapshot deleted');
    } else if (outcome.kind === 'failed')
      this.#session.adminError('deleting a snapshot', outcome.error);
  }

  async #clone(name: string, race: boolean, content: Int32Array): Promise<void> {
    const { snapshots } = this.#session.target;
    if (snapshots === undefined) return;
    const deleting = race ? this.#session.await(snapshots.delete(name)) : undefined;
    const outcome = await this.#session.await(snapshots.clone(name));
    const deleted = await deleting;
    if (deleted?.kind === 'done') this.#snapshots.delete(name);
    if (race) this.#session.note('scenario 11: clone against deletion of its snapshot');
    if (outcome.kind === 'failed') {
      if (!race) this.#session.adminError('a clone', outcome.error);
      return;
    }
    if (outcome.kind !== 'done' || outcome.value === undefined) return;
    const found = this.#session.oracle.decode(outcome.value);
    const wrong = found.findIndex((value, sector) => value !== content[sector]);
    if (wrong >= 0) throw new Violation(`a clone of ${name} differs in sector ${wrong}`);
    this.#session.note('scenario 11: clone verified');
  }

  async #resize(sectors: number): Promise<void> {
    const { shrinkAndGrow } = this.#session.target;
    if (shrinkAndGrow === undefined) return;
    await this.#guest.settle();
    if (this.#session.host.isDown) return;
    const zeros = this.#session.oracle.sendZeros(sectors, this.#session.maker.sectors - sectors);
    const closed = await this.#session.await(this.#session.target.device.close());
    if (closed.kind === 'down') return;
    const outcome = await this.#session.await(
      shrinkAndGrow.call(this.#session.target, sectors * sectorBytes),
    );
    if (outcome.kind === 'failed')
      throw new Violation(`shrink and grow failed: ${show(outcome.error)}`);
    if (outcome.kind !== 'done') return;
    this.#session.oracle.acknowledge(zeros, true);
    this.#session.note('scenario 10: shrink and grow');
    await this.#compareAll('after shrink and grow');
  }

  /** Close cleanly, do something with the closed device, open it. */
  async reopen(between: () => Promise<void>): Promise<void> {
    await this.#guest.settle();
    if (this.#session.host.isDown) return;
    const closed = await this.#session.await(this.#session.target.device.close());
    if (closed.kind === 'failed') {
      this.#session.adminError('close', closed.error);
      this.#pendingRollback = undefined;
      return this.#session.host.kill();
    }
    if (closed.kind === 'down') return;
    const outcome = await this.#session.await(between());
    if (outcome.kind === 'failed') {
      this.#session.adminError('work on the closed device', outcome.error);
      this.#pendingRollback = undefined;
    }
    if (outcome.kind !== 'down') await this.#session.open();
  }

  async call(what: string, operation: (() => Promise<void>) | undefined): Promise<void> {
    if (operation === undefined) return;
    this.#session.setStore(this.#session.store === 'late' ? 'late' : 'up');
    const outcome = await this.#session.await(operation());
    if (outcome.kind === 'failed') this.#session.adminError(what, outcome.error);
  }

  async judgeSnapshots(bounds: Bounds): Promise<void> {
    const { snapshots } = this.#session.target;
    if (snapshots === undefined) return;
    const listed = await this.#session.await(snapshots.list());
    if (listed.kind !== 'done') throw new Violation(`snapshots cannot be listed: ${show(listed)}`);
    const pending = this.#pendingSnapshot;
    if (pending !== undefined && listed.value.includes(pending.name))
      await this.#rememberSnapshot(pending.name, { least: pending.least, most: bounds.most });
    this.#pendingSnapshot = undefined;
    for (const name of this.#snapshots.keys())
      if (!listed.value.includes(name)) this.#snapshots.delete(name);
  }

  /** At the end: everything that is reachable, by the program's own check and by reading every snapshot. */
  async verify(): Promise<void> {
    const { snapshots } = this.#session.target;
    for (const [name, content] of this.#snapshots) {
      const read = await this.#session.await(
        snapshots?.read(name) ?? Promise.resolve(Buffer.alloc(0)),
      );
      if (read.kind !== 'done')
        throw new Violation(`snapshot ${name} cannot be read: ${show(read)}`);
      const found = this.#session.oracle.decode(read.value);
      const wrong = found.findIndex((value, sector) => value !== content[sector]);
      if (wrong >= 0) throw new Violation(`snapshot ${name} changed in sector ${wrong}`);
      this.#session.note('snapshot verified at the end');
    }
    const found = await this.#session.await(this.#session.target.verify?.() ?? Promise.resolve([]));
    if (found.kind !== 'done') throw new Violation(`the check failed: ${show(found)}`);
    if (found.value.length > 0) throw new Violation(`the check found: ${found.value.join('; ')}`);
  }

  async #compareAll(what: string): Promise<void> {
    const read = await this.#session.await(this.#session.readBytes(0, this.#session.maker.sectors));
    if (read.kind !== 'done') return;
    const problem = this.#session.oracle.check(
      this.#session.oracle.decode(read.value),
      this.#session.oracle.afterKill(),
    );
    if (problem !== undefined) throw new Violation(`${what}: ${problem}`);
  }
}
