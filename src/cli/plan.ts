/** What `--dry-run` prints, whether the command or the agent made the plan. */
import type { Plan } from '../api/index.ts';
import { DvceError } from '../base/errors.ts';
import type { Output } from './output.ts';

/** One step of a plan. */
export interface Step {
  readonly action: string;
  readonly object: string;
  readonly note: string;
}

export async function printPlan(output: Output, steps: readonly Step[]): Promise<void> {
  await output.list(steps, ({ object }) => object, [
    { title: 'action', value: ({ action }) => action },
    { title: 'object', value: ({ object }) => object },
    { title: 'note', value: ({ note }) => note },
  ]);
  output.note('Nothing was changed.');
}

/** The agent's answer to a change that was only asked about; as JSON it is the object as it came. */
export async function printAnswer(output: Output, answer: unknown): Promise<void> {
  const { dryRun, steps, warnings } = Object(answer) as Partial<Plan>;
  // An answer without a plan must not pass for one.
  if (dryRun !== true || !Array.isArray(steps))
    throw new DvceError('PROTOCOL', {
      peer: 'the agent',
      reason: 'it was asked what it would do and answered something else; look at the object',
    });
  if (output.json) output.object(answer);
  else await printPlan(output, (steps as Plan['steps']).map(stepOf));
  for (const warning of warnings ?? []) output.note(`warning: ${warning}`);
  if (output.json) output.note('Nothing was changed.');
}

function stepOf({ action, resource, detail }: Plan['steps'][number]): Step {
  const [, , plural = '', name = '', below = '', ...rest] = resource.split('/').map(decode);
  const object = plural === 'volumes' ? `/${name}` : name;
  if (below === 'snapshots')
    return { action: `${action} snapshot`, object: `${object}@${rest.join('/')}`, note: detail };
  const kind = plural === 'vms' ? 'VM' : plural.replace(/s$/, '');
  return { action: `${action} ${kind}`.trim(), object, note: detail };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // Not percent-encoded after all: shown as it is.
    return text;
  }
}
