/**
 * Run one command line: parse it, load the code of its command, tell errors, set the exit code. Loads commander, the
 * command tree and the API client; nothing else before the command is known, because a start takes at most 0.15 s.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommanderError } from 'commander';
import { ApiClient, Planned, type Remote } from '../api/index.ts';
import { type DvceError, exitCodes, systemCode, toDvceError } from '../base/errors.ts';
import { nearest } from '../base/nearest.ts';
import type { MakeContext } from './context.ts';
import { kindOf } from './generic.ts';
import { describeError, formats, Output, usageError } from './output.ts';
import { placeOf } from './place.ts';
import { buildProgram, type Invocation } from './program.ts';

const programRoot = fileURLToPath(new URL('../..', import.meta.url));

type Globals = Readonly<Record<string, unknown>>;

const texts = (value: unknown): readonly string[] => (Array.isArray(value) ? value : []);

/** How to write; what a format needs is loaded here, before the command runs. */
async function outputOf(globals: Globals): Promise<Output> {
  const format = formats.find((one) => one === globals['output']) ?? 'table';
  const columns = texts(globals['columns']);
  if (columns.length > 0 && ['json', 'yaml', 'name'].includes(format))
    throw usageError(
      `--columns with -o ${format}`,
      'only tables and CSV have columns',
      'Use -o table, wide or csv.',
    );
  return new Output(process.stdout, process.stderr, {
    format,
    headers: globals['headers'] !== false,
    quiet: globals['quiet'] === true,
    verbose: globals['verbose'] === true,
    color: globals['color'] !== false,
    columns,
    sort: texts(globals['sort']),
    filter: texts(globals['filter']),
    ...(format === 'yaml' ? { toYaml: (await import('yaml')).stringify } : {}),
  });
}

/** Another host's agent, when one is named; its file is read only then. */
async function remoteOf(
  given: unknown,
  environment: NodeJS.ProcessEnv,
): Promise<Remote | undefined> {
  if (given === undefined && (environment['DVCE_CONTEXT'] ?? '') === '') return undefined;
  return (await import('./contexts.ts')).contextOf(given, environment);
}

const contextMaker =
  (environment: NodeJS.ProcessEnv): MakeContext =>
  async (globals, dryRun = false, warn = true) => {
    const output = await outputOf(globals);
    const { dataDirectory, socketPath, problems } = await placeOf(globals['dataDir'], environment);
    if (warn) for (const { where, reason } of problems) output.note(`warning: ${where}: ${reason}`);
    // Commands that have nothing to do with an agent must work without the one that is named.
    const remote = warn ? await remoteOf(globals['context'], environment) : undefined;
    let api: ApiClient | undefined;
    return {
      dataDirectory,
      socketPath,
      get api() {
        api ??= new ApiClient(socketPath, {
          dryRun,
          remote,
          ...(globals['debug'] === true ? { trace: (line) => output.error(`debug: ${line}`) } : {}),
        });
        return api;
      },
      output,
      dryRun,
      input: process.stdin,
      environment,
      programRoot,
      setExitCode(code) {
        process.exitCode = code;
      },
    };
  };

/** Run a command; with `--dry-run` the first change that it asks for ends it with the agent's plan. */
async function execute(make: MakeContext, { spec, given, globals }: Invocation): Promise<void> {
  const context = await make(globals, given.flag('dryRun'), kindOf(spec) !== 'local');
  const run = await spec.run();
  try {
    await run(context, given);
  } catch (error) {
    if (!(error instanceof Planned)) throw error;
    const { printAnswer } = await import('./plan.ts');
    await printAnswer(context.output, error.plan);
  }
}

/** What commander found wrong, as an error of the table with the nearest word and the help to look at. */
function parseError(error: CommanderError, words: readonly string[]): DvceError {
  const [reason = '', ...rest] = error.message.replace(/^error: /, '').split('\n');
  const choice = /argument '(.*)' is invalid\. Allowed choices are (.*)\.$/.exec(reason);
  const meant =
    choice === null
      ? /\(Did you mean (.*)\?\)/.exec(rest.join(' '))?.[1]
      : nearest(choice[1] ?? '', (choice[2] ?? '').split(', '));
  const command = words.filter((word) => !word.startsWith('-')).slice(0, 2);
  const help = `See: dvce ${[...command.slice(0, depthOf(command)), '--help'].join(' ')}`;
  return usageError(
    'the command',
    reason,
    meant === undefined ? help : `Did you mean ${meant}? ${help}`,
    error,
  );
}

/** How many of the words name a command. */
function depthOf(words: readonly string[]): number {
  let at: ReturnType<typeof buildProgram> | undefined = buildProgram(async () => {}, {
    out: () => {},
    error: () => {},
  });
  let depth = 0;
  for (const word of words) {
    at = at.commands.find((command) => command.name() === word);
    if (at === undefined) break;
    depth += 1;
  }
  return depth;
}

function report(error: unknown, words: readonly string[]): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return exitCodes.ok;
    // `dvce` or `dvce volume` alone: the help was printed, and is what was missing.
    if (error.code === 'commander.help') return exitCodes.usage;
    return report(parseError(error, words), words);
  }
  const known = toDvceError(error);
  const color = process.stderr.isTTY && !words.includes('--no-color') ? process.stderr : undefined;
  process.stderr.write(`${describeError(known, color)}\n`);
  if (known.code === 'INTERNAL' && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  return known.exitCode;
}

function release(): string {
  const text = readFileSync(join(programRoot, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

export async function runCli(
  words: readonly string[],
  environment: NodeJS.ProcessEnv,
): Promise<void> {
  const makeContext = contextMaker(environment);
  // Whoever waits for something has a listener of its own, which knows what the interrupt means there.
  process.on('SIGINT', () => {
    if (process.listenerCount('SIGINT') === 1) process.exit(exitCodes.interrupted);
  });
  // A reader that went away (`dvce volume list | head -1`) is no failure.
  process.stdout.on('error', (error) => {
    if (systemCode(error) === 'EPIPE') process.exit(exitCodes.ok);
    throw error;
  });
  if (words[0] === '--version') {
    process.stdout.write(`${release()}\n`);
    return;
  }
  if (words[0] === '__complete') {
    const { complete } = await import('./complete.ts');
    await complete(words.slice(1), makeContext);
    return;
  }
  if (words[0] === 'man') {
    const { man } = await import('./man.ts');
    try {
      man(words.slice(1), release(), (text) => process.stdout.write(text));
    } catch (error) {
      process.exitCode = report(error, words);
    }
    return;
  }
  const program = buildProgram((invocation) => execute(makeContext, invocation), {
    out: (text) => process.stdout.write(text),
    error: (text) => process.stderr.write(text),
  });
  try {
    await program.parseAsync(words, { from: 'user' });
  } catch (error) {
    process.exitCode = report(error, words);
  }
}
