/**
 * What the body of a request needs of who sends it, beyond its URL: the objects that it names.
 *
 * Only what is in the table below is judged finely. The body of any other change may hold numbers, switches and labels; a text
 * elsewhere may name anything (a volume, a file of this host), so it needs the role on `/`, and of another host, when it looks like
 * a file, an administrator.
 */
import { asVolumePath, checkName, parseSource } from '../../base/index.ts';
import type { Need, Role } from '../access.ts';

type Body = Readonly<Record<string, unknown>>;
type Rule = (body: Body, role: Role) => readonly Need[];

const volume = (role: Role, value: unknown): Need[] =>
  typeof value === 'string' ? [{ role, path: asVolumePath(value) }] : [];
const named = (role: Role, noun: 'vms' | 'images' | 'networks', value: unknown): Need[] =>
  typeof value === 'string' ? [{ role, path: `/${noun}/${checkName(value)}` }] : [];
const everything = (role: Role): Need => ({ role, path: '/' });

const rules: Readonly<Record<string, Rule>> = {
  createVolume: ({ path }, role) => volume(role, path),
  cloneVolume: ({ path, source }, role) => [
    ...volume(role, path),
    ...(typeof source === 'string' ? volume('viewer', parseSource(source).path) : []),
  ],
  updateVolume: ({ path }, role) => volume(role, path),
  createSnapshot: () => [],
  createVmSnapshot: () => [],
  createSnapshotSet: ({ volumes }, role) =>
    Array.isArray(volumes) ? volumes.flatMap((path) => volume(role, path)) : [],
  createVm: (body, role) => [
    ...named(role, 'vms', body['name']),
    ...named('viewer', 'images', body['image']),
    ...disksOf(body).flatMap(({ path }) => volume(role, path)),
    ...cardsOf(body).flatMap(({ network }) => named('viewer', 'networks', network)),
    ...unjudged(restOfVm(body), role),
  ],
  // The name of a file of this host is judged below, for all who are not of this host.
  importImage: ({ name, source }, role) => [
    ...named(role, 'images', name),
    ...(isFile(source) ? [everything('admin')] : []),
  ],
};

/** What is left of a VM when all that names nothing outside of it, or was judged, is taken away: the bridges of its cards. */
const restOfVm = (body: Body): unknown => ({
  ...body,
  ...{ name: '', image: '', disks: [], cloudInit: {} },
  ...{ firmware: '', machine: '', network: '', readyPattern: '' },
  nics: cardsOf(body).map(({ bridge }) => bridge),
});

const cardsOf = ({ nics }: Body): readonly Body[] =>
  Array.isArray(nics) ? nics.map((nic) => Object(nic) as Body) : [];
const disksOf = ({ disks }: Body): readonly Body[] =>
  Array.isArray(disks) ? disks.map((disk) => Object(disk) as Body) : [];

const isFile = (value: unknown): boolean =>
  typeof value === 'string' && (value.startsWith('/') || value.startsWith('file:'));

/** All texts of a body outside of its labels. */
function texts(value: unknown, depth = 0): readonly string[] {
  if (typeof value === 'string') return value === '' ? [] : [value];
  if (typeof value !== 'object' || value === null || depth > 16) return [];
  return Object.entries(value).flatMap(([name, inner]) =>
    name === 'labels' ? [] : texts(inner, depth + 1),
  );
}

function unjudged(body: unknown, role: Role): readonly Need[] {
  const found = texts(body);
  if (found.some(isFile)) return [everything('admin')];
  return found.length > 0 ? [everything(role)] : [];
}

/** Whether the table judges this operation by its body alone, so that its URL may be that of a collection. */
export const isJudged = (operationId: string): boolean => Object.hasOwn(rules, operationId);

/** What a change needs on other objects than that of its URL. */
export function needsOfBody(
  operationId: string,
  method: string,
  body: unknown,
  role: Role,
): readonly Need[] {
  if (method === 'GET') return [];
  const rule = isJudged(operationId) ? rules[operationId] : undefined;
  return rule === undefined ? unjudged(body, role) : rule(Object(body) as Body, role);
}
