/** Requests that fit a rule fail: by operation, range, count or probability. */
import { DvceError, type ErrorCode, type Random } from '../../base/index.ts';
import type { BlockBackend } from '../backend.ts';
import { Intercept, type OperationFacts } from './intercept.ts';
import type { Operation } from './pass-through.ts';

export interface ErrorRule {
  readonly operations: readonly Operation[];
  /** Default IO_FAILED. */
  readonly code?: ErrorCode;
  /** Only requests that touch these bytes. */
  readonly from?: number;
  readonly to?: number;
  /** Let this many matching requests pass first. */
  readonly skip?: number;
  /** Fail at most this many. */
  readonly count?: number;
  /** Fail one in so many, on average. */
  readonly oneIn?: number;
}

export class ErrorBackend extends Intercept {
  readonly #rule: ErrorRule;
  readonly #random: Random;
  #matched = 0;
  #failed = 0;

  constructor(inner: BlockBackend, rule: ErrorRule, random: Random) {
    super(inner);
    this.#rule = rule;
    this.#random = random;
  }

  protected before(facts: OperationFacts, start: (error: DvceError | null) => void): void {
    if (!this.#fails(facts)) {
      start(null);
      return;
    }
    this.#failed += 1;
    const { code = 'IO_FAILED' } = this.#rule;
    const what = `${facts.operation} ${facts.offset}+${facts.length}`;
    const context = { what, name: what, where: 'the error wrapper', reason: 'it was told to fail' };
    start(new DvceError(code, { ...context, advice: 'Remove the error wrapper.' }));
    return;
  }

  #fails({ operation, offset, length }: OperationFacts): boolean {
    const { operations, from = 0, to = Number.POSITIVE_INFINITY, skip = 0, oneIn = 1 } = this.#rule;
    if (!operations.includes(operation) || offset >= to || offset + length < from) return false;
    this.#matched += 1;
    if (this.#matched <= skip || this.#failed >= (this.#rule.count ?? Number.POSITIVE_INFINITY))
      return false;
    return oneIn <= 1 || this.#random.below(oneIn) === 0;
  }
}
