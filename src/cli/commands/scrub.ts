/** `dvce scrub ...` */
import type { Scrub } from '../../api/index.ts';
import { exitCodes } from '../../base/errors.ts';
import { formatDuration } from '../../base/units.ts';
import { orDash, size, time } from '../format.ts';
import type { Run } from '../spec.ts';

const facts = (scrub: Scrub): readonly (readonly [string, string])[] => [
  ['state', scrub.state],
  ['rate', `${size(scrub.bytesPerSecond)}/s`],
  ['period', formatDuration(scrub.periodMs)],
  ['reading', orDash(scrub.current)],
  ['read', size(scrub.readBytes)],
  ['volumes', `${scrub.scrubbed} of ${scrub.volumes} within the period, ${scrub.waiting} due`],
  ...scrub.damaged.map(
    ({ path, finishedAt, findings }) =>
      [
        'damaged',
        `${path}: ${[...new Set(findings.map(({ code }) => code))].join(', ')} (${finishedAt === null ? '-' : time(finishedAt)})`,
      ] as const,
  ),
];

export const show: Run = async (context, _given) => {
  const { api, output } = context;
  const scrub = await api.scrub.get();
  const isBad = scrub.damaged.some(({ findings }) =>
    findings.some(({ severity }) => severity === 'error'),
  );
  if (isBad) context.setExitCode(exitCodes.unhealthy);
  output.show(scrub, facts(scrub));
};

export const start: Run = async ({ api, output }, given) => {
  const path = given.optionalArgument('path');
  const scrub = await api.scrub.start(path);
  output.changed(scrub, path ?? 'all', `${path ?? 'Every volume'} is scrubbed in the background.`);
};

export const pause: Run = async ({ api, output }) => {
  output.changed(await api.scrub.pause(true), 'scrub', 'The scrub rests until: dvce scrub resume');
};

export const resume: Run = async ({ api, output }) => {
  output.changed(await api.scrub.pause(false), 'scrub', 'The scrub goes on.');
};
