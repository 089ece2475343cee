/** The guest of one volume: its reads, writes and flushes, and what it may expect of them. */
import type { DvceError } from '../../src/base/index.ts';
import { asPayload } from '../support/payload.ts';
import type { Operation } from './operations.ts';
import { sectorBytes, stamp, type WriteRecord } from './oracle.ts';
import { patienceMs, type Run, type Session, Violation } from './session.ts';

interface InFlight {
  readonly record: WriteRecord;
  readonly origin: { alive: boolean };
  readonly resend: () => void;
  isLost: boolean;
}

export class Guest {
  readonly #session: Session;
  readonly #run: Run;
  readonly #inFlight = new Set<InFlight>();

  constructor(session: Session) {
    this.#session = session;
    this.#run = session.run;
  }

  get isIdle(): boolean {
    return this.#inFlight.size === 0;
  }

  /** The process it talked to is dead: nothing is answered any more. */
  forget(): void {
    this.#inFlight.clear();
  }

  async change(
    operation: Extract<Operation, { kind: 'write' | 'mimic' | 'trim' | 'zero' }>,
  ): Promise<void> {
    let isDone = false;
    const done = (): void => {
      isDone = true;
    };
    if (operation.kind === 'write') {
      const { first, count, fua } = operation;
      const value = this.#run.nextValue();
      this.#write(first, stamp(first, count, value), value, fua, done);
    } else if (operation.kind === 'mimic') this.#mimic(operation.first);
    else if (operation.kind === 'zero') {
      const { first, count, noHole } = operation;
      const record = this.#session.oracle.sendZeros(first, count);
      this.#track(record, done, (origin, end) =>
        this.#session.target.device.writeZeroes(
          first * sectorBytes,
          count * sectorBytes,
          { fua: false, noHole, origin },
          end,
        ),
      );
    } else this.#trim(operation.first, operation.count, done);
    if (operation.kind === 'write' && operation.wait) await this.#run.waitAWhile(() => isDone);
  }

  #write(first: number, bytes: Buffer, value: number, fua: boolean, done: () => void): void {
    const record = this.#session.oracle.send(first, bytes.byteLength / sectorBytes, value);
    if (this.#session.number === 0)
      this.#run.program.watch?.(first, bytes.byteLength / sectorBytes);
    this.#track(
      record,
      done,
      (origin, end) =>
        // A copy: the device owns what it is given, and its memory is used again.
        this.#session.target.device.write(
          first * sectorBytes,
          asPayload(bytes),
          { fua, origin },
          end,
        ),
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
      this.#session.target.device.trim(
        first * sectorBytes,
        count * sectorBytes,
        { fua: false, origin: { alive: true } },
        done,
      );
      return;
    }
    const record = this.#session.oracle.sendZeros(start, end - start);
    this.#track(record, done, (origin, finish) =>
      this.#session.target.device.trim(
        first * sectorBytes,
        count * sectorBytes,
        { fua: false, origin },
        finish,
      ),
    );
  }

  #mimic(first: number): void {
    const bytes = this.#run.program.journalSample?.();
    if (bytes === undefined) return;
    this.#session.note('scenario 9: payload that looks like records');
    const value = this.#run.nextValue();
    for (let at = 0; at < bytes.byteLength; at += sectorBytes)
      bytes.writeUInt32LE(value, at + sectorBytes - 4);
    this.#session.oracle.rememberPayload(bytes, value);
    this.#write(first, bytes, value, false, () => {});
  }

  #track(
    record: WriteRecord,
    done: () => void,
    submit: (origin: { alive: boolean }, end: (error: DvceError | null) => void) => void,
    fua = false,
    resend = (): void => {},
  ): void {
    const request: InFlight = { record, origin: { alive: true }, resend, isLost: false };
    const process = this.#run.host.process;
    this.#inFlight.add(request);
    submit(request.origin, (error) => {
      if (!process.isAlive || process !== this.#run.host.process || this.#run.host.isDown) return;
      done();
      this.#inFlight.delete(request);
      if (request.isLost) {
        if (error?.code === 'CANCELLED')
          this.#session.note('scenario 16: a held write of a lost connection was dropped');
        return;
      }
      if (error === null) this.#session.oracle.acknowledge(record, fua);
      else {
        this.#session.oracle.fail(record);
        this.#run.guestError('a write', error);
      }
    });
  }

  async read(first: number, count: number): Promise<void> {
    const { oracle } = this.#session;
    const sentAt = oracle.readSent();
    const outcome = await this.#run.await(this.#session.read(first, count));
    if (outcome.kind === 'failed') this.#run.guestError('a read', outcome.error as DvceError);
    if (outcome.kind !== 'done') return;
    const problem = oracle.checkRead(first, outcome.value, sentAt);
    if (problem !== undefined) throw new Violation(problem);
    this.#session.observe(`sectors ${first} to ${first + count}`, outcome.value);
  }

  async flush(wait: boolean): Promise<void> {
    const promised = this.#session.oracle.flushSent();
    const process = this.#run.host.process;
    let isDone = false;
    this.#session.target.device.flush((error) => {
      isDone = true;
      if (!process.isAlive || process !== this.#run.host.process) return;
      if (error === null) this.#session.oracle.flushAcknowledged(promised);
      else this.#run.guestError('a flush', error);
    });
    // A promise of an older content must not be counted against a newer one.
    await this.#run.waitAWhile(() => isDone, wait ? patienceMs : 0);
  }

  /** N6: what was not answered is lost with its connection; the client sends it again on the next one. */
  async reconnect(): Promise<void> {
    const lost = [...this.#inFlight].filter(({ isLost }) => !isLost);
    for (const request of lost) {
      request.isLost = true;
      request.origin.alive = false;
      this.#session.oracle.fail(request.record);
    }
    if (lost.length > 0) this.#session.note('connection lost with requests under way');
    for (const { resend } of lost) resend();
  }

  /** Wait until everything sent is answered. */
  async answered(): Promise<void> {
    await this.#run.until(() => this.#inFlight.size === 0, 'requests do not end');
  }

  async settle(): Promise<void> {
    this.#run.setStore('up');
    await this.answered();
    if (this.#run.host.isDown) return;
    await this.flush(true);
    this.#session.oracle.compact();
  }
}
