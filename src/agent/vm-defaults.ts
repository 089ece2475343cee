/** What a VM gets that names nothing: the operator's settings go into the request before anything looks at it. */

import type { Server } from './routes/types.ts';
import type { Settings } from './settings.ts';

export function fillVmDefaults(server: Server, settings: Settings | undefined): void {
  if (settings === undefined) return;
  server.addHook('preHandler', async ({ routeOptions, body }) => {
    const { operationId } = (routeOptions.schema ?? {}) as { operationId?: string };
    if (operationId === 'createVm') fill(body, creation(settings));
    if (operationId === 'stopVm') fill(body, { timeoutMs: settings.number('vm.stop_timeout') });
  });
}

const creation = (settings: Settings): Readonly<Record<string, unknown>> => ({
  cpus: settings.number('vm.cpus'),
  memoryBytes: settings.number('vm.memory'),
  machine: settings.text('vm.machine'),
  firmware: settings.text('vm.firmware'),
});

function fill(body: unknown, defaults: Readonly<Record<string, unknown>>): void {
  const fields = Object(body) as Record<string, unknown>;
  for (const [name, value] of Object.entries(defaults))
    if (fields[name] === undefined && value !== undefined) fields[name] = value;
}
