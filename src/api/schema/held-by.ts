/** What keeps the origin of a flattened volume. */
import Type from 'typebox';
import { nullable } from './common.ts';

export const heldBy = nullable(
  Type.Object({
    snapshots: Type.Array(Type.String(), { description: 'Its own snapshots, oldest first.' }),
    more: Type.Boolean({ description: 'There are more of them.' }),
    points: Type.Boolean({ description: 'Points in time do.' }),
  }),
  {
    description:
      'What needs the blocks of the origin still, which therefore stay in the store; null: nothing does.',
  },
);
