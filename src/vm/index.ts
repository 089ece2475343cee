/**
 * Hypervisor drivers: how a guest is started, watched and ended on this host.
 *
 * Invariants: a guest outlives the agent that started it; only the process that was started, by pid and start time, is ever
 * signalled; a guest never sees an I/O error of its disk, it waits; nothing here knows what runs inside of a guest.
 *
 *   driver.ts     `Hypervisor`, the interface            arguments.ts   VM -> command line (pure)
 *   qemu.ts       the driver                             accelerator.ts which accelerator really runs guests
 *   guest.ts      watch over one running guest           readiness.ts   when is it ready
 *   qmp.ts        control protocol    lines.ts           processes.ts   pid and start time, spawn, kill
 *                                                        console-log.ts the log that is always kept
 */
export * from './driver.ts';
export { createQemuDriver, type QemuDriverOptions } from './qemu.ts';
