/** Events, as they travel over the event stream; and what a dry run says. */
import Type, { type Static } from 'typebox';
import { timestamp, word } from './common.ts';

export const Event = Type.Object(
  {
    seq: Type.Integer({
      description: 'Number; grows by one. It is the id of the event on the stream.',
    }),
    type: Type.String({
      description:
        'Family and word: vm.*, volume.*, snapshot.*, image.*, network.*, operation.*, node.*.',
    }),
    resource: Type.String({ description: 'URL path of the object that changed.' }),
    at: timestamp('When.'),
    data: Type.Record(Type.String(), Type.Unknown(), { description: 'What is known about it.' }),
  },
  { $id: 'Event', description: 'Something changed; look at the object.' },
);
export type Event = Static<typeof Event>;
export type EventType =
  `${'vm' | 'volume' | 'snapshot' | 'image' | 'network' | 'operation' | 'node'}.${string}`;

const PlanStep = Type.Object({
  action: word(['create', 'change', 'delete', 'start', 'stop', 'keep'], 'What would be done.'),
  resource: Type.String({ description: 'URL path of the object.' }),
  detail: Type.String({ description: 'In words; empty when there is nothing to add.' }),
});
export type PlanStep = Static<typeof PlanStep>;

export const Plan = Type.Object(
  {
    dryRun: Type.Boolean({ description: 'True: nothing was changed.' }),
    steps: Type.Array(PlanStep, { description: 'In the order in which they would be done.' }),
    warnings: Type.Array(Type.String()),
  },
  { $id: 'Plan', description: 'What a request with dryRun=true would do.' },
);
export type Plan = Static<typeof Plan>;
