/**
 * One running guest and the watch over it.
 *
 * Invariants:
 *   - the process is known by pid and start time; nothing is ever sent to another process;
 *   - the phase comes from the hypervisor (or from the process's end), never from what was asked of it, except `stopping`,
 *     which lasts from the power button to the end of the process;
 *   - a guest that an I/O error stopped is continued every `limits.vmContinueMs` until it stays running; there is no last
 *     try, because its disk may come back at any time and giving up would turn a pause into damage;
 *   - what was begun with it and outlives this process, a restart (restarter.ts) or a freeze (freezing.ts), is brought to its
 *     end by whoever watches next;
 *   - closing the watch leaves the guest alone.
 *
 *            connected            STOP              cont by somebody
 *   starting ---------> running <------> paused   io-error <--- BLOCK_IO_ERROR; `cont` every second ---> running
 *                          | power button                     any: process gone
 *                          v                                     -> stopped (shut down, quit, status 0)
 *                       stopping                                 -> crashed (anything else)
 */
import type { ChildProcess } from 'node:child_process';
import {
  type Clock,
  DvceError,
  type Logger,
  limits,
  type Random,
  sleep,
  type Timers,
} from '../base/index.ts';
import type { GuestPaths } from './arguments.ts';
import { limitConsoleLog, tail } from './console-log.ts';
import type { VmDefinition, VmObservation, VmPhase } from './driver.ts';
import { Freezing } from './freezing.ts';
import { GuestAgent } from './guest-agent.ts';
import { lastWords, noteEnd, noteRunning } from './hypervisor-log.ts';
import { isAlive, killProcess, type ProcessIdentity, waitGone } from './processes.ts';
import { QmpClient, type QmpCommand, type QmpEvent, type QmpResult } from './qmp.ts';
import { Readiness } from './readiness.ts';
import { Restarter } from './restarter.ts';

export interface GuestOptions {
  readonly vm: VmDefinition;
  readonly identity: ProcessIdentity;
  readonly paths: GuestPaths;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  /** Only when this process started the guest; it then also learns the exit status. */
  readonly child: ChildProcess | undefined;
  onChange(observation: VmObservation): void;
  /** The process is gone; called once. */
  onEnd(last: VmObservation): void;
}

/** QEMU's run states, as phases. What is not listed is a guest that does not run. */
const phases: Readonly<Record<string, VmPhase>> = {
  running: 'running',
  'io-error': 'io-error',
  shutdown: 'stopping',
  'guest-panicked': 'crashed',
  'internal-error': 'crashed',
};

const detailBytesMax = 1000;
const logCheckEvery = 10;

export class Guest {
  readonly #options: GuestOptions;
  readonly #stop = new AbortController();
  readonly agent: GuestAgent;
  readonly freezing: Freezing;
  readonly #restarter: Restarter;
  /** Those who wait for an event of the hypervisor. */
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #readiness: Readiness;
  #qmp: QmpClient | undefined;
  #controlClosed: Promise<void> = Promise.resolve();
  #observation: VmObservation;
  #poweringDown = false;
  #buttonAtMs = 0;
  /** Why the hypervisor ends, from its SHUTDOWN event. */
  #shutdownReason: string | undefined;
  #exitStatus: number | null | undefined;
  #ended = false;
  #resets = 0;

