/** Images, and the catalogue that they are imported from. */
import Type, { type Static } from 'typebox';
import { closed, labels, nameText, nullable, ref, sizeBytes, timestamp, word } from './common.ts';

const formats = ['raw', 'qcow2', 'vmdk', 'ova'] as const;
const url = (description: string) =>
  Type.String({ minLength: 1, maxLength: 4096, pattern: '^https?://', description });

export const Image = Type.Object(
  {
    name: Type.String(),
    path: Type.String({ description: 'Path of the volume that holds it: /images/NAME.' }),
    state: word(['importing', 'ready', 'incomplete'], '`incomplete`: left over; delete it.'),
    sizeBytes: sizeBytes('Virtual size.'),
    sha256: nullable(Type.String(), { description: 'Digest of the source as it was given.' }),
    contentSha256: nullable(Type.String(), {
      description: 'Digest of the disk as guests see it: of what a raw export of it gives.',
    }),
    source: nullable(Type.String(), {
      description: 'File or address that it came from, without the query of a URL.',
    }),
    format: nullable(Type.String(), { description: 'Format of the source.' }),
    sourceBytes: nullable(sizeBytes('Bytes of the source.')),
    createdAt: timestamp('When the import began.'),
    protected: Type.Boolean(),
    labels,
  },
  { $id: 'Image', description: 'A read-only disk published for cloning.' },
);
export type Image = Static<typeof Image>;

export const ImageList = Type.Object({ images: Type.Array(ref(Image)) }, { $id: 'ImageList' });

export const ImageImport = Type.Object(
  {
    name: nameText('Name of the new image.'),
    source: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 4096,
        description:
          'Absolute path of a file on the host of the agent, an http(s) URL, nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH. A file may be compressed by gzip, xz or zstd.',
      }),
    ),
    fromCatalogue: Type.Optional(
      nameText('Name of an entry of the catalogue, in place of a source.'),
    ),
    sha256: Type.Optional(
      Type.String({
        pattern: '^[0-9a-fA-F]{64}$',
        description: 'Expected digest of the source; a difference fails the import.',
      }),
    ),
    sha512: Type.Optional(
      Type.String({ pattern: '^[0-9a-fA-F]{128}$', description: 'The same by sha512.' }),
    ),
    checksumUrl: Type.Optional(
      url('File of checksums that names the source, in the format of sha256sum or sha512sum.'),
    ),
    format: Type.Optional(word(formats, 'Found out when not given.')),
    labels: Type.Optional(labels),
    protected: Type.Optional(Type.Boolean({ description: 'It cannot be deleted.' })),
    compression: Type.Optional(
      word(['none', 'zstd'], 'How its content is stored; its clones inherit it. None when absent.'),
    ),
  },
  closed,
);
export type ImageImport = Static<typeof ImageImport>;

export const ImageUpdate = Type.Object(
  { labels: Type.Optional(labels), protected: Type.Optional(Type.Boolean()) },
  { ...closed, minProperties: 1 },
);
export type ImageUpdate = Static<typeof ImageUpdate>;

export const CatalogueImage = Type.Object(
  {
    name: Type.String(),
    description: Type.String(),
    arch: word(['x86_64', 'aarch64'], 'Processor that it is for.'),
    url: Type.String(),
    checksum: nullable(Type.String(), {
      description: 'Digest of the file, or address of the file that has it, or null.',
    }),
    format: nullable(Type.String(), { description: 'Null: found out.' }),
    sizeBytes: nullable(sizeBytes('Virtual size, about.')),
    labels,
    origin: word(['builtin', 'file'], "`file`: from the operator's file."),
  },
  { $id: 'CatalogueImage', description: 'An image that can be imported by its name.' },
);
export type CatalogueImage = Static<typeof CatalogueImage>;

export const Catalogue = Type.Object(
  { images: Type.Array(ref(CatalogueImage)) },
  { $id: 'Catalogue' },
);
