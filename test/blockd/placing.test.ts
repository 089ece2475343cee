/** The choice of a worker thread for the next volume. */
import t from 'tap';
import { leastLoaded } from '../../src/blockd/placing.ts';

const load = (busyShare: number, exports: number) => ({ busyShare, exports });

t.test('the least busy thread, then the one with the fewest volumes', async (t) => {
  t.equal(leastLoaded([load(0, 0), load(0, 0)]), 0, 'the first of equals');
  t.equal(leastLoaded([load(0, 2), load(0, 1), load(0, 1)]), 1);
  t.equal(leastLoaded([load(0.9, 1), load(0.1, 7)]), 1, 'one busy volume weighs more than many');
  t.equal(leastLoaded([load(0.2, 2), load(0.01, 3)]), 0, 'a small difference is chance');
  t.equal(leastLoaded([load(1, 3), load(0.99, 3), load(0.6, 9)]), 2);
});
