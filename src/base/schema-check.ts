/**
 * Checks a value that was parsed from JSON against a schema of json-schema.ts.
 *
 * blockd checks its control messages and documents in three threads. Ajv takes 2 to 3 MiB of each, @cfworker/json-schema builds
 * every pattern anew for every value (60 us for a head document, 1 us here); the dozen words that these schemas are made of need
 * neither (DD-0005). A test compares the verdicts with Ajv's.
 *
 * Invariant: a word that is not known here is refused when a schema is compiled, never passed over.
 */
import { assert } from './errors.ts';
import type { JsonSchema } from './json-schema.ts';

export interface Complaint {
  /** JSON pointer of the member that does not fit; empty for the whole value. */
  readonly path: string;
  /** Why it does not, as a phrase behind the path. */
  readonly reason: string;
}

type Check = (value: unknown, path: string) => Complaint | undefined;
type Members = Readonly<Record<string, unknown>>;
type Word = (argument: never, schema: JsonSchema) => Check;

const isObject = (value: unknown): value is Members =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const isNumber = (value: unknown): value is number => Number.isFinite(value);

const types: Readonly<Record<string, (value: unknown) => boolean>> = {
  array: Array.isArray,
  boolean: (value) => typeof value === 'boolean',
  integer: Number.isInteger,
  null: (value) => value === null,
  number: isNumber,
  object: isObject,
  string: (value) => typeof value === 'string',
};

/** A word that says something about values of one type only, and nothing about others. */
const about =
  <T>(
    isOfType: (value: unknown) => value is T,
    fits: (value: T) => boolean,
    reason: string,
  ): Check =>
  (value, path) =>
    isOfType(value) && !fits(value) ? { path, reason } : undefined;

const isText = (value: unknown): value is string => typeof value === 'string';
const isList = (value: unknown): value is readonly unknown[] => Array.isArray(value);

/** In characters, not in UTF-16 units (JSON Schema Validation 2020-12, section 6.3). */
const characters = (text: string): number => [...text].length;

