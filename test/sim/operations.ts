/**
 * What a simulation does to a volume, as plain values: printable, replayable from the seed or from the print, and shorter
 * without any one of them, so that a failing run can be shrunk.
 */
import type { CrashPlan } from './file-system.ts';
import type { StoreState } from './target.ts';

/** Which volume an operation is for; without a number, or when that one does not exist, the first. */
export interface OnVolume {
  readonly disk?: number;
}

export type Operation =
  /** `wait`: nothing else is sent before it has ended. */
  | (OnVolume & {
      readonly kind: 'write';
      readonly first: number;
      readonly count: number;
      readonly fua: boolean;
      readonly wait: boolean;
    })
  /** A payload that is a copy of journal bytes (J3). */
  | (OnVolume & { readonly kind: 'mimic'; readonly first: number })
  | (OnVolume & { readonly kind: 'trim'; readonly first: number; readonly count: number })
  | (OnVolume & {
      readonly kind: 'zero';
      readonly first: number;
      readonly count: number;
      readonly noHole: boolean;
    })
  | (OnVolume & { readonly kind: 'read'; readonly first: number; readonly count: number })
  | (OnVolume & { readonly kind: 'flush'; readonly wait: boolean })
  /** Wait until nothing is under way. */
  | { readonly kind: 'settle' }
  /** Let time pass: batches get old, the cleaner gets its turn. */
  | { readonly kind: 'idle'; readonly ms: number }
  /** The event loop stands still, then goes on. */
  | { readonly kind: 'stall'; readonly ms: number }
  /** Somebody sets the wall clock. */
  | { readonly kind: 'clock'; readonly ms: number }
  /** Held for the cut of a snapshot set (G5): cut, given up, or left by a coordinator that died. */
  | (OnVolume & { readonly kind: 'hold'; readonly end: 'cut' | 'dropped' | 'left' })
  /** Snapshots of all volumes at one instant. The coordinator is heard of `steps` times, then never again; null: to the end. */
  | { readonly kind: 'set'; readonly name: string; readonly steps: number | null }
  | (OnVolume & { readonly kind: 'publish' })
  | (OnVolume & { readonly kind: 'snapshot'; readonly name: string })
  | (OnVolume & { readonly kind: 'deleteSnapshot'; readonly name: string })
  /** Clone, look at the clone, delete it; `race`: delete the snapshot at the same time. */
  | (OnVolume & { readonly kind: 'clone'; readonly name: string; readonly race: boolean })
  /** A clone that stays, and is written to as the volume `to`. */
  | (OnVolume & { readonly kind: 'fork'; readonly name: string; readonly to: number })
  /** Delete a volume that was forked. */
  | (OnVolume & { readonly kind: 'drop' })
  /** Copy what it has in common with its origin; without `wait` beside all that follows. */
  | (OnVolume & { readonly kind: 'flatten'; readonly wait: boolean })
  | (OnVolume & { readonly kind: 'rollback'; readonly name: string })
  | (OnVolume & { readonly kind: 'resize'; readonly sectors: number })
  | { readonly kind: 'reap' }
  | (OnVolume & { readonly kind: 'reopen' })
  /** All connections are lost; what was not answered is sent again on a new one (N6). */
  | { readonly kind: 'reconnect' }
  | {
      readonly kind: 'fault';
      readonly fault: 'syncError' | 'syncErrorKill' | 'writeError' | 'shortWrite';
    }
  | { readonly kind: 'store'; readonly state: StoreState }
  /** A bit flips at rest, is met by a process that runs, or one that starts, and is put right again. */
  | {
      readonly kind: 'flip';
      readonly what: 'segment' | 'journal' | 'document';
      readonly when: 'running' | 'at rest' | 'at work';
    }
  /** At the n-th I/O from now. */
  | {
      readonly kind: 'crash';
      readonly ending: 'power loss' | 'kill';
      readonly io: number;
      readonly when: CrashPlan['when'];
    }
  /** At once, with nothing under way. */
  | { readonly kind: 'restart'; readonly ending: 'power loss' | 'kill' };

export const printOperations = (operations: readonly Operation[]): string =>
  operations
    .map((operation, i) => `  ${String(i).padStart(3)}  ${JSON.stringify(operation)}`)
    .join('\n');
