/** What flatten and promote end with (DD-0018). */
import Type, { type Static } from 'typebox';
import { ref, sizeBytes } from './common.ts';
import { heldBy } from './held-by.ts';
import { Volume } from './volume.ts';

export const VolumeFlattened = Type.Object(
  {
    copiedBytes: sizeBytes('Bytes of blocks that were copied.'),
    heldBy,
    volume: ref(Volume),
  },
  { $id: 'VolumeFlattened', description: 'What an operation of kind volume.flatten ends with.' },
);
export type VolumeFlattened = Static<typeof VolumeFlattened>;

export const VolumePromoted = Type.Object(
  {
    snapshots: Type.Array(Type.String(), { description: 'What went over to the volume.' }),
    volume: ref(Volume),
    parent: ref(Volume),
  },
  {
    $id: 'VolumePromoted',
    description:
      'What an operation of kind volume.promote ends with: `parent` is a clone of `volume` now.',
  },
);
export type VolumePromoted = Static<typeof VolumePromoted>;
