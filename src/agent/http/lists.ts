/**
 * What all lists and objects have in common, so that no route does it for itself: pages, filters, chosen fields, and the refusal of
 * queries that no route knows.
 *
 * A list is a GET whose good answer is a schema named `...List` with one array. Its items are put into the order of their key
 * (operations: newest first), so a page begins after the key of the last item of the one before, and neither what was
 * deleted nor what was added meanwhile makes another item appear twice or not at all.
 */
import type { FastifyRequest, RouteOptions } from 'fastify';
import Type, { type TSchema } from 'typebox';
import { namedSchemas } from '../../api/schema/index.ts';
import { DvceError, limits } from '../../base/index.ts';
import type { Server } from '../routes/types.ts';

type Item = Readonly<Record<string, unknown>>;
type Key = readonly string[];
type Page = { readonly items: readonly Item[]; readonly next?: string };
type Query = Readonly<Record<string, string | number | undefined>>;

export interface ListSpec {
  /** Property of the answer that holds the items. */
  readonly property: string;
  readonly key: readonly string[];
  readonly descending: boolean;
  readonly fields: readonly string[];
}

interface ObjectSchema {
  readonly $id?: string;
  readonly $ref?: string;
  readonly type?: string;
  readonly items?: ObjectSchema;
  readonly properties?: Readonly<Record<string, ObjectSchema>>;
}

const byId = new Map(namedSchemas.map((schema) => [(schema as ObjectSchema).$id, schema]));
const resolve = (schema: ObjectSchema | undefined): ObjectSchema | undefined =>
  schema?.$ref === undefined
    ? schema
    : (byId.get(schema.$ref.replace(/#$/, '')) as ObjectSchema | undefined);

/** Keys that are not the first of `path`, `name`, `id` that the items have. */
const otherKeys: Readonly<Record<string, Pick<ListSpec, 'key' | 'descending'>>> = {
  AuditList: { key: ['id'], descending: true },
  OperationList: { key: ['id'], descending: true },
  TrashList: { key: ['deletedAt', 'id'], descending: true },
  SnapshotList: { key: ['createdAt', 'name'], descending: false },
};

/** Whether an answer's schema is that of a list, and how it is ordered. */
export function listSpecOf(schema: ObjectSchema | undefined): ListSpec | undefined {
  const answer = resolve(schema);
  const id = answer?.$id;
  if (id === undefined || !id.endsWith('List')) return undefined;
  const [property, array] =
    Object.entries(answer?.properties ?? {}).find(([, { type }]) => type === 'array') ?? [];
  const fields = Object.keys(resolve(array?.items)?.properties ?? {});
  const first = ['path', 'name', 'id', 'seq'].find((name) => fields.includes(name));
  if (property === undefined || first === undefined) return undefined;
  const order = otherKeys[id] ?? { key: [first], descending: false };
  return { property, fields, ...order };
}

const listQuery = {
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: limits.apiListMax,
      description: `Items of one page; ${limits.apiListMax} when not given.`,
    }),
  ),
  cursor: Type.Optional(
    Type.String({ maxLength: 4000, description: 'The `next` of the page before.' }),
  ),
  filter: Type.Optional(
    Type.String({
      maxLength: 1000,
      description:
        'Terms separated by commas: field=value, field!=value, field~text (contains); deeper fields with dots: labels.tier=gold.',
    }),
  ),
};
const fieldsQuery = {
  fields: Type.Optional(
    Type.String({ maxLength: 1000, description: 'Only these fields, separated by commas.' }),
  ),
};

interface Shape {
  readonly list: ListSpec | undefined;
  /** Of an object, or of the items. */
  readonly fields: readonly string[];
  /** Parameters that the route itself knows, and those that were added. */
  readonly queries: ReadonlySet<string>;
}

const shapeKey = 'dvceShape';

function shapeOf(request: FastifyRequest): Shape | undefined {
  // Fastify types only what it puts there itself; `extend` put the shape.
  return (request.routeOptions.config as unknown as Record<string, unknown>)[shapeKey] as
    | Shape
    | undefined;
}

