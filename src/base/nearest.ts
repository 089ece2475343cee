/** The known word that a mistyped one was probably meant to be. */

/** Edits (insert, delete, replace, swap of neighbours) that make `b` out of `a`. */
function distance(a: string, b: string): number {
  const rows: number[][] = [];
  const at = (i: number, j: number): number => rows[i]?.[j] ?? i + j;
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    rows[i] = row;
    for (let j = 1; j <= b.length; j += 1) {
      const edit = at(i - 1, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      const swap = swapped ? at(i - 2, j - 2) + 1 : edit;
      row.push(Math.min(at(i - 1, j) + 1, at(i, j - 1) + 1, edit, swap));
    }
  }
  return at(a.length, b.length);
}

/** Longer words are no typing error of anything; comparing them would only cost time. */
const charactersMax = 64;

/** undefined when no word is near enough to be worth naming. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  if (word.length > charactersMax) return undefined;
  const typed = word.toLowerCase();
  let best: string | undefined;
  let least = Math.max(1, Math.floor(typed.length * 0.4)) + 1;
  for (const candidate of known) {
    const lower = candidate.toLowerCase();
    const edits = lower.startsWith(typed) && typed.length > 1 ? 1 : distance(typed, lower);
    if (edits < least) {
      best = candidate;
      least = edits;
    }
  }
  return best;
}
