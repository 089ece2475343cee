/**
 * Which versions of the control protocol understand each other: each side speaks its own and the one before.
 * The client names its own; the server answers with the version that both will use, or refuses.
 */
import { DvceError } from '../base/index.ts';

/** @returns the version for this connection. Throws UNSUPPORTED. */
export function negotiateVersion(own: number, other: number, peer: string): number {
  // A newer peer by more than one may still come down to ours; only it can know, so it decides from our answer.
  if (other >= own - 1 && other >= 1) return Math.min(own, other);
  throw new DvceError('UNSUPPORTED', {
    what: `version ${other} of the control protocol`,
    reason: `${peer} speaks ${own}${own > 1 ? ` and ${own - 1}` : ''}`,
    advice: 'Update the agent and blockd to releases that fit.',
  });
}

/** The client's check of the server's choice. */
export function acceptVersion(own: number, chosen: number, peer: string): number {
  if (chosen <= own && chosen >= own - 1 && chosen >= 1) return chosen;
  throw new DvceError('UNSUPPORTED', {
    what: `version ${chosen} of the control protocol`,
    reason: `this program speaks ${own}${own > 1 ? ` and ${own - 1}` : ''}, ${peer} chose another`,
    advice: 'Update the agent and blockd to releases that fit.',
  });
}