/** Add the common queries to a route's schema, for validation and for the OpenAPI document. */
function extend(route: RouteOptions): void {
  const schema = (route.schema ?? {}) as {
    querystring?: { properties?: Record<string, TSchema> };
    response?: Record<string, ObjectSchema>;
  };
  const good = schema.response?.['200'];
  const isGet = route.method === 'GET';
  const list = isGet ? listSpecOf(good) : undefined;
  const isObject = isGet && list === undefined && good?.$ref !== undefined;
  const fields = list?.fields ?? (isObject ? Object.keys(resolve(good)?.properties ?? {}) : []);
  const own = schema.querystring?.properties ?? {};
  const added = {
    ...(list === undefined ? {} : listQuery),
    ...(fields.length === 0 ? {} : fieldsQuery),
  };
  if (Object.keys(added).length > 0)
    route.schema = {
      ...route.schema,
      querystring: { ...schema.querystring, type: 'object', properties: { ...own, ...added } },
    };
  const queries = new Set(Object.keys({ ...own, ...added }));
  const shape: Shape = { list, fields, queries };
  route.config = { ...route.config, [shapeKey]: shape } as never;
}

export function shapeAnswers(
  server: Server,
  visible: (request: FastifyRequest, property: string, item: Item) => boolean,
): void {
  server.addHook('onRoute', extend);
  server.addHook('preValidation', async (request) => {
    const queries = shapeOf(request)?.queries;
    if (queries === undefined) return;
    for (const name of Object.keys(Object(request.query)))
      if (!queries.has(name) && name !== 'dryRun')
        throw wrong(`the query ${JSON.stringify(name.slice(0, 80))}`, 'it is not known here');
  });
  server.addHook('preSerialization', async (request, reply, payload) => {
    const shape = shapeOf(request);
    if (shape === undefined || reply.statusCode !== 200 || shape.fields.length === 0)
      return payload;
    const query = Object(request.query) as Query;
    const wanted = query['fields'];
    const fields = wanted === undefined ? undefined : fieldsOf(String(wanted), shape);
    // Parts of objects do not fit the schema of the whole.
    if (fields !== undefined) reply.serializer((value: unknown) => JSON.stringify(value));
    const part = (item: Item): Item => (fields === undefined ? item : pick(item, fields));
    const { list } = shape;
    if (list === undefined) return part(payload as Item);
    const isVisible = (item: Item): boolean => visible(request, list.property, item);
    const { rest, items, next } = await pageOf(payload as object, list, query, isVisible);
    const more = next === undefined ? {} : { next };
    return { ...rest, [list.property]: items.map(part), ...more };
  });
}

function fieldsOf(text: string, { fields }: Shape): readonly string[] {
  const wanted = text.split(',').map((name) => name.trim());
  for (const name of wanted)
    if (!fields.includes(name))
      throw wrong(`the field ${JSON.stringify(name.slice(0, 80))}`, `there is none of this name`);
  return wanted;
}

const pick = (item: Item, fields: readonly string[]): Item =>
  Object.fromEntries(fields.flatMap((name) => (name in item ? [[name, item[name]]] : [])));

/** Items behind a key, in order, and the key behind which the next ones are; null at the end. */
type Source = (
  after: Key | undefined,
  limit: number,
) => Promise<{ readonly items: readonly object[]; readonly next: Key | null }>;

/** The answer of a route whose list is too long to be held: it is asked for page by page, here. */
class InPages {
  readonly source: Source;

  constructor(source: Source) {
    this.source = source;
  }
}

/**
 * For a route whose answer is a list: its items come from `source` in the order of the list's key. Whatever type the route
 * answers with, `shapeAnswers` puts the page of the list in its place before it is checked and sent.
 */
export const inPages = (source: Source): never => new InPages(source) as never;

/** The page of an answer, whichever way it comes, and what else the answer says. */
async function pageOf(
  payload: object,
  spec: ListSpec,
  query: Query,
  isVisible: (item: Item) => boolean,
): Promise<Page & { readonly rest: object }> {
  if (payload instanceof InPages)
    return { ...(await pageFrom(payload.source, spec, query, isVisible)), rest: {} };
  const { [spec.property]: all, ...rest } = payload as Record<string, unknown>;
  return { ...page((all as Item[]).filter(isVisible), spec, query), rest };
}

/** One page of a list that is not held; no more than a page of it is in memory. */
async function pageFrom(
  source: Source,
  spec: ListSpec,
  query: Query,
  isVisible: (item: Item) => boolean,
): Promise<Page> {
  const { filter, cursor, limit } = query;
  const terms = filter === undefined ? [] : termsOf(String(filter), spec);
  const most = typeof limit === 'number' ? limit : limits.apiListMax;
  const items: Item[] = [];
  let after = cursor === undefined ? undefined : readCursor(String(cursor), spec);
  for (;;) {
    const found = await source(after, most - items.length);
    for (const item of found.items as readonly Item[])
      if (isVisible(item) && terms.every((term) => term(item))) items.push(item);
    if (found.next === null) return { items };
    after = found.next;
    if (items.length >= most) return { items, next: cursorOf(after) };
  }
}

