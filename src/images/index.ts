/**
 * Images: disks of other systems become volumes, volumes become files.
 *
 * Purpose: import raw, qcow2, vmdk, OVA, compressed files and NBD disks, export raw and qcow2, each in a short-lived process
 * of its own; know where cloud images are.
 * Invariants: no file that an image names is ever opened; what was checked and hashed is what is copied; a task that fails or
 * is cancelled leaves nothing behind but a download that can be continued, and the caller deletes the volume.
 *
 *   run.ts (parent) <-- protocol.ts --> main.ts (process) -> import.ts -> source.ts -> fetch.ts, unpack.ts, qcow2.ts, vmdk.ts, ova.ts
 *                                                                      -> qemu-img.ts, steady-client.ts -> NBD export of the volume
 *                                                         -> export.ts
 */
export { type Catalogue, type CatalogueEntry, readCatalogue } from './catalogue.ts';
export { publicName } from './download.ts';
export { sweepTemporary } from './partial-file.ts';
export type {
  ExportFormat,
  ExportResult,
  ImageDescription,
  ImageFormat,
  ImageTarget,
  ImportResult,
} from './protocol.ts';
export { type RunExportOptions, type RunImportOptions, runExport, runImport } from './run.ts';
