/**
 * The catalogue: where cloud images are, by a short name. What is shipped (catalogue.json) is overlaid by the operator's
 * file, YAML or JSON of the same shape:
 *
 *   images:
 *     - name: debian-12              # an entry of the same name and arch replaces the shipped one
 *       url: https://mirror.example/debian-12.qcow2
 *       checksumUrl: https://mirror.example/SHA256SUMS    # or sha256: / sha512: with the digest itself
 *       arch: x86_64                 # the host's when not given
 *       description: Debian from our mirror
 *       labels: { os: debian }
 *   builtin: false                   # leave the shipped ones out
 *
 * Publishers replace "latest" images, so the shipped entries name a file of checksums, which is read at each import.
 */
import { readFile, stat } from 'node:fs/promises';
import { Ajv } from 'ajv';
import Type, { type Static } from 'typebox';
import { parse, YAMLParseError } from 'yaml';
import { checkName, DvceError, limits, systemCode } from '../base/index.ts';
import shipped from './catalogue.json' with { type: 'json' };
import { parseUrl } from './download.ts';

const closed = { additionalProperties: false };
const url = Type.String({ minLength: 1, maxLength: 4096, pattern: '^https?://[^\\s]+$' });

const entry = Type.Object(
  {
    name: Type.String({ minLength: 1, maxLength: 63 }),
    description: Type.Optional(Type.String({ maxLength: 255 })),
    arch: Type.Optional(Type.Unsafe<Arch>({ enum: ['x86_64', 'aarch64'] })),
    url,
    sha256: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F]{64}$' })),
    sha512: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F]{128}$' })),
    checksumUrl: Type.Optional(url),
    format: Type.Optional(
      Type.Unsafe<'raw' | 'qcow2' | 'vmdk' | 'ova'>({ enum: ['raw', 'qcow2', 'vmdk', 'ova'] }),
    ),
    diskBytes: Type.Optional(Type.Integer({ minimum: 1, maximum: limits.imageBytesMax })),
    labels: Type.Optional(
      Type.Record(
        Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$' }),
        Type.String({ maxLength: 255 }),
        { maxProperties: limits.labelsMax, additionalProperties: false },
      ),
    ),
  },
  closed,
);

const fileSchema = Type.Object(
  {
    images: Type.Optional(Type.Array(entry, { maxItems: limits.catalogueEntriesMax })),
    builtin: Type.Optional(Type.Boolean()),
  },
  closed,
);
const validate = new Ajv({ strict: false }).compile<Static<typeof fileSchema>>(fileSchema);

type Arch = 'x86_64' | 'aarch64';

export interface CatalogueEntry extends Omit<Static<typeof entry>, 'arch'> {
  readonly arch: Arch;
  /** Where the entry is from: shipped with the program, or the operator's file. */
  readonly origin: 'builtin' | 'file';
}

export class Catalogue {
  /** By name, then arch. */
  readonly entries: readonly CatalogueEntry[];
  readonly #arch: Arch;

  constructor(entries: readonly CatalogueEntry[], arch: Arch) {
    this.entries = entries;
    this.#arch = arch;
  }

  /** The entry of this name for this host. @throws NOT_FOUND, naming what comes near */
  find(name: string): CatalogueEntry {
    const named = this.entries.filter((one) => one.name === name);
    const found = named.find(({ arch }) => arch === this.#arch);
    if (found !== undefined) return found;
    if (named.length > 0)
      throw new DvceError('UNSUPPORTED', {
        what: `the image ${name} of the catalogue`,
        reason: `it is for ${named.map(({ arch }) => arch).join(', ')}, this host is ${this.#arch}`,
        advice: 'List what there is with: dvce image catalogue',
      });
    throw new DvceError('NOT_FOUND', { kind: 'image catalogue', name });
  }
}

/** @param path the operator's file; one that does not exist is no error unless it was named on purpose */
export async function readCatalogue(
  path: string,
  options: { readonly mustExist: boolean; readonly arch: string },
): Promise<Catalogue> {
  const arch = options.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const text = await readText(path, options.mustExist);
  const file = text === undefined ? {} : parseFile(text, path);
  const byKey = new Map<string, CatalogueEntry>();
  const add = (
    entries: readonly Static<typeof entry>[],
    origin: CatalogueEntry['origin'],
  ): void => {
    for (const one of entries) {
      const full = { ...one, arch: one.arch ?? arch, origin } as const;
      byKey.set(`${full.name}\0${full.arch}`, full);
    }
  };
  if (file.builtin !== false) add(parseEntries(shipped, 'the shipped catalogue'), 'builtin');
  add(file.images ?? [], 'file');
  const sorted = [...byKey].sort(([one], [other]) => (one < other ? -1 : 1));
  return new Catalogue(
    sorted.map(([, value]) => value),
    arch,
  );
}

async function readText(path: string, mustExist: boolean): Promise<string | undefined> {
  try {
    const { size } = await stat(path);
    if (size > limits.catalogueBytesMax) throw bad(path, `it has ${size} bytes`);
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT' && !mustExist) return undefined;
    if (error instanceof DvceError) throw error;
    throw bad(path, error instanceof Error ? error.message : String(error));
  }
}

function parseFile(text: string, path: string): Static<typeof fileSchema> {
  let value: unknown;
  try {
    value = parse(text, { maxAliasCount: 100 }) ?? {};
  } catch (error) {
    if (!(error instanceof YAMLParseError) && !(error instanceof ReferenceError)) throw error;
    throw bad(path, error.message.split('\n')[0] ?? '');
  }
  if (!validate(value)) {
    const [first] = validate.errors ?? [];
    const extra: unknown = first?.params['additionalProperty'];
    const where = first?.instancePath.replaceAll('/', '.').slice(1) || 'the file';
    const what = typeof extra === 'string' ? `: ${extra}` : '';
    throw bad(path, `${where} ${first?.message ?? 'does not fit'}${what}`);
  }
  parseEntries(value, path);
  return value;
}

function parseEntries(value: unknown, path: string): readonly Static<typeof entry>[] {
  if (!validate(value)) throw bad(path, 'it does not fit the schema');
  const seen = new Set<string>();
  for (const one of value.images ?? []) {
    checkEntry(one, path);
    const key = `${one.name} ${one.arch ?? ''}`;
    if (seen.has(key)) throw bad(path, `${one.name} comes twice`);
    seen.add(key);
  }
  return value.images ?? [];
}

function checkEntry(one: Static<typeof entry>, path: string): void {
  try {
    checkName(one.name);
    parseUrl(one.url);
    if (one.checksumUrl !== undefined) parseUrl(one.checksumUrl);
  } catch (error) {
    if (error instanceof DvceError) throw bad(path, error.message);
    throw error;
  }
  const given = [one.sha256, one.sha512, one.checksumUrl].filter((text) => text !== undefined);
  if (given.length > 1) throw bad(path, `${one.name} has more than one checksum`);
}

const bad = (path: string, reason: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', {
    what: `the image catalogue ${path}`,
    reason,
    advice: 'See docs/guide/images.md.',
  });
