/** The guest: its reads, writes and flushes on the device under test, and what it may expect of them. */
import type { DvceError } from '../../src/base/index.ts';
import type { Operation } from './operations.ts';
import { sectorBytes, stamp, type WriteRecord } from './oracle.ts';
import { patienceMs, type Session, Violation } from './session.ts';

interface InFlight {
  readonly record: WriteRecord;
  readonly origin: { alive: boolean };
  readonly resend: () => void;
  isLost: boolean;
}

export class Guest {
  readonly #session: Session;
  readonly #inFlight = new Set<InFlight>();
  #values = 0;

  constructor(session: Session) {
    this.#session = session;
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
      this.#values += 1;
      const { first, count, fua } = operation;
      this.#write(first, stamp(first, count, this.#values), this.#values, fua, done);
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
    if (operation.kind === 'write' && operation.wait) await this.#session.waitAWhile(() => isDone);
  }

  #write(first: number, bytes: Buffer, value: number, fua: boolean, done: () => void): void {
    const record = this.#session.oracle.send(first, bytes.byteLength / sectorBytes, value);
    this.#session.target.watch?.(first, bytes.byteLength / sectorBytes);
    this.#track(
      record,
      done,
      (origin, end) =>
        // A copy: the device owns what it is given.
        this.#session.target.device.write(
          first * sectorBytes,
          Buffer.from(bytes),
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
    const bytes = this.#session.target.journalSample?.();
    if (bytes === undefined) return;
    this.#session.note('scenario 9: payload that looks like records');
    this.#values += 1;
    for (let at = 0; at < bytes.byteLength; at += sectorBytes)
      bytes.writeUInt32LE(this.#values, at + sectorBytes - 4);
    this.#session.oracle.rememberPayload(bytes, this.#values);
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
    const process = this.#session.host.process;
    this.#inFlight.add(request);
    submit(request.origin, (error) => {
      if (!process.isAlive || process !== this.#session.host.process || this.#session.host.isDown)
        return;
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
        this.#session.guestError('a write', error);
      }
    });
  }

  async read(first: number, count: number): Promise<void> {
    const sentAt = this.#session.oracle.readSent();
    const outcome = await this.#session.await(this.#session.readBytes(first, count));
    if (outcome.kind === 'failed') this.#session.guestError('a read', outcome.error as DvceError);
    if (outcome.kind !== 'done') return;
    const problem = this.#session.oracle.checkRead(
      first,
      this.#session.oracle.decode(outcome.value, first),
      sentAt,
    );
    if (problem !== undefined) throw new Violation(problem);
  }

  async flush(wait: boolean): Promise<void> {
    const promised = this.#session.oracle.flushSent();
    const process = this.#session.host.process;
    let isDone = false;
    this.#session.target.device.flush((error) => {
      isDone = true;
      if (!process.isAlive || process !== this.#session.host.process) return;
      if (error === null) this.#session.oracle.flushAcknowledged(promised);
      else this.#session.guestError('a flush', error);
    });
    // A promise of an older content must not be counted against a newer one.
    await this.#session.waitAWhile(() => isDone, wait ? patienceMs : 0);
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

  async settle(): Promise<void> {
    this.#session.setStore('up');
    await this.#session.until(() => this.#inFlight.size === 0, 'requests do not end');
    if (this.#session.host.isDown) return;
    await this.flush(true);
    this.#session.oracle.compact();
  }

  async idle(ms: number): Promise<void> {
    let isOver = false;
    this.#session.host.scheduler.after(ms, () => {
      isOver = true;
    });
    await this.#session.host.scheduler.run(() => isOver || this.#session.host.isDown);
  }
}
