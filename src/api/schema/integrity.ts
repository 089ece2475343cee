/** What a check and the background scrub find. */
import Type, { type Static } from 'typebox';
import { closed, nullable, pathText, ref, sizeBytes, timestamp, word } from './common.ts';

const count = (description: string) => Type.Integer({ minimum: 0, description });

const findingRange = Type.Object({
  of: Type.String({
    description: '`current`, `snapshot NAME`, `clone PATH` or `clone PATH@NAME`.',
  }),
  offset: sizeBytes('First byte.'),
  length: sizeBytes('Bytes.'),
});

export const Finding = Type.Object(
  {
    code: Type.String({ description: 'Stable code; docs/reference/findings.md lists them.' }),
    severity: word(['error', 'warning'], 'An error means data cannot be read or is in danger.'),
    object: Type.String({ description: 'Key of the object in the store.' }),
    detail: Type.String(),
    advice: Type.String({ description: 'What to do about it.' }),
    ranges: Type.Array(findingRange, { description: 'The bytes that are concerned.' }),
    omittedRanges: count('Ranges that are not listed.'),
    concerns: Type.Array(Type.String(), { description: 'Contents that are concerned.' }),
    repair: word(['none', 'possible', 'done'], '`possible`: asking for the repair puts it right.'),
  },
  { $id: 'Finding', description: 'Something that is wrong with what is stored of a volume.' },
);
export type Finding = Static<typeof Finding>;

const scrubFacts = {
  finishedAt: nullable(timestamp('End of the last pass.'), {
    description: 'Null before the first one has ended.',
  }),
  running: Type.Boolean({ description: 'It is being read now.' }),
  readBytes: sizeBytes('Bytes read by this pass or the last one.'),
  findings: Type.Array(ref(Finding), { description: 'What the last pass found.' }),
};

export const VolumeScrub = Type.Object(scrubFacts, {
  $id: 'VolumeScrub',
  description: 'What the background scrub knows of a volume.',
});
export type VolumeScrub = Static<typeof VolumeScrub>;

export const Scrub = Type.Object(
  {
    state: word(['off', 'paused', 'idle', 'running'], 'What it does.'),
    bytesPerSecond: sizeBytes('Its rate; 0: off.'),
    periodMs: Type.Integer({ description: 'Each volume is read once in this time.' }),
    current: nullable(Type.String(), { description: 'Path of the volume that is being read.' }),
    readBytes: sizeBytes('Bytes read since blockd was started.'),
    volumes: count('Volumes of the store.'),
    scrubbed: count('Volumes that were read whole within the period.'),
    waiting: count('Volumes that are due.'),
    damaged: Type.Array(Type.Object({ path: pathText('Path of the volume.'), ...scrubFacts }), {
      description: 'Volumes in which something was found.',
    }),
  },
  { $id: 'Scrub', description: 'The background scrub of a host.' },
);
export type Scrub = Static<typeof Scrub>;

export const ScrubStart = Type.Object(
  { path: Type.Optional(pathText('Volume to be read next; all of them when left out.')) },
  closed,
);
export const ScrubPause = Type.Object(
  { paused: Type.Boolean({ description: 'False: go on.' }) },
  closed,
);
