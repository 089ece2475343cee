/** Tap devices: the host's end of a card that is a port of a bridge. */
import { createHash } from 'node:crypto';

/**
 * Name of the tap device of a card. It follows from the VM and the card, so nothing records it, and after a restart of the
 * agent it is found again by its name. A name of an interface has at most 15 characters.
 */
export function tapName(vmId: string, nic: string): string {
  return `dv${createHash('sha256').update(`${vmId}/${nic}`).digest('hex').slice(0, 12)}`;
}
