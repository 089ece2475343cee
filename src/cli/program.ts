/** Build the commander program out of the command tree. Only descriptions are touched here; code loads when it runs. */
import { Argument, Command, type CommanderError, Option } from 'commander';
import { optionsOf } from './generic.ts';
import { type ArgumentSpec, type CommandSpec, Given, type OptionSpec } from './spec.ts';
import { globalOptions, nouns, rootExamples, singles } from './tree/index.ts';
import { parserOf } from './values.ts';

/** What was given to a command, its own options and the global ones. */
export interface Invocation {
  readonly spec: CommandSpec;
  readonly given: Given;
  readonly globals: Readonly<Record<string, unknown>>;
}
export type Execute = (invocation: Invocation) => Promise<void>;

/** `Examples:` and the lines, shown before everything else of a help text. */
const examplesText = (examples: readonly string[]): string =>
  `Examples:\n${examples.map((line) => `  ${line}\n`).join('')}`;

function option(spec: OptionSpec): Option {
  const made = new Option(spec.flags, spec.text);
  if (spec.choices !== undefined) made.choices(spec.choices);
  if (spec.kind !== undefined) made.argParser(parserOf(spec.kind));
  if (spec.required === true) made.makeOptionMandatory();
  return made;
}

function argument(spec: ArgumentSpec): Argument {
  const made = new Argument(spec.name, spec.text);
  return spec.choices === undefined ? made : made.choices(spec.choices);
}

const plainName = (name: string): string => name.replace(/[<>[\].]/g, '');

function addCommand(parent: Command, spec: CommandSpec, execute: Execute): void {
  const command = parent
    .command(spec.name, { hidden: spec.hidden === true })
    .summary(spec.summary)
    .description(spec.details === undefined ? spec.summary : `${spec.summary}\n\n${spec.details}`)
    .addHelpText('before', examplesText(spec.examples))
    .configureHelp({ showGlobalOptions: true });
  if (spec.passThrough === true) command.allowUnknownOption();
  for (const one of spec.arguments ?? []) command.addArgument(argument(one));
  for (const one of optionsOf(spec)) command.addOption(option(one));
  const names = (spec.arguments ?? []).map(({ name }) => plainName(name));
  command.action(async () => {
    const given = new Given(names, command.processedArgs, command.opts());
    await execute({ spec, given, globals: command.optsWithGlobals() });
  });
}

/** Errors of parsing are thrown as CommanderError, not printed; `error` gets the help that was not asked for. */
export function buildProgram(
  execute: Execute,
  write: { readonly out: (text: string) => void; readonly error: (text: string) => void },
): Command {
  const program = new Command('dvce')
    .description('virtual machines on log-structured volumes, without a storage array')
    .addHelpText('before', examplesText(rootExamples));
  // Settings are inherited by commands made after them.
  program.exitOverride((error: CommanderError) => {
    throw error;
  });
  program.configureOutput({
    writeOut: write.out,
    writeErr: write.error,
    outputError: () => {},
  });
  program.helpCommand(false);
  for (const one of globalOptions) program.addOption(option(one));
  for (const noun of nouns) {
    const parent = program
      .command(noun.name)
      .description(noun.summary)
      .helpCommand(false)
      .addHelpText(
        'before',
        examplesText(noun.commands.slice(0, 5).flatMap(({ examples }) => examples.slice(0, 1))),
      );
    for (const spec of noun.commands) addCommand(parent, spec, execute);
  }
  for (const spec of singles) addCommand(program, spec, execute);
  return program;
}
