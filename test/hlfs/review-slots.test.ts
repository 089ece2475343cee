/** Journal files that are not as long as they were. */
import { truncateSync } from 'node:fs';
import t from 'tap';
import { filled, flush, ReviewHost, read, reopen, within, write } from '../support/review-host.ts';

t.test(
  'B-02 a journal file that was cut short is an error that names it, or read as far as it goes',
  async (t) => {
    for (const length of [0, 100, 4096, 5000]) {
      const host = new ReviewHost(t);
      const context = await host.start();
      const id = await host.create(context);
      const volume = await reopen(context, id);
      await write(volume, 0, filled(1));
      await flush(volume);
      host.kill();
      const last = host.slots(id).sort().at(-1) ?? '';
      truncateSync(last, length);
      const next = await host.start();
      try {
        const again = await within(
          5000,
          reopen(next, id),
          `opening with a file of ${length} bytes`,
        );
        t.same(await read(again, 0, 4096), filled(1), `${length}`);
        await within(5000, write(again, 8192, filled(2)), 'a write');
      } catch (error) {
        t.match(error, { code: 'JOURNAL_DAMAGED' }, `${length}`);
      }
    }
  },
);