const pointer = (path: string, name: string): string =>
  `${path}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;

function firstOf(checks: readonly Check[]): Check {
  return (value, path) => {
    for (const check of checks) {
      const complaint = check(value, path);
      if (complaint !== undefined) return complaint;
    }
    return undefined;
  };
}

const literal = (value: unknown): boolean => value === null || typeof value !== 'object';

const words: Readonly<Record<string, Word>> = {
  type: (name: string) => {
    const isType = types[name];
    assert(isType !== undefined, `the type ${name} of a schema is known`);
    return (value, path) => (isType(value) ? undefined : { path, reason: `must be ${name}` });
  },
  const: (one: unknown) => {
    assert(literal(one), 'only plain values are compared');
    return (value, path) =>
      value === one ? undefined : { path, reason: 'must be equal to constant' };
  },
  enum: (all: readonly unknown[]) => {
    assert(all.every(literal), 'only plain values are compared');
    return (value, path) =>
      all.includes(value)
        ? undefined
        : { path, reason: 'must be equal to one of the allowed values' };
  },
  minimum: (least: number) => about(isNumber, (value) => value >= least, `must be >= ${least}`),
  maximum: (most: number) => about(isNumber, (value) => value <= most, `must be <= ${most}`),
  exclusiveMinimum: (least: number) =>
    about(isNumber, (value) => value > least, `must be > ${least}`),
  minLength: (least: number) =>
    about(
      isText,
      (text) => characters(text) >= least,
      `must NOT have fewer than ${least} characters`,
    ),
  maxLength: (most: number) =>
    about(isText, (text) => characters(text) <= most, `must NOT have more than ${most} characters`),
  pattern: (source: string) => {
    const expression = new RegExp(source, 'u');
    return about(isText, (text) => expression.test(text), `must match pattern "${source}"`);
  },
  minItems: (least: number) =>
    about(isList, (list) => list.length >= least, `must NOT have fewer than ${least} items`),
  maxItems: (most: number) =>
    about(isList, (list) => list.length <= most, `must NOT have more than ${most} items`),
  items: (schema: JsonSchema) => {
    const check = compileCheck(schema);
    return (value, path) => {
      if (!isList(value)) return undefined;
      for (const [at, item] of value.entries()) {
        const complaint = check(item, `${path}/${at}`);
        if (complaint !== undefined) return complaint;
      }
      return undefined;
    };
  },
  required: (names: readonly string[]) => (value, path) => {
    if (!isObject(value)) return undefined;
    const absent = names.find((name) => !Object.hasOwn(value, name));
    return absent === undefined
      ? undefined
      : { path, reason: `must have required property '${absent}'` };
  },
  maxProperties: (most: number) =>
    about(
      isObject,
      (value) => Object.keys(value).length <= most,
      `must NOT have more than ${most} properties`,
    ),
  properties: (schemas: Readonly<Record<string, JsonSchema>>) => {
    const checks = Object.entries(schemas).map(
      ([name, schema]) => [name, compileCheck(schema)] as const,
    );
    return (value, path) => {
      if (!isObject(value)) return undefined;
      for (const [name, check] of checks) {
        if (!Object.hasOwn(value, name)) continue;
        const complaint = check(value[name], pointer(path, name));
        if (complaint !== undefined) return complaint;
      }
      return undefined;
    };
  },
  patternProperties: (schemas: Readonly<Record<string, JsonSchema>>) => {
    const checks = Object.entries(schemas).map(
      ([source, schema]) => [new RegExp(source, 'u'), compileCheck(schema)] as const,
    );
    return (value, path) => {
      if (!isObject(value)) return undefined;
      for (const [name, member] of Object.entries(value)) {
        for (const [expression, check] of checks) {
          if (!expression.test(name)) continue;
          const complaint = check(member, pointer(path, name));
          if (complaint !== undefined) return complaint;
        }
      }
      return undefined;
    };
  },
  additionalProperties: (allowed: boolean, schema) => {
    assert(!allowed, 'further members are refused or not spoken of');
    const known = new Set(Object.keys((schema['properties'] ?? {}) as Members));
    const patterns = Object.keys((schema['patternProperties'] ?? {}) as Members).map(
      (source) => new RegExp(source, 'u'),
    );
    const isKnown = (name: string): boolean =>
      known.has(name) || patterns.some((one) => one.test(name));
    return (value, path) => {
      const further = isObject(value)
        ? Object.keys(value).find((name) => !isKnown(name))
        : undefined;
      return further === undefined
        ? undefined
        : { path, reason: `must NOT have additional properties: ${further}` };
    };
  },
  anyOf: (schemas: readonly JsonSchema[]) => {
    const checks = schemas.map(compileCheck);
    return (value, path) => {
      let first: Complaint | undefined;
      for (const check of checks) {
        const complaint = check(value, path);
        if (complaint === undefined) return undefined;
        first ??= complaint;
      }
      return first;
    };
  },
};

/** Looked at first, so that a complaint names the type and not what follows from it. */
const order = (word: string): number => (word === 'type' ? 0 : 1);

function compileCheck(schema: JsonSchema): Check {
  const names = Object.keys(schema).sort((one, other) => order(one) - order(other));
  return firstOf(
    names.map((name) => {
      const word = words[name];
      assert(word !== undefined, `the word ${name} of a schema is known`);
      return word(schema[name] as never, schema);
    }),
  );
}

/** What makes a value not fit, and undefined when it fits: the first thing that was found. */
export type SchemaCheck = (value: unknown) => Complaint | undefined;

/** Compiled at its first use: not every thread meets every kind of message and document. */
export function schemaCheck(schema: JsonSchema): SchemaCheck {
  let check: Check | undefined;
  return (value) => {
    check ??= compileCheck(schema);
    return check(value, '');
  };
}

/** The same as a type guard, for where nobody is told why. */
export function schemaGuard<T>(schema: JsonSchema): (value: unknown) => value is T {
  const check = schemaCheck(schema);
  return (value): value is T => check(value) === undefined;
}
