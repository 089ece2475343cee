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
const rate = (name: string, text: string): OptionSpec => ({
  flags: `--${name} <rate>`,
  text: `${text}; none: no limit`,
});
/** Limits of a volume's rate (rate-limits.ts). */
export const rateLimits: readonly OptionSpec[] = [
  rate('iops', 'requests a second, reads and writes together, e.g. 1000'),
  rate('read-iops', 'reads a second'),
  rate('write-iops', 'writes a second, trims and zeroing among them'),
  rate('bandwidth', 'bytes a second, read and written together, e.g. 100MiB'),
  rate('read-bandwidth', 'bytes read a second'),
  rate('write-bandwidth', 'bytes written a second'),
  {
    flags: '--burst <limit=rate/time>',
    text: 'a higher rate for a time after a rest, e.g. iops=5000/30s; may be repeated',
    kind: 'texts',
  },
];
export const compression: OptionSpec = {
  flags: '--compression <how>',
  text: 'how blocks are stored from now on; inherited by clones',
  choices: ['none', 'zstd'],
};
export const noLimits: OptionSpec = { flags: '--no-limits', text: 'take all limits away first' };
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
