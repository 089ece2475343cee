/** What the simulation needs of a program under test; the engine's is in engine-program.ts, simple ones in log-device.ts. */
import type { BlockReader } from '../../src/hlfs/index.ts';
import type { SimOptions } from './options.ts';
import type { SimHost } from './world.ts';

/** `brim`: the disk of the host has no room left, for anybody. `flaky`: bits flip on their way from the store. */
export type StoreState = 'up' | 'down' | 'full' | 'late' | 'brim' | 'flaky';

export interface SimDevice
  extends Pick<BlockReader, 'read' | 'write' | 'flush' | 'trim' | 'writeZeroes' | 'sizeBytes'> {
  close(): Promise<void>;
}

/** One volume in one boot of the program. */
export interface SimTarget {
  /** Valid after `open`. */
  readonly device: SimDevice;
  /** Recover and serve. */
  open(): Promise<void>;
  publish?(): Promise<void>;
  /** Hold the volume for the cut of a snapshot set. @returns how it ended, for counting */
  hold?(end: 'cut' | 'dropped' | 'left'): string;
  snapshots?: {
    list(): Promise<string[]>;
    create(name: string): Promise<void>;
    delete(name: string): Promise<void>;
    /** A snapshot as a device at rest. */
    open(name: string): Promise<Pick<BlockReader, 'read' | 'sizeBytes'>>;
    /** Clone, read the clone and delete it. undefined: the snapshot went away meanwhile. */
    clone(name: string): Promise<Buffer | undefined>;
    /** Make the volume `to` from it and open that. */
    fork(name: string, to: number): Promise<void>;
    /** The device is closed; it is opened again by the caller. */
    rollback(name: string): Promise<void>;
  };
  /** Shrink the closed device, open it, grow it to its full size. */
  shrinkAndGrow?(sizeBytes: number): Promise<void>;
  /** Need nothing of the origin any more. @returns how it ended, for counting */
  flatten?(signal: AbortSignal): Promise<string>;
  /** Delete the closed volume. */
  remove?(): Promise<void>;
  /** Problems found by reading everything that is reachable. */
  verify?(): Promise<string[]>;
}

/** A bit that was flipped at rest. */
export interface Flip {
  /** Where: `data of a segment`, `journal record`, ... */
  readonly where: string;
  /** Most 4 KiB blocks of one volume that may be unreadable by it. */
  readonly blocksMax: number;
  /** Put it right, if what it was part of is still there. */
  heal(): void;
}

/** One boot of the program under test. */
export interface SimProgram {
  /** @returns numbers of the volumes that exist; the first one always does */
  start(): Promise<readonly number[]>;
  disk(number: number): SimTarget;
  setStore?(state: StoreState): void;
  reap?(): Promise<void>;
  /** A snapshot of several volumes at one instant. The coordinator is heard of `steps` times, then never again. */
  takeSet?(
    disks: readonly number[],
    name: string,
    steps: number,
    /** The first volume is about to be held. */
    onHold: () => void,
  ): Promise<void>;
  /** Bytes of the journal as they are now, to imitate them. */
  journalSample?(): Buffer | undefined;
  /** Flip a bit of what the program keeps. */
  flip?(what: 'segment' | 'journal' | 'document'): Flip | undefined;
  /** The guest changes these sectors of the first volume now; for counting what came together. */
  watch?(first: number, count: number): void;
  /** The process has died; counts what came together. */
  died?(ending: 'power loss' | 'kill'): void;
  /** Is this a file of the journal? */
  isJournal(path: string): boolean;
}

export interface SimTargetMaker {
  readonly name: string;
  readonly sectors: number;
  /** Limits of the program during the simulation. */
  readonly options: SimOptions;
  /** Volumes that there may be at most. */
  readonly disks: number;
  /** Make the first volume on an empty host. */
  create(host: SimHost): Promise<void>;
  /** The program in the process that the host runs now. `note` counts what happened, by scenario. */
  boot(host: SimHost, note: (scenario: string) => void): SimProgram;
}
