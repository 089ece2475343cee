/** `dvce image ...` */
import { resolve } from 'node:path';
import type { Image } from '../../api/index.ts';
import { DvceError } from '../../base/errors.ts';
import { confirm, dryRun, unlessMissing } from '../confirm.ts';
import { follow } from '../follow.ts';
import { labels, orDash, size, time, yesNo } from '../format.ts';
import type { Run } from '../spec.ts';

const facts = (image: Image): readonly (readonly [string, string])[] => [
  ['name', image.name],
  ['state', image.state],
  ['size', `${size(image.sizeBytes)} (${image.sizeBytes} bytes)`],
  ['source', orDash(image.source)],
  ['format', orDash(image.format)],
  ['sha256', orDash(image.sha256)],
  ['source size', size(image.sourceBytes)],
  ['created', time(image.createdAt)],
  ['protected', yesNo(image.protected)],
  ['labels', labels(image.labels)],
  ['volume', image.path],
];

/** The agent has another working directory: a file is named by its absolute path. */
const sourceOf = (text: string): string => (/^https?:\/\//.test(text) ? text : resolve(text));

export const importImage: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  const sha256 = given.text('sha256');
  const format = given.text('format');
  const added = given.labels('label');
  try {
    const begun = await api.images.import({
      name,
      source: sourceOf(given.argument('source')),
      ...(sha256 === undefined ? {} : { sha256 }),
      ...(format === undefined ? {} : { format: format === 'raw' ? 'raw' : 'qcow2' }),
      ...(added === undefined ? {} : { labels: added }),
    });
    if ((await follow(context, given, begun, { cancelOnInterrupt: true })) === undefined) return;
  } catch (error) {
    if (
      !(given.flag('ifNotExists') && error instanceof DvceError && error.code === 'ALREADY_EXISTS')
    )
      throw error;
    output.note(`${error.message}; left as it is.`);
  }
  const image = await api.images.get(name);
  output.changed(image, image.name, `Image ${image.name} (${size(image.sizeBytes)}).`);
};

export const list: Run = async ({ api, output }) => {
  await output.list(await api.images.list(), ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'state', value: ({ state }) => state },
    { title: 'size', value: ({ sizeBytes }) => size(sizeBytes), right: true },
    { title: 'format', value: ({ format }) => orDash(format) },
    { title: 'created', value: ({ createdAt }) => time(createdAt) },
    { title: 'sha256', value: ({ sha256 }) => orDash(sha256?.slice(0, 12)) },
    { title: 'labels', value: (image) => labels(image.labels) },
  ]);
};

export const show: Run = async ({ api, output }, given) => {
  const image = await api.images.get(given.argument('name'));
  output.show(image, facts(image));
};

export const remove: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  await unlessMissing(context, given, async () => {
    const image = await api.images.get(name);
    const plan = async () => [
      {
        action: 'delete image',
        object: image.name,
        note: image.protected
          ? 'refused: protected'
          : `${size(image.sizeBytes)}; clones stay whole`,
      },
    ];
    if (await dryRun(context, given, plan)) return;
    await confirm(context, given, `deleting image ${name}`, name);
    await api.images.delete(name);
    output.note(`Image ${name} deleted.`);
  });
};
