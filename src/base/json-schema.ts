/**
 * JSON Schemas of what comes from outside, for schema-check.ts, by the names that TypeBox gives them.
 *
 * TypeBox itself, which the API is described with, takes 13 to 18 MiB of every thread that loads it, and blockd has three threads
 * that need nothing of it but these few plain objects (DD-0005).
 */
export type JsonSchema = Readonly<Record<string, unknown>>;

/** Marks a member that may be absent; who reads a schema does not see symbols. */
const mayBeAbsent = Symbol('mayBeAbsent');

type Properties = Readonly<Record<string, JsonSchema>>;

const isRequired = (schema: JsonSchema): boolean =>
  !(mayBeAbsent in (schema as { readonly [mayBeAbsent]?: true }));

export const Type = {
  Array: (items: JsonSchema, options: JsonSchema = {}): JsonSchema => ({
    type: 'array',
    items,
    ...options,
  }),
  Boolean: (): JsonSchema => ({ type: 'boolean' }),
  Enum: (values: readonly string[]): JsonSchema => ({ enum: values }),
  Integer: (options: JsonSchema = {}): JsonSchema => ({ type: 'integer', ...options }),
  Literal: (value: string | number): JsonSchema => ({ type: typeof value, const: value }),
  Null: (): JsonSchema => ({ type: 'null' }),
  Number: (options: JsonSchema = {}): JsonSchema => ({ type: 'number', ...options }),
  Object: (properties: Properties, options: JsonSchema = {}): JsonSchema => {
    const required = Object.keys(properties).filter((name) => isRequired(properties[name] ?? {}));
    return {
      type: 'object',
      ...(required.length === 0 ? {} : { required }),
      properties,
      ...options,
    };
  },
  Optional: (schema: JsonSchema): JsonSchema => ({ ...schema, [mayBeAbsent]: true }),
  /** Members whose names fit `names`, a schema of text; members with other names are as `options` says. */
  Record: (names: JsonSchema, values: JsonSchema, options: JsonSchema = {}): JsonSchema => {
    const { pattern = '^.*$' } = names as { readonly pattern?: string };
    return { type: 'object', patternProperties: { [pattern]: values }, ...options };
  },
  String: (options: JsonSchema = {}): JsonSchema => ({ type: 'string', ...options }),
  Union: (schemas: readonly JsonSchema[]): JsonSchema => ({ anyOf: schemas }),
  Unknown: (): JsonSchema => ({}),
} as const;
