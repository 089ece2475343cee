/**
 * `vm create --file`: a VM as YAML (or JSON, which is YAML), in the fields of the API; what `vm show -o yaml` prints will do.
 * Every complaint, also that of the agent, names the line and column it is about.
 */
import { readFile } from 'node:fs/promises';
import type { Document, LineCounter } from 'yaml';
import type { NicRequest, Vm, VmCreate } from '../api/index.ts';
import { DvceError, systemCode } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { parseSize } from '../base/units.ts';
import { usageError } from './output.ts';

export interface VmFile {
  readonly body: VmCreate;
  /** The same error, with the place in the file when it is about a field. */
  explain(error: unknown): unknown;
}

/** @param path `-`: standard input. @param name wins over the one in the file */
export async function readVmFile(
  path: string,
  name: string | undefined,
  input: AsyncIterable<Uint8Array | string>,
): Promise<VmFile> {
  const { LineCounter, parseDocument } = await import('yaml');
  const text = path === '-' ? await readAll(input) : await readText(path);
  const where = path === '-' ? 'standard input' : path;
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [first] = document.errors;
  if (first !== undefined) throw wrong(where, lines, first.pos[0], first.message);
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw wrong(where, lines, 0, error instanceof Error ? error.message : String(error), error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong(where, lines, 0, 'it is no list of fields');
  const fields = withSizes(value as Record<string, unknown>, (key, reason) =>
    wrong(where, lines, positionOf(document, [key]), `${key}: ${reason}`),
  );
  const whole = { ...(isShown(fields) ? requestOf(fields) : fields) } as Record<string, unknown>;
  if (name !== undefined) whole['name'] = name;
  if (whole['name'] === undefined)
    throw wrong(where, lines, 0, 'it has no name, and the command gives none');
  return {
    // Checked by the agent, whose answer `explain` puts into terms of the file.
    body: whole as unknown as VmCreate,
    explain: (error) => explain(error, where, document, lines),
  };
}

/** What the agent says of a field, with the place of that field. */
function explain(error: unknown, where: string, document: Document, lines: LineCounter): unknown {
  if (!(error instanceof DvceError) || error.code !== 'INVALID_ARGUMENT') return error;
  const what = String(error.context['what'] ?? '');
  const path = /^the field (\S+) of the body$/.exec(what)?.[1];
  if (path === undefined) return error;
  const at = positionOf(document, path.split('.'));
  return wrong(where, lines, at, `${path}: ${String(error.context['reason'] ?? '')}`, error);
}

/** Where the deepest part of a path that is in the file begins. */
function positionOf(document: Document, path: readonly string[]): number {
  for (let length = path.length; length > 0; length -= 1) {
    const parent = document.getIn(path.slice(0, length - 1).map(asKey), true);
    const items: readonly unknown[] = length === 1 ? itemsOf(document.contents) : itemsOf(parent);
    const key = path[length - 1] ?? '';
    const found =
      items.find((item) => keyOf(item)?.value === key) ??
      (/^\d+$/.test(key) ? items[Number(key)] : undefined);
    const start = startOf(found);
    if (start !== undefined) return start;
  }
  return 0;
}

const asKey = (part: string): string | number => (/^\d+$/.test(part) ? Number(part) : part);
const itemsOf = (node: unknown): readonly unknown[] =>
  typeof node === 'object' && node !== null && 'items' in node && Array.isArray(node.items)
    ? (node.items as unknown[])
    : [];
const keyOf = (item: unknown): { value?: unknown; range?: number[] } | undefined =>
  typeof item === 'object' && item !== null && 'key' in item
    ? (item.key as { value?: unknown; range?: number[] })
    : undefined;
const startOf = (item: unknown): number | undefined => {
  const node = keyOf(item) ?? (item as { range?: number[] } | undefined);
  return node?.range?.[0];
};

function wrong(
  where: string,
  lines: LineCounter,
  position: number,
  reason: string,
  cause?: unknown,
): DvceError {
  const { line, col } = lines.linePos(position);
  return usageError(
    `${where}:${Math.max(1, line)}:${Math.max(1, col)}`,
    reason,
    'The fields are those of VmCreate in docs/reference/openapi.json; see also: dvce vm show NAME -o yaml',
    cause,
  );
}

/** `512MiB` where the API wants bytes. */
function withSizes(
  fields: Record<string, unknown>,
  fail: (key: string, reason: string) => DvceError,
): Record<string, unknown> {
  const sized = ([key, value]: [string, unknown]): [string, unknown] => {
    if (!key.endsWith('Bytes') || typeof value !== 'string') return [key, deep(value, fail)];
    try {
      return [key, parseSize(value)];
    } catch (error) {
      throw fail(key, error instanceof Error ? error.message : String(error));
    }
  };
  return Object.fromEntries(Object.entries(fields).map(sized));
}

function deep(value: unknown, fail: (key: string, reason: string) => DvceError): unknown {
  if (Array.isArray(value)) return value.map((one: unknown) => deep(one, fail));
  if (typeof value !== 'object' || value === null) return value;
  return withSizes(value as Record<string, unknown>, fail);
}

/** What `vm show` printed: it has what only the agent says. */
const isShown = (fields: Record<string, unknown>): fields is Vm =>
  typeof fields['id'] === 'string' && typeof fields['phase'] === 'string';

/** A VM that was shown, as a request for one like it. Its disks are named as they are, not made anew. */
function requestOf(vm: Vm): VmCreate {
  const { name, cpus, memoryBytes, machine, firmware, labels, readyPattern, vnc, resources } = vm;
  const { cpuModel, autostart, startOrder, onCrash } = vm;
  return {
    name,
    cpus,
    memoryBytes,
    machine,
    firmware,
    labels,
    vnc,
    cpuModel: cpuModel as NonNullable<VmCreate['cpuModel']>,
    protected: vm.protected,
    autostart,
    startOrder,
    onCrash,
    ...(Object.keys(resources ?? {}).length === 0 ? {} : { resources }),
    ...(readyPattern === null || readyPattern === undefined ? {} : { readyPattern }),
    nics: (vm.nics ?? []).map(nicRequest),
    disks: (vm.disks ?? []).map(({ path, readOnly }) => ({ path, readOnly })),
  };
}

function nicRequest({ kind, bridge, network }: Vm['nics'][number]): NicRequest {
  if (network !== null && network !== undefined) return { kind: 'network', network };
  return bridge === null || bridge === undefined ? { kind } : { kind, bridge };
}

async function readText(path: string): Promise<string> {
  try {
    return bounded(await readFile(path));
  } catch (error) {
    if (error instanceof DvceError) throw error;
    throw usageError(
      `the file ${path}`,
      systemCode(error) ?? String(error),
      'Give a file that can be read, or - for standard input.',
      error,
    );
  }
}

async function readAll(input: AsyncIterable<Uint8Array | string>): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of input) {
    const buffer = Buffer.from(chunk);
    bytes += buffer.byteLength;
    chunks.push(buffer);
    if (bytes > limits.apiBodyBytesMax) break;
  }
  return bounded(Buffer.concat(chunks));
}

function bounded(bytes: Buffer): string {
  if (bytes.byteLength <= limits.apiBodyBytesMax) return bytes.toString('utf8');
  throw new DvceError('TOO_LARGE', {
    what: 'the file of the VM',
    reason: `at most ${limits.apiBodyBytesMax} bytes`,
    advice: 'Describe one VM.',
  });
}
