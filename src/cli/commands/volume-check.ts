/** `dvce volume check` */
import type { VolumeCheckResult } from '../../api/index.ts';
import { exitCodes } from '../../base/errors.ts';
import { follow } from '../follow.ts';
import { size } from '../format.ts';
import type { Run } from '../spec.ts';

type Finding = VolumeCheckResult['findings'][number];

/** Ranges of a finding that a line shows; `-o json` has all. */
const rangesShown = 3;

function bytesOf({ ranges, omittedRanges }: Finding): string {
  const shown = ranges
    .slice(0, rangesShown)
    .map(({ of, offset, length }) => `${of}: ${offset}+${length}`);
  const more = ranges.length - shown.length + omittedRanges;
  return [...shown, ...(more > 0 ? [`${more} more`] : [])].join(', ');
}

export const check: Run = async (context, given) => {
  const { api, output } = context;
  const started = await api.volumes.check(
    given.argument('path'),
    given.flag('repair') ? { repair: true } : {},
  );
  const operation = await follow(context, given, started, { cancelOnInterrupt: true });
  if (operation === undefined) return;
  const result = operation.result as VolumeCheckResult; // what this kind of operation ends with
  if (result.findings.some(({ severity }) => severity === 'error'))
    context.setExitCode(exitCodes.failed);
  if (output.json) return output.object(result);
  const { findings } = result;
  if (findings.length > 0)
    await output.list(findings, ({ object }) => object, [
      { title: 'severity', value: ({ severity }) => severity },
      { title: 'code', value: ({ code }) => code },
      { title: 'object', value: ({ object }) => object },
      { title: 'detail', value: ({ detail }) => detail },
      { title: 'bytes', value: bytesOf },
      { title: 'repair', value: ({ repair }) => repair },
    ]);
  for (const advice of new Set(findings.map((each) => `${each.code}: ${each.advice}`)))
    output.note(advice);
  const left = result.omitted === 0 ? '' : ` and ${result.omitted} more`;
  output.note(
    `${size(result.bytes)} in ${result.segments} segments read, ${findings.length}${left} findings.`,
  );
};
