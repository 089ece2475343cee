/** What the control protocol says about checks and the scrub. */

export interface CheckFinding {
  /** Stable, e.g. `CHECK_BAD_CHECKSUM`. */
  readonly code: string;
  readonly severity: 'error' | 'warning';
  readonly object: string;
  readonly detail: string;
  readonly advice: string;
  readonly ranges: readonly {
    readonly of: string;
    readonly offset: number;
    readonly length: number;
  }[];
  readonly omittedRanges: number;
  readonly concerns: readonly string[];
  readonly repair: 'none' | 'possible' | 'done';
}

/** What the background scrub knows of a volume. */
export interface VolumeScrub {
  /** End of the last pass; null: there was none yet. */
  readonly finishedAt: string | null;
  readonly running: boolean;
  /** By the pass under way, or the last one. */
  readonly readBytes: number;
  readonly findings: readonly CheckFinding[];
}

export interface ScrubStatus {
  readonly state: 'off' | 'paused' | 'idle' | 'running';
  readonly bytesPerSecond: number;
  readonly periodMs: number;
  /** Path of the volume that is being read. */
  readonly current: string | null;
  /** Since blockd was started. */
  readonly readBytes: number;
  readonly volumes: number;
  /** Volumes that were scrubbed within the period. */
  readonly scrubbed: number;
  /** Volumes that are due. */
  readonly waiting: number;
  /** Volumes in which something was found. */
  readonly damaged: readonly (VolumeScrub & { readonly path: string })[];
}

export interface VolumeCheckAnswer {
  readonly findings: readonly CheckFinding[];
  /** Findings that are not listed, because there are too many. */
  readonly omitted: number;
  readonly segments: number;
  readonly bytes: number;
}
