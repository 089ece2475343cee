/**
 * What the body of a request needs of who sends it, beyond its URL: the objects that it names.
 *
 * The table below says of each text of each body what it may name. A text that it does not know may name anything (a volume, a
 * file of this host), so it needs the role on `/`, and of another host, when it looks like a file, an administrator. Labels name
 * nothing. test/agent/http/body-needs.test.ts compares the table with the bodies of all routes.
 */
import { asVolumePath, checkName, isHostThis, isUuid, parseSource } from '../../base/index.ts';
import type { Need, Role } from '../access.ts';

/**
 * | kind | the text is | needs |
 * | --- | --- | --- |
 * | volume | path of a volume | the role on it |
 * | source | PATH or PATH@SNAPSHOT that is only read | viewer of the path |
 * | trashed | path that a volume had, or its id, which tells no path | the role on the path, or on `/` |
 * | vm, image, network | name of one that is made or changed | the role on it |
 * | anImage, aNetwork | name of one that is used | viewer of it |
 * | import | where an image comes from | admin of `/` for what only this host can reach |
 * | all | what reaches any object, or the network of the host | the role on `/` |
 * | plain | names nothing outside of the object that the URL or another text names | nothing |
 */
const kinds = {
  volume: (text, role) => [{ role, path: asVolumePath(text) }],
  source: (text) => [{ role: 'viewer', path: asVolumePath(parseSource(text).path) }],
  trashed: (text, role) => [{ role, path: isUuid(text) ? '/' : asVolumePath(text) }],
  vm: (text, role) => [{ role, path: `/vms/${checkName(text)}` }],
  image: (text, role) => [{ role, path: `/images/${checkName(text)}` }],
  network: (text, role) => [{ role, path: `/networks/${checkName(text)}` }],
  anImage: (text) => [{ role: 'viewer', path: `/images/${checkName(text)}` }],
  aNetwork: (text) => [{ role: 'viewer', path: `/networks/${checkName(text)}` }],
  import: (text) => (isOfThisHost(text) ? [everything('admin')] : []),
  all: (_text, role) => [everything(role)],
  plain: () => [],
} as const satisfies Record<string, (text: string, role: Role) => readonly Need[]>;

/** A text that the table does not know. */
const unknown = (text: string, role: Role): readonly Need[] => [
  everything(isOfThisHost(text) ? 'admin' : role),
];

type Kind = keyof typeof kinds;

const card = {
  kind: 'plain',
  bridge: 'all',
  network: 'aNetwork',
  address: 'plain',
} as const satisfies Record<string, Kind>;

const below = (prefix: string, fields: Readonly<Record<string, Kind>>): Record<string, Kind> =>
  Object.fromEntries(Object.entries(fields).map(([name, kind]) => [`${prefix}.${name}`, kind]));

/** Operation -> field -> what it names. */
const fields: Readonly<Record<string, Readonly<Record<string, Kind>>>> = {
  createVolume: { path: 'volume', compression: 'plain' },
  cloneVolume: { path: 'volume', source: 'source' },
  updateVolume: { path: 'volume', compression: 'plain' },
  createSnapshot: { name: 'plain' },
  createSnapshotSet: { name: 'plain', 'volumes[]': 'volume' },
  restoreVolume: { what: 'trashed', to: 'volume' },
  emptyTrash: { what: 'trashed' },
  createExport: { path: 'volume', snapshot: 'plain' },
  startScrub: { path: 'volume' },
  openPoint: { time: 'plain', snapshot: 'plain', clone: 'volume' },
  // A pattern or a label may come to match any volume that there will be.
  createSchedule: { name: 'all', volumes: 'all', every: 'plain', timeZone: 'plain' },
  importImage: {
    name: 'image',
    source: 'import',
    checksumUrl: 'import',
    fromCatalogue: 'plain',
    sha256: 'plain',
    sha512: 'plain',
    format: 'plain',
    compression: 'plain',
  },
  createVm: {
    name: 'vm',
    image: 'anImage',
    'disks[].path': 'volume',
    network: 'plain',
    ...below('nics[]', card),
    // What the guest is told; it says nothing to this host.
    'cloudInit.hostname': 'plain',
    'cloudInit.sshKeys[]': 'plain',
    'cloudInit.userData': 'plain',
    'cloudInit.networkConfig': 'plain',
    cpuModel: 'plain',
    onCrash: 'plain',
    firmware: 'plain',
    machine: 'plain',
    readyPattern: 'plain',
  },
  updateVm: { cpuModel: 'plain', onCrash: 'plain', readyPattern: 'plain' },
  attachVmDisk: { path: 'volume' },
  attachVmNic: card,
  cloneVm: { name: 'vm' },
  createVmSnapshot: { name: 'plain' },
  createNetwork: {
    name: 'network',
    bridge: 'all',
    subnet: 'plain',
    first: 'plain',
    last: 'plain',
    gateway: 'plain',
    'nameservers[]': 'plain',
  },
  createToken: { name: 'all', 'grants[].role': 'plain', 'grants[].path': 'plain' },
};

const everything = (role: Role): Need => ({ role, path: '/' });

/** Files and sockets of this host, and what listens on its loopback address for itself. */
function isOfThisHost(text: string): boolean {
  if (text.startsWith('/') || /^(file|nbd\+unix):/i.test(text)) return true;
  const host = /^[a-z][a-z0-9+.-]*:\/\/(?:[^/@]*@)?(\[[^\]]*\]|[^/:?#]*)/i.exec(text)?.[1];
  return host !== undefined && isHostThis(host);
}

type Text = readonly [field: string, text: string];

/** All texts of a body outside of its labels, with the names that lead to them: `disks[].path`. */
function textsOf(value: unknown, at = ''): readonly Text[] {
  if (typeof value === 'string') return value === '' ? [] : [[at, value]];
  if (Array.isArray(value)) return value.flatMap((item) => textsOf(item, `${at}[]`));
  return Object.entries(Object(value)).flatMap(([name, inner]) =>
    name === 'labels' ? [] : textsOf(inner, at === '' ? name : `${at}.${name}`),
  );
}

/** What the table says of a field of an operation. */
export const kindOfField = (operationId: string, field: string): Kind | undefined => {
  const own = Object.hasOwn(fields, operationId) ? fields[operationId] : undefined;
  return own !== undefined && Object.hasOwn(own, field) ? own[field] : undefined;
};

/** Whether the table judges this operation by its body alone, so that its URL may be that of a collection. */
export const isJudged = (operationId: string): boolean => Object.hasOwn(fields, operationId);

/** What a change needs on other objects than that of its URL. */
export function needsOfBody(
  operationId: string,
  method: string,
  body: unknown,
  role: Role,
): readonly Need[] {
  if (method === 'GET') return [];
  const needs: Need[] = [];
  for (const [field, text] of textsOf(body)) {
    const kind = kindOfField(operationId, field);
    needs.push(...(kind === undefined ? unknown : kinds[kind])(text, role));
  }
  return needs;
}

/** The same where the URL names no object: without any name in the body it is about all of them. */
export function needsOfCollection(
  operationId: string,
  method: string,
  body: unknown,
  role: Role,
): readonly Need[] {
  if (method === 'GET') return [];
  const needs = needsOfBody(operationId, method, body, role);
  return needs.some((need) => need.role === role) ? needs : [...needs, everything(role)];
}
