/** Branded ids: a value of one kind is not taken for another. Each has one parser, used at every border. */
import { DvceError } from './errors.ts';

declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** UUID of a volume, lower case with dashes. */
export type VolumeId = Branded<string, 'VolumeId'>;
/** UUID of a log. */
export type LogId = Branded<string, 'LogId'>;
/** UUID of a directory of the namespace. */
export type DirectoryId = Branded<string, 'DirectoryId'>;
/** Absolute path of a volume in the namespace, `/prod/shop/db`. */
export type VolumePath = Branded<string, 'VolumePath'>;
/** Name of a snapshot within its volume. */
export type SnapshotName = Branded<string, 'SnapshotName'>;
/** Node id; on a single host a random UUID kept in the data directory. */
export type NodeId = Branded<string, 'NodeId'>;
/** Number of a segment in its log, 1... below 2^32. */
export type SegmentNumber = Branded<number, 'SegmentNumber'>;

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const partPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const partsMax = 16;

export function isUuid(text: string): boolean {
  return uuidPattern.test(text);
}

function uuid(text: string, what: string): string {
  if (!isUuid(text))
    throw new DvceError('INVALID_ARGUMENT', {
      what,
      reason: `${JSON.stringify(text)} is not a UUID`,
      advice: '',
    });
  return text;
}

export const asVolumeId = (text: string): VolumeId => uuid(text, 'a volume id') as VolumeId;
export const asLogId = (text: string): LogId => uuid(text, 'a log id') as LogId;
export const asDirectoryId = (text: string): DirectoryId =>
  uuid(text, 'a directory id') as DirectoryId;
export const asNodeId = (text: string): NodeId => uuid(text, 'a node id') as NodeId;

/** A UUID (version 4 layout) from 16 random bytes. */
export function formatUuid(bytes: Uint8Array): string {
  const copy = Buffer.from(bytes.subarray(0, 16));
  copy[6] = ((copy[6] ?? 0) & 0x0f) | 0x40;
  copy[8] = ((copy[8] ?? 0) & 0x3f) | 0x80;
  const hex = copy.toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

function shown(text: string): string {
  const short = text.length > 80 ? `${text.slice(0, 80)}...` : text;
  return JSON.stringify(short);
}

/** Check one part of a path, or a snapshot, VM or image name: `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`. */
export function checkName(text: string): string {
  if (text === '') throw new DvceError('INVALID_NAME', { name: '""', reason: 'it is empty' });
  if (text.length > 63)
    throw new DvceError('INVALID_NAME', {
      name: shown(text),
      reason: 'it has more than 63 characters',
    });
  if (!partPattern.test(text))
    throw new DvceError('INVALID_NAME', {
      name: shown(text),
      reason: 'it has a character that is not allowed',
    });
  return text;
}

export const asSnapshotName = (text: string): SnapshotName => checkName(text) as SnapshotName;

/** Parse an absolute volume path; a missing leading slash is added. */
export function asVolumePath(text: string): VolumePath {
  const absolute = text.startsWith('/') ? text : `/${text}`;
  const parts = absolute.slice(1).split('/');
  if (parts.length > partsMax)
    throw new DvceError('INVALID_NAME', {
      name: shown(text),
      reason: `it has more than ${partsMax} parts`,
    });
  for (const part of parts) {
    if (part === '.' || part === '..')
      throw new DvceError('INVALID_NAME', {
        name: shown(text),
        reason: `"${part}" is not allowed as a part`,
      });
    try {
      checkName(part);
    } catch (error) {
      const reason =
        error instanceof DvceError ? String(error.context['reason']) : 'it is not valid';
      throw new DvceError('INVALID_NAME', {
        name: shown(text),
        reason: part === '' ? 'it has an empty part' : reason,
      });
    }
  }
  return absolute as VolumePath;
}

/** Split `PATH[@SNAPSHOT]`, the name of an export and the source of a clone. */
export function parseSource(text: string): { path: VolumePath; snapshot?: SnapshotName } {
  const at = text.lastIndexOf('@');
  if (at < 0) return { path: asVolumePath(text) };
  return { path: asVolumePath(text.slice(0, at)), snapshot: asSnapshotName(text.slice(at + 1)) };
}
