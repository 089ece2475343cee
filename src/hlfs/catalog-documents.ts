/**
 * Keys of the catalog's documents, and the only way to read them: every document is checked against its schema before
 * anything believes it. A document that does not fit is DOCUMENT_DAMAGED with its key, never "absent" (N7).
 *
 * The schemas allow unknown fields and nothing removes them, so that a rewrite by spreading the object that was read keeps
 * what a later release added (S10).
 */
import type { DirectoryId, LogId, SnapshotName, VolumeId } from '../base/index.ts';
import {
  DvceError,
  type JsonSchema,
  limits,
  rateNames,
  type SchemaCheck,
  schemaCheck,
  Type,
} from '../base/index.ts';
import type { HlfsContext } from './context.ts';
import type { Versioned } from './documents.ts';
import {
  compressions,
  type HeadDocument,
  type IntentDocument,
  type LogDocument,
  type NameDocument,
  type PinDocument,
  type SetDocument,
  type SnapshotDocument,
} from './schema.ts';

/**
 * Names that people choose end in `@` where they are part of a key, which no name contains: so none is taken for a version or
 * for what a store keeps for itself (N1).
 */
const nameToPart = (name: string): string => `${name}@`;
/** undefined when the part of a key is none of these. */
export const partToName = (part: string): string | undefined =>
  part.endsWith('@') ? part.slice(0, -1) : undefined;

export const headKey = (volume: VolumeId): string => `volumes/${volume}/head`;
export const logDirectory = (log: LogId): string => `logs/${log}`;
export const logKey = (log: LogId): string => `logs/${log}/log`;
export const snapshotsPrefix = (log: LogId): string => `logs/${log}/snap`;
export const snapshotKey = (log: LogId, name: SnapshotName): string =>
  `logs/${log}/snap/${nameToPart(name)}`;
export const pinsPrefix = (log: LogId): string => `logs/${log}/pins`;
export const pinKey = (log: LogId, who: string): string => `logs/${log}/pins/${who}`;
export const writersPrefix = (log: LogId): string => `logs/${log}/w`;
export const namesPrefix = (directory: DirectoryId): string => `names/${directory}`;
export const nameKey = (directory: DirectoryId, name: string): string =>
  `names/${directory}/${nameToPart(name)}`;
export const setsPrefix = 'sets';
export const setKey = (id: string): string => `${setsPrefix}/${id}`;
export const intentKey = (log: LogId): string => `intents/${log}`;

const format = Type.Integer({ minimum: 1 });
const uuid = Type.String({
  pattern: '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$',
});
const name = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$' });
/** 64 bits as a decimal string (S10). */
const uint64 = Type.String({ pattern: '^(0|[1-9][0-9]{0,19})$' });
const scope = Type.String({ pattern: '^[A-Za-z0-9._@-]+(/[A-Za-z0-9._@-]+)*$' });
const position = Type.Integer({ minimum: 0, maximum: 0xffff_ffff });
const checksum = Type.Integer({ minimum: 0, maximum: 0xffff_ffff });
const timeMs = Type.Number();
const texts = Type.Array(Type.String());
const labels = Type.Record(Type.String(), Type.String());
const nullable = (schema: JsonSchema): JsonSchema => Type.Union([Type.Null(), schema]);
const oneOf = (...values: readonly (string | number)[]): JsonSchema =>
  Type.Union(values.map((value) => Type.Literal(value)));

const rate = Type.Object({
  perSecond: Type.Number({ exclusiveMinimum: 0 }),
  burstPerSecond: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
  burstSeconds: Type.Optional(Type.Number({ exclusiveMinimum: 0 })),
});

const originSchema = Type.Object({ volume: uuid, path: Type.String(), snapshot: name });

