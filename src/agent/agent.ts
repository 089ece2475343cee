/**
 * The agent: everything that serves the API, wired together, and what concerns the whole host (status, doctor, shutdown).
 *
 *   open --> reconcile --> serve ... --> prepareShutdown --> requestStop --> close
 *        blockd is away: waitForBlockd --> serve --> reconcile ...
 *
 * Invariants: the agent may end at any time, by kill -9 too, and nothing of the guests is touched: blockd, the hypervisors
 * and their disks are processes of their own. What it keeps is in documents (vm-documents.ts) or may be lost
 * (operation-log.ts).
 */
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Doctor, Shutdown, Status } from '../api/index.ts';
import {
  type Clock,
  DvceError,
  type FileSystem,
  type Logger,
  limits,
  type Random,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import type { BlockdStatus } from '../blockd/index.ts';
import { findProgram, type Hypervisor } from '../vm/index.ts';
import { addressPools } from './address-pools.ts';
import { AuditLog } from './audit.ts';
import { watchGuests } from './change-events.ts';
import { Consoles } from './consoles.ts';
import type { DataProcess } from './data-process.ts';
import { examineHost } from './doctor.ts';
import { Events } from './events.ts';
import { Health, healthPath } from './health.ts';
import { addHealthSources } from './health-sources.ts';
import { HostBoot } from './host-boot.ts';
import { IdempotencyKeys } from './http/idempotency.ts';
import { ImageExports } from './image-exports.ts';
import { type ImageFiles, Images } from './images.ts';
import type { AgentLayout } from './layout.ts';
import { Metrics } from './metrics.ts';
import type { Networks } from './networks.ts';
import { OperationLog } from './operation-log.ts';
import { Operations } from './operations.ts';
import { Schedules } from './schedules.ts';
import type { Settings } from './settings.ts';
import { stopBlockd } from './stop-blockd.ts';
import { Tokens } from './tokens.ts';
import { VmDocuments } from './vm-documents.ts';
import { Vms } from './vms.ts';

export interface AgentOptions {
  readonly layout: AgentLayout;
  readonly release: string;
  readonly blockd: DataProcess;
  readonly driver: Hypervisor;
  readonly files: FileSystem;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  /** When it is not in the usual place. */
  readonly hypervisorProgram?: string | undefined;
  /** Files of certificates that this host shows to others. */
  readonly certificates?: readonly string[];
  /** Where the operator keeps what imports of images need. */
  readonly imageFiles?: ImageFiles;
  /** undefined: nothing configured this agent. */
  readonly settings?: Settings | undefined;
  /** Called when the process should end. */
  readonly onStop: () => void;
}

type Kept = Pick<Agent, 'events' | 'tokens' | 'audit' | 'keys'>;

export class Agent {
  readonly events: Events;
  readonly health: Health;
  readonly metrics: Metrics;
  readonly tokens: Tokens;
  readonly audit: AuditLog;
  readonly keys: IdempotencyKeys;
  readonly operations: Operations;
  readonly vms: Vms;
  readonly images: Images;
  readonly imageExports: ImageExports;
  readonly networks: Networks;
  readonly schedules: Schedules;
  readonly consoles: Consoles;
  readonly blockd: DataProcess;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly settings: Settings | undefined;
  readonly #options: AgentOptions;
  readonly #startedAt: string;
  readonly #interrupted: Awaited<ReturnType<typeof Operations.open>>['interrupted'];
  readonly #hostBoot: HostBoot;
  #stopping = false;
  #isWaiting = false;

  private constructor(
    options: AgentOptions,
    opened: Awaited<ReturnType<typeof Operations.open>>,
    documents: VmDocuments,
    { events, tokens, audit, keys }: Kept,
  ) {
    const { blockd, driver, clock, timers, random, logger, layout } = options;
    this.#options = options;
    this.#startedAt = new Date(clock.wallMs()).toISOString();
    this.#interrupted = opened.interrupted;
    this.blockd = blockd;
    this.clock = clock;
    this.timers = timers;
    this.settings = options.settings;
    this.events = events;
    this.tokens = tokens;
    this.audit = audit;
    this.keys = keys;
    this.operations = opened.operations;
    const { operations } = this;
    this.images = new Images({
      blockd,
      operations,
      timers,
      logger,
      clock,
      temporaryDirectory: join(layout.root, 'tmp'),
      ...options.imageFiles,
    });
    this.imageExports = new ImageExports({
      ...{ blockd, operations, timers, logger },
      temporaryDirectory: join(layout.root, 'tmp'),
    });
    const { images } = this;
    const world = { clock, timers, random, logger };
    const { nics, networks } = addressPools({ documents, blockd, clock });
    this.networks = networks;
    this.#hostBoot = new HostBoot({ path: layout.hostBoot, files: options.files });
    const hostStarted = () => this.#hostBoot.isNew();
    this.vms = new Vms({
      documents,
      driver,
      blockd,
      operations,
      images,
      nics,
      hostStarted,
      ...world,
    });
    this.schedules = new Schedules({ blockd, operations, clock, timers, logger });
    this.consoles = new Consoles(logger);
    watchGuests(driver, () => this.vms.list(), events, logger);
    this.health = new Health({
      path: healthPath(layout.state),
      files: options.files,
      ...{ clock, timers, logger, events, blockd },
      vms: () => this.vms.list(),
      missingHypervisor: () => missingProgram(options.hypervisorProgram),
      certificates: () => options.certificates ?? [],
    });
    addHealthSources(this.health, { blockd, schedules: this.schedules, networks });
    this.metrics = new Metrics({
      ...{ clock, timers, logger, events, operations },
      release: options.release,
      health: this.health,
    });
  }

  static async open(options: AgentOptions): Promise<Agent> {
    const { layout, files, clock, timers, random, logger } = options;
    const { blockd } = options;
    const oldDirectory = layout.vmDocuments;
    const documents = new VmDocuments({ blockd, files, logger, oldDirectory });
    const log = await OperationLog.open(layout.operations, files, logger, clock.wallMs());
    const events = new Events({ clock, logger });
    const opened = await Operations.open({
      log,
      events,
      node: hostname(),
      clock,
      timers,
      random,
      logger,
    });
    for (const path of [layout.state, layout.log]) await files.makeDirectory(path);
    const keys = await IdempotencyKeys.open(layout.idempotency, clock, timers, logger);
    const tokens = await Tokens.open({ path: layout.tokens, files, clock, random, logger });
    const audit = new AuditLog(layout.audit, logger);
    return new Agent(options, opened, documents, { events, tokens, audit, keys });
  }

  /** blockd was away when the agent started: `reconcile` is still to come. */
  get isWaiting(): boolean {
    return this.#isWaiting;
  }

  /** Serve before `reconcile`, as far as that goes (http/waiting.ts). */
  waitForBlockd(): void {
    this.#isWaiting = true;
  }

  /** Guests run on this host. */
  async hasGuests(): Promise<boolean> {
    return (await this.#options.driver.runningIds()).length > 0;
  }

  /** Bring what is kept and what runs together; needs blockd. */
  async reconcile(): Promise<void> {
    await this.images.tidy(this.#interrupted);
    await this.imageExports.tidy(this.#interrupted);
    await this.vms.reconcile();
    await this.#hostBoot.record();
    this.vms.keep();
    this.schedules.start();
    this.#isWaiting = false;
  }

  /** True from the moment when blockd is being stopped on purpose. */
  get stopping(): boolean {
    return this.#stopping;
  }

  async status(): Promise<Status> {
    const { layout, release } = this.#options;
    const [{ vms, causes, health }, blockd] = await Promise.all([
      this.health.look(),
      this.#blockdStatus(),
    ]);
    return {
      version: release,
      pid: process.pid,
      startedAt: this.#startedAt,
      dataDirectory: layout.root,
      health,
      causes: [...causes],
      blockd: blockd === null ? null : statusView(blockd),
      vms: {
        total: vms.length,
        running: vms.filter(({ pid }) => pid !== null).length,
        crashed: vms.filter(({ phase }) => phase === 'crashed').length,
      },
      operations: { running: this.operations.running },
    };
  }

  async #blockdStatus(): Promise<BlockdStatus | null> {
    try {
      return await this.blockd.call('status', {}, { timeoutMs: limits.metricsReadMs });
    } catch (error) {
      // What is wrong stands among the causes.
      this.#options.logger.debug({ err: error }, 'blockd does not tell its status');
      return null;
    }
  }

  async doctor(): Promise<Doctor> {
    const { layout, driver, blockd, files } = this.#options;
    return examineHost({ dataDirectory: layout.root, driver, blockd, files, agentRuns: true });
  }

  /** All but the end itself: refuse or stop the VMs, then stop blockd. */
  async prepareShutdown({ force, stopVms, keepBlockd, timeoutMs }: Shutdown): Promise<void> {
    const running = await this.#running();
    if (running.length > 0 && stopVms !== true && force !== true)
      throw new DvceError('VM_STATE', {
        name: running.join(', '),
        state: 'running',
        reason: 'the agent is not stopped while VMs run',
        advice:
          'Pass --stop-vms to stop them first, or --force: their I/O then waits for the next "dvce up".',
      });
    if (stopVms === true) await this.vms.stopAll(timeoutMs ?? limits.vmStopMs);
    if (keepBlockd === true) return;
    this.#stopping = true;
    try {
      const { layout, blockd, clock, timers } = this.#options;
      await stopBlockd({ root: layout.root, blockd, clock, timers });
      await this.health.blockdStopped();
    } catch (error) {
      this.#stopping = false;
      throw error;
    }
  }

  /** Names of the VMs that run; without the store, which knows the names, the ids of the guests that are there. */
  async #running(): Promise<string[]> {
    try {
      return (await this.vms.list()).filter(({ pid }) => pid !== null).map(({ name }) => name);
    } catch (error) {
      if (toDvceError(error).code !== 'BLOCKD_UNAVAILABLE') throw error;
      const ids = await this.#options.driver.runningIds();
      if (ids.length > 0) this.#options.logger.warn({ err: error }, 'the VMs cannot be named');
      return [...ids];
    }
  }

  requestStop(): void {
    this.#options.onStop();
  }

  async close(): Promise<void> {
    this.schedules.close();
    this.consoles.close();
    await this.vms.close();
    await this.operations.close();
    this.events.close();
    await Promise.all([this.audit.close(), this.tokens.close(), this.keys.close()]);
    await this.#options.driver.close();
  }
}

function statusView(status: BlockdStatus): NonNullable<Status['blockd']> {
  const { controlVersion: _, ...shown } = status;
  return shown;
}

async function missingProgram(name = 'qemu-system-x86_64'): Promise<string | undefined> {
  return (await findProgram(name)) === undefined ? name : undefined;
}
