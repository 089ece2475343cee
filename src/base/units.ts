/** Sizes and durations in IEC units, as texts and as numbers of bytes or milliseconds. */
import { DvceError } from './errors.ts';

export const KiB = 1024;
export const MiB = 1024 ** 2;
export const GiB = 1024 ** 3;
export const TiB = 1024 ** 4;

const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: KiB,
  kib: KiB,
  m: MiB,
  mib: MiB,
  g: GiB,
  gib: GiB,
  t: TiB,
  tib: TiB,
};

/**
 * Parse `10GiB`, `512`, `1.5T`. Units are powers of 1024; `GB` is refused because it is ambiguous.
 * @returns whole bytes
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const unit = match?.[2] === undefined ? undefined : sizeUnits[match[2].toLowerCase()];
  const bytes = unit === undefined ? Number.NaN : Number(match?.[1]) * unit;
  if (!Number.isSafeInteger(bytes))
    throw new DvceError('INVALID_SIZE', {
      size: JSON.stringify(text),
      reason:
        unit === undefined
          ? 'it is not a number with a unit B, KiB, MiB, GiB or TiB'
          : 'it is no whole number of bytes',
    });
  return bytes;
}

/** Print bytes with the largest IEC unit that keeps at least one digit before the point. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = Number.isInteger(value) ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)}${units[unit] ?? 'B'}`;
}

const durationUnits: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Parse `500ms`, `30s`, `5m`, `2h`, `1d`. @returns milliseconds */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/i.exec(text.trim());
  const unit = match?.[2] === undefined ? undefined : durationUnits[match[2].toLowerCase()];
  if (unit === undefined)
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the duration ${JSON.stringify(text)}`,
      reason: 'it is not a number with a unit ms, s, m, h or d',
      advice: 'For example 30s.',
    });
  return Math.round(Number(match?.[1]) * unit);
}

/** Print a duration: `250ms`, `3.2s`, `4m10s`, `2h5m`, `3d4h`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)}ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)}s`;
  const pair = (large: number, small: number, a: string, b: string): string => {
    const high = Math.floor(ms / large);
    const low = Math.floor((ms % large) / small);
    return low === 0 ? `${high}${a}` : `${high}${a}${low}${b}`;
  };
  if (ms < 3_600_000) return pair(60_000, 1000, 'm', 's');
  if (ms < 86_400_000) return pair(3_600_000, 60_000, 'h', 'm');
  return pair(86_400_000, 3_600_000, 'd', 'h');
}
