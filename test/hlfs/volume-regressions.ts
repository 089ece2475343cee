/** Histories that once broke the engine, as fast-check printed them after shrinking. Never removed. */
import type { HistoryOptions, Step } from '../support/engine-history.ts';

export const regressions: readonly {
  readonly name: string;
  readonly options: HistoryOptions;
  readonly steps: readonly Step[];
}[] = [];
