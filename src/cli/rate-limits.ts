/** Limits of a volume's rate: their options, and how they are shown. */
import type { RateLimits, RateLimitsChange } from '../api/index.ts';
import { formatDuration, formatSize, parseDuration, parseSize } from '../base/units.ts';
import { usageError } from './output.ts';
import type { Given } from './spec.ts';

type Name = keyof RateLimits;
type Change = { -readonly [N in Name]?: RateLimitsChange[N] };

/** By the word that people write: `--read-iops`, `--burst read-iops=...`. */
const names: Readonly<Record<string, Name>> = {
  iops: 'iops',
  'read-iops': 'readIops',
  'write-iops': 'writeIops',
  bandwidth: 'bandwidth',
  'read-bandwidth': 'readBandwidth',
  'write-bandwidth': 'writeBandwidth',
};

const isBytes = (word: string): boolean => word.endsWith('bandwidth');

/** What a command line says about limits; undefined: nothing. */
export function limitsGiven(given: Given): RateLimitsChange | undefined {
  const isCleared = given.choice('limits') === false;
  const change: Change = {};
  for (const [word, name] of Object.entries(names)) {
    const text = given.text(name);
    if (text !== undefined) change[name] = text === 'none' ? null : { perSecond: rate(word, text) };
    else if (isCleared) change[name] = null;
  }
  for (const text of given.texts('burst')) {
    const [word = '', value = ''] = text.split(/=(.*)/s);
    const name = names[word];
    if (name === undefined)
      throw usageError(
        `the burst ${JSON.stringify(text)}`,
        `it is not of one of ${Object.keys(names).join(', ')}`,
        'For example --burst iops=5000/30s.',
      );
    change[name] = { ...change[name], ...burst(word, value) };
  }
  return Object.keys(change).length === 0 ? undefined : change;
}

function burst(word: string, text: string): NonNullable<RateLimitsChange[Name]> {
  if (text === 'none') return { burstPerSecond: null, burstSeconds: null };
  const [most = '', length] = text.split('/');
  const burstPerSecond = rate(word, most);
  return length === undefined
    ? { burstPerSecond }
    : { burstPerSecond, burstSeconds: Math.round(parseDuration(length) / 1000) };
}

function rate(word: string, text: string): number {
  if (isBytes(word)) return parseSize(text);
  if (!/^[1-9]\d{0,9}$/.test(text))
    throw usageError(
      `the rate ${JSON.stringify(text)} of ${word}`,
      'it is no whole number of requests a second',
      'For example 1000; none takes the limit away.',
    );
  return Number(text);
}

/** `iops 1000 (5000 for 30s), write-bandwidth 100MiB/s` */
export function limitsText(rates: RateLimits | undefined): string {
  const parts = Object.entries(names).flatMap(([word, name]) => {
    const limit = rates?.[name];
    if (limit === undefined) return [];
    const amount = (value: number): string =>
      isBytes(word) ? `${formatSize(value)}/s` : `${value}`;
    const { perSecond, burstPerSecond, burstSeconds = 1 } = limit;
    const more =
      burstPerSecond === undefined
        ? ''
        : ` (${amount(burstPerSecond)} for ${formatDuration(burstSeconds * 1000)})`;
    return [`${word} ${amount(perSecond)}${more}`];
  });
  return parts.length === 0 ? '-' : parts.join(', ');
}
