/**
 * Manual pages out of the command tree: `dvce(1)`, one page for each noun and one for each single command. `dvce man [TOPIC]`
 * prints one, `dvce man --out DIR` writes them all: the package does that when it is made.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { errorTable, exitCodes } from '../base/errors.ts';
import { nearest } from '../base/nearest.ts';
import { kindOf, optionsOf } from './generic.ts';
import type { CommandSpec, NounSpec, OptionSpec } from './spec.ts';
import { usageError } from './text.ts';
import { globalOptions, nouns, rootExamples, singles } from './tree/index.ts';

export interface ManualPage {
  /** `dvce-volume.1` */
  readonly file: string;
  readonly text: string;
}

/** Text in roff: nothing in it may be a request or an escape. */
const escaped = (text: string): string =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/gm, '\\&$1');
const bold = (text: string): string => `\\fB${escaped(text)}\\fR`;

const sentence = (text: string): string =>
  `${text[0]?.toUpperCase()}${text.slice(1)}${text.endsWith('.') ? '' : '.'}`;

const heading = (name: string, summary: string, release: string): string =>
  `.TH ${name.toUpperCase().replaceAll('-', '\\-')} 1 "" "dvce ${release}" "dvce manual"
.SH NAME
${escaped(name)} \\- ${escaped(summary)}
`;

function options(list: readonly OptionSpec[]): string {
  return list
    .map(({ flags, text, choices, required }) => {
      const notes = [
        ...(choices === undefined ? [] : [`one of ${choices.join(', ')}`]),
        ...(required === true ? ['required'] : []),
      ];
      return `.TP\n${bold(flags)}\n${escaped(sentence([text, ...notes].join('; ')))}\n`;
    })
    .join('');
}

const examples = (lines: readonly string[]): string =>
  lines.map((line) => `.PP\n.RS 4\n.nf\n${escaped(line)}\n.fi\n.RE\n`).join('');

const synopsis = (words: string, spec: CommandSpec): string => {
  const names = (spec.arguments ?? []).map(({ name }) => ` ${escaped(name)}`).join('');
  return `${bold(words)}${names} [\\fIoptions\\fR]`;
};

function commandText(words: string, spec: CommandSpec): string {
  const own = optionsOf(spec);
  const parts = (spec.arguments ?? []).map(
    ({ name, text, choices }) =>
      `.TP\n${bold(name)}\n${escaped(sentence(choices === undefined ? text : `${text}; one of ${choices.join(', ')}`))}\n`,
  );
  return [
    `.PP\n${escaped(sentence(spec.summary))}\n`,
    spec.details === undefined ? '' : `.PP\n${escaped(spec.details)}\n`,
    ...parts,
    options(own),
    kindOf(spec) === 'operation'
      ? `.PP\nIt is an operation: see ${bold('dvce-op')}(1) for what goes on after ${bold('--no-wait')}.\n`
      : '',
    `.PP\nExamples of ${bold(words)}:\n${examples(spec.examples)}`,
  ].join('');
}

const visible = (specs: readonly CommandSpec[]): readonly CommandSpec[] =>
  specs.filter(({ hidden }) => hidden !== true);

function nounPage(noun: NounSpec, release: string): ManualPage {
  const name = `dvce-${noun.name}`;
  const commands = visible(noun.commands);
  const lines = commands.map((spec) => synopsis(`dvce ${noun.name} ${spec.name}`, spec));
  const text = [
    heading(name, noun.summary, release),
    `.SH SYNOPSIS\n${lines.join('\n.br\n')}\n`,
    '.SH COMMANDS\n',
    ...commands.map((spec) => {
      const words = `dvce ${noun.name} ${spec.name}`;
      return `.SS ${escaped(words)}\n${commandText(words, spec)}`;
    }),
    ending(),
  ];
  return { file: `${name}.1`, text: text.join('') };
}

function singlePage(spec: CommandSpec, release: string): ManualPage {
  const name = `dvce-${spec.name}`;
  const words = `dvce ${spec.name}`;
  const text = [
    heading(name, spec.summary, release),
    `.SH SYNOPSIS\n${synopsis(words, spec)}\n`,
    `.SH DESCRIPTION\n${commandText(words, spec)}`,
    ending(),
  ];
  return { file: `${name}.1`, text: text.join('') };
}

