/**
 * Who serves the disks of guests gets a processor before the guests do.
 *
 * Linux shares the processors among sessions first (sched(7), "The autogroup feature"), and every guest has a session of its
 * own: sixteen of them that boot would leave the process that serves their disks a seventeenth. A nice value does not help,
 * because it counts within a session only, and would be handed down to the guests; that of the session is not.
 *
 * Only the leader of a session asks: one that was started in a terminal leaves the session of its user as it is. Groups of
 * systemd take the place of sessions; its units have CPUWeight.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { systemCode } from './errors.ts';
import type { Logger } from './log.ts';

/** As a nice value: about nine times the share of a guest. */
const sessionNice = '-10';

/** @param procDirectory that of the process, below /proc */
export function comeBeforeGuests(logger: Logger, pid: number, procDirectory = '/proc/self'): void {
  try {
    const stat = readFileSync(`${procDirectory}/stat`, 'utf8');
    // The name in parentheses may hold anything; state, parent, group and session follow it.
    const session = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3];
    if (session === String(pid)) writeFileSync(`${procDirectory}/autogroup`, sessionNice);
  } catch (error) {
    // Not as root, or a kernel without it: the share of everybody else then.
    logger.debug({ code: systemCode(error) }, 'this session has no priority over those of guests');
  }
}
