/**
 * How the last blockd of a data directory died, for rule N4: written by the dying process itself (uncaught exception) or by
 * the launcher that saw it die of a fault signal; read once by the next blockd.
 *
 * A kill from outside (SIGKILL, SIGTERM) is nobody's crash and is not recorded: otherwise an operator who kills a blockd
 * three times while a volume opens would find that volume read-only.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { asVolumeId, type FileSystem, isUuid, type VolumeId } from '../base/index.ts';
import { readWhole } from './durable-file.ts';
import { isRecord } from './lines.ts';

export interface CrashRecord {
  readonly reason: string;
  readonly atMs: number;
  /** Set when the fault came from a worker that served one volume alone. */
  readonly volume: VolumeId | null;
}

/** Signals that a process raises against itself. */
const faultSignals: ReadonlySet<string> = new Set([
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGSEGV',
  'SIGSYS',
  'SIGTRAP',
]);

export function isFaultSignal(signal: string | null): boolean {
  return signal !== null && faultSignals.has(signal);
}

/** Synchronous, because the process ends right after. A record that cannot be written only costs the attribution. */
export function recordCrashSync(path: string, record: CrashRecord): void {
  writeFileSync(path, `${JSON.stringify(record)}\n`, { mode: 0o640 });
}

/** @returns undefined when the last blockd did not crash */
export function readCrash(files: FileSystem, path: string): CrashRecord | undefined {
  const text = readWhole(files, path, 65_536);
  if (text === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // The dying process could not finish the record: it did crash.
    value = {};
  }
  const record = isRecord(value) ? value : {};
  const { reason, atMs, volume } = record;
  return {
    reason: typeof reason === 'string' ? reason : 'unknown',
    atMs: typeof atMs === 'number' ? atMs : 0,
    volume: typeof volume === 'string' && isUuid(volume) ? asVolumeId(volume) : null,
  };
}

export function forgetCrash(path: string): void {
  rmSync(path, { force: true });
}
