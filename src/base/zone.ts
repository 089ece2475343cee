/**
 * Wall-clock times of a time zone, without a library: what a moment reads there, and which moment a reading means.
 *
 * A reading that a clock change leaves out means no moment; one that it repeats means the first of the two. (mktime, and with
 * it systemd, decide the same.)
 */
import { DvceError } from './errors.ts';

export interface WallTime {
  readonly year: number;
  /** 1 to 12. */
  readonly month: number;
  readonly day: number;
  readonly hour: number;
  readonly minute: number;
  readonly second: number;
}

const dayMs = 86_400_000;

const asUtc = ({ year, month, day, hour, minute, second }: WallTime): number =>
  Date.UTC(year, month - 1, day, hour, minute, second);

export class Zone {
  readonly name: string;
  readonly #format: Intl.DateTimeFormat;

  /** @param name IANA name, e.g. `Europe/Berlin`. @throws INVALID_ARGUMENT when it is not known here */
  constructor(name: string) {
    this.name = name;
    try {
      this.#format = new Intl.DateTimeFormat('en-US', {
        timeZone: name,
        hourCycle: 'h23',
        year: 'numeric',
        month: 'numeric',
        day: 'numeric',
        hour: 'numeric',
        minute: 'numeric',
        second: 'numeric',
      });
    } catch (error) {
      throw new DvceError(
        'INVALID_ARGUMENT',
        {
          what: `the time zone ${JSON.stringify(name.slice(0, 80))}`,
          reason: 'it is not known',
          advice: 'Give a name of the IANA data base, e.g. Europe/Berlin, or UTC.',
        },
        error,
      );
    }
  }

  wallTime(ms: number): WallTime {
    const parts = new Map(this.#format.formatToParts(ms).map(({ type, value }) => [type, value]));
    const number = (type: Intl.DateTimeFormatPartTypes): number => Number(parts.get(type));
    return {
      year: number('year'),
      month: number('month'),
      day: number('day'),
      hour: number('hour'),
      minute: number('minute'),
      second: number('second'),
    };
  }

  /** undefined: the clock never shows this. */
  moment(wall: WallTime): number | undefined {
    const reading = asUtc(wall);
    // A day around it, the zone's distance from UTC is that of before or of after a change.
    const offsets = [reading - dayMs, reading + dayMs].map((ms) => this.#offset(ms));
    const found = offsets
      .map((offset) => reading - offset)
      .filter((ms) => asUtc(this.wallTime(ms)) === reading);
    return found.length === 0 ? undefined : Math.min(...found);
  }

  #offset(ms: number): number {
    const whole = Math.floor(ms / 1000) * 1000;
    return asUtc(this.wallTime(whole)) - whole;
  }
}

/** Time zone of this host. */
export const hostZone = (): string => new Intl.DateTimeFormat().resolvedOptions().timeZone;
