/** `dvce volume points` and `dvce volume at` (DD-0013). */
import type { PointOpened } from '../../api/index.ts';
import type { Context } from '../context.ts';
import { size, time } from '../format.ts';
import { usageError } from '../output.ts';
import type { Run } from '../spec.ts';
import { unixUri } from './storage.ts';

type Given = Parameters<Run>[1];

const timePattern = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$/i;

/** A time as people write it: local unless it has an offset. */
function timeOf(text: string): string {
  // A date alone would be taken for UTC.
  const whole = text.length === 10 ? `${text}T00:00:00` : text.replace(' ', 'T');
  const ms = timePattern.test(text) ? Date.parse(whole) : Number.NaN;
  if (Number.isFinite(ms)) return new Date(ms).toISOString();
  throw usageError(
    `the time ${JSON.stringify(text)}`,
    'it is no date and time',
    'For example 2026-01-31T10:15:00, or with an offset 2026-01-31T10:15:00+01:00.',
  );
}

const timeGiven = (given: Given, name: string): string | undefined => {
  const text = given.text(name);
  return text === undefined ? undefined : timeOf(text);
};

/** Numbers of flushes may be longer than counts. */
function numberGiven(given: Given, name: string): number | undefined {
  const text = given.text(name);
  if (text === undefined) return undefined;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw usageError(
    `the flush ${JSON.stringify(text)}`,
    'it is no whole number',
    'For example 4711.',
  );
}

export const points: Run = async ({ api, output }, given) => {
  const found = await api.volumes.points(given.argument('path'), {
    since: timeGiven(given, 'since'),
    until: timeGiven(given, 'until'),
    before: numberGiven(given, 'before'),
    limit: given.number('limit'),
  });
  if (output.json) return output.object(found);
  await output.list(found.points, ({ flush }) => `${flush}`, [
    { title: 'flush', value: ({ flush }) => `${flush}`, right: true },
    { title: 'time', value: (one) => time(one.time) },
    { title: 'size', value: ({ sizeBytes }) => size(sizeBytes), right: true },
  ]);
  if (found.next !== null) output.note(`More with: --before ${found.next}`);
};

export const at: Run = async (context, given) => {
  const path = given.argument('path');
  const atTime = timeGiven(given, 'time');
  const beforeFlush = numberGiven(given, 'beforeFlush');
  const flush = numberGiven(given, 'flush');
  if ([atTime, beforeFlush, flush].filter((one) => one !== undefined).length !== 1)
    throw usageError(
      'the command',
      'exactly one of --time, --before-flush and --flush says which point is meant',
      `See which there are with: dvce volume points ${path}`,
    );
  const clone = given.text('clone');
  const snapshot = given.text('snapshot');
  if (clone !== undefined && (snapshot !== undefined || given.flag('export')))
    throw usageError(
      'the command',
      '--clone makes a volume, and neither a snapshot nor an export',
      'Export the clone afterwards with: dvce volume export PATH',
    );
  const labels = given.labels('label');
  const made = await context.api.volumes.at(path, {
    ...(atTime === undefined ? {} : { time: atTime }),
    ...(beforeFlush === undefined ? {} : { beforeFlush }),
    ...(flush === undefined ? {} : { flush }),
    ...(clone === undefined ? {} : { clone }),
    ...(snapshot === undefined ? {} : { snapshot }),
    ...(labels === undefined ? {} : { labels }),
  });
  if (made.volume === null) await reportSnapshot(context, made, given.flag('export'));
  else reportClone(context, made, made.volume);
};

const pointText = ({ flush, time: text }: PointOpened): string => `flush ${flush} of ${time(text)}`;

function reportClone(
  { output }: Context,
  made: PointOpened,
  { path, sizeBytes, warnings = [] }: NonNullable<PointOpened['volume']>,
): void {
  output.changed(made, path, `Volume ${path} (${size(sizeBytes)}) is ${pointText(made)}.`);
  for (const { object, detail, advice } of warnings)
    output.note(`Warning: ${object}: ${detail}. ${advice}`);
}

async function reportSnapshot(
  { api, output }: Context,
  made: PointOpened,
  isExported: boolean,
): Promise<void> {
  const { volume: path = '', name: snapshot = '' } = made.snapshot ?? {};
  const source = `${path}@${snapshot}`;
  if (!isExported) {
    const lines = [
      `${source} is ${pointText(made)}.`,
      `Read it with: dvce volume export ${source}`,
      `Have it back with: dvce snapshot rollback ${source}`,
    ];
    output.changed(made, source, lines.join('\n'));
    return;
  }
  const held = await api.exports.create({ path, snapshot, readOnly: true });
  const uri = unixUri(held);
  const lines = [
    `${source} is ${pointText(made)}, exported read-only as ${held.id}.`,
    `  ${uri}`,
    `Give it up with: dvce volume unexport ${held.id}`,
  ];
  output.changed({ ...made, export: { ...held, uri } }, source, lines.join('\n'));
}
