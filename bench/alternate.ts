/** Rows of which both sides are measured in turns, in one run. */
import type { Row } from './report.ts';

export interface Settings {
  readonly rounds: number;
  readonly snapshots: number;
  readonly largeBytes: number;
  readonly randomBlocks: number;
  readonly seconds: number;
  readonly directory: string;
}

/** Values of one row, round by round. */
export interface Measured {
  readonly name: string;
  readonly unit: string;
  readonly peerName: string | null;
  readonly reach?: Row['reach'];
  readonly ours: number[];
  readonly peer: number[];
}

export const measured = (
  name: string,
  unit: string,
  peerName: string | null = null,
  reach?: Row['reach'],
): Measured => ({ name, unit, peerName, ours: [], peer: [], ...(reach ? { reach } : {}) });

/** Say it as soon as it is known: a run takes long. */
export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** Measure both sides of a ratio, in turns. */
export async function alternate(
  row: Measured,
  rounds: number,
  ours: () => Promise<number>,
  peer: () => Promise<number>,
): Promise<void> {
  const sides = [
    { values: row.ours, side: ours, name: row.name },
    { values: row.peer, side: peer, name: row.peerName ?? '' },
  ];
  for (let round = 1; round <= rounds; round += 1)
    for (const { values, side, name } of round % 2 === 1 ? sides : sides.toReversed()) {
      const value = await side();
      values.push(value);
      note(`round ${round} ${name}: ${value.toFixed(1)} ${row.unit}`);
    }
}
