/**
 * An emulated machine with one volatile disk, and its power switch. The console's protocol is in guest.ts.
 *
 * The emulator is killed with SIGKILL, which the guest cannot notice; only then does the disk lose its cache.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { silentLogger, systemTimers } from '../../../src/base/index.ts';
import { fixedExport, NbdServer } from '../../../src/nbd/index.ts';
import { historyBlocks, type Said } from './history.ts';
import type { Payload } from './payload.ts';
import type { Loss, VolatileDisk } from './volatile-disk.ts';

export interface BootOptions {
  readonly seed: number;
  readonly boot: number;
  /** Folder of the payload disk with the code to run. */
  readonly code: 'code' | 'no-sync';
}

const consoleLinesMax = 40;
const dataExport = 'data';

export class Machine {
  readonly #payload: Payload;
  readonly #disk: VolatileDisk;
  readonly #socketPath: string;
  readonly #server: NbdServer;
  #process: ChildProcess | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #console: string[] = [];
  #broken: string | undefined;
  #stamps: number[] = [];
  #verified = false;
  #said = { flushed: 0, acknowledged: 0, flushes: 0 };

  constructor(payload: Payload, disk: VolatileDisk, socketPath: string) {
    this.#payload = payload;
    this.#disk = disk;
    this.#socketPath = socketPath;
    this.#server = new NbdServer({
      exports: fixedExport(disk, { name: dataExport }),
      timers: systemTimers,
      logger: silentLogger,
    });
  }

  async listen(): Promise<void> {
    await this.#server.listenUnix(this.#socketPath, { mode: 0o600 });
  }

  powerOn(options: BootOptions): void {
    this.#console = [];
    this.#stamps = [];
    this.#verified = false;
    this.#said = { flushed: 0, acknowledged: 0, flushes: 0 };
    const child = spawn('qemu-system-x86_64', this.#arguments(options), {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    // 'close' comes when the console was read to its end.
    this.#ended = once(child, 'close');
    for (const stream of [child.stdout, child.stderr])
      createInterface({ input: stream }).on('line', (line) => this.#line(line.trim()));
    child.on('exit', (code, signal) => {
      if (signal !== 'SIGKILL') this.#broken ??= `the machine ended by itself: ${code ?? signal}`;
    });
    this.#process = child;
  }

  #arguments({ seed, boot, code }: BootOptions): string[] {
    const { kernel, initrd, disk } = this.#payload;
    const data = {
      driver: 'nbd',
      'node-name': 'data',
      server: { type: 'unix', path: this.#socketPath },
      export: dataExport,
    };
    // Without AVX: emulated, it was seen to compute wrong now and then, which would look like lost data. no_timer_check: on a
    // busy host the kernel's test of the emulated timer fails and ends in a panic.
    return [
      ...['-accel', 'tcg', '-machine', 'q35', '-cpu', 'max,-avx,-avx2', '-smp', '1', '-m', '768'],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
      ...['-kernel', kernel, '-initrd', initrd, '-append'],
      `console=ttyS0 loglevel=3 panic=-1 no_timer_check mitigations=off seed=${seed} boot=${boot} code=${code}`,
      ...['-drive', `if=none,id=payload,file=${disk},format=raw,snapshot=on`],
      ...['-device', 'virtio-blk-pci,drive=payload', '-blockdev', JSON.stringify(data)],
      ...['-device', 'virtio-blk-pci,drive=data,write-cache=on'],
    ];
  }

  /** Wait until the guest has said the whole content. @returns the stamp of every block */
  async content(timeoutMs: number): Promise<readonly number[]> {
    await this.#until('the content of the volume', timeoutMs, () => this.#verified);
    if (this.#stamps.length !== historyBlocks)
      throw new Error(`the guest said ${this.#stamps.length} of ${historyBlocks} stamps`);
    return this.#stamps;
  }

  async flushed(count: number, timeoutMs: number): Promise<void> {
    await this.#until(`${count} flushes`, timeoutMs, () => this.#said.flushes >= count);
  }

  /** Cut the power when so many more writes have reached the disk: in the middle of what the guest makes stable. */
  async powerOffAfterWrites(count: number, timeoutMs: number): Promise<Said & Loss> {
    let left = count;
    this.#disk.onWrite = () => {
      left -= 1;
      if (left <= 0) this.#process?.kill('SIGKILL');
    };
    await this.#until(`${count} writes of the disk`, timeoutMs, () => left <= 0);
    return this.powerOff();
  }

  /** Cut the power. @returns what the guest had said by then, and what the disk lost */
  async powerOff(): Promise<Said & Loss> {
    this.#process?.kill('SIGKILL');
    await this.#ended;
    this.#disk.onWrite = undefined;
    await poll('the disk to be let go', 10_000, () => this.#server.connections.size === 0);
    return { ...this.#said, ...this.#disk.powerOff() };
  }

  async destroy(): Promise<void> {
    if (this.#process?.exitCode === null) this.#process.kill('SIGKILL');
    await this.#ended;
    await this.#server.close({ graceful: false });
    await this.#disk.close();
  }

  #line(line: string): void {
    const [mark, kind, first = '', rest = ''] = line.split(' ');
    if (mark !== '@' || (kind !== 'w' && kind !== 'f' && kind !== 'stamps')) {
      this.#console.push(line);
      if (this.#console.length > consoleLinesMax) this.#console.shift();
    }
    if (mark !== '@') return;
    if (kind === 'broken') this.#broken ??= line;
    else if (kind === 'verified') this.#verified = true;
    else if (kind === 'stamps') rest.split(',').forEach((stamp) => void this.#stamps.push(+stamp));
    else this.#progress(kind, Number(first));
  }

  #progress(kind: string | undefined, number: number): void {
    // The last line before the power went may be cut short; a shorter number claims less.
    if (!Number.isSafeInteger(number)) return;
    if (kind === 'w') this.#said.acknowledged = Math.max(this.#said.acknowledged, number);
    if (kind !== 'f') return;
    this.#said.flushes += 1;
    this.#said.flushed = Math.max(this.#said.flushed, number);
  }

  async #until(what: string, timeoutMs: number, condition: () => boolean): Promise<void> {
    try {
      await poll(what, timeoutMs, () => condition() || this.#broken !== undefined);
    } catch (error) {
      throw new Error(`${error}; the console's end:\n${this.#console.join('\n')}`);
    }
    if (this.#broken !== undefined && !condition())
      throw new Error(`${this.#broken}; the console's end:\n${this.#console.join('\n')}`);
  }
}

async function poll(what: string, timeoutMs: number, condition: () => boolean): Promise<void> {
  const endMs = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > endMs) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((wake) => setTimeout(wake, 20));
  }
}