const ending = (): string =>
  `.SH SEE ALSO\n${bold('dvce')}(1), which has the options of every command and the exit codes.\n`;

const meanings: Readonly<Record<keyof typeof exitCodes, string>> = {
  ok: 'it worked',
  failed: 'it failed',
  unhealthy: 'agent, blockd, store or a tool is missing or not well',
  exists: 'it exists already',
  noSpace: 'no space or quota left',
  notFound: 'it does not exist',
  conflict: 'it is in use, or was changed meanwhile',
  notAllowed: 'it is protected, read-only, forbidden or was not confirmed',
  placement: 'no host can take it',
  timedOut: 'the time was over; the operation goes on',
  usage: 'the command line, an argument or the configuration is not valid',
  interrupted: 'it was cancelled or interrupted',
};

function rootPage(release: string): ManualPage {
  const codes = Object.entries(exitCodes).map(([name, code]) => {
    const errors = Object.entries(errorTable).filter(([, { exit }]) => exit === name);
    const words = errors.map(([word]) => word).join(', ');
    const meaning = meanings[name as keyof typeof exitCodes];
    return `.TP\n${bold(String(code))}\n${escaped(sentence(meaning))}${words === '' ? '' : ` (${escaped(words)})`}\n`;
  });
  const names = [...nouns, ...visible(singles)].map(
    ({ name, summary }) => `.TP\n${bold(`dvce-${name}`)}(1)\n${escaped(sentence(summary))}\n`,
  );
  const text = [
    heading('dvce', 'virtual machines on log-structured volumes', release),
    `.SH SYNOPSIS\n${bold('dvce')} \\fInoun verb\\fR [\\fIarguments\\fR] [\\fIoptions\\fR]\n`,
    `.SH EXAMPLES\n${examples(rootExamples)}`,
    `.SH COMMANDS\n${names.join('')}`,
    `.SH OPTIONS OF EVERY COMMAND\n${options(globalOptions)}`,
    `.SH EXIT STATUS\n${codes.join('')}`,
    `.SH FILES\n.TP\n${bold('/etc/dvce/dvce.yaml')}, ${bold('/etc/dvce/conf.d/*.yaml')}\nConfiguration; see ${bold('dvce-config')}(1).\n`,
    `.SH ENVIRONMENT\n.TP\n${bold('DVCE_DATA_DIR')}\nDirectory of the agent.\n.TP\n${bold('DVCE_CONFIG')}\nAnother configuration file.\n.TP\n${bold('DVCE_SECTION_KEY')}\nA setting, for example ${bold('DVCE_VM_MEMORY')}.\n.TP\n${bold('NO_COLOR')}\nNo colours.\n`,
  ];
  return { file: 'dvce.1', text: text.join('') };
}

export function manualPages(release: string): readonly ManualPage[] {
  return [
    rootPage(release),
    ...nouns.map((noun) => nounPage(noun, release)),
    ...visible(singles).map((spec) => singlePage(spec, release)),
  ];
}

/** `dvce man`; a word of the program itself and not of its tree, which it describes. */
export function man(
  words: readonly string[],
  release: string,
  write: (text: string) => void,
): void {
  const pages = manualPages(release);
  const [first, directory] = words;
  if (first === '--out' && directory !== undefined) {
    mkdirSync(resolve(directory), { recursive: true });
    for (const page of pages) writeFileSync(join(resolve(directory), page.file), page.text);
    return;
  }
  const name = first === undefined ? 'dvce.1' : `dvce-${first}.1`;
  const page = pages.find(({ file }) => file === name);
  if (page !== undefined) {
    write(page.text);
    return;
  }
  const topics = pages.map(({ file }) => file.slice('dvce-'.length, -2));
  const meant = nearest(first ?? '', topics);
  throw usageError(
    `the topic ${JSON.stringify(first)}`,
    'it has no page',
    meant === undefined ? 'See: dvce --help' : `Did you mean ${meant}?`,
  );
}
