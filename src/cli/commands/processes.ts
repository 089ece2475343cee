/** `dvce up`, `down`, `agent`, `blockd`. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as after } from 'node:timers/promises';
import type { Shutdown, Status } from '../../api/index.ts';
import { systemClock } from '../../base/clock.ts';
import { DvceError, exitCodes } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { formatDuration } from '../../base/units.ts';
import type { Context } from '../context.ts';
import { printPlan } from '../plan.ts';
import {
  become,
  doorOptions,
  type Started,
  socketOption,
  startAgent,
  stopRemains,
} from '../processes.ts';
import type { Run } from '../spec.ts';

const pollMs = 50;
/** A timer of its own, because the injected ones do not keep a process alive. */
const pause = (): Promise<void> => after(pollMs);

export const agent: Run = async (context, given) =>
  become(context, 'agent/main', [
    ...socketOption(context),
    ...doorOptions(given),
    '--',
    ...given.rest(),
  ]);
export const blockd: Run = async (context, given) => become(context, 'blockd/main', given.rest());

/** The status of the agent, or undefined when none answers. */
async function look(context: Context): Promise<Status | undefined> {
  try {
    return await context.api.status();
  } catch (error) {
    if (error instanceof DvceError && error.code === 'AGENT_UNAVAILABLE') return undefined;
    throw error;
  }
}

export const up: Run = async (context, given) => {
  const { output } = context;
  const running = await look(context);
  if (running !== undefined) {
    output.note('The agent runs already.');
    return say(context, running);
  }
  if (context.dryRun)
    return printPlan(output, [
      { action: 'start', object: 'agent', note: `on ${context.dataDirectory}` },
    ]);
  await checkSettings(context);
  const started = startAgent(context, doorOptions(given), given.rest());
  const timeoutMs = given.number('timeout') ?? limits.agentStartMs;
  const end = systemClock.monotonicMs() + timeoutMs;
  for (;;) {
    const status = await look(context);
    if (status !== undefined) return say(context, status);
    const how = started.ended();
    if (how !== undefined) throw failed(context, started, how);
    if (systemClock.monotonicMs() >= end)
      throw failed(context, started, `it did not answer within ${formatDuration(timeoutMs)}`);
    await pause();
  }
};

/** A mistake in the configuration is told here, whole, not as the reason of an agent that did not start. */
async function checkSettings({ environment, dataDirectory }: Context): Promise<void> {
  const { loadConfiguration } = await import('../../config/index.ts');
  const flags = { 'data.dir': { flag: '--data-dir', value: dataDirectory } };
  await loadConfiguration({ environment, flags });
}

function say({ output }: Context, status: Status): void {
  output.changed(
    status,
    `${status.pid}`,
    `The agent runs (process ${status.pid}) on ${status.dataDirectory}; health: ${status.health}.`,
  );
}

/** The log's last line says more than an exit code. */
function failed(context: Context, started: Started, how: string): DvceError {
  const lines = readFileSync(started.logPath, 'utf8').trimEnd().split('\n');
  const last = lines.findLast((line) => line.startsWith('error: '));
  return new DvceError('AGENT_UNAVAILABLE', {
    where: context.socketPath,
    reason: `${last === undefined ? how : last.slice('error: '.length)} (see ${started.logPath})`,
  });
}

export const down: Run = async (context, given) => {
  const { api, output } = context;
  const status = await look(context);
  const timeoutMs = given.number('timeout');
  const request = {
    ...(given.flag('force') ? { force: true } : {}),
    ...(given.flag('stopVms') ? { stopVms: true } : {}),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  };
  if (status === undefined) return stopWithoutAgent(context, request);
  await api.shutdown(request);
  const end = systemClock.monotonicMs() + limits.agentStopMs;
  while (alive(status.pid)) {
    if (systemClock.monotonicMs() >= end)
      throw new DvceError('TIMED_OUT', {
        what: `the end of the agent (process ${status.pid})`,
        ms: limits.agentStopMs,
      });
    await pause();
  }
  output.note('Agent and blockd have stopped.');
};

/** The agent may have been killed; blockd and guests then still run. */
async function stopWithoutAgent(context: Context, request: Shutdown): Promise<void> {
  const { output, dataDirectory } = context;
  if (!existsSync(join(dataDirectory, 'launcher.lock'))) return output.note('No agent runs.');
  if (context.dryRun)
    return printPlan(output, [{ action: 'stop', object: 'blockd', note: 'no agent runs' }]);
  const code = await stopRemains(context, request);
  context.setExitCode(code);
  if (code === exitCodes.ok) output.note('No agent runs; blockd has stopped.');
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    // ESRCH: it has ended. EPERM cannot be: its socket let us in.
    return false;
  }
}
