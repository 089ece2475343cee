/** What the simulation needs of a device under test; the engine's is in engine-target.ts, simple ones in log-device.ts. */
import type { BlockReader } from '../../src/hlfs/index.ts';
import type { SimHost } from './world.ts';

export type StoreState = 'up' | 'down' | 'full' | 'late';

export interface SimDevice
  extends Pick<BlockReader, 'read' | 'write' | 'flush' | 'trim' | 'writeZeroes' | 'sizeBytes'> {
  close(): Promise<void>;
}

/** One boot of the program under test. */
export interface SimTarget {
  /** Valid after `open`. */
  readonly device: SimDevice;
  /** Recover and serve. */
  open(): Promise<void>;
  setStore?(state: StoreState): void;
  publish?(): Promise<void>;
  /** Hold the volume for the cut of a snapshot set. @returns how it ended, for counting */
  hold?(end: 'cut' | 'dropped' | 'left'): string;
  snapshots?: {
    list(): Promise<string[]>;
    create(name: string): Promise<void>;
    delete(name: string): Promise<void>;
    read(name: string): Promise<Buffer>;
    /** Clone, read the clone and delete it. undefined: the snapshot went away meanwhile. */
    clone(name: string): Promise<Buffer | undefined>;
    /** The device is closed; it is opened again by the caller. */
    rollback(name: string): Promise<void>;
  };
  /** Shrink the closed device, open it, grow it to its full size. */
  shrinkAndGrow?(sizeBytes: number): Promise<void>;
  reap?(): Promise<void>;
  /** Problems found by reading everything that is reachable. */
  verify?(): Promise<string[]>;
  /** Bytes of the journal as they are now, to imitate them. */
  journalSample?(): Buffer | undefined;
  /** The guest changes these sectors now; for counting what came together. */
  watch?(first: number, count: number): void;
  /** The process has died; counts what came together. */
  died?(ending: 'power loss' | 'kill'): void;
  /** Is this a file of the journal? */
  isJournal(path: string): boolean;
}

export interface SimTargetMaker {
  readonly name: string;
  readonly sectors: number;
  /** Make the device on an empty host. */
  create(host: SimHost): Promise<void>;
  /** A target for the process that the host runs now. `note` counts what happened, by scenario. */
  boot(host: SimHost, note: (scenario: string) => void): SimTarget;
}
