/**
 * Schemas of the params of every control method: nothing that comes over the socket reaches a handler unchecked.
 * Unknown members are refused, so that a misspelt option is an error and not a silent default.
 */
import {
  DvceError,
  type JsonSchema,
  limits,
  rateNames,
  type SchemaCheck,
  schemaCheck,
  Type,
} from '../base/index.ts';
import { compressions } from '../hlfs/index.ts';
import type { ControlMethod, ControlParams } from './protocol.ts';

/** Longest text that can be a path with 16 parts, a snapshot name and separators. */
const pathCharactersMax = 1100;

const path = Type.String({ minLength: 1, maxLength: pathCharactersMax });
const name = Type.String({ minLength: 1, maxLength: 255 });
const bytes = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const time = Type.Number();
const timeText = Type.String({ pattern: '^[-+0-9]{4,7}-[0-9]{2}-[0-9]{2}T[0-9:.]{12}Z$' });
const count = Type.Integer({ minimum: 1, maximum: 1_000_000 });
const labels = Type.Record(
  Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$' }),
  Type.String({ maxLength: 255 }),
  { maxProperties: 64, additionalProperties: false },
);
const identifier = Type.String({ pattern: '^[A-Za-z0-9._:-]{1,128}$' });
const documentKind = Type.String({ pattern: '^[a-z][a-z-]{0,30}$' });
const documentName = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$' });
const flag = Type.Boolean();
const kind = Type.Union([Type.Literal('volume'), Type.Literal('image')]);
const optional = Type.Optional;

const orNull = (schema: JsonSchema): JsonSchema => Type.Union([schema, Type.Null()]);

const closed = (properties: Record<string, JsonSchema>): JsonSchema =>
  Type.Object(properties, { additionalProperties: false });

const rate = orNull(
  closed({
    perSecond: optional(bytes),
    burstPerSecond: optional(orNull(bytes)),
    burstSeconds: optional(orNull(bytes)),
  }),
);
const rateLimits = closed(Object.fromEntries(rateNames.map((one) => [one, optional(rate)])));

const compression = Type.Union(compressions.map((one) => Type.Literal(one)));

