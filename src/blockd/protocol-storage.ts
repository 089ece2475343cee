/** The control protocol's words for the trash, capacity and quotas, maps and held exports. */

export interface TrashInfo {
  readonly id: string;
  /** Where it was. */
  readonly path: string;
  readonly kind: 'volume' | 'image';
  readonly sizeBytes: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly createdAt: string;
  readonly deletedAt: string;
  readonly expiresAt: string;
}

/** What is promised and what is there. */
export interface CapacityInfo {
  readonly volumes: number;
  /** Sum of the sizes that guests see. */
  readonly virtualBytes: number;
  readonly trashedVolumes: number;
  readonly storeFreeBytes: number;
  readonly storeTotalBytes: number;
  /** `virtualBytes` of `storeTotalBytes`. */
  readonly overcommitPercent: number;
  /** For people, worst first. */
  readonly warnings: readonly CapacityWarning[];
}

export interface CapacityWarning {
  readonly code: 'STORE_LOW' | 'STORE_FILLING' | 'OVERCOMMIT' | 'QUOTA_NEARLY_USED';
  readonly object: string;
  readonly detail: string;
  readonly advice: string;
}

export interface QuotaInfo {
  /** The folder; `/` is everything. */
  readonly path: string;
  /** Most that the sizes of the volumes below it may add up to, or null. */
  readonly sizeBytes: number | null;
  readonly volumes: number | null;
  /** With more stored than this a warning is given, or null. */
  readonly storedBytes: number | null;
  readonly usedBytes: number;
  readonly usedVolumes: number;
  /** Bytes in the store that volumes below it wrote; null where it was not counted. */
  readonly usedStoredBytes: number | null;
}

/** A range of a volume's content and where it is. */
export interface MapExtent {
  readonly offset: number;
  readonly length: number;
  /** hole: never written, or trimmed. zero: written as zeros. Both take no space. */
  readonly kind: 'data' | 'hole' | 'zero';
  /** Of data: log and number of the segment that holds it, and where the first group of it begins there. */
  readonly log?: string;
  readonly segment?: number;
  readonly segmentOffset?: number;
}

/** An export that is kept until it is given up. */
export interface HeldExport {
  readonly id: string;
  readonly volume: string;
  readonly path: string;
  readonly snapshot: string | null;
  readonly readOnly: boolean;
  readonly since: string;
  readonly exportName: string;
  readonly socketPath: string;
  /** `HOST:PORT` when blockd serves TCP. */
  readonly tcp: string | null;
}
