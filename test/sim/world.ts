/**
 * A simulated host: one disk, one scheduler, one process at a time. `run` lets it go on; a planned crash ends the process;
 * `reboot` (power loss) or `restart` (kill -9) gives the next one.
 */
import type { Random } from '../../src/base/index.ts';
import { seededRandom } from '../../src/base/index.ts';
import { SimDisk } from './disk.ts';
import { type CrashPlan, IoLog, SimFileSystem } from './file-system.ts';
import { Scheduler, SimProcess } from './scheduler.ts';

export class SimHost {
  readonly scheduler: Scheduler;
  readonly log = new IoLog();
  /** For the test's own choices; apart from the scheduler's, so that neither shifts the other. */
  readonly random: Random;
  /** Nothing is cut off: processes end only with nothing under way. */
  isCalm = false;
  disk: SimDisk;
  process: SimProcess;
  files: SimFileSystem;
  #processes = 0;

  constructor(seed: number, options: { capacityBytes?: number } = {}) {
    this.scheduler = new Scheduler(seed);
    this.random = seededRandom(seed ^ 0x5eed);
    this.disk = new SimDisk(options.capacityBytes);
    this.process = new SimProcess('process 0');
    this.files = new SimFileSystem(this.scheduler, this.disk, this.process, this.log);
    this.log.onCrash = () => this.kill();
  }

  get isDown(): boolean {
    return !this.process.isAlive;
  }

  /** End the process now; what it wrote stays in the page cache. */
  kill(): void {
    this.process.isAlive = false;
  }

  /** Die at an I/O counted from now on. */
  crashAt(plan: CrashPlan): void {
    if (this.isCalm) return;
    this.log.crashPlan = { ...plan, io: this.log.count + plan.io };
  }

  /** kill -9 and start again: the page cache survives. */
  restart(): void {
    this.kill();
    this.disk.endProcess(this.random);
    this.#boot(this.disk);
  }

  /** Power loss and start again. */
  reboot(): void {
    this.kill();
    this.#boot(this.disk.crash(this.random));
  }

  #boot(disk: SimDisk): void {
    this.log.crashPlan = undefined;
    this.#processes += 1;
    this.disk = disk;
    this.process = new SimProcess(`process ${this.#processes}`);
    this.files = new SimFileSystem(this.scheduler, disk, this.process, this.log);
  }
}
