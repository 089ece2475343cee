/**
 * Who may do what. An identity has grants, each a role on a path; the longest grant that covers a path decides, and where none
 * does nothing is allowed.
 *
 *   viewer     look                         operator   change                  admin   tokens, audit, the host itself
 *
 * Paths are those of volumes. Everything else has its place among them:
 *
 *   volume /prod/db and its snapshots   /prod/db          VM web1          /vms/web1      (where its own disks are)
 *   image debian                        /images/debian    network lan      /networks/lan
 *   operation, event                    the paths of all objects that it names
 *   everything else                     /
 *
 * Invariants: a path is taken apart only after it went through the checks of names, so `..`, empty parts and encoded slashes never
 * reach the comparison; whole parts are compared (`/prod` does not cover `/production`).
 */
import { asVolumePath, checkName, DvceError } from '../base/index.ts';

export type Role = 'viewer' | 'operator' | 'admin';
export const roles: readonly Role[] = ['viewer', 'operator', 'admin'];

export interface Grant {
  readonly role: Role;
  /** `/`, or a path of the namespace. */
  readonly path: string;
}

export interface Identity {
  /** For people and records: `local`, `token:NAME`. */
  readonly name: string;
  readonly grants: readonly Grant[];
  /** From another host: files of this one are not its to name. */
  readonly remote: boolean;
}

/** Something that a request needs. */
export interface Need {
  readonly role: Role;
  readonly path: string;
}

export const localAdmin: Identity = {
  name: 'local',
  grants: [{ role: 'admin', path: '/' }],
  remote: false,
};
export const localViewer: Identity = {
  name: 'local-viewer',
  grants: [{ role: 'viewer', path: '/' }],
  remote: false,
};

const covers = (grant: string, path: string): boolean =>
  grant === '/' || path === grant || path.startsWith(`${grant}/`);

/** The role on a path, or undefined. */
export function roleOn(identity: Identity, path: string): Role | undefined {
  let best: Grant | undefined;
  for (const grant of identity.grants)
    if (covers(grant.path, path) && (best === undefined || grant.path.length > best.path.length))
      best = grant;
  return best?.role;
}

export function may(identity: Identity, { role, path }: Need): boolean {
  const own = roleOn(identity, path);
  return own !== undefined && roles.indexOf(own) >= roles.indexOf(role);
}

/** Whether nothing needs to be looked at more closely: the role on everything, and no narrower grant that takes it away. */
export const mayEverywhere = (identity: Identity, role: Role): boolean =>
  may(identity, { role, path: '/' }) &&
  identity.grants.every((grant) => roles.indexOf(grant.role) >= roles.indexOf(role));

/** @throws NOT_ALLOWED */
export function demand(identity: Identity, need: Need, what: string): void {
  if (may(identity, need)) return;
  throw new DvceError('NOT_ALLOWED', {
    what,
    reason: `${identity.name} is not ${need.role} of ${need.path}`,
    advice: 'Ask an administrator of this host for a token with that role.',
  });
}

/** The path of a grant as a person writes it. @throws INVALID_NAME */
export const grantPath = (text: string): string => (text === '/' ? '/' : asVolumePath(text));

/** The path that stands for the object at a URL path, decoded and checked; `/` for what has no place of its own. */
export function pathOfUrl(url: string): string {
  const [, , noun = '', encoded = ''] = url.split('?', 1)[0]?.split('/') ?? [];
  if (encoded === '') return '/';
  return pathOf(noun, decode(encoded));
}

/** The same for a noun of the API and the decoded name of an object. */
export function pathOf(noun: string, name: string): string {
  if (noun === 'volumes') return asVolumePath(name);
  if (noun === 'vms' || noun === 'images' || noun === 'networks')
    return `/${noun}/${checkName(name)}`;
  return '/';
}

function decode(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch (error) {
    throw new DvceError(
      'INVALID_NAME',
      { name: JSON.stringify(encoded), reason: 'it is not percent-encoded text' },
      error,
    );
  }
}

/** Whether all objects that an operation or an event names may be seen; of those that name none, with `/`. */
export function maySee(identity: Identity, resources: readonly string[]): boolean {
  if (mayEverywhere(identity, 'viewer')) return true;
  try {
    const paths = resources.length === 0 ? ['/'] : resources.map(pathOfUrl);
    return paths.every((path) => may(identity, { role: 'viewer', path }));
  } catch {
    // A name that is none: whatever it is, it is not theirs.
    return false;
  }
}
