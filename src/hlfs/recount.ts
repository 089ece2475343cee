/** Counting the segment table anew, for `volume check --repair`: the map is the truth, the table a sum of it. */
import type { LogWriter } from './log-writer.ts';

/** Make the segment table say what the map says. @throws when a page cannot be read; nothing is changed then */
export async function recount({ state, table, map }: LogWriter): Promise<void> {
  const live = new Map<number, number>();
  const count = (segment: number): void => {
    if (segment !== 0) live.set(segment, (live.get(segment) ?? 0) + 1);
  };
  await map.walk({
    page: (_level, _index, pointer) => {
      count(pointer[0]);
      return undefined;
    },
    leaf: (_first, words) => {
      for (let at = 0; at < words.length; at += 4) count(words[at] ?? 0);
    },
  });
  if (state.newestRoot >= state.firstNumber) count(state.newestRoot);
  for (const [number, row] of table.rows) {
    row.live = live.get(number) ?? 0;
    if (row.live > 0) row.death = 0;
    // Not earlier than now: two more roots and every position up to here still hold it back.
    else if (row.death === 0) row.death = state.next - 1;
  }
}
