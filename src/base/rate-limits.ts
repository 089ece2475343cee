/**
 * Limits of the rate of requests to one volume, as operators set them and as they are stored with it.
 *
 * Every limit stands on its own, and a request must keep all that apply to it: a limit of reads beside one of everything is
 * allowed. A burst is a higher rate for a bounded time: after a rest long enough requests go at `burstPerSecond` for
 * `burstSeconds`, then at `perSecond`.
 */
import { DvceError } from './errors.ts';
import { limits } from './limits.ts';

/** Limits by what they count: requests, or bytes of content. */
export const rateNames = [
  'iops',
  'readIops',
  'writeIops',
  'bandwidth',
  'readBandwidth',
  'writeBandwidth',
] as const;
export type RateName = (typeof rateNames)[number];

export interface RateLimit {
  /** Requests or bytes. */
  readonly perSecond: number;
  /** Above `perSecond`; absent: no burst. */
  readonly burstPerSecond?: number;
  readonly burstSeconds?: number;
}

/** What is not named is not limited. */
export type RateLimits = { readonly [Name in RateName]?: RateLimit };

/** What is not named stays, null takes away. */
export interface RateLimitChange {
  readonly perSecond?: number;
  readonly burstPerSecond?: number | null;
  readonly burstSeconds?: number | null;
}
export type RateLimitsChange = { readonly [Name in RateName]?: RateLimitChange | null };

export const countsBytes = (name: RateName): boolean => name.toLowerCase().endsWith('bandwidth');

/** @throws INVALID_ARGUMENT when what comes out is no limit */
export function changedRates(before: RateLimits, change: RateLimitsChange): RateLimits {
  const changed: { [Name in RateName]?: RateLimit } = {};
  for (const name of rateNames) {
    const asked = change[name];
    const now = asked === undefined ? before[name] : changedRate(name, before[name], asked);
    if (now !== undefined) changed[name] = now;
  }
  return changed;
}

function changedRate(
  name: RateName,
  before: RateLimit | undefined,
  asked: RateLimitChange | null,
): RateLimit | undefined {
  if (asked === null) return undefined;
  const perSecond = asked.perSecond ?? before?.perSecond;
  if (perSecond === undefined)
    throw invalid(name, 'it has a burst and no rate', 'Give the rate, too.');
  checkRate(name, perSecond);
  const burstPerSecond = newValue(asked.burstPerSecond, before?.burstPerSecond);
  if (burstPerSecond === undefined) return { perSecond };
  const burstSeconds = newValue(asked.burstSeconds, before?.burstSeconds) ?? 1;
  checkRate(name, burstPerSecond);
  if (burstPerSecond <= perSecond)
    throw invalid(
      name,
      `its burst ${burstPerSecond} is not above its rate ${perSecond}`,
      'Give a larger burst, or none.',
    );
  if (!(burstSeconds >= 1 && burstSeconds <= limits.volumeBurstSecondsMax))
    throw invalid(
      name,
      `its burst of ${burstSeconds} s is outside of 1 to ${limits.volumeBurstSecondsMax} s`,
    );
  return { perSecond, burstPerSecond, burstSeconds };
}

const newValue = (asked: number | null | undefined, before: number | undefined) =>
  asked === undefined ? before : (asked ?? undefined);

function checkRate(name: RateName, perSecond: number): void {
  const [least, most] = countsBytes(name)
    ? [limits.volumeBandwidthMin, limits.volumeBandwidthMax]
    : [limits.volumeIopsMin, limits.volumeIopsMax];
  if (!Number.isInteger(perSecond) || perSecond < least || perSecond > most)
    throw invalid(name, `${perSecond} a second is outside of ${least} to ${most}`);
}

const invalid = (name: RateName, reason: string, advice = 'Choose a rate within it.'): DvceError =>
  new DvceError('INVALID_ARGUMENT', { what: `the limit ${name}`, reason, advice });
