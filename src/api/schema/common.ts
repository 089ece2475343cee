/** Building blocks of the schemas: names, sizes, labels, and references between named schemas. */
import Type, { type Static, type TSchema } from 'typebox';
import { limits } from '../../base/limits.ts';

/**
 * A reference to a named schema (`$id`). The type is that of the schema, the JSON is `{$ref}`, so that the OpenAPI
 * document names each resource once.
 */
export const ref = <S extends TSchema>(schema: S & { readonly $id?: string }) =>
  Type.Unsafe<Static<S>>({ $ref: `${schema.$id ?? ''}#` });

/** A string or null, an object or null. */
export const nullable = <S extends TSchema>(schema: S, options: object = {}) =>
  Type.Unsafe<Static<S> | null>({ anyOf: [schema, { type: 'null' }], ...options });

/** One of a few words. */
export const word = <const W extends readonly string[]>(words: W, description: string) =>
  Type.Unsafe<W[number]>({ type: 'string', enum: [...words], description });

/** Objects of requests take no field that the server does not know: a typing error must not pass silently. */
export const closed = { additionalProperties: false } as const;

/** Path texts are checked in depth by `asVolumePath`, which knows the reason; the schema only bounds them. */
export const pathText = (description: string) =>
  Type.String({ minLength: 1, maxLength: 1100, description });

export const nameText = (description: string) =>
  Type.String({ minLength: 1, maxLength: 255, description });

export const sizeBytes = (description: string) =>
  Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, description });

export const timestamp = (description: string) => Type.String({ description });

export const labels = Type.Record(
  Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$' }),
  Type.String({ maxLength: 255 }),
  {
    maxProperties: limits.labelsMax,
    additionalProperties: false,
    description: 'Free words of the operator, for finding things again.',
  },
);

export const retainMs = Type.Integer({
  minimum: limits.retainMsMin,
  maximum: limits.retainMsMax,
  description: 'Keep every flush for so many milliseconds as a point in time.',
});

export const compression = word(
  ['none', 'zstd'],
  'What becomes of blocks on their way to the store from now on; what is there stays as it is.',
);
