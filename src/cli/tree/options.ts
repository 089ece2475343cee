/** Options that several commands share, word for word. */
import type { OptionSpec } from '../spec.ts';

export const label: OptionSpec = {
  flags: '-l, --label <key=value>',
  text: 'a label; may be repeated',
  kind: 'labels',
};
export const yes: OptionSpec = { flags: '-y, --yes', text: 'do not ask for confirmation' };
export const dryRun: OptionSpec = {
  flags: '--dry-run',
  text: 'say what would happen and change nothing',
};
export const ifExists: OptionSpec = {
  flags: '--if-exists',
  text: 'succeed when it does not exist',
};
export const ifNotExists: OptionSpec = {
  flags: '--if-not-exists',
  text: 'succeed when it exists already, and leave that one as it is',
};
export const protect: OptionSpec = { flags: '--protect', text: 'refuse to delete it' };
export const noProtect: OptionSpec = { flags: '--no-protect', text: 'allow to delete it' };
export const noWait: OptionSpec = {
  flags: '--no-wait',
  text: 'do not wait: print the id of the operation',
};
export const timeout: OptionSpec = {
  flags: '--timeout <duration>',
  text: 'wait at most this long, e.g. 5m; the operation goes on',
  kind: 'duration',
};
