/**
 * Crash a scenario at every one of its I/Os: before it, in the middle of it, after it; by power loss and by kill -9. After each
 * the host starts again and the check says what must hold.
 */
import type { CrashPlan } from './file-system.ts';
import { SimHost } from './world.ts';

export interface CrashScenario<State> {
  /** What is there before the first counted I/O. */
  prepare(host: SimHost): Promise<State>;
  /** Runs until it ends or the crash. Notes in `state` what was promised to its caller. */
  act(host: SimHost, state: State): Promise<void>;
  /** Runs on the host after the restart. Throws, or fails the test, when a promise is broken. */
  check(host: SimHost, state: State, how: string): Promise<void>;
}

export interface CrashCounts {
  /** I/Os of the scenario. */
  ios: number;
  crashes: number;
}

const moments: readonly CrashPlan['when'][] = ['before', 'during', 'after'];

/** @param rounds different ways for the disk to come out of each crash */
export async function crashEverywhere<State>(
  seed: number,
  rounds: number,
  scenario: CrashScenario<State>,
): Promise<CrashCounts> {
  let crashes = 0;
  for (let io = 1; ; io += 1) {
    for (let round = 0; round < rounds; round += 1)
      for (const when of moments)
        for (const ending of ['power loss', 'kill'] as const) {
          const how = `seed ${seed + round}: ${ending} ${when} I/O ${io}`;
          const didCrash = await crashOnce(seed + round, { io, when }, ending, scenario, how);
          if (!didCrash) return { ios: io - 1, crashes };
          crashes += 1;
        }
  }
}

/** @returns false when the scenario ended before the planned I/O */
async function crashOnce<State>(
  seed: number,
  plan: CrashPlan,
  ending: 'power loss' | 'kill',
  scenario: CrashScenario<State>,
  how: string,
): Promise<boolean> {
  const host = new SimHost(seed);
  const state = await host.scheduler.complete(scenario.prepare(host));
  host.crashAt(plan);
  let isDone = false;
  let failure: unknown;
  scenario.act(host, state).then(
    () => {
      isDone = true;
    },
    (error: unknown) => {
      isDone = true;
      failure = error;
    },
  );
  await host.scheduler.run(() => isDone || host.isDown);
  if (!host.isDown && failure !== undefined) throw failure;
  if (!host.isDown) {
    if (!isDone) throw new Error(`${how}: the scenario hangs`);
    return false;
  }
  if (ending === 'kill') host.restart();
  else host.reboot();
  await host.scheduler.complete(scenario.check(host, state, how));
  return true;
}
