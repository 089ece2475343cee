/**
 * What every part may know: errors, ids, units, limits, and the injected world (clock, timers, randomness, files, log).
 * Imports nothing of dvce.
 */
export * from './clock.ts';
export * from './crc32c.ts';
export * from './errors.ts';
export * from './files.ts';
export { isHostThis, leadsHere, lookupElsewhere } from './host-addresses.ts';
export * from './ids.ts';
export { type JsonSchema, Type } from './json-schema.ts';
export * from './limits.ts';
export * from './lock.ts';
export * from './log.ts';
export * from './nearest.ts';
export { allocatePayload, holdPayload, letGoOfPayload } from './payloads.ts';
export * from './process-figures.ts';
export * from './quiet-memory.ts';
export * from './random.ts';
export * from './rate-limits.ts';
export * from './redact.ts';
export { type SchemaCheck, schemaCheck, schemaGuard } from './schema-check.ts';
export * from './send-buffer.ts';
export { comeBeforeGuests } from './session-priority.ts';
export * from './supervisor.ts';
export * from './units.ts';
export { hostZone, type WallTime, Zone } from './zone.ts';
