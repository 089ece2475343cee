/** `dvce metrics`, `dvce support-bundle`. */
import { resolve } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { formatSize } from '../../base/units.ts';
import { writeSupportBundle } from '../processes.ts';
import type { Run } from '../spec.ts';

/** Samples as objects, for `-o json`. */
function samplesOf(text: string): object[] {
  const sample = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/;
  const label = /([a-z_]+)="((?:[^"\\]|\\.)*)"/g;
  return text.split('\n').flatMap((line) => {
    const [, name, labels = '', value] = sample.exec(line) ?? [];
    if (name === undefined) return [];
    const pairs = [...labels.matchAll(label)].map(([, key = '', quoted = '']) => [
      key,
      quoted.replace(/\\(.)/g, (_, one: string) => (one === 'n' ? '\n' : one)),
    ]);
    return [{ name, labels: Object.fromEntries(pairs), value: Number(value) }];
  });
}

export const metrics: Run = async ({ api, output }) => {
  const { body } = await api.http.request('GET', '/metrics');
  const text = String(body);
  if (output.json) output.object(samplesOf(text));
  else output.raw(text);
};

export const supportBundle: Run = async (context, given) => {
  const { output } = context;
  const time = new Date(systemClock.wallMs());
  const name = `dvce-support-${time.toISOString().replace(/[-:]|\.\d+/g, '')}.tar.gz`;
  const path = resolve(given.optionalArgument('file') ?? name);
  const result = await writeSupportBundle(context, path);
  for (const missing of result.missing) output.note(`not in it: ${missing}`);
  output.changed(
    result,
    result.path,
    `${result.path} (${formatSize(result.sizeBytes)}) has no secrets that dvce knows of; look through it before you give it away.`,
  );
};
