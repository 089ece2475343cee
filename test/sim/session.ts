/**
 * What the parts of a simulation share. `Run`: the host, the program under test, what disturbs it, and ways to wait that end
 * when the simulated process dies. `Session`: one volume of it with its oracle.
 *
 * States of a volume; the first one is there from the beginning:
 *
 *   absent --fork--> making --> there --delete--> dropping --> absent
 *
 * After a crash one that was in the making is there with the content of its snapshot or not at all, and one that was being
 * dropped is gone or untouched.
 */
import { DvceError } from '../../src/base/index.ts';
import { Oracle, sectorBytes } from './oracle.ts';
import type { SimProgram, SimTarget, SimTargetMaker, StoreState } from './target.ts';
import { SimHost } from './world.ts';

/** Something that must not happen. */
export class Violation extends Error {}

/** Nothing is wrong, and nothing more can be tried. */
export class EndOfRun extends Error {}

export type Outcome<T> =
  | { readonly kind: 'done'; readonly value: T }
  | { readonly kind: 'failed'; readonly error: unknown }
  | { readonly kind: 'down' };

/** A request that the caller waits for may take so long; then the caller goes on without it. */
export const patienceMs = 3000;
/** Anything that has to end must end within so much simulated time. */
const deadlineMs = 3_600_000;
/** Room that a full disk has left: a few pages, so that some writes end short. */
const brimBytes = 24 * 1024;
const roomyBytes = 2 ** 40;

export const show = (error: unknown): string =>
  error instanceof DvceError
    ? `${error.code} ${error.message}`
    : error instanceof Error
      ? (error.stack ?? error.message)
      : JSON.stringify(error);

/** What others may cause at any time. */
const expectedCodes = ['IN_USE', 'CONFLICT', 'NOT_FOUND', 'ALREADY_EXISTS'];
/** What a request may end with although the volume goes on. */
const passingCodes = ['NO_SPACE', 'CANCELLED', 'STORE_UNAVAILABLE'];

export class Run {
  readonly host: SimHost;
  readonly maker: SimTargetMaker;
  readonly counts = new Map<string, number>();
  readonly disks: readonly Session[];
  program: SimProgram;
  /** Errors are expected in this boot. */
  isDisturbed = false;
  /** A volume gave up; only a restart helps. */
  hasFailed = false;
  /** The disk refused something of the journal in this boot. */
  hasFaults = false;
  store: StoreState = 'up';
  /** Found outside of the operation that caused it. */
  violation: Violation | undefined;
  /** What ends the process when the planned crash comes. */
  ending: 'power loss' | 'kill' = 'power loss';
  /** Told what can be seen of the volumes, in order. */
  observe: ((what: string, content: Int32Array) => void) | undefined;
  #ticks = 0;
  #values = 0;

  constructor(maker: SimTargetMaker, seed: number) {
    this.host = new SimHost(seed);
    this.maker = maker;
    const payloads = new Map<string, number>();
    const tick = (): number => {
      this.#ticks += 1;
      return this.#ticks;
    };
    this.disks = Array.from(
      { length: maker.disks },
      (_, number) => new Session(this, number, new Oracle(maker.sectors, { payloads, tick })),
    );
    this.host.log.onLateError = () => {
      this.note('scenario 8: EIO of a sync that an earlier process did not hear of');
      this.isDisturbed = true;
      this.hasFaults = true;
    };
    this.program = this.boot();
  }

  /** No two writes of any volume have the same number, so that data of another volume is seen. */
  nextValue(): number {
    this.#values += 1;
    return this.#values;
  }

  /** Volumes that are open, or should be. */
  get present(): readonly Session[] {
    return this.disks.filter(({ state }) => state === 'there');
  }

  /** The volume of an operation; the first one when there is none of that number. */
  disk(number: number | undefined): Session {
    const [main] = this.disks;
    const chosen = this.disks[number ?? 0];
    if (main === undefined) throw new Error('there is always a first volume');
    return chosen?.state === 'there' ? chosen : main;
  }

  /** The program under test in the process that the host runs now; nothing is disturbed. */
  boot(): SimProgram {
    this.host.log.faults.length = 0;
    this.host.disk.capacityBytes = roomyBytes;
    this.isDisturbed = false;
    this.hasFailed = false;
    this.hasFaults = false;
    this.store = 'up';
    this.program = this.maker.boot(this.host, (what) => this.note(what));
    return this.program;
  }

