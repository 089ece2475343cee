/** Nothing in this folder waits without an end. */
import { DvceError, type Timers } from '../base/index.ts';

/** The outcome of `work`, or TIMED_OUT after `delayMs`; what `work` does later is ignored. */
export function withDeadline<T>(
  timers: Timers,
  delayMs: number,
  what: string,
  work: Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = timers.after(delayMs, () => {
      reject(new DvceError('TIMED_OUT', { what, ms: delayMs }));
    });
    work.then(
      (value) => {
        timer.cancel();
        resolve(value);
      },
      (error: unknown) => {
        timer.cancel();
        reject(error);
      },
    );
  });
}
