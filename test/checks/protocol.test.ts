/** The coverage check finds what is missing, and the page that lists the rules is current. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import t from 'tap';
import { bugs } from '../../scripts/protocol/bugs.ts';
import {
  citedRules,
  missingCitations,
  missingScenarios,
  protocolPage,
} from '../../scripts/protocol/coverage.ts';
import { allRules, ruleGroups } from '../../scripts/protocol/rules.ts';
import { scenarios } from '../../scripts/protocol/scenarios.ts';

const rules = [
  { id: 'J1', due: 'now', text: 'order' },
  { id: 'J2', due: 'now', text: 'incarnation' },
  { id: 'M1', due: 'cluster', text: 'mirror' },
] as const;
const faults = [{ id: 'B-01', applies: 'now', text: 'time stamps' }] as const;
const file = (path: string, text: string) => ({ path, text });

t.test('a due rule needs a comment in src and a test, a fault a test name', async (t) => {
  const missing = missingCitations(
    {
      source: [file('src/a.ts', "// keeps J1\nconst J2 = 'J2';")],
      tests: [file('test/a.test.ts', "// B-01\nt.test('J2 rises', f);")],
    },
    rules,
    faults,
  );
  t.same(
    missing.map((line) => line.split(' (')[0]),
    ['J1: no test cites it', 'J2: no comment in src/ cites it', 'B-01: no test has it in its name'],
  );
});

t.test('with all of them there nothing is missing', async (t) => {
  const sources = {
    source: [file('src/a.ts', '/** J1-J2: the order */')],
    tests: [file('test/a.test.ts', "t.test('J1 J2 B-01 and all', f);")],
  };
  t.same(missingCitations(sources, rules, faults), []);
});

t.test('a fault that is not in the table is reported', async (t) => {
  const sources = {
    source: [file('src/a.ts', '// J1 J2')],
    tests: [file('test/a.test.ts', "t.test('J1 J2 B-01 B-99', f);")],
  };
  t.match(missingCitations(sources, rules, faults), [/^B-99/]);
});

t.test('ranges cite each rule in them', async (t) => {
  t.same([...citedRules('R1 to R3 and S9-S10, not B-01')].sort(), ['R1', 'R2', 'R3', 'S10', 'S9']);
});

t.test('a scenario that is due must have fired', async (t) => {
  const due = scenarios.filter((scenario) => scenario.due === 'now');
  const all = Object.fromEntries(due.map(({ number }) => [number, 1]));
  t.same(missingScenarios(JSON.stringify({ scenarios: all }), scenarios), []);
  t.match(missingScenarios(JSON.stringify({ scenarios: { ...all, 9: 0 } }), scenarios), [
    /^scenario 9 did not fire/,
  ]);
  t.equal(missingScenarios('{"scenarios":{}}', scenarios).length, due.length);
  t.equal(missingScenarios('{}', scenarios).length, 1);
});

t.test('ids are unique and the page of the rules is current', async (t) => {
  const ids = [...allRules.map(({ id }) => id), ...bugs.map(({ id }) => id)];
  t.equal(new Set(ids).size, ids.length);
  const path = resolve(import.meta.dirname, '../../docs/internals/protocol.md');
  t.equal(readFileSync(path, 'utf8'), protocolPage(ruleGroups, bugs, scenarios));
});
