/** `dvce config ...` */
import { resolve } from 'node:path';
import type { ConfigReload } from '../../api/index.ts';
import { exitCodes } from '../../base/errors.ts';
import { nearest } from '../../base/nearest.ts';
import {
  configurationSchema,
  readConfiguration,
  type Setting,
  settingList,
  strayVariables,
  writeValue,
} from '../../config/index.ts';
import type { Context } from '../context.ts';
import { orDash } from '../format.ts';
import { usageError } from '../output.ts';
import type { Run } from '../spec.ts';

export const check: Run = async ({ output, environment, setExitCode }, given) => {
  const named = given.optionalArgument('file');
  const { configuration, problems } = await readConfiguration({
    environment,
    ...(named === undefined ? {} : { path: resolve(named) }),
  });
  const stray = strayVariables(environment);
  const missing =
    named !== undefined && !configuration.files.includes(resolve(named))
      ? [{ where: resolve(named), reason: 'it does not exist', advice: '' }]
      : [];
  const found = [...missing, ...problems, ...stray];
  if (found.length > 0) setExitCode(exitCodes.usage);
  if (output.json) return output.object({ files: configuration.files, problems: found });
  await output.list(found, ({ where }) => where, [
    { title: 'where', value: ({ where }) => where },
    { title: 'problem', value: ({ reason }) => reason },
    { title: 'advice', value: ({ advice }) => orDash(advice) },
  ]);
  const files = configuration.files.length === 0 ? 'no file' : configuration.files.join(', ');
  output.note(
    `${files}: ${found.length === 0 ? 'nothing is wrong' : `${found.length} ${found.length === 1 ? 'problem' : 'problems'}`}.`,
  );
};

const origin = ({ origin: { kind, where } }: Setting): string =>
  where === '' ? kind : `${kind} ${where}`;

const value = ({ spec, value: raw }: Setting): string => {
  if (raw !== undefined) return writeValue(spec, raw);
  return spec.otherwise === undefined ? orDash(null) : `(${spec.otherwise})`;
};

export const show: Run = async ({ output, environment }, given) => {
  const { configuration, problems } = await readConfiguration({ environment });
  for (const { where, reason } of problems) output.note(`warning: ${where}: ${reason}`);
  const rows = chosen(configuration.all, given.optionalArgument('name'));
  if (output.json)
    return output.object(
      rows.map(({ name, value: raw, spec, origin: { kind, where } }) => ({
        name,
        value: raw ?? null,
        reload: spec.reload === true,
        origin: { kind, where },
      })),
    );
  await output.list(rows, ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'value', value },
    ...(given.flag('origin') || output.options.format === 'wide'
      ? [{ title: 'origin', value: origin }]
      : []),
  ]);
};

function chosen(all: readonly Setting[], wanted: string | undefined): readonly Setting[] {
  if (wanted === undefined) return all;
  const rows = all.filter(({ name }) => name === wanted || name.startsWith(`${wanted}.`));
  if (rows.length > 0) return rows;
  const meant = nearest(
    wanted,
    settingList.map(({ name }) => name),
  );
  throw usageError(
    `the setting ${JSON.stringify(wanted)}`,
    'there is none of that name',
    `${meant === undefined ? '' : `Did you mean ${meant}? `}See: dvce config show`,
  );
}

export const schema: Run = async ({ output }) => {
  output.object(await configurationSchema());
};

export const reload: Run = async (context: Context) => {
  const { api, output } = context;
  const { body } = await api.http.request('POST', '/v1/config/reload', { body: {} });
  const { applied, waiting } = body as ConfigReload;
  output.changed(
    body,
    [...applied, ...waiting].join('\n'),
    applied.length === 0 ? 'Nothing to take over.' : `Taken over: ${applied.join(', ')}.`,
  );
  if (waiting.length > 0) output.note(`At the next start: ${waiting.join(', ')}.`);
};