  constructor(options: GuestOptions) {
    this.#options = options;
    const { vm, paths, clock, timers, random, identity } = options;
    const agent = new GuestAgent({ path: paths.agent, vm: vm.name, clock, timers, random });
    this.agent = agent;
    this.freezing = new Freezing({ ...options, vm: vm.name, mark: paths.frozen, agent });
    this.#restarter = new Restarter({
      mark: paths.restarting,
      clock,
      agent,
      execute: (command, args) => this.execute(command, args),
    });
    this.#readiness = new Readiness({
      ...options,
      agent: this.agent,
      signal: this.#stop.signal,
      onReady: (ready) => this.#update({ ready }),
    });
    this.#observation = { phase: 'starting', pid: identity.pid, ready: null, detail: null };
    options.child?.once('exit', (status) => {
      this.#exitStatus = status;
      this.#quietly(this.#finishAfterEvents());
    });
  }

  get identity(): ProcessIdentity {
    return this.#options.identity;
  }

  get paths(): GuestPaths {
    return this.#options.paths;
  }

  get observation(): VmObservation {
    return this.#observation;
  }

  /** Connect to the control socket, waiting for it until `limits.vmStartMs`; then watch. */
  async begin(signal: AbortSignal): Promise<void> {
    const { vm, clock, timers } = this.#options;
    const endMs = clock.monotonicMs() + limits.vmStartMs;
    for (;;) {
      signal.throwIfAborted();
      if (this.#ended || !(await isAlive(this.identity))) throw await this.#startFailure();
      try {
        await this.#connect(Math.max(1, endMs - clock.monotonicMs()));
        break;
      } catch (error) {
        if (clock.monotonicMs() >= endMs)
          throw new DvceError('HYPERVISOR_FAILED', {
            name: vm.name,
            reason: `its control socket did not answer within ${limits.vmStartMs} ms: ${String(error)}`,
          });
      }
      await sleep(timers, 50, signal);
    }
    if (this.#options.child === undefined) {
      await this.#restarter.takeOver();
      await this.freezing.takeOver();
      await noteRunning(this.paths.hypervisorLog);
    }
    await this.#refresh();
    this.#quietly(this.#watch());
    this.#quietly(this.#readiness.watch());
  }

  async powerDown(): Promise<void> {
    await this.#restarter.end();
    // A guest that is paused would not notice.
    if (this.#observation.phase === 'paused') await this.resume();
    this.#poweringDown = true;
    await this.#pressButton();
    this.#update({ phase: 'stopping' });
  }

  async pause(): Promise<void> {
    await this.execute('stop');
    await this.#refresh();
  }

  async resume(): Promise<void> {
    await this.execute('cont');
    await this.#refresh();
  }

  /** Like the reset button: the guest is not asked. */
  async reset(): Promise<void> {
    await this.execute('system_reset');
    if (this.#observation.phase === 'paused') await this.resume();
  }

  /** Resolves when it was asked; after `deadlineMs` a guest that powers off ends. */
  async askToReboot(deadlineMs: number): Promise<void> {
    if (this.#observation.phase === 'paused') await this.resume();
    await this.#restarter.ask(deadlineMs);
  }

  /** A command of the control protocol, for what is not about the life of the guest. */
  async execute<C extends QmpCommand>(
    command: C,
    args?: object,
    deadlineMs?: number,
  ): Promise<QmpResult<C>> {
    if (this.#qmp === undefined) await this.#connect(limits.qmpCommandMs);
    if (this.#qmp === undefined)
      throw new DvceError('HYPERVISOR_FAILED', {
        name: this.#options.vm.name,
        reason: `${command}: it has ended`,
      });
    return this.#qmp.execute(command, deadlineMs, args);
  }

  /** Be told of every event of the hypervisor until the returned function is called. */
  listen(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** How often the guest was reset since this watch began. */
  get resets(): number {
    return this.#resets;
  }

  /** End the guest and wait until its process is gone. */
  async kill(): Promise<void> {
    const { vm, clock, timers } = this.#options;
    this.#shutdownReason ??= 'killed';
    await noteEnd(this.paths.hypervisorLog);
    try {
      await this.#qmp?.execute('quit', limits.vmQuitMs);
      await waitGone(this.identity, limits.vmQuitMs, clock, timers);
    } catch (error) {
      // A hypervisor that hangs, or whose disk does, is what the signal is for.
      this.#options.logger.debug({ vm: vm.id, error }, 'quit was not answered');
    }
    await killProcess(this.identity, vm.name, clock, timers);
    await this.#finish();
  }

  /** Let go of the guest without touching it. */
  close(): void {
    this.#stop.abort(new DvceError('CANCELLED', { what: 'watching a guest' }));
    this.#listeners.clear();
    this.#qmp?.close();
    this.#qmp = undefined;
  }

  async #connect(connectMs: number): Promise<void> {
    const { vm, paths, timers } = this.#options;
    const closed = Promise.withResolvers<void>();
    const qmp = await QmpClient.connect({
      path: paths.control,
      vm: vm.name,
      timers,
      connectMs,
      onEvent: (event) => this.#event(event),
      onClose: () => {
        this.#qmp = undefined; // the watch connects again, unless the process is gone
        closed.resolve();
        this.#quietly(this.#finishIfGone());
      },
    });
    this.#controlClosed = closed.promise;
    if (this.#stop.signal.aborted) return qmp.close();
    this.#qmp = qmp;
  }

  async #watch(): Promise<void> {
    const { vm, timers, logger } = this.#options;
    for (let turn = 1; !this.#stop.signal.aborted; turn += 1) {
      await sleep(timers, limits.vmWatchMs, this.#stop.signal);
      if (!(await isAlive(this.identity))) return this.#finish();
      try {
        await this.#look(turn);
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        logger.warn({ vm: vm.id, error }, 'a guest could not be looked at; trying again');
      }
    }
  }

  async #look(turn: number): Promise<void> {
    if (this.#qmp === undefined) await this.#connect(limits.qmpCommandMs);
    await this.#refresh();
    if (this.#observation.phase === 'io-error') await this.#continue();
    if (this.#poweringDown) await this.#pressButtonAgain();
    await this.#restarter.look();
    this.#quietly(this.freezing.look());
    if (turn % logCheckEvery === 0) await limitConsoleLog(this.#options.paths.consoleLog);
  }

  /** The guest begins anew: it gets ready anew. */
  async #afterReset(): Promise<void> {
    this.#resets += 1;
    this.#shutdownReason = undefined;
    await this.#readiness.reset();
    this.#update({ ready: null });
    this.#quietly(this.#readiness.watch());
    await this.#restarter.end();
    await this.freezing.forget();
  }

  async #refresh(): Promise<void> {
    const status = await this.#qmp?.execute('query-status');
    if (status === undefined) return;
    if (status.status === 'shutdown') return this.#restart();
    const phase = phases[status.status] ?? 'paused';
    const shown = this.#poweringDown && phase === 'running' ? 'stopping' : phase;
    this.#update(phase === 'running' ? { phase: shown, detail: null } : { phase: shown });
  }

  async #restart(): Promise<void> {
    if (await this.#restarter.begin()) await this.#refresh();
  }

  async #continue(): Promise<void> {
    await this.#qmp?.execute('cont');
    await this.#refresh();
  }

  async #pressButton(): Promise<void> {
    this.#buttonAtMs = this.#options.clock.monotonicMs();
    if (this.#qmp === undefined) await this.#connect(limits.qmpCommandMs);
    await this.#qmp?.execute('system_powerdown');
  }

  async #pressButtonAgain(): Promise<void> {
    const sinceMs = this.#options.clock.monotonicMs() - this.#buttonAtMs;
    if (sinceMs >= limits.vmPowerButtonMs) await this.#pressButton();
  }

  #event(event: QmpEvent): void {
    const { vm, logger } = this.#options;
    const { data } = event;
    for (const listener of this.#listeners) listener(event);
    if (event.event === 'BLOCK_IO_ERROR') {
      const what = data['operation'] === 'read' ? 'read' : 'write';
      const why = data['nospace'] === true ? 'no space left' : String(data['reason'] ?? 'unknown');
      logger.warn({ vm: vm.id, what, why }, 'the disk of a guest failed; the guest waits');
      this.#update({ phase: 'io-error', detail: `${what} failed: ${why}` });
    } else if (event.event === 'SHUTDOWN') this.#shutdownReason = String(data['reason'] ?? '');
    else if (event.event === 'GUEST_PANICKED') this.#update({ detail: 'the guest panicked' });
    else if (event.event === 'RESET') this.#quietly(this.#afterReset());
    else if (event.event === 'STOP' || event.event === 'RESUME') this.#quietly(this.#refresh());
  }

  #update(change: Partial<VmObservation>): void {
    if (this.#ended) return;
    const next = { ...this.#observation, ...change };
    const { phase, ready, detail } = this.#observation;
    if (next.phase === phase && next.ready === ready && next.detail === detail) return;
    this.#observation = next;
    this.#options.onChange(next);
  }

  /** The exit may be noticed before the last events were read, which say why. */
  async #finishAfterEvents(): Promise<void> {
    await Promise.race([
      this.#controlClosed,
      sleep(this.#options.timers, limits.vmQuitMs, this.#stop.signal),
    ]);
    await this.#finish();
  }

  async #finishIfGone(): Promise<void> {
    const { clock, timers } = this.#options;
    if (await waitGone(this.identity, limits.vmQuitMs, clock, timers)) await this.#finish();
  }

  /** The process is gone (or about to be): say how it ended, once. */
  async #finish(): Promise<void> {
    if (this.#ended || this.#stop.signal.aborted) return;
    const clean = this.#endedCleanly();
    const detail = clean ? (this.#shutdownReason ?? null) : await this.#complaint();
    if (this.#ended) return;
    this.#update({ phase: clean ? 'stopped' : 'crashed', pid: null, ready: null, detail });
    this.#ended = true;
    this.close();
    this.#options.onEnd(this.#observation);
  }

  #endedCleanly(): boolean {
    if (this.#shutdownReason === 'guest-panic') return false;
    return this.#shutdownReason !== undefined || this.#exitStatus === 0;
  }

  async #complaint(): Promise<string> {
    const text = await tail(this.#options.paths.hypervisorLog, detailBytesMax);
    const status = this.#exitStatus === undefined ? '' : ` with status ${this.#exitStatus}`;
    return lastWords(text.split('\n')) ?? `the hypervisor ended${status} and said nothing`;
  }

  async #startFailure(): Promise<DvceError> {
    const reason = await this.#complaint();
    return new DvceError('HYPERVISOR_FAILED', { name: this.#options.vm.name, reason });
  }

  /** Background work: its failure is logged, and the watch goes on. */
  #quietly(work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (this.#stop.signal.aborted) return;
      this.#options.logger.warn({ vm: this.#options.vm.id, error }, 'watching a guest failed');
    });
  }
}
