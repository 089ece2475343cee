/**
 * Hypervisor drivers: how a guest is started, watched and ended on this host.
 *
 * Invariants: a guest outlives the agent that started it; only the process that was started, by pid and start time, is ever
 * signalled; a guest never sees an I/O error of its disk, it waits; nothing here knows what runs inside of a guest.
 *
 *   driver.ts     `Hypervisor`, the interface            arguments.ts   VM -> command line (pure)
 *   qemu.ts       the driver                             accelerator.ts which accelerator really runs guests
 *   guest.ts      watch over one running guest           readiness.ts   when is it ready
 *   hot-plug.ts   devices of a running guest             guest-agent.ts what its agent is asked for
 *   qmp.ts        control protocol    lines.ts           processes.ts   pid and start time, spawn, kill
 *                                                        console-log.ts the log that is always kept
 */
export { cgroupAdvice, sharesRefused } from './cgroup.ts';
export * from './driver.ts';
export type { GuestInterface } from './guest-agent.ts';
export { findProgram } from './processes.ts';
export { createQemuDriver, type QemuDriverOptions } from './qemu.ts';
export { bridges, tapsRefused } from './taps.ts';
