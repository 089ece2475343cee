/**
 * Control methods on the agent's documents: the wanted state of this host (VMs, networks, schedules, ...), kept in the store
 * beside the volumes, because blockd is the one process that holds the store.
 *
 *   state/<kind>/<name>@    {value: {...}}   versioned, changed by compare-and-swap (hlfs/documents.ts)
 *
 * Invariants: blockd does not know what a value means and gives it back as it was put; a document that cannot be read is
 * listed with its error, never left out (N7).
 */
import {
  DvceError,
  type ErrorCode,
  type ErrorContext,
  limits,
  toDvceError,
} from '../base/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';
import type { StateDocument } from './protocol.ts';

type DocumentMethods = Pick<
  ControlHandlers,
  'document.list' | 'document.read' | 'document.create' | 'document.replace' | 'document.delete'
>;

const prefixOf = (kind: string): string => `state/${kind}`;
/** Names end in `@`, as everywhere in the store, so that none is taken for a version (N1). */
const keyOf = (kind: string, name: string): string => `${prefixOf(kind)}/${name}@`;

export function documentMethods({ hlfs }: NodeContext): DocumentMethods {
  const { documents, scope } = hlfs;

  const read = async (kind: string, name: string): Promise<StateDocument | null> => {
    try {
      const found = await documents.read<{ value?: unknown }>(keyOf(kind, name));
      if (found === undefined) return null;
      return { name, version: found.version, value: asValue(kind, name, found.value.value) };
    } catch (error) {
      const { code, context } = toDvceError(error);
      return {
        name,
        error: { code, context } satisfies { code: ErrorCode; context: ErrorContext },
      };
    }
  };

  return {
    'document.list': async ({ kind, after = '' }) => {
      const parts = await documents.names(prefixOf(kind));
      const names = parts
        .filter((part) => part.endsWith('@'))
        .map((part) => part.slice(0, -1))
        .filter((name) => name > after)
        .sort();
      const found: StateDocument[] = [];
      let bytes = 0;
      for (let at = 0; at < names.length; at += limits.listReadsMax) {
        const some = names.slice(at, at + limits.listReadsMax);
        for (const document of await Promise.all(some.map((name) => read(kind, name)))) {
          if (document === null) continue;
          found.push(document);
          bytes += Buffer.byteLength(JSON.stringify(document));
        }
        const last = some.at(-1);
        if (bytes >= limits.documentListBytes && last !== undefined && last !== names.at(-1))
          return { documents: found, next: last };
      }
      return { documents: found, next: null };
    },

    'document.read': async ({ kind, name }) => ({ document: await read(kind, name) }),

    'document.create': async ({ kind, name, value }) => {
      checkLength(kind, name, value);
      const key = keyOf(kind, name);
      if (!(await documents.create(scope, key, { value })))
        throw new DvceError('ALREADY_EXISTS', { kind: oneOf(kind), name });
      return { version: (await documents.read(key))?.version ?? 1 };
    },

    'document.replace': async ({ kind, name, version, value }) => {
      checkLength(kind, name, value);
      if (!(await documents.replace(scope, keyOf(kind, name), version, { value })))
        throw changedMeanwhile(kind, name);
      return { version: version + 1 };
    },

    'document.delete': async ({ kind, name, version }) => {
      if (!(await documents.delete(scope, keyOf(kind, name), version)))
        throw changedMeanwhile(kind, name);
      return {};
    },
  };
}

const oneOf = (kind: string): string => (kind.endsWith('s') ? kind.slice(0, -1) : kind);

const changedMeanwhile = (kind: string, name: string): DvceError =>
  new DvceError('CONFLICT', {
    kind: oneOf(kind),
    name,
    reason: 'it was changed meanwhile',
    advice: 'Read it again and repeat the change.',
  });

function checkLength(kind: string, name: string, value: object): void {
  const bytes = Buffer.byteLength(JSON.stringify(value));
  if (bytes <= limits.stateDocumentBytesMax) return;
  throw new DvceError('TOO_LARGE', {
    what: `${oneOf(kind)} ${name}`,
    reason: `it takes ${bytes} bytes; at most ${limits.stateDocumentBytesMax} are stored`,
    advice: 'Shorten its labels or its user data.',
  });
}

function asValue(kind: string, name: string, value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return value as Readonly<Record<string, unknown>>;
  throw new DvceError('DOCUMENT_DAMAGED', {
    name: keyOf(kind, name),
    reason: 'it holds no JSON object',
  });
}