const cursorOf = (key: Key): string => Buffer.from(JSON.stringify(key)).toString('base64url');

/** One page of a list in the order of its key. */
export function page(all: readonly Item[], spec: ListSpec, query: Query): Page {
  const { limit, cursor, filter } = query as {
    readonly [Name in 'limit' | 'cursor' | 'filter']?: string | number;
  };
  const terms = filter === undefined ? [] : termsOf(String(filter), spec);
  const sign = spec.descending ? -1 : 1;
  const keyed = all
    .filter((item) => terms.every((term) => term(item)))
    .map((item) => ({ item, key: spec.key.map((name) => String(item[name])) }));
  // Most come in their order already.
  if (keyed.some(({ key }, at) => at > 0 && sign * compare(keyed[at - 1]?.key ?? key, key) > 0))
    keyed.sort((a, b) => sign * compare(a.key, b.key));
  const after = cursor === undefined ? undefined : readCursor(String(cursor), spec);
  const begin =
    after === undefined ? 0 : keyed.findIndex(({ key }) => sign * compare(key, after) > 0);
  const rest = begin < 0 ? [] : keyed.slice(begin);
  const items = rest.slice(0, typeof limit === 'number' ? limit : limits.apiListMax);
  const last = items.at(-1);
  return {
    items: items.map(({ item }) => item),
    ...(items.length < rest.length && last !== undefined ? { next: cursorOf(last.key) } : {}),
  };
}

function compare(a: Key, b: Key): number {
  for (let at = 0; at < a.length; at += 1) {
    const part = a[at] ?? '';
    const other = b[at] ?? '';
    if (part !== other) return part < other ? -1 : 1;
  }
  return 0;
}

function readCursor(text: string, { key }: ListSpec): Key {
  try {
    const value: unknown = JSON.parse(Buffer.from(text, 'base64url').toString('utf8'));
    if (
      Array.isArray(value) &&
      value.length === key.length &&
      value.every((x) => typeof x === 'string')
    )
      return value;
  } catch {
    // Not JSON: told below, as every other text that is no cursor.
  }
  throw wrong('the cursor', 'it is not the `next` of a page of this list');
}

type Term = (item: Item) => boolean;

function termsOf(text: string, { fields }: ListSpec): readonly Term[] {
  const parts = text.split(',');
  if (parts.length > limits.apiFilterTermsMax)
    throw wrong('the filter', `it has more than ${limits.apiFilterTermsMax} terms`);
  return parts.map((part) => {
    const found = /^([A-Za-z][A-Za-z0-9]*)((?:\.[A-Za-z0-9_./-]+)?)(=|!=|~)(.*)$/s.exec(
      part.trim(),
    );
    const [, field = '', deeper = '', sign = '', wanted = ''] = found ?? [];
    if (!fields.includes(field))
      throw wrong(
        `the term ${JSON.stringify(part.slice(0, 80))} of the filter`,
        found === null ? 'it is not FIELD=VALUE' : `there is no field ${field}`,
      );
    const path = deeper === '' ? [] : [deeper.slice(1)];
    return (item) => {
      const value = textAt(item[field], path);
      if (sign === '~') return value.includes(wanted);
      return (value === wanted) === (sign === '=');
    };
  });
}

/** A deeper name is looked for whole first (labels may have dots), then part by part. */
function textAt(value: unknown, path: readonly string[]): string {
  const [name] = path;
  if (name === undefined)
    return typeof value === 'object' && value !== null
      ? JSON.stringify(value)
      : String(value ?? '');
  if (typeof value !== 'object' || value === null) return '';
  if (Object.hasOwn(value, name)) return textAt((value as Item)[name], []);
  const dot = name.indexOf('.');
  const head = dot < 0 ? name : name.slice(0, dot);
  if (dot < 0 || !Object.hasOwn(value, head)) return '';
  return textAt((value as Item)[head], [name.slice(dot + 1)]);
}

const wrong = (what: string, reason: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', { what, reason, advice: 'See docs/reference/openapi.json.' });
