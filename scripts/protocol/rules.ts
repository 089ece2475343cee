/**
 * The rules that keep the data, one line each, with the release part in which they are due. Code that keeps a rule cites its
 * id in a comment, the test that proves it cites it in its name; scripts/check-protocol.ts fails for a due rule that has
 * not both. docs/internals/protocol.md is generated from this table.
 */
export type Due = 'now' | 'cleaning' | 'cluster' | 'migration';

export interface Rule {
  readonly id: string;
  readonly due: Due;
  readonly text: string;
}

export interface RuleGroup {
  readonly title: string;
  readonly rules: readonly Rule[];
}

const rule = (id: string, due: Due, text: string): Rule => ({ id, due, text });

export const ruleGroups: readonly RuleGroup[] = [
  {
    title: 'Journal',
    rules: [
      rule(
        'J1',
        'now',
        'One order for appending, applying and acknowledging. What a crash leaves is a prefix of that order with every flushed request in it.',
      ),
      rule(
        'J2',
        'now',
        'Each open of the journal makes the incarnation one higher, on disk, before anything else; new records are numbered above every number seen in the journal, at a mirror or in a segment. No record id is given twice.',
      ),
      rule(
        'J3',
        'now',
        'Journal files are filled with zeros beforehand and used again. Every use has a fresh 128-bit salt that seeds the record checksums, and each record is seeded by the one before it; recovery follows that chain and never searches. Guest data that looks like a record is not one.',
      ),
      rule(
        'J4',
        'now',
        'A file of an earlier incarnation is only read: opening syncs it, copies its live tail to a new file, syncs that, and only then serves.',
      ),
      rule(
        'J5',
        'now',
        'A journal file whose write or sync failed is not used again and the sync is not repeated. What was not yet synced is still in memory and goes to another file or into the store before any flush succeeds; if neither works, flushes fail and the volume is read-only.',
      ),
      rule(
        'J6',
        'now',
        'A short write is continued until it is whole before it counts; padding is zeros, never old memory.',
      ),
      rule(
        'J7',
        'now',
        'Records carry the newest number known to be flushed. A journal that ends before a flushed number known elsewhere is stale and refused; so is a tail that does not begin right after what the segments cover.',
      ),
      rule(
        'J8',
        'now',
        'Journal space is a quota reserved at open: writers are slowed at three quarters, held at nine tenths, and nothing acknowledged is dropped to make room.',
      ),
      rule(
        'J9',
        'now',
        'A large trim is one range record, worked off in slices and remembered until a root covers it. TRIM leaves partly covered blocks alone, WRITE_ZEROES zeroes the covered part.',
      ),
    ],
  },
  {
    title: 'Store and segments',
    rules: [
      rule(
        'S1',
        'now',
        'A writer publishes only through its own scope, a directory with an unguessable name that is made once. Fencing renames the scope away, after which no publish through it succeeds, however late.',
      ),
      rule(
        'S2',
        'now',
        'A key is used once. Roots keep the next segment number, numbers above the newest durable root are not deleted, a deleted document leaves a tombstone version, old versions go oldest first, and a compare-and-swap counts as won only if the version it replaced is still there.',
      ),
      rule(
        'S3',
        'now',
        'Segments get their names one at a time in order, whatever order their bodies arrive in. Finding the own next number taken means: an own late publish that fits the chain is adopted, anything else stops the writer.',
      ),
      rule(
        'S4',
        'now',
        'A lost reply is settled by what the store holds, after a mutation. A store that went backwards compared with what was seen before is refused.',
      ),
      rule(
        'S5',
        'now',
        'Publishing reports confirmed copies; the journal is trimmed only when there are enough of them.',
      ),
      rule(
        'S6',
        'now',
        'A segment names its log, number, record range, predecessor checksum and a random nonce, and ends with an index and checksums for each MiB.',
      ),
      rule(
        'S7',
        'now',
        'A block pointer names segment, group, checksum and place in the group. A group has at most 64 KiB and is verified as a whole before any of it is used.',
      ),
      rule(
        'S8',
        'now',
        'Temporary files are swept only in fenced scopes and in older incarnations of the own scope; ages are judged by the clock of the store.',
      ),
      rule(
        'S9',
        'now',
        'A reserve keeps roots, trims and cleaning possible when the store is full. Dead segments go first, guest writes wait, reads go on.',
      ),
      rule(
        'S10',
        'now',
        'Unknown fields of a document survive its rewrite, 64-bit numbers are strings, and feature sets decide whether an older program may read or write.',
      ),
    ],
  },
  {
    title: 'Map, roots and recovery',
    rules: [
      rule(
        'L1',
        'now',
        'A root holds the map, the table of segment ranges, live counts, deferred deletes, the next number and what it covers of the journal. Every snapshot names a root.',
      ),
      rule(
        'L2',
        'now',
        'Recovery takes the newest good root, then segments in order as long as the chain fits, then the journal tail. What lies behind a gap is reported and left alone.',
      ),
      rule(
        'L3',
        'now',
        'A segment is deleted only after two durable roots that no longer need it, so that a bad newest root costs nothing.',
      ),
      rule(
        'L4',
        'now',
        'Applying the same record or segment twice changes nothing; recovery may be cut off anywhere and begun again.',
      ),
    ],
  },
  {
    title: 'Cleaning, snapshots and forks',
    rules: [
      rule(
        'G1',
        'now',
        'Moving a block takes effect, live and in recovery, only where the map still has the pointer from which it was moved.',
      ),
      rule(
        'G2',
        'now',
        'A segment may go when no snapshot or fork of its log was cut while it was alive; otherwise it is on the deferred list. Only the log that wrote a segment may delete it.',
      ),
      rule(
        'G3',
        'now',
        'A fork pins every log that it reads and then looks at the snapshot again; deleting marks the snapshot first and then looks for pins. A missing segment is an error, never zeros.',
      ),
      rule(
        'G4',
        'now',
        'Promoting and flattening swap the right to delete in steps that can each be repeated after a crash.',
      ),
      rule(
        'G5',
        'now',
        'A set of volumes is cut at one instant: all hold, all confirm, all mark; a hold that broke aborts the set, which becomes visible by one document.',
      ),
      rule(
        'G6',
        'now',
        'A volume shrinks only while detached and grows by its head first; neither makes old data readable again.',
      ),
    ],
  },
  {
    title: 'Names and processes',
    rules: [
      rule(
        'N1',
        'now',
        'An entry of a directory is found by the id of the directory; parent and name in the volume document decide, and an entry that disagrees is repaired.',
      ),
      rule(
        'N2',
        'now',
        'Deleting goes by a state of its own, a tombstone, waiting for pins, and only then removal. Half-made volumes are found by the intent that was written before them.',
      ),
      rule(
        'N3',
        'now',
        'One blockd for a data directory, by a lock for its life. Its durable table of open volumes is only ever resumed, if the head still agrees.',
      ),
      rule(
        'N4',
        'now',
        'A volume that keeps bringing blockd down becomes read-only, the others stay. An exception nobody expected ends the process.',
      ),
      rule(
        'N5',
        'now',
        'Work on the thread pool is capped for each disk, so that one hung disk does not stop the others; no name lookups in the data path; no pooled buffer is used again before its write is over.',
      ),
      rule(
        'N6',
        'now',
        'A request that is held is dropped when its connection has died; the look at the connection and the append happen in the same turn.',
      ),
      rule('N7', 'now', 'A store that cannot be read is no reason to delete or to stop anything.'),
    ],
  },
  {
    title: 'Resuming an open volume',
    rules: [
      rule('R1', 'now', 'Resume begins with a higher incarnation on disk.'),
      rule(
        'R2',
        'now',
        'A marker published through the own scope proves that it is not fenced; then the temporary files of older incarnations go.',
      ),
      rule(
        'R3',
        'now',
        'Only after that are the head and the list of segments read, and the head must still name this writer and epoch.',
      ),
      rule(
        'R4',
        'now',
        'The longest tail of all copies is taken, written to fresh files and synced.',
      ),
      rule(
        'R5',
        'now',
        'A copy that is missing or incomplete leaves by a change of the head; when none remains the tail is published first.',
      ),
      rule(
        'R6',
        'now',
        'Only then is anything read, written or acknowledged; while the store is away requests wait.',
      ),
    ],
  },
  {
    title: 'Mirrors and leases',
    rules: [
      rule('M1', 'cluster', 'A mirror answers after its own sync; a flush needs all members.'),
      rule('M2', 'cluster', 'A member that lost part of what it had synced is never a source.'),
      rule('M3', 'cluster', 'A fence is durable before it is answered.'),
      rule('M4', 'cluster', 'While members change, both the old and the new set must agree.'),
      rule('M5', 'cluster', 'The members grant the lease; only reads depend on it.'),
      rule('M6', 'cluster', 'Mirrors keep records as opaque bytes and refuse a gap.'),
    ],
  },
  {
    title: 'Takeover',
    rules: [
      rule('T1', 'now', 'The taker makes a scope of its own, with a new name for every attempt.'),
      rule(
        'T2',
        'now',
        'It then claims the head: next epoch, own scope, the earlier scope noted as pending. Any newer version voids the claim.',
      ),
      rule('T3', 'now', 'It fences the scope of every pending epoch.'),
      rule('T4', 'cluster', 'It fences the mirrors of the epoch that was active.'),
      rule('T5', 'cluster', 'With no complete copy the volume stays offline.'),
      rule('T6', 'cluster', 'It rolls forward from the newest good root.'),
      rule('T7', 'cluster', 'It copies the longest tail of the fenced members and syncs it.'),
      rule(
        'T8',
        'now',
        'It publishes a barrier at the next number, above which no segment of an earlier epoch is accepted.',
      ),
      rule('T9', 'cluster', 'It waits until no lease of an earlier writer can still run.'),
      rule('T10', 'now', 'It makes the head active and clears what was pending.'),
      rule('T11', 'cluster', 'It serves only under its own lease.'),
    ],
  },
  {
    title: 'Live migration and placement',
    rules: [
      ...Array.from({ length: 11 }, (_, index) =>
        rule(`V${index + 1}`, 'migration', 'A step of live migration.'),
      ),
      rule('P1', 'cluster', 'Nothing is written to the store periodically.'),
      rule('P2', 'cluster', 'A guest starts only after its run epoch was claimed.'),
      rule('P3', 'cluster', 'Self-fencing is a small process of its own.'),
      rule(
        'P4',
        'now',
        'The newest version of a document is found from a hint and checked by looking for the next.',
      ),
    ],
  },
];

export const allRules: readonly Rule[] = ruleGroups.flatMap((group) => group.rules);
