/**
 * What a service manager that speaks systemd's protocol gives a process and wants of it: sockets that it listens on already,
 * the word that the process is ready, and a sign of life every now and then.
 *
 *   LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES   sockets from descriptor 3 on       -> inheritedSockets
 *   NOTIFY_SOCKET                            READY=1, STOPPING=1, WATCHDOG=1    -> Supervisor
 *   WATCHDOG_PID, WATCHDOG_USEC              without a sign for so long it is killed and started again
 *   JOURNAL_STREAM                           lines of the log carry their priority -> journalPriority
 *
 * The runtime has no datagram sockets of the unix family, so `systemd-notify` says it (the unit has NotifyAccess=all). Where
 * nothing of this is in the environment, nothing happens.
 *
 * Invariant: a sign of life is given only after `isWell` answered. A process whose event loop stands still gives none by
 * itself; one that runs and is stuck nevertheless gives none either.
 */
import { spawn } from 'node:child_process';
import type { Timers } from './clock.ts';
import type { Logger } from './log.ts';

type Environment = Readonly<Record<string, string | undefined>>;

const firstDescriptor = 3;
const descriptorsMax = 16;

/** @returns name -> descriptor; empty when the sockets are meant for another process */
export function inheritedSockets(environment: Environment, pid: number): Map<string, number> {
  const count = Number(environment['LISTEN_FDS']);
  if (Number(environment['LISTEN_PID']) !== pid || !(count > 0 && count <= descriptorsMax))
    return new Map();
  const names = (environment['LISTEN_FDNAMES'] ?? '').split(':');
  return new Map(
    Array.from({ length: count }, (_, index) => [
      names[index] || `${index}`,
      firstDescriptor + index,
    ]),
  );
}

/** Names that a child must not inherit: they speak of this process. */
export const supervisorVariables = [
  'LISTEN_PID',
  'LISTEN_FDS',
  'LISTEN_FDNAMES',
  'WATCHDOG_PID',
  'WATCHDOG_USEC',
] as const;

export interface SupervisorOptions {
  readonly environment: Environment;
  readonly pid: number;
  readonly timers: Timers;
  readonly logger: Logger;
  /** Says the words to the service manager; `systemd-notify` unless a test listens. */
  readonly say?: (words: readonly string[]) => Promise<void>;
}

/** Signs of life in the time that the service manager waits for one. */
const signsPerWatchdog = 3;
/** After an answer that was none it is asked again sooner. */
const triesPerSign = 5;
const sayMs = 10_000;

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #say: (words: readonly string[]) => Promise<void>;
  #ended = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#say = options.say ?? ((words) => notify(words, options.environment));
  }

  /** undefined: nobody waits for signs of life. */
  get watchdogMs(): number | undefined {
    const { environment, pid } = this.#options;
    const time = Number(environment['WATCHDOG_USEC']) / 1000;
    const whose = environment['WATCHDOG_PID'];
    const isOurs = whose === undefined || Number(whose) === pid;
    return isOurs && time > 0 && Number.isFinite(time) ? time : undefined;
  }

  /** From now on there are signs of life, as long as `isWell` resolves to true. */
  async ready(status: string, isWell: () => Promise<boolean>): Promise<void> {
    await this.#tell(['READY=1', `STATUS=${status}`]);
    const { watchdogMs } = this;
    if (watchdogMs !== undefined) this.#watch(watchdogMs / signsPerWatchdog, isWell);
  }

  /** The end has begun, which may take as long as the unit's TimeoutStopSec. */
  async stopping(): Promise<void> {
    this.#ended = true;
    await this.#tell(['STOPPING=1']);
  }

  #watch(pauseMs: number, isWell: () => Promise<boolean>, delayMs = pauseMs): void {
    this.#options.timers.after(delayMs, () => {
      if (this.#ended) return;
      void this.#sign(pauseMs, isWell).then((wasGiven) => {
        if (!this.#ended) this.#watch(pauseMs, isWell, wasGiven ? pauseMs : pauseMs / triesPerSign);
      });
    });
  }

  /**
   * The sign is given when the answer comes, be it late: how long is too long, only the service manager decides. A limit of
   * our own would make one slow answer, as of a host under load, the end of a process that is well.
   */
  async #sign(lateMs: number, isWell: () => Promise<boolean>): Promise<boolean> {
    const { timers, logger } = this.#options;
    const timer = timers.after(lateMs, () =>
      logger.warn({ lateMs }, 'a sign of life is late: a part has not answered yet'),
    );
    try {
      if (await isWell()) {
        await this.#tell(['WATCHDOG=1']);
        return true;
      }
      logger.error({ lateMs }, 'no sign of life: a part is not well');
    } catch (error) {
      logger.error({ err: error }, 'no sign of life: a part does not answer');
    } finally {
      timer.cancel();
    }
    return false;
  }

  async #tell(words: readonly string[]): Promise<void> {
    if (!this.#options.environment['NOTIFY_SOCKET']) return;
    try {
      await this.#say(words);
    } catch (error) {
      this.#options.logger.warn({ err: error, words }, 'the service manager could not be told');
    }
  }
}

function notify(words: readonly string[], environment: Environment): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('systemd-notify', [...words], {
      stdio: 'ignore',
      timeout: sayMs,
      env: { PATH: environment['PATH'], NOTIFY_SOCKET: environment['NOTIFY_SOCKET'] },
    });
    child.on('error', reject);
    child.on('exit', (code, signal) =>
      code === 0 ? resolve() : reject(new Error(`systemd-notify ended with ${signal ?? code}`)),
    );
  });
}

const priorities: readonly (readonly [number, number])[] = [
  [50, 3],
  [40, 4],
  [30, 6],
];
const priorityLowest = 7;

/** `<N>` of syslog for a level of the log, which the journal takes off the line and files it by. */
export function journalPriority(level: number): string {
  const [, priority = priorityLowest] = priorities.find(([from]) => level >= from) ?? [];
  return `<${priority}>`;
}

/** Whether standard error goes to the journal. */
export const isJournal = (environment: Environment): boolean =>
  (environment['JOURNAL_STREAM'] ?? '') !== '';
