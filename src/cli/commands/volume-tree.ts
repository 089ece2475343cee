/** `dvce volume flatten` and `dvce volume promote` (DD-0018) */
import type { Volume, VolumeFlattened, VolumePromoted } from '../../api/index.ts';
import { follow } from '../follow.ts';
import { size } from '../format.ts';
import type { Run } from '../spec.ts';

type Holders = NonNullable<VolumeFlattened['heldBy']>;

/** For people; null: nothing does. */
export function holdersText(held: Holders | null): string | null {
  if (held === null) return null;
  const { snapshots, more, points } = held;
  const names = snapshots.length === 0 ? [] : [`${snapshots.join(', ')}${more ? ' and more' : ''}`];
  return [...names, ...(points ? ['points in time'] : [])].join('; ');
}

/** The line of `volume show` for a flattened volume that is not free of its origin. */
export const heldFacts = ({ originHeldBy }: Volume): readonly (readonly [string, string])[] => {
  const text = holdersText(originHeldBy ?? null);
  return text === null ? [] : [['origin held by', text]];
};

export const flatten: Run = async (context, given) => {
  const { api, output } = context;
  const started = await api.volumes.flatten(given.argument('path'));
  const operation = await follow(context, given, started, { cancelOnInterrupt: true });
  if (operation === undefined) return;
  const { copiedBytes, heldBy, volume } = operation.result as VolumeFlattened; // what this kind ends with
  const held = holdersText(heldBy);
  const end =
    held === null
      ? 'it needs nothing of another volume'
      : `its content needs nothing of its origin, which stays in the store for: ${held}`;
  const text = `Volume ${volume.path}: ${size(copiedBytes)} copied; ${end}.`;
  output.changed({ copiedBytes, heldBy, volume }, volume.path, text);
};

export const promote: Run = async (context, given) => {
  const { api, output } = context;
  const started = await api.volumes.promote(given.argument('path'));
  const operation = await follow(context, given, started, { cancelOnInterrupt: false });
  if (operation === undefined) return;
  const result = operation.result as VolumePromoted; // what this kind ends with
  const { snapshots, volume, parent } = result;
  const text = `Volume ${volume.path} has the snapshots ${snapshots.join(', ')} now; ${parent.path} is a clone of it.`;
  output.changed(result, volume.path, text);
};
