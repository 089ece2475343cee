/**
 * Entry of the command line: the real arguments and environment come in here.
 *
 * Invariants of the whole folder: standard output carries data only; exit codes come from the error table; a command
 * reaches the host through the API alone (but for starting the agent). A start takes at most 0.15 s: what a command does not
 * need is not loaded (run.ts, tree/), and bin/dvce has the compiled code kept.
 */
import { runCli } from './run.ts';

await runCli(process.argv.slice(2), process.env);
