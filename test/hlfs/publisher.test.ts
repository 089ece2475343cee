/** The publisher when nothing can be published any more. */
import t from 'tap';
import { DvceError, silentLogger, systemTimers } from '../../src/base/index.ts';
import { BuildBudget } from '../../src/hlfs/build-budget.ts';
import { Overlay } from '../../src/hlfs/overlay.ts';
import { Publisher, type PublisherOptions } from '../../src/hlfs/publisher.ts';
import { within } from '../support/review-host.ts';

t.test(
  'what was acknowledged stays a layer of reads after publishing has failed for good',
  async (t) => {
    const failed = Promise.withResolvers<DvceError>();
    const fenced = new DvceError('FENCED', { name: 'a volume', reason: 'somebody else writes it' });
    // Only what is asked before the failure, and after it.
    const options = {
      context: { timers: systemTimers, logger: silentLogger, store: { location: 'here' } },
      writer: { state: { newestRoot: 0, coveredSeq: 0 }, finish: () => Promise.reject(fenced) },
      onFailed: (error: DvceError) => failed.resolve(error),
    } as unknown as PublisherOptions;
    const publisher = new Publisher(options);
    const batch = (firstSeq: number) => ({
      overlay: new Overlay(firstSeq, { now: () => {}, later: async () => {} }, new BuildBudget(0)),
      onRoot: null,
      flags: 0,
    });
    const [first, second] = [batch(1), batch(2)];
    publisher.push(first);
    t.equal((await within(1000, failed.promise, 'the failure')).code, 'FENCED');
    // The age of a batch ends later than the failure came.
    publisher.push(second);
    t.same(
      publisher.frozen.map(({ overlay }) => overlay.firstSeq),
      [1, 2],
    );
  },
);
