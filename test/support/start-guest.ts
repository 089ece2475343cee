/** A process that starts a guest, says so, and stays until it is killed: an agent that dies. */
import type { VmDefinition } from '../../src/vm/index.ts';
import { newDriver } from './guest-rig.ts';

setInterval(() => {}, 60_000); // timers of the project keep no process alive
const [, , directory = '', definition = ''] = process.argv;
await newDriver(directory).start(
  JSON.parse(definition) as VmDefinition,
  new AbortController().signal,
);
process.stdout.write('started\n');
