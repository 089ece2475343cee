/** How facts are written for people. */
import { formatSize } from '../base/units.ts';

export const size = (bytes: number | null): string => (bytes === null ? '-' : formatSize(bytes));
export const yesNo = (value: boolean): string => (value ? 'yes' : 'no');
export const orDash = (text: string | number | null | undefined): string =>
  text === null || text === undefined || text === '' ? '-' : String(text);
/** Time to the second, in UTC as it came. */
export const time = (text: string | null): string =>
  text === null ? '-' : text.replace('T', ' ').replace(/\.\d+Z?$|Z$/, '');
export const labels = (all: Readonly<Record<string, string>>): string =>
  orDash(
    Object.entries(all)
      .map(([key, value]) => `${key}=${value}`)
      .join(','),
  );
