/** The control protocol on points in time (DD-0013). */
/** A flush that can be had back. */
export interface PointInfo {
  readonly flush: number;
  readonly time: string;
}

export interface PointsInfo {
  readonly oldest: PointInfo | null;
  readonly newest: PointInfo | null;
  /** Bytes in the store that are there for points alone. */
  readonly heldBytes: number;
}

export interface PointMethods<SnapshotInfo, VolumeInfo> {
  /** Points in time, newest first; `before` goes on where a page ended, `next` says where that is. */
  'volume.points': {
    params: { path: string; sinceMs?: number; untilMs?: number; before?: number; limit?: number };
    result: { points: (PointInfo & { sizeBytes: number })[]; next: number | null };
  };
  /** Open one of them: as a snapshot, or with `clone` as a new volume. Exactly one of timeMs, beforeFlush, flush. */
  'volume.at': {
    params: {
      path: string;
      timeMs?: number;
      beforeFlush?: number;
      flush?: number;
      snapshot?: string;
      clone?: string;
      labels?: Readonly<Record<string, string>>;
    };
    result: PointInfo & { snapshot: SnapshotInfo | null; volume: VolumeInfo | null };
  };
}
