/** Control methods on quotas and capacity. */
import { capacityOf } from './capacity.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';

type QuotaMethods = Pick<
  ControlHandlers,
  'capacity' | 'quota.list' | 'quota.get' | 'quota.set' | 'quota.delete'
>;

export function quotaMethods(node: NodeContext): QuotaMethods {
  const { quotas } = node;
  return {
    capacity: () => capacityOf(node),
    'quota.list': async () => ({ quotas: await quotas.list() }),
    'quota.get': ({ path }) => quotas.get(path),
    'quota.set': ({ path, ...wanted }) => quotas.set(path, wanted),
    'quota.delete': async ({ path }) => {
      await quotas.delete(path);
      return {};
    },
  };
}
