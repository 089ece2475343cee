/** When a sync is begun with the write, and when not. */
import t from 'tap';
import { FlushForecast } from '../../src/hlfs/flush-forecast.ts';

const pair = (forecast: FlushForecast): boolean => {
  const expected = forecast.appended(1);
  forecast.flushed(true);
  return expected;
};

t.test('a flush is expected after three pairs of one write and one flush', async (t) => {
  const forecast = new FlushForecast();
  t.strictSame(
    [1, 2, 3, 4, 5].map(() => pair(forecast)),
    [false, false, false, true, true],
  );
});

t.test('a write without its flush ends the forecast', async (t) => {
  const forecast = new FlushForecast();
  for (let count = 0; count < 3; count += 1) pair(forecast);
  t.ok(forecast.appended(1));
  t.notOk(forecast.appended(1), 'the flush did not come');
  forecast.flushed(true);
  t.notOk(pair(forecast));
});

t.test(
  'writes that come together, writes alone and several who flush expect nothing',
  async (t) => {
    const together = new FlushForecast();
    const alone = new FlushForecast();
    const several = new FlushForecast();
    for (let count = 0; count < 9; count += 1) {
      t.notOk(together.appended(2));
      together.flushed(true);
      t.notOk(alone.appended(1));
      t.notOk(several.appended(1));
      several.flushed(false);
    }
  },
);
