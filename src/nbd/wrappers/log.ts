/** Every request as a line of the log when it starts; for finding out what a client really does. */
import type { DvceError, Logger } from '../../base/index.ts';
import type { BlockBackend } from '../backend.ts';
import { Intercept, type OperationFacts } from './intercept.ts';

export class LogBackend extends Intercept {
  readonly #logger: Logger;

  constructor(inner: BlockBackend, logger: Logger) {
    super(inner);
    this.#logger = logger;
  }

  protected before(facts: OperationFacts, start: (error: DvceError | null) => void): void {
    this.#logger.info(facts, 'nbd request');
    start(null);
  }
}