const headSchema = Type.Object({
  format,
  features: Type.Object({ compat: texts, roCompat: texts, incompat: texts }),
  volume: uuid,
  parent: uuid,
  name,
  kind: oneOf('volume', 'image'),
  state: oneOf('creating', 'active', 'recovering', 'trashed', 'deleting'),
  trash: Type.Optional(
    nullable(Type.Object({ path: Type.String(), atMs: timeMs, untilMs: timeMs })),
  ),
  epoch: uint64,
  writer: nullable(uuid),
  scope: nullable(scope),
  pending: Type.Array(
    Type.Object({ epoch: uint64, scope: nullable(scope), log: uuid, wasActive: Type.Boolean() }),
  ),
  attachment: nullable(
    Type.Object({ attachId: Type.String(), vm: Type.String(), runEpoch: Type.String() }),
  ),
  sizeBytes: uint64,
  blockBytes: oneOf(512, 4096),
  trimFrom: nullable(uint64),
  log: uuid,
  logs: Type.Array(uuid),
  journal: Type.Object({ mode: oneOf('local'), quotaBytes: uint64 }),
  ensemble: Type.Array(Type.Unknown()),
  labels,
  protected: Type.Boolean(),
  limits: Type.Optional(
    Type.Object(Object.fromEntries(rateNames.map((one) => [one, Type.Optional(rate)]))),
  ),
  retainMs: Type.Optional(nullable(Type.Number({ minimum: 1 }))),
  compression: Type.Optional(oneOf(...compressions)),
  createdAtMs: timeMs,
  origin: nullable(originSchema),
  flattened: Type.Optional(uuid),
  snapshotLogs: Type.Optional(Type.Array(uuid)),
  promoting: Type.Optional(uuid),
  image: nullable(
    Type.Object({
      digest: Type.String(),
      source: Type.String(),
      format: oneOf('raw', 'qcow2', 'vmdk', 'ova'),
      sourceBytes: uint64,
      contentDigest: Type.Optional(Type.String()),
    }),
  ),
});

const rangeSchema = Type.Object({
  first: position,
  last: position,
  log: uuid,
  store: Type.String({ minLength: 1 }),
});

const logSchema = Type.Object({
  format,
  log: uuid,
  volume: uuid,
  base: nullable(
    Type.Object({
      ranges: Type.Array(rangeSchema),
      rootSegment: position,
      checksum,
      snapshot: Type.Object({ volume: uuid, log: uuid, id: uuid, name }),
    }),
  ),
  createdAtMs: timeMs,
});

const snapshotSchema = Type.Object({
  format,
  id: uuid,
  name,
  volume: uuid,
  log: uuid,
  state: oneOf('pending', 'live', 'deleting'),
  set: Type.Optional(Type.Object({ id: uuid, scope })),
  rootSegment: position,
  checksum,
  sizeBytes: uint64,
  createdAtMs: timeMs,
  parent: nullable(uuid),
  protected: Type.Boolean(),
  labels,
});

const setSchema = Type.Object({
  format,
  id: uuid,
  scope,
  members: Type.Array(Type.Object({ log: uuid, name })),
  createdAtMs: timeMs,
});

const pinSchema = Type.Object({
  format,
  who: Type.String({ pattern: '^[A-Za-z0-9._@-]+$' }),
  kind: oneOf('fork', 'reader'),
  volume: uuid,
  snapshot: uuid,
  cut: position,
  createdAtMs: timeMs,
});

const nameSchema = Type.Union([
  Type.Object({
    format,
    kind: Type.Literal('directory'),
    directory: uuid,
    removing: Type.Optional(Type.Boolean()),
  }),
  Type.Object({ format, kind: Type.Literal('volume'), volume: uuid }),
]);

const promotionSchema = Type.Object({
  parent: uuid,
  moved: Type.Array(uuid),
  cuts: Type.Array(Type.Object({ log: uuid, cut: position })),
  scope: nullable(scope),
  origin: originSchema,
  formerOrigin: nullable(originSchema),
  pins: Type.Array(Type.Object({ log: uuid, who: Type.String(), snapshot: uuid })),
});

const intentSchema = Type.Object({
  format,
  kind: oneOf('volume', 'rollback', 'flatten', 'promote'),
  volume: uuid,
  log: uuid,
  pinned: Type.Array(uuid),
  path: nullable(Type.String()),
  promotion: Type.Optional(promotionSchema),
  node: uuid,
  scope,
  createdAtMs: timeMs,
});

/** A check that stands for the type of what fits. */
type Check<T> = SchemaCheck & { readonly of?: T };

const checks = {
  head: schemaCheck(headSchema) as Check<HeadDocument>,
  log: schemaCheck(logSchema) as Check<LogDocument>,
  snapshot: schemaCheck(snapshotSchema) as Check<SnapshotDocument>,
  set: schemaCheck(setSchema) as Check<SetDocument>,
  pin: schemaCheck(pinSchema) as Check<PinDocument>,
  name: schemaCheck(nameSchema) as Check<NameDocument>,
  intent: schemaCheck(intentSchema) as Check<IntentDocument>,
};