  /**
   * What a power failure left of a record may differ from it by one bit, because the file held nearly the same before: samples of
   * journals are written again and again here. Such a record is refused like a rotten one; only an operator may go past it.
   */
  #looksLikeRot(error: unknown): boolean {
    const isRefused = error instanceof DvceError && error.code === 'JOURNAL_DAMAGED';
    if (!isRefused || this.ending !== 'power loss') return false;
    if (!/has one wrong bit or byte$/.test(error.message)) return false;
    this.note('a torn record looked like one with a wrong bit');
    return true;
  }

  note(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  guestError(what: string, error: DvceError): void {
    this.note(`guest error ${error.code}`);
    if (!this.isDisturbed)
      this.violation ??= new Violation(`${what} failed: ${error.code} ${error.message}`);
    if (!passingCodes.includes(error.code)) this.hasFailed = true;
  }

  adminError(what: string, error: unknown): void {
    const code = error instanceof DvceError ? error.code : 'unknown';
    this.note(`admin error ${code}`);
    const isExpected = expectedCodes.includes(code);
    if (!this.isDisturbed && !isExpected) throw new Violation(`${what} failed: ${show(error)}`);
    if (!isExpected) this.hasFailed = true;
  }

  setStore(state: StoreState): void {
    if (this.program.setStore === undefined) return;
    if (state !== 'up') this.isDisturbed = true;
    this.store = state;
    const { disk } = this.host;
    if (state === 'brim') this.note('the disk is full');
    disk.capacityBytes = state === 'brim' ? disk.usedBytes + brimBytes : roomyBytes;
    this.program.setStore(state);
  }

  /** Administration waits for a store that answers, sooner or later. */
  calmStore(): void {
    this.setStore(this.store === 'late' ? 'late' : 'up');
  }

  async waitAWhile(isDone: () => boolean, ms = patienceMs): Promise<void> {
    const endMs = this.host.scheduler.nowMs + ms;
    // Without an event at its end an idle world would stand still before it.
    const alarm = this.host.scheduler.after(ms, () => {});
    await this.host.scheduler.run(
      () => isDone() || this.host.isDown || this.host.scheduler.nowMs >= endMs,
    );
    alarm.cancel();
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

  /** Start the program and open what exists. @throws Violation when something does not open, or is there or gone without reason */
  async open(): Promise<void> {
    const started = await this.await(this.program.start());
    if (started.kind === 'failed') throw new Violation(`it does not start: ${show(started.error)}`);
    if (started.kind === 'down') return;
    for (const session of this.disks) session.found(started.value.includes(session.number));
    // All at once, as after the restart of a host.
    const opened = await this.await(
      Promise.allSettled(this.present.map(({ target }) => target.open())),
    );
    if (opened.kind !== 'done') return;
    for (const one of opened.value) {
      if (one.status === 'fulfilled') continue;
      // What an earlier process was not told of may be told to the one that opens, which must not go on then; the next one may.
      if (this.#looksLikeRot(one.reason)) throw new EndOfRun();
      const isDisk = one.reason instanceof DvceError && one.reason.code === 'IO_FAILED';
      if (!isDisk || !this.isDisturbed)
        throw new Violation(`it does not open: ${show(one.reason)}`);
      this.note('a disk error ends an open');
      this.host.kill();
      return;
    }
  }
}

export class Session {
  readonly run: Run;
  readonly number: number;
  readonly oracle: Oracle;
  state: 'absent' | 'making' | 'there' | 'dropping';
  /** Content of every snapshot, as it was first seen. */
  readonly snapshots = new Map<string, Int32Array>();
  /** Content of one that is being made. */
  origin: Int32Array | undefined;

  constructor(run: Run, number: number, oracle: Oracle) {
    this.run = run;
    this.number = number;
    this.oracle = oracle;
    this.state = number === 0 ? 'there' : 'absent';
  }

  get host(): SimHost {
    return this.run.host;
  }
  get target(): SimTarget {
    return this.run.program.disk(this.number);
  }
  note(what: string): void {
    this.run.note(what);
  }

  /** A volume in the making has become one. */
  begin(content: Int32Array): void {
    this.state = 'there';
    this.origin = undefined;
    this.snapshots.clear();
    this.oracle.restart(Int32Array.from(content));
  }

  /** After a start: is it where it should be? */
  found(isThere: boolean): void {
    const { state, origin } = this;
    if (state === 'making' && isThere && origin !== undefined) this.begin(origin);
    else if (state === 'dropping' || state === 'making') this.state = isThere ? 'there' : 'absent';
    else if (isThere !== (state === 'there'))
      throw new Violation(`volume ${this.number} is ${isThere ? 'there again' : 'gone'}`);
  }

  observe(what: string, content: Int32Array): void {
    this.run.observe?.(`${what} of volume ${this.number}`, content);
  }

  read(first: number, count: number): Promise<Int32Array> {
    return readSectors(this.target.device, this.oracle, first, count);
  }

  /** All of it. */
  readAll(): Promise<Int32Array> {
    return this.read(0, this.run.maker.sectors);
  }

  async readSnapshot(name: string): Promise<Int32Array> {
    const reader = await this.target.snapshots?.open(name);
    if (reader === undefined) return new Int32Array(0);
    return readSectors(reader, this.oracle, 0, reader.sizeBytes / sectorBytes);
  }
}

/** Sectors read at once; a part without any data costs nothing to look at. */
const partSectors = 512;

async function readSectors(
  device: Pick<SimTarget['device'], 'read'>,
  oracle: Oracle,
  first: number,
  count: number,
): Promise<Int32Array> {
  const found = new Int32Array(count);
  const readPart = async (at: number): Promise<void> => {
    const sectors = Math.min(partSectors, count - at);
    let sector = at;
    for (const part of await readParts(device, first + at, sectors)) {
      const bytes = typeof part === 'number' ? part : part.byteLength;
      if (typeof part !== 'number') found.set(oracle.decode(part, first + sector), sector);
      sector += bytes / sectorBytes;
    }
  };
  const reading: Promise<void>[] = [];
  for (let at = 0; at < count; at += partSectors) reading.push(readPart(at));
  await Promise.all(reading);
  return found;
}

/** Bytes, or numbers of bytes that are zero. */
const readParts = (
  device: Pick<SimTarget['device'], 'read'>,
  first: number,
  count: number,
): Promise<readonly (Buffer | number)[]> =>
  new Promise((resolve, reject) => {
    device.read(first * sectorBytes, count * sectorBytes, (error, parts) =>
      error ? reject(error) : resolve(parts),
    );
  });
