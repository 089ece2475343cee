/** `dvce image ...` */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Image, ImageImport } from '../../api/index.ts';
import { DvceError } from '../../base/errors.ts';
import { compressionGiven } from '../compression.ts';
import { confirm, dryRun, unlessMissing } from '../confirm.ts';
import { follow } from '../follow.ts';
import { labels, orDash, size, time, yesNo } from '../format.ts';
import { usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

const facts = (image: Image): readonly (readonly [string, string])[] => [
  ['name', image.name],
  ['state', image.state],
  ['size', `${size(image.sizeBytes)} (${image.sizeBytes} bytes)`],
  ['source', orDash(image.source)],
  ['format', orDash(image.format)],
  ['source size', size(image.sourceBytes)],
  ['sha256', orDash(image.sha256)],
  ['content sha256', orDash(image.contentSha256)],
  ['created', time(image.createdAt)],
  ['protected', yesNo(image.protected)],
  ['labels', labels(image.labels)],
  ['volume', image.path],
];

/** What the words of an import mean: an address, an entry of the catalogue, or a file of this name. */
function sourceOf(text: string, given: Given): { source: string } | { fromCatalogue: string } {
  const entry = given.text('fromCatalogue');
  if (entry !== undefined) return { fromCatalogue: entry };
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text)) return { source: text };
  const isName =
    /^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(text) &&
    !/\.(raw|img|qcow2|vmdk|ova|iso|gz|xz|zst)$/i.test(text);
  if (isName && !existsSync(text)) return { fromCatalogue: text };
  // The agent has another working directory: a file is named by its absolute path.
  return { source: resolve(text) };
}

/** `import SOURCE NAME`, `import ENTRY [NAME]`, `import --from-catalogue ENTRY [NAME]`. */
function wordsOf(given: Given): { source: string; name: string } {
  const entry = given.text('fromCatalogue');
  const first = given.optionalArgument('source');
  const second = given.optionalArgument('name');
  if (entry !== undefined) {
    if (second !== undefined)
      throw usageError(
        'image import',
        'with --from-catalogue there is no source',
        'Give the new name alone.',
      );
    return { source: entry, name: first ?? entry };
  }
  if (first === undefined)
    throw usageError('image import', 'no source is given', 'For example debian.qcow2 debian.');
  if (second === undefined && (first.includes('/') || existsSync(first)))
    throw usageError('image import', 'no name is given', `For example: ${first} debian`);
  return { source: first, name: second ?? first };
}

const isFormat = (text: string | undefined): text is NonNullable<ImageImport['format']> =>
  text !== undefined;

export const importImage: Run = async (context, given) => {
  const { api, output } = context;
  const { source, name } = wordsOf(given);
  const [sha256, sha512, format] = [
    given.text('sha256'),
    given.text('sha512'),
    given.text('format'),
  ];
  const checksumUrl = given.text('checksumUrl');
  const added = given.labels('label');
  try {
    const begun = await api.images.import({
      name,
      ...sourceOf(source, given),
      ...(sha256 === undefined ? {} : { sha256 }),
      ...(sha512 === undefined ? {} : { sha512 }),
      ...(checksumUrl === undefined ? {} : { checksumUrl }),
      ...(isFormat(format) ? { format } : {}),
      ...(added === undefined ? {} : { labels: added }),
      ...(given.flag('protect') ? { protected: true } : {}),
      ...compressionGiven(given),
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

export const update: Run = async ({ api, output }, given) => {
  const name = given.argument('name');
  const added = given.labels('label') ?? {};
  const clear = given.choice('labels') === false;
  const isProtected = given.choice('protect');
  const relabel = clear || Object.keys(added).length > 0;
  if (!relabel && isProtected === undefined)
    throw usageError('image update', 'there is nothing to change', 'Give --label or --protect.');
  const before = await api.images.get(name);
  const kept = clear ? {} : before.labels;
  const image = await api.images.update(name, {
    ...(relabel ? { labels: { ...kept, ...added } } : {}),
    ...(isProtected === undefined ? {} : { protected: isProtected }),
  });
  output.changed(image, image.name, `Image ${image.name}: labels ${labels(image.labels)}.`);
};

export const catalogue: Run = async ({ api, output }) => {
  await output.list(await api.images.catalogue(), ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'arch', value: ({ arch }) => arch },
    { title: 'size', value: ({ sizeBytes }) => size(sizeBytes), right: true },
    { title: 'description', value: ({ description }) => orDash(description) },
    { title: 'from', value: ({ origin }) => origin },
    { title: 'url', value: ({ url }) => url, wide: true },
    { title: 'checksum', value: ({ checksum }) => orDash(checksum), wide: true },
    { title: 'labels', value: (entry) => labels(entry.labels), wide: true },
  ]);
};

export const list: Run = async ({ api, output }) => {
  await output.list(await api.images.list(), ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'state', value: ({ state }) => state },
    { title: 'size', value: ({ sizeBytes }) => size(sizeBytes), right: true },
    { title: 'format', value: ({ format }) => orDash(format) },
    { title: 'created', value: ({ createdAt }) => time(createdAt) },
    { title: 'protected', value: (image) => yesNo(image.protected) },
    { title: 'sha256', value: ({ sha256 }) => orDash(sha256?.slice(0, 12)) },
    { title: 'labels', value: (image) => labels(image.labels) },
    { title: 'source', value: ({ source }) => orDash(source), wide: true },
    {
      title: 'source size',
      value: ({ sourceBytes }) => size(sourceBytes),
      right: true,
      wide: true,
    },
    { title: 'content sha256', value: (image) => orDash(image.contentSha256), wide: true },
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
    const change = () => api.images.delete(name);
    if (await dryRun(context, given, plan, change)) return;
    await confirm(context, given, `deleting image ${name}`, name);
    await change();
    output.note(`Image ${name} deleted.`);
  });
};
