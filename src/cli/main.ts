/**
 * Entry of the command line. Everything real comes in here: arguments, environment, the cache of compiled code, which
 * halves the time to load a program that runs from its sources.
 *
 * Invariants of the whole folder: standard output carries data only; exit codes come from the error table; a command
 * reaches the host through the API alone (but for starting the agent).
 */
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

const cache = process.env['XDG_CACHE_HOME'];
// Not the shared temporary directory: compiled code in a place that others may write would be run here.
enableCompileCache(
  join(cache === undefined || cache === '' ? join(homedir(), '.cache') : cache, 'dvce/compiled'),
);
const { runCli } = await import('./run.ts');
await runCli(process.argv.slice(2), process.env);
