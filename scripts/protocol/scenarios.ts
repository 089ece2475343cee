/**
 * What can go wrong together. The simulation runs these with the shipped code and counts how often each of them fired;
 * scripts/check-protocol.ts fails when one that is due did not.
 */
export interface Scenario {
  readonly number: number;
  readonly due: 'now' | 'cluster';
  readonly text: string;
}

const now = (number: number, text: string): Scenario => ({ number, due: 'now', text });
const later = (number: number, text: string): Scenario => ({ number, due: 'cluster', text });

export const scenarios: readonly Scenario[] = [
  later(1, 'A taker dies after each of its steps and another one takes over.'),
  now(2, 'A publish or a head version arrives late, after its place was passed or pruned.'),
  now(
    3,
    'Power fails while segments are ahead of the journal on disk; new writes; it fails again.',
  ),
  now(
    4,
    'A block is overwritten while an old copy of it is about to be given up; a crash before the root.',
  ),
  later(5, 'An old writer comes back with its volumes open elsewhere.'),
  later(6, 'Mirrors with lost tails, wiped disks, lost fences, full disks and stalls.'),
  later(7, 'A change of the mirrors against a takeover, in every interleaving.'),
  now(
    8,
    'A sync fails once and then works; a crash before anyone saw it; a write that is cut short.',
  ),
  now(
    9,
    'Any subset of unsynced pages is lost from used journal files; the guest writes what looks like records.',
  ),
  now(
    10,
    'Rollback, writes, deletion of the snapshot, and a crash with old tails; shrink and grow.',
  ),
  now(
    11,
    'Cloning against deletion of the snapshot, flattening, and deletion of the clone in the middle.',
  ),
  later(12, 'The store is away for half an hour.'),
  now(13, 'Replies of the store are lost, for uploads and for renames.'),
  later(14, 'Every process dies at every step of a migration.'),
  now(
    15,
    'The store is full, the journal is at its quota, trims storm in, the event loop stalls, and the coordinator of a snapshot set dies while volumes are held.',
  ),
  now(
    16,
    'Held writes of a connection that is lost, while the client sends them again on a new one.',
  ),
  later(17, 'Two takers in a row, with the first one arriving late.'),
  later(18, 'A change of the mirrors succeeds but its reply is lost.'),
  later(19, 'A mirror holds more than the disk of its writer.'),
  later(20, 'A taker dies with its adopted tail unpublished.'),
  later(21, 'A late claim lands on a pruned head version.'),
];
