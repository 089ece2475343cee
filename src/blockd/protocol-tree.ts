/** The control protocol on what volumes have in common: flatten, promote (DD-0018). */

/** What needs the logs that a flattened volume was forked from. */
export interface BaseHolders {
  /** Its own snapshots, oldest first, not all of them when there are many. */
  readonly snapshots: readonly string[];
  readonly more: boolean;
  /** Points in time. */
  readonly points: boolean;
}

export interface TreeMethods<VolumeInfo> {
  /** Copy what the volume has in common with its origin, until it needs nothing of it. Repeatable; progress in bytes. */
  'volume.flatten': {
    params: { path: string };
    result: { copiedBytes: number; heldBy: BaseHolders | null; volume: VolumeInfo };
  };
  /** The volume takes over what it was cloned from, which becomes a clone of it. */
  'volume.promote': {
    params: { path: string };
    result: { snapshots: string[]; volume: VolumeInfo; parent: VolumeInfo };
  };
  /** What a promote would do now; `parentMoves`: the parent must not be in use for it. */
  'volume.promote-plan': {
    params: { path: string };
    result: { parent: string; snapshot: string; snapshots: string[]; parentMoves: boolean };
  };
  /** What a flatten would do now. */
  'volume.flatten-plan': {
    params: { path: string };
    result: { copyBytes: number; heldBy: BaseHolders | null };
  };
}
