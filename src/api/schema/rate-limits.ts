/** Limits of the rate of requests to a volume (base/rate-limits.ts says what they mean). */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import { closed, nullable, ref } from './common.ts';

const perSecond = (description: string) =>
  Type.Integer({ minimum: 1, maximum: limits.volumeBandwidthMax, description });
const seconds = (description: string) =>
  Type.Integer({ minimum: 1, maximum: limits.volumeBurstSecondsMax, description });

export const RateLimit = Type.Object(
  {
    perSecond: perSecond('Requests or bytes a second, as a mean over any longer time.'),
    burstPerSecond: Type.Optional(perSecond('What is allowed after a rest, for burstSeconds.')),
    burstSeconds: Type.Optional(seconds('How long a burst lasts.')),
  },
  { $id: 'RateLimit', description: 'A rate, and how far it may be exceeded for a while.' },
);

const of = <T extends Parameters<typeof Type.Optional>[0]>(one: (description: string) => T) =>
  ({
    iops: Type.Optional(one('Reads, writes, trims and zeroing together, requests a second.')),
    readIops: Type.Optional(one('Reads a second.')),
    writeIops: Type.Optional(one('Writes, trims and zeroing, requests a second.')),
    bandwidth: Type.Optional(one('Bytes read and written a second.')),
    readBandwidth: Type.Optional(one('Bytes read a second.')),
    writeBandwidth: Type.Optional(one('Bytes written a second.')),
  }) as const;

export const RateLimits = Type.Object(
  of((description) => Type.Unsafe<Static<typeof RateLimit>>({ ...ref(RateLimit), description })),
  {
    $id: 'RateLimits',
    description: 'Limits of a volume; a request keeps all that apply to it. Flushes have none.',
  },
);
export type RateLimits = Static<typeof RateLimits>;

export const RateLimitsChange = Type.Object(
  of((description) =>
    nullable(
      Type.Object(
        {
          perSecond: Type.Optional(perSecond('The rate.')),
          burstPerSecond: Type.Optional(nullable(perSecond('The burst; null: none.'))),
          burstSeconds: Type.Optional(nullable(seconds('How long it lasts; 1 when never said.'))),
        },
        closed,
      ),
      { description: `${description} null: no limit.` },
    ),
  ),
  { ...closed, description: 'Limits of rate; what is not named stays as it is.' },
);
export type RateLimitsChange = Static<typeof RateLimitsChange>;
