/** What the agent may do to a guest that runs: the watch over it, its devices and its agent, behind one interface. */
import { DvceError, sleep } from '../base/index.ts';
import { displayOf } from './display.ts';
import type { RunningGuest } from './driver.ts';
import type { Guest } from './guest.ts';
import {
  growCpus,
  hardwareOf,
  type PlugWorld,
  plugCard,
  plugDisk,
  setMemory,
  unplugCard,
  unplugDisk,
} from './hot-plug.ts';

const pollMs = 50;

export const runningGuest = (guest: Guest, world: PlugWorld): RunningGuest => ({
  pause: () => guest.pause(),
  resume: () => guest.resume(),
  reset: () => guest.reset(),
  reboot: (deadlineMs, signal) => reboot(guest, world, deadlineMs, signal),
  hardware: () => hardwareOf(guest),
  setCpus: (count) => growCpus(guest, world, count),
  setMemory: (bytes) => setMemory(guest, world, bytes),
  attachDisk: (disk) => plugDisk(guest, world, disk),
  attachCard: (card) => plugCard(guest, world, card),
  detachDisk: (name) => unplugDisk(guest, world, { name }),
  detachCard: (name) => unplugCard(guest, world, { name }),
  display: () => displayOf(guest),
  agentAnswers: (deadlineMs) => guest.agent.ping(deadlineMs),
  interfaces: (deadlineMs) => guest.agent.interfaces(deadlineMs),
});

async function reboot(
  guest: Guest,
  { clock, timers, vm }: PlugWorld,
  deadlineMs: number,
  signal: AbortSignal,
): Promise<{ hard: boolean }> {
  const endMs = clock.monotonicMs() + deadlineMs;
  const before = guest.resets;
  if (deadlineMs > 0) await guest.askToReboot(deadlineMs);
  while (guest.resets === before) {
    signal.throwIfAborted();
    if (guest.observation.pid === null)
      throw new DvceError('VM_STATE', {
        name: vm.name,
        state: guest.observation.phase,
        reason: guest.observation.detail ?? 'it ended instead of restarting',
        advice: `Start it: dvce vm start ${vm.name}`,
      });
    if (clock.monotonicMs() >= endMs) {
      await guest.reset();
      return { hard: true };
    }
    await sleep(timers, pollMs, signal);
  }
  return { hard: false };
}
