/**
 * Schemas of every resource and request of the API: one JSON Schema each serves validation in the agent, the OpenAPI
 * document and (through its static type) the client. The client itself does not load this folder, because building the
 * schemas costs more than a whole run of the command line.
 */
import Type, { type TSchema } from 'typebox';
import * as access from './access.ts';
import * as config from './config.ts';
import * as event from './event.ts';
import * as guest from './guest.ts';
import * as health from './health.ts';
import * as image from './image.ts';
import * as integrity from './integrity.ts';
import * as network from './network.ts';
import * as rateLimits from './rate-limits.ts';
import * as schedule from './schedule.ts';
import * as storage from './storage.ts';
import * as system from './system.ts';
import * as usage from './usage.ts';
import * as vm from './vm.ts';
import * as vmSnapshot from './vm-snapshot.ts';
import * as volume from './volume.ts';
import * as volumeTree from './volume-tree.ts';

export * from './access.ts';
export * from './common.ts';
export * from './config.ts';
export * from './event.ts';
export * from './guest.ts';
export * from './health.ts';
export * from './image.ts';
export * from './integrity.ts';
export * from './network.ts';
export * from './rate-limits.ts';
export * from './schedule.ts';
export * from './storage.ts';
export * from './system.ts';
export * from './usage.ts';
export * from './vm.ts';
export * from './vm-life.ts';
export * from './vm-snapshot.ts';
export * from './volume.ts';
export * from './volume-tree.ts';

/** Schemas with a name of their own in the OpenAPI document. */
export const namedSchemas: readonly TSchema[] = [
  ...Object.values(health),
  ...Object.values(system),
  ...Object.values(event),
  ...Object.values(config),
  ...Object.values(usage),
  ...Object.values(access),
  ...Object.values(integrity),
  ...Object.values(guest),
  ...Object.values(network),
  ...Object.values(vm),
  ...Object.values(vmSnapshot),
  ...Object.values(rateLimits),
  ...Object.values(volume),
  ...Object.values(volumeTree),
  ...Object.values(storage),
  ...Object.values(schedule),
  ...Object.values(image),
]
  .filter((schema) => '$id' in schema)
  .map(paged);

/** Every list may end in the middle: `next` is the cursor of the rest. */
function paged(schema: TSchema): TSchema {
  const list = schema as TSchema & { $id: string; properties?: Record<string, TSchema> };
  if (!list.$id.endsWith('List')) return schema;
  const next = Type.Optional(Type.String({ description: 'The cursor of the next page, if any.' }));
  return { ...list, properties: { ...list.properties, next } };
}
