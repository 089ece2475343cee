/** Errors, operations, status, doctor. */
import Type, { type Static } from 'typebox';
import { closed, nullable, ref, sizeBytes, timestamp, word } from './common.ts';
import { HealthCause } from './health.ts';

export const Problem = Type.Object(
  {
    type: Type.String({ description: '`urn:dvce:error:` and the code.' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String({ description: 'What was being done, to which object, why it failed.' }),
    code: Type.String({ description: 'Stable code; docs/reference/errors.md lists them.' }),
    advice: Type.String({ description: 'What to do next.' }),
    retryable: Type.Boolean(),
    context: Type.Record(
      Type.String(),
      Type.Unsafe<string | number | boolean>({ type: ['string', 'number', 'boolean'] }),
    ),
  },
  { $id: 'Problem', description: 'An error (RFC 9457, application/problem+json).' },
);
export type Problem = Static<typeof Problem>;

export const Operation = Type.Object(
  {
    id: Type.String(),
    kind: word(
      [
        'image.import',
        'volume.export',
        'volume.check',
        'volume.flatten',
        'volume.promote',
        'schedule.run',
        'vm.start',
        'vm.stop',
        'vm.reboot',
        'vm.attach',
        'vm.detach',
        'vm.resize',
        'vm.clone',
        'vm.snapshot',
        'vm.rollback',
      ],
      'What it does.',
    ),
    status: word(['running', 'succeeded', 'failed', 'cancelled'], 'Ends in one of the last three.'),
    progress: nullable(
      Type.Object({
        done: Type.Number(),
        total: nullable(Type.Number()),
        unit: Type.String(),
        etaMs: nullable(Type.Number(), { description: 'Estimate of the time left.' }),
      }),
      { description: 'Null when it cannot be told.' },
    ),
    resources: Type.Array(Type.String(), { description: 'What it works on, as URL paths.' }),
    mayCancel: Type.Boolean(),
    requestedBy: Type.String({
      description:
        'Who asked: `local`, `token:NAME`, or `agent` for what the agent does by itself.',
    }),
    node: Type.String({ description: 'Name of the host that does it.' }),
    startedAt: timestamp('Begin.'),
    endedAt: nullable(Type.String(), { description: 'End, or null.' }),
    result: Type.Unsafe<unknown>({
      description: 'What it found; depends on the kind. Null: none.',
    }),
    error: nullable(ref(Problem), { description: 'Why it failed.' }),
  },
  { $id: 'Operation', description: 'Work that takes longer than one answer.' },
);
export type Operation = Static<typeof Operation>;
export type OperationKind = Operation['kind'];

export const OperationList = Type.Object(
  { operations: Type.Array(ref(Operation)) },
  { $id: 'OperationList' },
);

export const Status = Type.Object(
  {
    version: Type.String(),
    pid: Type.Integer(),
    startedAt: timestamp('Start of the agent.'),
    dataDirectory: Type.String(),
    health: word(
      ['ok', 'degraded', 'critical'],
      'The worst of the causes: `degraded` a warning, `critical` something that does not work.',
    ),
    causes: Type.Array(ref(HealthCause), { description: 'What is wrong, the worst first.' }),
    blockd: nullable(
      Type.Object({
        pid: Type.Integer(),
        version: Type.String(),
        startedAt: Type.String(),
        node: Type.String(),
        store: Type.String(),
        storeFreeBytes: sizeBytes('Free space of the store.'),
        storeTotalBytes: sizeBytes('Size of the store.'),
        nbdSocket: Type.String(),
        nbdTcp: nullable(Type.String()),
        openVolumes: Type.Integer(),
        workers: Type.Integer(),
      }),
      { description: 'The data process; null when it does not answer.' },
    ),
    vms: Type.Object({ total: Type.Integer(), running: Type.Integer(), crashed: Type.Integer() }),
    operations: Type.Object({ running: Type.Integer() }),
  },
  { $id: 'Status', description: 'The state of this host.' },
);
export type Status = Static<typeof Status>;

export const Doctor = Type.Object(
  {
    ok: Type.Boolean({ description: 'No finding is a failure.' }),
    findings: Type.Array(
      Type.Object({
        name: Type.String(),
        result: word(['ok', 'warn', 'fail'], '`fail`: something will not work.'),
        detail: Type.String(),
        advice: nullable(Type.String(), { description: 'What to do about it.' }),
      }),
    ),
  },
  { $id: 'Doctor', description: 'Whether this host can do what dvce needs.' },
);
export type Doctor = Static<typeof Doctor>;

export const Shutdown = Type.Object(
  {
    force: Type.Optional(
      Type.Boolean({ description: 'Also while VMs run: their I/O waits until the next start.' }),
    ),
    stopVms: Type.Optional(Type.Boolean({ description: 'Stop all VMs first.' })),
    keepBlockd: Type.Optional(Type.Boolean({ description: 'End only the agent.' })),
    timeoutMs: Type.Optional(Type.Integer({ minimum: 0, description: 'Time for guests; 60 s.' })),
  },
  closed,
);
export type Shutdown = Static<typeof Shutdown>;