/** Also what a release promises to take (test/support/control-freeze.ts). */
export const paramSchemas: Readonly<Record<ControlMethod, JsonSchema>> = {
  // A newer client may say more about itself than this program knows.
  hello: Type.Object({ version: Type.Integer({ minimum: 0, maximum: 1_000_000 }) }),
  status: closed({}),
  metrics: closed({}),
  'volume.create': closed({
    path,
    sizeBytes: bytes,
    blockBytes: optional(Type.Union([Type.Literal(512), Type.Literal(4096)])),
    labels: optional(labels),
    protected: optional(flag),
    journalBytes: optional(bytes),
    kind: optional(kind),
    limits: optional(rateLimits),
    retainMs: optional(bytes),
    compression: optional(compression),
  }),
  'volume.list': closed({
    prefix: optional(Type.String({ maxLength: pathCharactersMax })),
    kind: optional(kind),
  }),
  'volume.get': closed({ path, space: optional(Type.Boolean()) }),
  'volume.rename': closed({ path, to: path }),
  'volume.update': closed({
    path,
    labels: optional(labels),
    protected: optional(flag),
    limits: optional(rateLimits),
    retainMs: optional(orNull(bytes)),
    compression: optional(compression),
  }),
  'volume.points': closed({
    path,
    sinceMs: optional(time),
    untilMs: optional(time),
    before: optional(bytes),
    limit: optional(count),
  }),
  'volume.at': closed({
    path,
    timeMs: optional(time),
    beforeFlush: optional(bytes),
    flush: optional(bytes),
    snapshot: optional(name),
    clone: optional(path),
    labels: optional(labels),
  }),
  'volume.resize': closed({ path, sizeBytes: bytes, shrink: optional(flag) }),
  'volume.delete': closed({ path, now: optional(flag) }),
  'trash.list': closed({}),
  'trash.restore': closed({ what: path, to: optional(path) }),
  'trash.empty': closed({ what: optional(path) }),
  capacity: closed({}),
  'quota.list': closed({}),
  'quota.get': closed({ path }),
  'quota.set': closed({
    path,
    sizeBytes: orNull(bytes),
    volumes: orNull(Type.Integer({ minimum: 0, maximum: 1_000_000 })),
    storedBytes: orNull(bytes),
  }),
  'quota.delete': closed({ path }),
  'scrub.status': closed({}),
  'scrub.start': closed({ path: optional(path) }),
  'scrub.pause': closed({ paused: flag }),
  'volume.map': closed({
    path,
    snapshot: optional(orNull(name)),
    offset: optional(bytes),
    limit: optional(count),
  }),
  'export.create': closed({ path, snapshot: optional(orNull(name)), readOnly: optional(flag) }),
  'export.list': closed({}),
  'export.delete': closed({ id: identifier }),
  'volume.clone': closed({
    source: path,
    path,
    labels: optional(labels),
    sizeBytes: optional(bytes),
    protected: optional(flag),
    limits: optional(rateLimits),
  }),
  'volume.check': closed({ path, repair: optional(flag) }),
  'volume.flatten': closed({ path }),
  'volume.flatten-plan': closed({ path }),
  'volume.promote': closed({ path }),
  'volume.promote-plan': closed({ path }),
  'volume.recover': closed({ path, acceptLoss: flag }),
  'volume.attach': closed({ path, attachId: identifier, vm: Type.String({ maxLength: 255 }) }),
  'volume.detach': closed({ path, attachId: identifier }),
  'image.publish': closed({
    path,
    digest: Type.String({ pattern: '^sha256:[0-9a-f]{64}$' }),
    source: Type.String({ maxLength: 4096 }),
    format: Type.Enum(['raw', 'qcow2', 'vmdk', 'ova']),
    sourceBytes: bytes,
    contentDigest: optional(Type.String({ pattern: '^sha256:[0-9a-f]{64}$' })),
  }),
  'snapshot.create': closed({ path, name, labels: optional(labels), protected: optional(flag) }),
  'snapshot.create-set': closed({
    paths: Type.Array(path, { minItems: 1, maxItems: limits.snapshotSetMax }),
    name,
    labels: optional(labels),
    protected: optional(flag),
  }),
  'snapshot.list': closed({
    path,
    after: optional(closed({ createdAt: timeText, name })),
    limit: optional(Type.Integer({ minimum: 1, maximum: limits.snapshotPageMax })),
  }),
  'snapshot.get': closed({ path, name }),
  'snapshot.update': closed({
    path,
    name,
    labels: optional(labels),
    protected: optional(flag),
  }),
  'snapshot.delete': closed({ path, name }),
  'snapshot.rollback': closed({ path, name }),
  'snapshot.diff': closed({
    path,
    from: name,
    to: Type.Union([name, Type.Null()]),
    limit: optional(count),
  }),
  'document.list': closed({ kind: documentKind, after: optional(documentName) }),
  'document.read': closed({ kind: documentKind, name: documentName }),
  'document.create': closed({ kind: documentKind, name: documentName, value: Type.Object({}) }),
  'document.replace': closed({
    kind: documentKind,
    name: documentName,
    version: count,
    value: Type.Object({}),
  }),
  'document.delete': closed({ kind: documentKind, name: documentName, version: count }),
  shutdown: closed({ graceful: flag }),
};

const checks = Object.fromEntries(
  Object.entries(paramSchemas).map(([method, schema]) => [method, schemaCheck(schema)]),
) as Readonly<Record<ControlMethod, SchemaCheck>>; // the keys are those of the schemas

export function isControlMethod(method: string): method is ControlMethod {
  return Object.hasOwn(paramSchemas, method);
}

export const controlMethodNames = Object.keys(paramSchemas).filter(isControlMethod);

/** Check the params of a request. Throws INVALID_ARGUMENT naming the member. */
export function checkParams<M extends ControlMethod>(method: M, params: unknown): ControlParams<M> {
  const complaint = checks[method](params);
  if (complaint === undefined) return params as ControlParams<M>;
  const member = complaint.path.slice(1).replaceAll('/', '.');
  throw new DvceError('INVALID_ARGUMENT', {
    what: member === '' ? `a request ${method}` : `"${member}" of a request ${method}`,
    reason: `it ${complaint.reason}`,
    advice: 'See docs/operations/blockd.md.',
  });
}
