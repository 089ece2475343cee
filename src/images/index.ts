/**
 * Images: bringing disk images of other systems into volumes.
 *
 * Purpose: import raw and qcow2 from a file or an address, in a short-lived process of its own.
 * Invariants: no file that an image names is ever opened; what was checked and hashed is what is copied; an import that
 * fails or is cancelled leaves nothing of its own behind, and the caller deletes the volume.
 *
 *   run.ts (parent) <-- protocol.ts --> main.ts (process) -> import.ts -> source.ts   -> download.ts, recognise.ts, qcow2.ts
 *                                                                      -> qemu-img.ts -> NBD export of the volume
 */
export type {
  ImageDescription,
  ImageFormat,
  ImageTarget,
  ImportProgress,
  ImportResult,
} from './protocol.ts';
export { type RunImportOptions, runImport } from './run.ts';