const damaged = (key: string, reason: string): DvceError =>
  new DvceError('DOCUMENT_DAMAGED', { name: key, reason });

/** @param fits what the schema cannot say; returns the reason why the document does not belong at this key */
async function readChecked<T>(
  context: HlfsContext,
  key: string,
  check: Check<T>,
  fits: (value: T) => string | undefined,
): Promise<Versioned<T> | undefined> {
  const found = await context.documents.read<unknown>(key);
  if (found === undefined) return undefined;
  const complaint = check(found.value);
  if (complaint !== undefined) throw damaged(key, `${complaint.path} ${complaint.reason}`.trim());
  const value = found.value as T; // it fits the schema
  const reason = fits(value);
  if (reason !== undefined) throw damaged(key, reason);
  return { version: found.version, value };
}

const sizeFits = (text: string): boolean => Number(text) <= limits.volumeBytesMax;

function headFits(volume: VolumeId, head: HeadDocument): string | undefined {
  if (head.volume !== volume) return `it belongs to volume ${head.volume}`;
  if (!sizeFits(head.sizeBytes)) return `its size ${head.sizeBytes} is beyond the limit`;
  if (head.state === 'deleting') return undefined;
  return head.logs[0] === head.log ? undefined : 'its first log is not the current one';
}

function rangesFit(document: LogDocument): string | undefined {
  let next = 1;
  for (const range of document.base?.ranges ?? []) {
    if (range.first !== next || range.last < range.first) return 'its ranges have a gap';
    next = range.last + 1;
  }
  const end = document.base?.rootSegment ?? 0;
  return next === end + 1 ? undefined : `its ranges end at ${next - 1}, not at ${end}`;
}

export const readHead = (
  context: HlfsContext,
  volume: VolumeId,
): Promise<Versioned<HeadDocument> | undefined> =>
  readChecked(context, headKey(volume), checks.head, (head) => headFits(volume, head));

export const readLog = (
  context: HlfsContext,
  log: LogId,
): Promise<Versioned<LogDocument> | undefined> =>
  readChecked(context, logKey(log), checks.log, (document) =>
    document.log === log ? rangesFit(document) : `it belongs to log ${document.log}`,
  );

/** G5: a member of a set is `live` from the moment when the set's document exists, whatever it still says itself. */
export async function readSnapshot(
  context: HlfsContext,
  log: LogId,
  snapshot: SnapshotName,
): Promise<Versioned<SnapshotDocument> | undefined> {
  const found = await readStoredSnapshot(context, log, snapshot);
  if (found?.value.state !== 'pending' || found.value.set === undefined) return found;
  const set = await readSet(context, found.value.set.id);
  if (set !== undefined) return { ...found, value: { ...found.value, state: 'live' } };
  // The document goes once the members say `live`: perhaps that happened between the two reads.
  return readStoredSnapshot(context, log, snapshot);
}

export const readStoredSnapshot = (
  context: HlfsContext,
  log: LogId,
  snapshot: SnapshotName,
): Promise<Versioned<SnapshotDocument> | undefined> =>
  readChecked(context, snapshotKey(log, snapshot), checks.snapshot, (document) =>
    document.log === log && document.name === snapshot && sizeFits(document.sizeBytes)
      ? undefined
      : 'it does not belong at this key',
  );

export const readSet = (
  context: HlfsContext,
  id: string,
): Promise<Versioned<SetDocument> | undefined> =>
  readChecked(context, setKey(id), checks.set, (set) =>
    set.id === id ? undefined : `it belongs to set ${set.id}`,
  );

export const readPin = (
  context: HlfsContext,
  log: LogId,
  who: string,
): Promise<Versioned<PinDocument> | undefined> =>
  readChecked(context, pinKey(log, who), checks.pin, (pin) =>
    pin.who === who ? undefined : `it belongs to ${pin.who}`,
  );

export const readName = (
  context: HlfsContext,
  directory: DirectoryId,
  entry: string,
): Promise<Versioned<NameDocument> | undefined> =>
  readChecked(context, nameKey(directory, entry), checks.name, () => undefined);

export const readIntent = (
  context: HlfsContext,
  log: LogId,
): Promise<Versioned<IntentDocument> | undefined> =>
  readChecked(context, intentKey(log), checks.intent, (intent) =>
    intent.log === log ? undefined : `it belongs to log ${intent.log}`,
  );
