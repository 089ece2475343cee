/** What is wrong with this host, one cause at a time. */
import Type, { type Static } from 'typebox';
import { timestamp, word } from './common.ts';

/** Every cause that there is, with what to do about it. docs/operations/health.md explains them; a test compares. */
export const causeTable = {
  BLOCKD_DOWN: {
    severity: 'critical',
    advice:
      'It is started again by itself. When it stays so: dvce doctor, and log/blockd.log and log/launcher.log in the data directory.',
  },
  BLOCKD_RESTARTING: {
    severity: 'critical',
    advice: 'See why it ends: log/blockd.log in the data directory; then: dvce support-bundle',
  },
  STORE_NEARLY_FULL: {
    severity: 'warning',
    advice: 'Delete snapshots and volumes that are not needed, or enlarge the disk.',
  },
  STORE_FULL: {
    severity: 'critical',
    advice:
      'Guests that write are held. Delete snapshots and volumes that are not needed, or enlarge the disk.',
  },
  STORE_UNAVAILABLE: {
    severity: 'critical',
    advice: 'Check the store and its disk. Writing goes on by itself when it is back.',
  },
  VOLUME_READ_ONLY: {
    severity: 'critical',
    advice: 'See the reason with: dvce volume show; check it with: dvce volume check',
  },
  VOLUME_DAMAGED: {
    severity: 'critical',
    advice: 'See which bytes with: dvce volume check; docs/operations/integrity.md says what then.',
  },
  VOLUME_UNOPENED: {
    severity: 'critical',
    advice: 'The guest waits for this disk. Opening is tried again; see: dvce volume check',
  },
  JOURNAL_FAILING: {
    severity: 'warning',
    advice: 'The disk of the data directory gives errors: see the kernel log, and replace it.',
  },
  FLUSH_LAG_HIGH: {
    severity: 'warning',
    advice: 'Writes reach the store too slowly: see the load and the free space of the store.',
  },
  VM_CRASHED: {
    severity: 'warning',
    advice: 'See dvce vm log, then start or stop it.',
  },
  VM_HELD: {
    severity: 'critical',
    advice:
      'It crashed too often and is not started again by itself. See dvce vm log, then start it.',
  },
  VM_IO_ERROR: {
    severity: 'critical',
    advice:
      'The guest is stopped at an I/O error of its disk and goes on by itself. See dvce volume show',
  },
  VM_UNREADABLE: {
    severity: 'critical',
    advice: 'Nothing is done with it until its document is readable. Bring it back from a copy.',
  },
  DOCUMENT_DAMAGED: {
    severity: 'critical',
    advice: 'Bring the document back from a copy of the store.',
  },
  HYPERVISOR_MISSING: {
    severity: 'critical',
    advice: 'Install it: apt-get install --no-install-recommends qemu-system-x86',
  },
  CLOCK_JUMPED: {
    severity: 'warning',
    advice:
      'Let a time service (chrony, systemd-timesyncd) keep the clock. Times of records around it are not in order.',
  },
  CERTIFICATE_EXPIRING: {
    severity: 'warning',
    advice: 'Renew the certificate, then restart the agent.',
  },
  CERTIFICATE_EXPIRED: {
    severity: 'critical',
    advice: 'Clients refuse it. Renew the certificate, then restart the agent.',
  },
  OVERCOMMITTED: {
    severity: 'notice',
    advice: 'Watch the free space, or enlarge the store before the volumes are full.',
  },
  SCHEDULE_FAILING: {
    severity: 'warning',
    advice: 'See why with: dvce schedule show',
  },
  CHECK_FAILED: {
    severity: 'warning',
    advice:
      'The agent could not look at this part; see its log: log/agent.log in the data directory.',
  },
} as const satisfies Record<
  string,
  { readonly severity: 'notice' | 'warning' | 'critical'; readonly advice: string }
>;
export type CauseCode = keyof typeof causeTable;

export const HealthCause = Type.Object(
  {
    code: word(
      // Keys of a table that has some.
      Object.keys(causeTable) as unknown as readonly [CauseCode, ...CauseCode[]],
      'Stable code; docs/operations/health.md explains each.',
    ),
    object: Type.String({ description: 'What it is about, as a URL path; empty: this host.' }),
    since: timestamp('When it was seen first.'),
    severity: word(
      ['notice', 'warning', 'critical'],
      '`notice`: good to know, the host is well. `critical`: something does not work.',
    ),
    text: Type.String({ description: 'What is wrong, in words.' }),
    advice: Type.String({ description: 'What to do about it.' }),
  },
  { $id: 'HealthCause', description: 'One thing that is wrong with this host.' },
);
export type HealthCause = Static<typeof HealthCause>;
