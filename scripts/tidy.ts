/**
 * Style that a machine can see, as data: each rule looks at one file and says where it is broken. test/checks/tidy.test.ts
 * runs them over the project and over planted faults.
 *
 * An exception is a row with its reason, so that the next reader knows why the rule does not hold there; a row that no
 * longer excuses anything is an error too.
 */
import { codeOf, lineAt, type TextFile } from './text.ts';

export interface Finding {
  readonly rule: string;
  readonly path: string;
  readonly line: number;
  readonly detail: string;
}

interface Ban {
  readonly name: string;
  readonly pattern: RegExp;
  readonly instead: string;
  /** Files where it is allowed, with the reason. */
  readonly allowed: Readonly<Record<string, string>>;
}

const start = 'the entry of a process: wires the real world in';

/** What src/ must not do, because a simulation could not decide it or a user could not see it. */
export const bans: readonly Ban[] = [
  {
    name: 'Date.now',
    pattern: /\bDate\.now\s*\(|\bnew Date\(\s*\)/g,
    instead: 'use the injected Clock',
    allowed: { 'src/base/clock.ts': 'is the system clock' },
  },
  {
    name: 'performance.now',
    pattern: /\bperformance\.now\s*\(|\bprocess\.hrtime\b/g,
    instead: 'use the injected Clock',
    allowed: { 'src/base/clock.ts': 'is the system clock' },
  },
  {
    name: 'Math.random',
    pattern: /\bMath\.random\b/g,
    instead: 'use the injected Random',
    allowed: {},
  },
  {
    name: 'randomBytes',
    pattern: /\b(randomBytes|randomUUID|getRandomValues)\s*\(/g,
    instead: 'use the injected Random',
    allowed: { 'src/base/random.ts': 'is the system random source' },
  },
  {
    name: 'setTimeout',
    pattern: /(?<![.\w])(setTimeout|setInterval|setImmediate)\s*\(/g,
    instead: 'use the injected Timers',
    allowed: { 'src/base/clock.ts': 'is the system timers' },
  },
  {
    name: 'console',
    pattern: /\bconsole\.(log|error|warn|info|debug|trace|dir|table)\b/g,
    instead: 'use the injected Logger',
    allowed: {},
  },
  {
    name: 'process.env',
    pattern: /\bprocess\.env\b/g,
    instead: 'take a setting from the configuration',
    allowed: {
      'src/cli/main.ts': start,
      'src/agent/main.ts': start,
      'src/blockd/main.ts': start,
      'src/agent/log-file.ts': 'asks whether its output is the journal of systemd',
      'src/blockd/process-log.ts': 'asks whether its output is the journal of systemd',
    },
  },
  {
    name: 'exec',
    pattern: /\b(execSync|exec)\s*\(\s*['"`]|\bshell:\s*true/g,
    instead: 'spawn a program with an argument array',
    allowed: {},
  },
];

export const linesMax = 400;

/** Files of src/ that are longer than the limit, with the reason why they are one idea. */
export const longFiles: Readonly<Record<string, string>> = {
  'src/base/limits.ts': 'is one table',
  'src/base/errors.ts': 'is one table',
  'src/agent/schedules.ts':
    'a run from its due time to its record; to be parted when retention grows',
  'src/nbd/handshake.ts': 'is one state machine with a case for each option',
};

export const columnsMax = 140;

function find(file: TextFile, rule: string, pattern: RegExp, detail: string): Finding[] {
  return [...file.text.matchAll(pattern)].map((match) => ({
    rule,
    path: file.path,
    line: lineAt(file.text, match.index),
    detail: `${match[0].trim().slice(0, 60)}: ${detail}`,
  }));
}

export function bannedCalls(file: TextFile, used = new Set<string>()): Finding[] {
  if (!/^src\/.*\.ts$/.test(file.path)) return [];
  const code = { path: file.path, text: codeOf(file.text) };
  return bans.flatMap((ban) => {
    const found = find(code, `ban ${ban.name}`, ban.pattern, ban.instead);
    if (ban.allowed[file.path] === undefined) return found;
    if (found.length > 0) used.add(`${ban.name} ${file.path}`);
    return [];
  });
}

export function tooLong(file: TextFile): Finding[] {
  if (!/^src\/.*\.ts$/.test(file.path)) return [];
  const lines = file.text.split('\n').length - 1;
  const excused = longFiles[file.path] !== undefined;
  if (lines > linesMax === excused) return [];
  return [
    {
      rule: 'long file',
      path: file.path,
      line: lines,
      detail: excused
        ? 'is short enough now; take it out of the list'
        : `${lines} lines, at most ${linesMax}: is it two ideas?`,
    },
  ];
}

export function frontDoorHeader(file: TextFile): Finding[] {
  const door = /^src\/[^/]+\/(index|main)\.ts$/.test(file.path);
  if (!door || /^(#!.*\n)?\s*\/\*\*[\s\S]{40,}?\*\//.test(file.text)) return [];
  return [
    {
      rule: 'front door',
      path: file.path,
      line: 1,
      detail: 'open with a comment: purpose, invariants, shape',
    },
  ];
}

// Patterns are put together from parts so that this file does not find itself.
const hosts = ['npmjs', 'npmmirror', 'pypi', 'crates\\.io', 'deb\\.debian', 'proxy\\.golang'];
const machine = ['wo' + 'rk', 'fa' + 'rm', 'ho' + 'me/[a-z]+'];

const words: readonly { rule: string; pattern: RegExp; detail: string }[] = [
  {
    rule: 'machine path',
    pattern: new RegExp(`(?<![\\w.-])/(${machine.join('|')})/[\\w.-]+`, 'g'),
    detail: 'a path of one machine',
  },
  {
    rule: 'registry host',
    pattern: new RegExp(`\\b[\\w.-]*(${hosts.join('|')})\\.(org|com|net)\\b`, 'g'),
    detail: 'the project names no registry',
  },
  {
    rule: 'unfinished',
    pattern: new RegExp(`\\b(TO${'DO'}|FIX${'ME'}|XX${'X'}|HA${'CK'})\\b(?!')`, 'g'),
    detail: 'finish it, or say in a sentence what is missing',
  },
  {
    rule: 'word',
    pattern: new RegExp(
      `\\b(Clau${'de'}|Anthro${'pic'}|ChatG${'PT'}|Copi${'lot'}|LL${'M'}|AI[- ]assist\\w*|sub${'agent'}s?|as an A${'I'})\\b`,
      'gi',
    ),
    detail: 'the project speaks of itself alone',
  },
  {
    rule: 'only',
    pattern: /\b(t|test|it|describe)\.only\s*\(|\bonly: true/g,
    detail: 'a test that runs alone hides the others',
  },
  { rule: 'type hole', pattern: /@ts-(ignore|nocheck)\b/g, detail: 'say what the type is' },
];

/** Words that must not be anywhere. `TODO` and the like are TAP words in tests of the reader. */
export function forbiddenWords(file: TextFile): Finding[] {
  if (
    /^(package-lock\.json|LICENSE|scripts\/tidy\.ts|test\/checks\/tidy\.test\.ts)$/.test(file.path)
  )
    return [];
  const tap = /^(scripts\/test\/tap\.ts|test\/scripts\/)/.test(file.path);
  return words
    .filter(({ rule }) => !(tap && rule === 'unfinished'))
    .flatMap(({ rule, pattern, detail }) => find(file, rule, pattern, detail));
}

export function longLines(file: TextFile): Finding[] {
  if (!/^(src|test|scripts|bench)\/.*\.ts$/.test(file.path)) return [];
  return file.text.split('\n').flatMap((line, index) =>
    line.length <= columnsMax || /https?:\/\/|['"`]/.test(line)
      ? []
      : [
          {
            rule: 'long line',
            path: file.path,
            line: index + 1,
            detail: `${line.length} columns, at most ${columnsMax}`,
          },
        ],
  );
}

/** Keep a Changelog: a title, `Unreleased` first, then releases newest first with dates, known headings only. */
export function changelogShape(file: TextFile): Finding[] {
  if (file.path !== 'CHANGELOG.md') return [];
  const findings: Finding[] = [];
  const say = (line: number, detail: string): void => {
    findings.push({ rule: 'changelog', path: file.path, line, detail });
  };
  const lines = file.text.split('\n');
  if (lines[0] !== '# Changelog') say(1, 'the first line is `# Changelog`');
  const releases = lines.flatMap((text, index) =>
    text.startsWith('## ') ? [{ text, index }] : [],
  );
  if (releases[0]?.text !== '## [Unreleased]') say(1, 'the first section is `## [Unreleased]`');
  let before = '9999-99-99';
  for (const { text, index } of releases.slice(1)) {
    const date = /^## \[\d+\.\d+\.\d+\] - (\d{4}-\d{2}-\d{2})$/.exec(text)?.[1];
    if (date === undefined) say(index + 1, 'a release is `## [1.2.3] - 2026-01-31`');
    else if (date > before) say(index + 1, 'releases go newest first');
    before = date ?? before;
  }
  const headings = /^### (Added|Changed|Deprecated|Removed|Fixed|Security)$/;
  lines.forEach((text, index) => {
    if (text.startsWith('### ') && !headings.test(text)) say(index + 1, `unknown heading ${text}`);
  });
  return findings;
}

/** The lock must not say from where the packages came: it works with every registry. */
export function lockWithoutHosts(file: TextFile): Finding[] {
  if (file.path !== 'package-lock.json') return [];
  return find(
    file,
    'lock',
    /"resolved": "[^"]*"/g,
    'npm install with omit-lockfile-registry-resolved',
  );
}

export const rules = [
  bannedCalls,
  tooLong,
  frontDoorHeader,
  forbiddenWords,
  longLines,
  changelogShape,
  lockWithoutHosts,
] as const;
