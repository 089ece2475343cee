/**
 * Faults of an earlier log-structured volume, each with the question that a test here has to answer. A test whose name has
 * the id answers it; scripts/check-protocol.ts fails for one that applies and has no such test.
 */
export interface Bug {
  readonly id: string;
  readonly applies: 'now' | 'later';
  /** What is asked; for `later` also why not yet. */
  readonly text: string;
}

const now = (id: string, text: string): Bug => ({ id, applies: 'now', text });
const later = (id: string, text: string): Bug => ({ id, applies: 'later', text });

export const bugs: readonly Bug[] = [
  // recovery and format
  now(
    'B-01',
    'Is the newest state found without looking at any time stamp, after many segments in one second and after a copy of the store?',
  ),
  now(
    'B-02',
    'Does a volume open, with every flushed write, when the last record is cut at any byte or damaged at any byte?',
  ),
  now('B-03', 'Do looking, listing and read-only opening change nothing in the store?'),
  now('B-04', 'Is the last write of a fresh volume there after a kill and after a clean close?'),
  now('B-05', 'Do writes of odd lengths at odd places and at the very end read back?'),
  now('B-06', 'Do two writes into one block both survive?'),
  now(
    'B-23',
    'Do blocks far out, up to the largest size offered, survive reopen, snapshot and clone?',
  ),
  now('B-25', 'Is one flipped bit anywhere found, and never handed out as data?'),
  now('B-29', 'Does a volume open after its store was moved and its path renamed?'),
  now('B-32', 'Can twenty thousand segments be listed, opened and checked in bounded memory?'),
  now('B-33', 'Do volumes with different settings in one process keep apart?'),
  now('B-42', 'Does every accepted geometry work, and is every other one refused with the range?'),
  now(
    'B-51',
    'Is a request larger than a segment or than the journal can take served or refused whole?',
  ),
  // durability and caches
  now('B-19', 'Does a flush, and a write with FUA, reach the disk before it is answered?'),
  now('B-20', 'Does one flush after a hundred scattered writes cost one sync?'),
  now(
    'B-21',
    'Do blocks that are rewritten while they are flushed, published and snapshotted read back?',
  ),
  now('B-22', 'Is what the store accepted there after a power loss?'),
  now(
    'B-24',
    'Does every failing call of disk or store lead to an error or to data that is there later, never to success and loss?',
  ),
  now(
    'B-31',
    'Does closing in the middle of anything leave no open file, no unhandled rejection and nothing lost?',
  ),
  now('B-34', 'Does an error of the store end one operation and not the process?'),
  now('B-50', 'Does an aligned write of whole blocks read nothing?'),
  now('B-52', 'Does a read beside writes see whole blocks of some order?'),
  // snapshots, clones, rollback
  now('B-07', 'Does a snapshot hold every write acknowledged before it, and none begun after it?'),
  now('B-08', 'Is a rollback still there after a close, and after a kill?'),
  now(
    'B-09',
    'Are the parents of the snapshot tree right after any order of snapshots, rollbacks, deletions and reopens?',
  ),
  now('B-26', 'Do clones of any depth verify after what they came from was deleted in any order?'),
  now(
    'B-27',
    'Does a clone of something unknown make nothing, and a clone that is cut off exist whole or not at all?',
  ),
  now(
    'B-28',
    'Do unknown, empty, too long and undecodable names get a proper error from every command?',
  ),
  now('B-30', 'Are strange names either kept as they are or refused with the rule?'),
  later(
    'B-46',
    'Is the state at an instant the newest one not after it? There is no opening by time yet.',
  ),
  now('B-47', 'Does opening a snapshot for reading change nothing in the store?'),
  // cleaning and space
  now('B-10', 'Do all snapshots verify after everything that is dead was removed?'),
  now('B-11', 'Does cleaning move blocks intact that are compressed, or partly so?'),
  now('B-12', 'Do incompressible, empty and lying compressed groups decode or fail properly?'),
  later(
    'B-13',
    'Is the fullest segment never cleaned before an emptier one? Blocks are not moved yet.',
  ),
  now(
    'B-14',
    'Does overwriting a volume many times keep its space bounded, and do TRIM and WRITE_ZEROES give space back?',
  ),
  now(
    'B-15',
    'Do store errors during the removal of segments lose nothing and leave nothing behind for ever?',
  ),
  now('B-16', 'Does deleting a snapshot in the middle free what only it held?'),
  now('B-17', 'Does a segment with the largest number of the smallest blocks keep its live half?'),
  later('B-43', 'Does cleaning go on after a pause? There is no pause yet.'),
  // writers, exports, tools
  now(
    'B-18',
    'Is a second writer refused or the first one fenced, and is no segment ever overwritten?',
  ),
  now('B-35', 'Is everything acknowledged there after every way a client can go away?'),
  now('B-36', 'Do stock clients connect, and is nothing outside of the exports reachable?'),
  now(
    'B-37',
    'Do two agents live on one host, and does a restart after a kill need no cleaning up by hand?',
  ),
  now('B-38', 'Does creating or attaching something that exists delete nothing?'),
  now(
    'B-39',
    'Is the deletion of a volume refused while it is open or protected, and reported when it does not exist?',
  ),
  now('B-40', 'Do the figures of a large sparse volume agree with independently computed ones?'),
  later(
    'B-41',
    'Can every setting be read back and proven to act? There is no command that shows the configuration yet.',
  ),
  now('B-44', 'Does every control method have the effect that its name says?'),
  now('B-45', 'Do two volumes of the same name in different folders share nothing?'),
  now('B-48', 'Does the front end report the size and pass on flushes?'),
  now(
    'B-49',
    'Does the allocated size follow what is used, and are exports of snapshots read-only?',
  ),
  // control plane
  later('E-01', 'Does the death of one node leave the others running? There is one node yet.'),
  later('E-02', 'Is a dead node never a candidate? There is one node yet.'),
  later('E-03', 'Do reservations sum up to what runs? There are none yet.'),
  later('E-04', 'Are minimum cpu, memory and storage admitted? There is no admission yet.'),
  later('E-05', 'Are display ports distinct? There are no displays yet.'),
  later('E-06', 'Are secrets random and never in clear? There are none yet.'),
  now(
    'E-07',
    'Did the end-to-end tests ask for every operation of the API, and did each one work?',
  ),
  now('E-08', 'Is long work an operation with progress?'),
  later('E-09', 'Does a cluster of three start? There is one node yet.'),
  now(
    'E-10',
    'Is a guest asked to stop first, and stopped hard after a deadline when it ignores that?',
  ),
];
