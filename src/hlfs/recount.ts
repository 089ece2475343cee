/** Counting the segment table anew, for `volume check --repair`: the map is the truth, the table a sum of it. */
import type { LogWriter } from './log-writer.ts';
import { type UnitCount, UnitCounts } from './unit-counts.ts';

/** Make the segment table say what the map says. @throws when a page cannot be read; nothing is changed then */
export async function recount({ state, table, map }: LogWriter): Promise<void> {
  const counts = new UnitCounts();
  await map.walk(counts);
  if (state.newestRoot >= state.firstNumber) counts.addRoot(state.newestRoot);
  for (const [number, row] of table.rows) {
    const { live, liveBytes }: UnitCount = counts.of(number);
    row.live = live;
    row.liveBytes = liveBytes;
    if (row.live > 0) row.death = 0;
    // Not earlier than now: two more roots and every position up to here still hold it back.
    else if (row.death === 0) row.death = state.next - 1;
  }
  table.sum();
}
