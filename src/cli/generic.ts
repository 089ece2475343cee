/** The options that a command gets because of what it does, not because its spec names them. */
import type { CommandKind, CommandSpec, OptionSpec } from './spec.ts';
import * as option from './tree/options.ts';

/** Verbs that only look; a verb that is not here changes something until its spec says otherwise. */
const looking = new Set(
  'list show get info tree diff log check dump wait status top console usage history map vnc catalogue preview'.split(
    ' ',
  ),
);

const long = (flags: string): string | undefined => /--(?:no-)?[a-z][a-z0-9-]*/.exec(flags)?.[0];

const has = (spec: CommandSpec, wanted: OptionSpec): boolean =>
  (spec.options ?? []).some(({ flags }) => long(flags) === long(wanted.flags));

export function kindOf(spec: CommandSpec): CommandKind {
  if (spec.kind !== undefined) return spec.kind;
  if (has(spec, option.noWait)) return 'operation';
  return looking.has(spec.name) ? 'read' : 'mutation';
}

const generic: Readonly<Record<CommandKind, readonly OptionSpec[]>> = {
  read: [],
  local: [],
  mutation: [option.dryRun],
  operation: [option.dryRun, option.noWait, option.timeout],
};

/** All options of a command but the global ones: its own, and those of its kind that it does not define itself. */
export function optionsOf(spec: CommandSpec): readonly OptionSpec[] {
  const more = generic[kindOf(spec)].filter((one) => !has(spec, one));
  return [...(spec.options ?? []), ...more];
}
