/** `dvce op ...` */
import type { Operation } from '../../api/index.ts';
import { failureOf, waitFor } from '../follow.ts';
import { orDash, time } from '../format.ts';
import { progressText } from '../progress.ts';
import type { Run } from '../spec.ts';

const progress = ({ kind, progress: now }: Operation): string =>
  now === null ? '-' : progressText(kind, now).slice(kind.length + 2);

const facts = (operation: Operation): readonly (readonly [string, string])[] => [
  ['id', operation.id],
  ['kind', operation.kind],
  ['status', operation.status],
  ['progress', progress(operation)],
  ['works on', orDash(operation.resources.join(' '))],
  ['can be cancelled', operation.mayCancel ? 'yes' : 'no'],
  ['started', time(operation.startedAt)],
  ['ended', time(operation.endedAt)],
  ['error', orDash(operation.error?.detail)],
  ...(operation.error === null ? [] : ([['advice', operation.error.advice]] as const)),
];

export const list: Run = async ({ api, output }, given) => {
  const all = await api.operations.list();
  const rows = given.flag('running') ? all.filter(({ status }) => status === 'running') : all;
  await output.list(rows, ({ id }) => id, [
    { title: 'id', value: ({ id }) => id },
    { title: 'kind', value: ({ kind }) => kind },
    { title: 'status', value: ({ status }) => status },
    { title: 'progress', value: progress },
    { title: 'works on', value: ({ resources }) => orDash(resources.join(' ')) },
    { title: 'started', value: ({ startedAt }) => time(startedAt) },
  ]);
};

export const show: Run = async ({ api, output }, given) => {
  const operation = await api.operations.get(given.argument('id'));
  output.show(operation, facts(operation));
};

export const log: Run = async ({ api, output }, given) => {
  const text = await api.operations.log(given.argument('id'));
  if (text !== undefined) output.raw(text);
};

export const wait: Run = async (context, given) => {
  const { api, output } = context;
  const operation = await api.operations.get(given.argument('id'));
  const timeoutMs = given.number('timeout');
  const ended = await waitFor(context, operation, {
    cancelOnInterrupt: false,
    ...(timeoutMs === undefined ? {} : { waitMs: timeoutMs }),
  });
  output.changed(ended, ended.id, `Operation ${ended.id} (${ended.kind}): ${ended.status}.`);
  if (ended.status !== 'succeeded') throw failureOf(ended);
};

export const cancel: Run = async ({ api, output }, given) => {
  const operation = await api.operations.cancel(given.argument('id'));
  output.changed(operation, operation.id, `Operation ${operation.id} is being cancelled.`);
};
