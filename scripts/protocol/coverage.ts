/** Where rules and old faults are cited, what the simulation reported, and the page that lists them all. */
import type { TextFile } from '../text.ts';
import type { Bug } from './bugs.ts';
import type { Rule, RuleGroup } from './rules.ts';
import type { Scenario } from './scenarios.ts';

export interface Sources {
  readonly source: readonly TextFile[];
  readonly tests: readonly TextFile[];
}

/** Comments of TypeScript, joined. A `//` inside of a string is not told apart; a citation there does no harm. */
export function commentsOf(text: string): string {
  return [...text.matchAll(/\/\*[\s\S]*?\*\/|\/\/[^\n]*/g)].map(([comment]) => comment).join('\n');
}

/** Ids cited in a text: `J3`, and each of a range: `S1-S4`, `R1 to R6`. */
export function citedRules(text: string): Set<string> {
  const cited = new Set<string>();
  for (const [id] of text.matchAll(/\b[JSLGNRMTVP]\d{1,2}\b/g)) cited.add(id);
  for (const [, letter, first, other, last] of text.matchAll(
    /\b([JSLGNRMTVP])(\d{1,2})(?:-| to )([JSLGNRMTVP])(\d{1,2})\b/g,
  ))
    if (letter === other)
      for (let number = Number(first); number <= Number(last); number += 1)
        cited.add(`${letter}${number}`);
  return cited;
}

/** Names of tests: the first argument of `test(`, `it(`, `skip(` and the like, and those in tables of names. */
export function testTitles(text: string): string {
  const code = text.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/[^\n]*/gm, '');
  return [...code.matchAll(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\[\s\S])*`/g)]
    .map(([literal]) => literal)
    .join('\n');
}

const union = (sets: readonly Set<string>[]): Set<string> =>
  new Set(sets.flatMap((set) => [...set]));

/** @returns a line for each citation that is missing */
export function missingCitations(
  { source, tests }: Sources,
  rules: readonly Rule[],
  bugs: readonly Bug[],
): string[] {
  const inSource = union(source.map(({ text }) => citedRules(commentsOf(text))));
  const inTests = union(tests.map(({ text }) => citedRules(text)));
  const titles = tests.map(({ text }) => testTitles(text)).join('\n');
  const missing: string[] = [];
  for (const { id, text } of rules.filter((rule) => rule.due === 'now')) {
    const where: string[] = [];
    if (!inSource.has(id)) where.push('no comment in src/');
    if (!inTests.has(id)) where.push('no test');
    if (where.length > 0) missing.push(`${id}: ${where.join(' and ')} cites it (${text})`);
  }
  for (const { id, text } of bugs.filter((bug) => bug.applies === 'now'))
    if (!new RegExp(`\\b${id}\\b`).test(titles))
      missing.push(`${id}: no test has it in its name (${text})`);
  const known = new Set([...rules.map(({ id }) => id), ...bugs.map(({ id }) => id)]);
  for (const [id] of titles.matchAll(/\b[BE]-\d\d\b/g))
    if (!known.has(id)) missing.push(`${id}: cited by a test, but not in the table`);
  return missing;
}

/** @param report JSON with `scenarios`: number of the scenario -> how often it fired */
export function missingScenarios(report: string, scenarios: readonly Scenario[]): string[] {
  const parsed = JSON.parse(report) as { scenarios?: Readonly<Record<string, unknown>> };
  const fired = parsed.scenarios;
  if (fired === undefined) return ['the report has no `scenarios`'];
  return scenarios
    .filter(({ due, number }) => due === 'now' && !(Number(fired[String(number)]) > 0))
    .map(({ number, text }) => `scenario ${number} did not fire: ${text}`);
}

/** docs/internals/protocol.md */
export function protocolPage(
  groups: readonly RuleGroup[],
  bugs: readonly Bug[],
  scenarios: readonly Scenario[],
): string {
  const lines = [
    '# The rules that keep the data',
    '',
    'Generated from `scripts/protocol/` by `node scripts/check-protocol.ts docs`; do not edit.',
    '',
    'Code that keeps a rule cites its id in a comment, and a test that proves it cites it too. The test command fails',
    'when that is not so for a rule that is due, when a fault below that applies has no test named after it, and when',
    'a scenario that is due did not happen in the simulation.',
    '',
  ];
  for (const { title, rules } of groups) {
    lines.push(`## ${title}`, '', '| id | due | rule |', '|---|---|---|');
    for (const { id, due, text } of rules) lines.push(`| ${id} | ${due} | ${text} |`);
    lines.push('');
  }
  lines.push('## Old faults', '', '| id | applies | question |', '|---|---|---|');
  for (const { id, applies, text } of bugs) lines.push(`| ${id} | ${applies} | ${text} |`);
  lines.push(
    '',
    '## Scenarios of the simulation',
    '',
    '| number | due | what happens |',
    '|---|---|---|',
  );
  for (const { number, due, text } of scenarios) lines.push(`| ${number} | ${due} | ${text} |`);
  return `${lines.join('\n')}\n`;
}
