/**
 * Who asks: known to everything that a request sets going, without being handed from call to call. Outside of a request it is the
 * agent itself.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Identity } from './access.ts';

const asking = new AsyncLocalStorage<Identity>();

/** Run `task`, and whatever it starts, in the name of `identity`. */
export const inTheNameOf = <T>(identity: Identity, task: () => T): T => asking.run(identity, task);

/** `local`, `local-viewer`, `token:NAME`, or `agent` when nobody asked. */
export const requestorName = (): string => asking.getStore()?.name ?? 'agent';
