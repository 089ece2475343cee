/** Nothing is destroyed by a slip: the name is typed again, or `--yes` is given. */
import { Planned } from '../api/index.ts';
import { DvceError, systemCode } from '../base/errors.ts';
import type { Context } from './context.ts';
import type { Step } from './plan.ts';
import type { Given } from './spec.ts';

export type { Step } from './plan.ts';

/** Ask for `name` on the terminal unless `--yes` was given; anything else refuses. */
export async function confirm(
  context: Context,
  given: Given,
  what: string,
  name: string,
): Promise<void> {
  // What changes nothing needs no confirmation.
  if (given.flag('yes') || context.dryRun) return;
  if (context.input.isTTY !== true)
    throw new DvceError('NOT_ALLOWED', {
      what,
      reason: 'it was not confirmed and standard input is no terminal',
      advice: 'Repeat it with --yes.',
    });
  const { createInterface } = await import('node:readline/promises');
  const lines = createInterface({ input: context.input, output: process.stderr });
  try {
    const typed = await lines.question(`This is ${what}. Type ${name} to go on: `);
    if (typed.trim() === name) return;
  } catch (error) {
    // Ctrl-D or Ctrl-C at the question is a "no".
    if (systemCode(error) !== 'ABORT_ERR') throw error;
  } finally {
    lines.close();
  }
  throw new DvceError('NOT_ALLOWED', {
    what,
    reason: 'it was not confirmed',
    advice: `Type ${name}, or repeat it with --yes.`,
  });
}

/**
 * Print what would happen; true when this was all that was asked for. `change` then only asks the agent, whose refusal is that of
 * the change itself, with its exit code: whoever looks first must not be told that it will work.
 */
export async function dryRun(
  context: Context,
  given: Given,
  plan: () => Promise<readonly Step[]>,
  change: () => Promise<unknown>,
): Promise<boolean> {
  if (!given.flag('dryRun')) return false;
  const { printPlan } = await import('./plan.ts');
  await printPlan(context.output, await plan());
  try {
    await change();
  } catch (error) {
    if (!(error instanceof Planned)) throw error;
  }
  return true;
}

/** Run `task`; with `--if-exists` an object that is not there is no failure. Answers whether it was there. */
export async function unlessMissing(
  context: Context,
  given: Given,
  task: () => Promise<void>,
): Promise<boolean> {
  try {
    await task();
    return true;
  } catch (error) {
    if (!(given.flag('ifExists') && error instanceof DvceError && error.code === 'NOT_FOUND'))
      throw error;
    context.output.note(`${error.message}; nothing to do.`);
    return false;
  }
}

/** Make something; with `--if-not-exists` one that is there already is fetched instead. */
export async function unlessExists<T>(
  context: Context,
  given: Given,
  make: () => Promise<T>,
  fetch: () => Promise<T>,
): Promise<T> {
  try {
    return await make();
  } catch (error) {
    if (
      !(given.flag('ifNotExists') && error instanceof DvceError && error.code === 'ALREADY_EXISTS')
    )
      throw error;
    context.output.note(`${error.message}; left as it is.`);
    return fetch();
  }
}
