/** `node src/agent/doctor-main.ts --data-dir DIR [--qemu PROGRAM]`: the checks as one JSON object, without an agent. */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import {
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../base/index.ts';
import { BlockdClient, dataDirectory } from '../blockd/index.ts';
import { createQemuDriver } from '../vm/index.ts';
import { examineHost } from './doctor.ts';

const { values } = parseArgs({
  options: { 'data-dir': { type: 'string', default: '.' }, qemu: { type: 'string' } },
});
const directory = values['data-dir'];
// The probe guest needs no data directory, and examining must not make one.
const scratch = join(tmpdir(), `dvce-doctor-${process.pid}`);
const driver = createQemuDriver({
  clock: systemClock,
  timers: systemTimers,
  random: systemRandom,
  logger: silentLogger,
  runDirectory: join(scratch, 'run'),
  logDirectory: join(scratch, 'log'),
  ...(values.qemu === undefined ? {} : { binary: values.qemu }),
});
const blockd = new BlockdClient({
  socketPath: dataDirectory(directory).controlSocket,
  timers: systemTimers,
});
const result = await examineHost({
  dataDirectory: directory,
  driver,
  blockd,
  files: nodeFileSystem,
  agentRuns: false,
});
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
