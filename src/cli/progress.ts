/** How far an operation is, while somebody waits for it: a bar on a terminal, a line for every tenth elsewhere. */
import type { Operation } from '../api/index.ts';
import { formatDuration, formatSize } from '../base/units.ts';
import type { Output } from './output.ts';

type Now = NonNullable<Operation['progress']>;

const amount = (value: number, unit: string): string =>
  unit === 'bytes' ? formatSize(value) : `${value} ${unit}`;

const left = ({ etaMs }: Now): string => (etaMs === null ? '' : `, ${formatDuration(etaMs)} left`);

const shareOf = ({ done, total }: Now): number | undefined => {
  if (total === null) return undefined;
  return total === 0 ? 1 : Math.min(1, done / total);
};

/** One sentence: `image.import: 1.2GiB of 2.4GiB (50%, 12s left)`. */
export function progressText(kind: string, now: Operation['progress']): string {
  if (now === null) return kind;
  const share = shareOf(now);
  if (share === undefined) return `${kind}: ${amount(now.done, now.unit)}`;
  const total = amount(now.total ?? 0, now.unit);
  const done = now.unit === 'bytes' ? formatSize(now.done) : `${now.done}`;
  return `${kind}: ${done} of ${total} (${Math.floor(share * 100)}%${left(now)})`;
}

const barMax = 40;
const barMin = 8;

/** The same as one line with a bar that fits into `width` columns. */
export function progressBar(kind: string, now: Operation['progress'], width: number): string {
  const share = now === null ? undefined : shareOf(now);
  if (now === null || share === undefined) return progressText(kind, now).slice(0, width - 1);
  const total = amount(now.total ?? 0, now.unit);
  const done = now.unit === 'bytes' ? formatSize(now.done) : `${now.done}`;
  const percent = `${Math.floor(share * 100)}%`.padStart(4);
  const tail = `${percent}  ${done} of ${total}${left(now)}`;
  const room = Math.min(barMax, width - kind.length - tail.length - 6);
  if (room < barMin) return progressText(kind, now).slice(0, width - 1);
  const full = Math.floor(share * room);
  return `${kind} [${'#'.repeat(full)}${'-'.repeat(room - full)}] ${tail}`;
}

export interface Progress {
  update(operation: Operation): void;
  /** Take the bar away while something else is said; `false` brings it back with the next update. */
  hide(hidden: boolean): void;
  end(): void;
}

export function progressOf(output: Output, kind: string): Progress {
  let drawn = false;
  let isHidden = false;
  let tenth = -1;
  const clear = (): void => {
    if (drawn) output.progress('');
    drawn = false;
  };
  return {
    update({ progress }) {
      if (output.live) {
        if (isHidden) return;
        output.progress(progressBar(kind, progress, output.width));
        drawn = true;
        return;
      }
      const share = progress === null ? undefined : shareOf(progress);
      const now = share === undefined ? -1 : Math.floor(share * 10);
      if (now <= tenth) return;
      tenth = now;
      output.note(progressText(kind, progress));
    },
    hide(hidden) {
      isHidden = hidden;
      if (hidden) clear();
    },
    end: clear,
  };
}
