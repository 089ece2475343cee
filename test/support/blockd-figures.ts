/** Figures as a blockd tells them, all well, one volume. */
import type { BlockdMetrics } from '../../src/blockd/index.ts';

export const volumeFigures: BlockdMetrics['volumes'][number] = {
  path: '/prod/a "quoted" \\ name',
  attachId: 'a',
  connections: 1,
  readOnlyReason: null,
  mappedBytes: 4096,
  storedBytes: 8192,
  journalBytes: 100,
  journalQuotaBytes: 1000,
  journalWrittenBytes: 300,
  journalSyncs: 3,
  journalFailedFiles: 0,
  flushLagMs: 1500,
  dirtyBytes: 4096,
  publishedBytes: 600,
  publishingWaits: null,
  gcDebtBytes: 12,
  segments: 2,
  reads: 5,
  writes: 6,
  flushes: 7,
  trims: 8,
  readBytes: 500,
  writtenBytes: 200,
};
export const figures = (more: Partial<BlockdMetrics> = {}): BlockdMetrics => ({
  format: 1,
  process: {
    pid: 77,
    startedAtSeconds: 1000,
    cpuSeconds: 1.5,
    residentBytes: 100,
    heapUsedBytes: 50,
    openFiles: 9,
  },
  loops: [{ thread: 'main', lagSeconds: 0.001, busySeconds: 3 }],
  store: { freeBytes: 1e12, totalBytes: 2e12 },
  nbd: {
    boundsSeconds: [0.001, 0.01],
    connections: 1,
    operations: [{ operation: 'read', counts: [2, 3, 1], sumSeconds: 0.5, errors: 1 }],
  },
  volumes: [volumeFigures],
  unopened: [],
  ...more,
});
