/**
 * Are the rules that are due kept by code and proven by a test, the old faults tested, the scenarios fired?
 *
 *   node scripts/check-protocol.ts rules [--root DIRECTORY]
 *   node scripts/check-protocol.ts scenarios --report FILE    FILE as the simulation writes it: {"scenarios":{"2":17,...}}
 *   node scripts/check-protocol.ts docs [--check]             writes docs/internals/protocol.md, or compares it
 *
 * Exit status 0, or 1 with a line for each thing that is missing.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { bugs } from './protocol/bugs.ts';
import {
  missingCitations,
  missingScenarios,
  protocolPage,
  type Sources,
} from './protocol/coverage.ts';
import { allRules, ruleGroups } from './protocol/rules.ts';
import { scenarios } from './protocol/scenarios.ts';
import { projectFiles, readTexts } from './text.ts';

const pagePath = 'docs/internals/protocol.md';

function sourcesOf(root: string): Sources {
  const paths = projectFiles(root);
  return {
    source: readTexts(
      root,
      paths.filter((path) => /^src\/.*\.ts$/.test(path)),
    ),
    tests: readTexts(
      root,
      paths.filter((path) => /^test\/(?!checks|scripts).*\.ts$/.test(path)),
    ),
  };
}

function finish(what: string, total: number, missing: readonly string[]): void {
  for (const line of missing) process.stdout.write(`${line}\n`);
  process.stdout.write(`${what}: ${total} due, ${missing.length} missing\n`);
  if (missing.length > 0) process.exitCode = 1;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    root: { type: 'string', default: resolve(import.meta.dirname, '..') },
    report: { type: 'string' },
    check: { type: 'boolean', default: false },
  },
});

switch (positionals[0]) {
  case 'rules': {
    const due = allRules.filter((rule) => rule.due === 'now').length;
    const applying = bugs.filter((bug) => bug.applies === 'now').length;
    finish(
      'rules and bugs',
      due + applying,
      missingCitations(sourcesOf(values.root), allRules, bugs),
    );
    break;
  }
  case 'scenarios': {
    if (values.report === undefined) throw new Error('scenarios needs --report FILE');
    const due = scenarios.filter((scenario) => scenario.due === 'now');
    finish(
      'scenarios',
      due.length,
      missingScenarios(readFileSync(values.report, 'utf8'), scenarios),
    );
    break;
  }
  case 'docs': {
    const path = resolve(values.root, pagePath);
    const page = protocolPage(ruleGroups, bugs, scenarios);
    if (!values.check) writeFileSync(path, page);
    else if (readFileSync(path, 'utf8') !== page)
      finish('pages', 1, [`${pagePath} is not current; run: node scripts/check-protocol.ts docs`]);
    break;
  }
  default:
    process.stderr.write(
      'usage: check-protocol.ts rules | scenarios --report FILE | docs [--check]\n',
    );
    process.exitCode = 64;
}
