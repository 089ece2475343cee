/** HLFS: log-structured volumes over a `SegmentStore`. */

export { baseUse } from './base-release.ts';
export { type ReadSources, SharedReads } from './block-source.ts';
export { BuildBudget } from './build-budget.ts';
export { SharedCacheBudget } from './cache-budget.ts';
export {
  createVolume,
  getVolume,
  growHead,
  listVolumes,
  publishImage,
  renameVolume,
  shrinkHead,
  updateVolume,
  type VolumeChange,
  type VolumeOptions,
  type VolumeTarget,
} from './catalog.ts';
export { readHead } from './catalog-documents.ts';
export { type CheckOptions, type CheckResult, checkVolume, traceDamage } from './check.ts';
export { checkTable, type Finding } from './check-findings.ts';
export { type BlockCompressor, compressBlocksMax, type PackedBlocks } from './compression.ts';
export { type ContentExtent, listContent } from './content.ts';
export * from './context.ts';
export { currentRoot, readEnd } from './current-root.ts';
export {
  deleteVolume,
  discardVolume,
  listTrash,
  restoreVolume,
  type TrashedVolume,
  trashVolume,
} from './deletion.ts';
export * from './documents.ts';
export { dumpJournalFile, dumpSegment } from './dump.ts';
export { planClosedFlatten } from './flatten.ts';
export {
  type CloneOptions,
  cloneVolume,
  pinSnapshot,
  type ReaderPin,
  type ReadRanges,
  type RootRanges,
  rollbackVolume,
} from './forks.ts';
export { type InUse, isAt, isUsable, requireHead } from './heads.ts';
export { rootDirectory, type VolumeRecord } from './names.ts';
export { listPlaces, type Named } from './names-walk.ts';
export { newPackerMemory, type PackerMemory, packerEntry } from './packer-memory.ts';
export { clonePoint, snapshotPoint } from './point-forks.ts';
export { openPoints, type PointChoice, type PointFilter, summarizePoints } from './points.ts';
export {
  type PromotionPlan,
  type PromotionReaders,
  planPromotion,
  promoteVolume,
} from './promotion.ts';
export { ReadCache } from './read-cache.ts';
export { type ReclaimLog, reap, reapVolume } from './reaper.ts';
export {
  type ChangedRange,
  type Diff,
  diffRoots,
  openSnapshot,
  type RootPosition,
  readRanges,
  reclaimLog,
} from './roots.ts';
export * from './schema.ts';
export { createProcessScope, openProcessScope } from './scopes.ts';
export { type ScrubNote, type ScrubPosition, type ScrubSlice, scrubSlice } from './scrub.ts';
export { deleteSnapshot } from './snapshot-deletion.ts';
export { SnapshotIndex } from './snapshot-index.ts';
export { commitSet, dropMember } from './snapshot-sets.ts';
export type { ListPlace } from './snapshot-tree.ts';
export {
  checkSnapshotName,
  countSnapshots,
  createSnapshotDocument,
  findSnapshot,
  isNameTaken,
  listSnapshots,
  type NewSnapshot,
  newestSnapshot,
  type SnapshotFollowed,
  type SnapshotRecord,
  snapshotPage,
  snapshotRecord,
  updateSnapshot,
} from './snapshots.ts';
export { closedVolumeSpace, type VolumeSpace } from './space.ts';
export * from './store.ts';
export * from './volume-api.ts';
export { type OpenOptions, openVolume, recoverJournal } from './volume-open.ts';
