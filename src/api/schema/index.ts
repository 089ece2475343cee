/**
 * Schemas of every resource and request of the API: one JSON Schema each serves validation in the agent, the OpenAPI
 * document and (through its static type) the client. The client itself does not load this folder, because building the
 * schemas costs more than a whole run of the command line.
 */
import type { TSchema } from 'typebox';
import * as event from './event.ts';
import * as guest from './guest.ts';
import * as health from './health.ts';
import * as image from './image.ts';
import * as system from './system.ts';
import * as vm from './vm.ts';
import * as volume from './volume.ts';

export * from './common.ts';
export * from './event.ts';
export * from './guest.ts';
export * from './health.ts';
export * from './image.ts';
export * from './system.ts';
export * from './vm.ts';
export * from './volume.ts';

/** Schemas with a name of their own in the OpenAPI document. */
export const namedSchemas: readonly TSchema[] = [
  ...Object.values(health),
  ...Object.values(system),
  ...Object.values(event),
  ...Object.values(vm),
  ...Object.values(volume),
].filter((schema) => '$id' in schema);
