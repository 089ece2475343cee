/**
 * Events of objects, made in two places for all of them, so that no route can forget its own: from a request that changed
 * something, and from an operation that ended. What the hypervisor does by itself is told by watchGuests.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { EventType } from '../api/index.ts';
import { urls } from '../api/index.ts';
import { type Logger, limits } from '../base/index.ts';
import type { Hypervisor, VmObservation } from '../vm/index.ts';
import type { Events } from './events.ts';
import type { Server } from './routes/types.ts';

type Family = 'vm' | 'volume' | 'snapshot' | 'image' | 'network';

/** `/v1/volumes/a%2Fb/snapshots/c` and `/v1/clones` to what they are about. */
export function familyOf(path: string): Family | undefined {
  if (/^\/v1\/volumes\/[^/]+\/snapshots(?:\/|$)/.test(path)) return 'snapshot';
  const word = /^\/v1\/([a-z-]+)/.exec(path)?.[1] ?? '';
  const families: Readonly<Record<string, Family>> = {
    volumes: 'volume',
    trash: 'volume',
    clones: 'volume',
    'snapshot-sets': 'snapshot',
    images: 'image',
    vms: 'vm',
    networks: 'network',
  };
  return families[word];
}

/** What a request that went well changed, or undefined: reading, trying, and what an operation goes on with. */
export function changeOf(
  method: string,
  url: string,
  status: number,
  location: string | undefined,
): { type: EventType; resource: string } | undefined {
  const [path = '', query = ''] = url.split('?', 2);
  const family = familyOf(path);
  if (family === undefined || method === 'GET' || method === 'HEAD' || method === 'OPTIONS')
    return undefined;
  if (status >= 300 || status === 202 || new URLSearchParams(query).get('dryRun') === 'true')
    return undefined;
  if (status === 201) return { type: `${family}.created`, resource: location ?? path };
  const word = method === 'DELETE' ? 'deleted' : 'changed';
  return { type: `${family}.${word}`, resource: objectOf(path, family) };
}

/** The object that a path such as `/v1/vms/web1/disks/disk1` belongs to. */
function objectOf(path: string, family: Family): string {
  const parts = path.split('/');
  return parts.slice(0, family === 'snapshot' ? 6 : 4).join('/');
}

export function emitChanges(server: Server, events: Events): void {
  server.addHook('onResponse', async (request: FastifyRequest, reply: FastifyReply) => {
    const location = reply.getHeader('location');
    const change = changeOf(
      request.method,
      request.url,
      reply.statusCode,
      typeof location === 'string' ? location : undefined,
    );
    if (change !== undefined) events.emit(change.type, change.resource);
  });
}

/** Changes of guests, by the name of their VM: the hypervisor only knows its id. */
export function watchGuests(
  driver: Pick<Hypervisor, 'onChange'>,
  names: () => Promise<readonly { readonly id: string; readonly name: string }[]>,
  events: Events,
  logger: Logger,
): void {
  const known = new Map<string, string>();
  let last = Promise.resolve();
  let waiting = 0;
  const tell = async (id: string, { phase, pid, ready, detail }: VmObservation): Promise<void> => {
    if (!known.has(id)) {
      known.clear();
      for (const vm of await names()) known.set(vm.id, vm.name);
    }
    const name = known.get(id);
    if (name === undefined) return;
    events.emit('vm.state', urls.vm(name), { name, phase, pid, ready, detail });
  };
  driver.onChange((id, observation) => {
    if (waiting >= limits.eventsKept) return;
    waiting += 1;
    // One after the other: the order of the changes is what the listener relies on.
    last = last
      .then(() => tell(id, observation))
      .catch((error: unknown) => logger.warn({ err: error, vm: id }, 'a change was not told'))
      .finally(() => {
        waiting -= 1;
      });
  });
}
