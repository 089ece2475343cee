/**
 * Time and deferred work, injected: nothing in the engine reads a clock or sets a timer of the runtime directly, so that
 * a simulation decides both and one seed reproduces a run.
 */
export interface Clock {
  /** Wall clock in milliseconds since 1970; for people and records, never for decisions about data. */
  wallMs(): number;
  /** Monotonic milliseconds; for intervals and deadlines. */
  monotonicMs(): number;
}

export interface Timer {
  cancel(): void;
}

export interface Timers {
  /** Run `task` once after `delayMs`; the timer does not keep the process alive. */
  after(delayMs: number, task: () => void): Timer;
  /** Run `task` after the I/O events of this turn of the event loop (setImmediate). */
  defer(task: () => void): void;
}

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};

export const systemTimers: Timers = {
  after(delayMs, task) {
    const handle = setTimeout(task, delayMs);
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
  defer(task) {
    setImmediate(task);
  },
};

/** Wait `delayMs`, or reject with the signal's reason when it aborts first. */
export function sleep(timers: Timers, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const onAbort = (): void => {
      timer.cancel();
      reject(signal?.reason);
    };
    const timer = timers.after(delayMs, () => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    });
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
