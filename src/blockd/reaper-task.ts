/**
 * Background deletion: runs the reaper of HLFS after a start and after every delete, one run at a time, never in the way of a
 * request. A kick during a run means one more run; a failed run is tried again after `limits.reapRetryMs`.
 */
import { type Logger, limits, type Timer, type Timers, toDvceError } from '../base/index.ts';

export class ReaperTask {
  readonly #run: () => Promise<void>;
  readonly #timers: Timers;
  readonly #logger: Logger;
  #running: Promise<void> | undefined;
  #again = false;
  #retry: Timer | undefined;
  #stopped = false;

  constructor(run: () => Promise<void>, timers: Timers, logger: Logger) {
    this.#run = run;
    this.#timers = timers;
    this.#logger = logger;
  }

  /** There may be something to reap. */
  kick(): void {
    this.#again = true;
    if (this.#stopped || this.#running !== undefined) return;
    this.#retry?.cancel();
    this.#running = this.#loop();
  }

  /** Reap now, and resolve when what was there has been looked at. */
  async settle(): Promise<void> {
    this.kick();
    await this.#running;
  }

  async #loop(): Promise<void> {
    try {
      while (this.#again && !this.#stopped) {
        this.#again = false;
        // Answers of the requests that led here go out first; a storm of deletes becomes few runs.
        await new Promise<void>((resolve) => this.#timers.after(limits.reapPauseMs, resolve));
        if (!this.#stopped) await this.#run();
      }
    } catch (error) {
      this.#logger.warn(
        { err: error, code: toDvceError(error).code },
        'background deletion failed; it is tried again',
      );
      this.#retry = this.#timers.after(limits.reapRetryMs, () => this.kick());
    } finally {
      this.#running = undefined;
    }
  }

  /** Resolves when nothing runs any more. What is left is found at the next start. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#retry?.cancel();
    await this.#running;
  }
}
