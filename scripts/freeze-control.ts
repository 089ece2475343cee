/**
 * Freeze what blockd promises on its control socket (test/support/control-freeze.ts): `node scripts/freeze-control.ts FILE`.
 *
 * `test/fixtures/control/v1.json` stands for release 0.1. Until that is out it is made anew when the protocol grows;
 * afterwards a release gets a file of its own, and the older ones stay as they are.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { systemClock, systemTimers } from '../src/base/index.ts';
import { BlockdClient, blockdEntry, dataDirectory } from '../src/blockd/index.ts';
import { controlVersion } from '../src/blockd/protocol.ts';
import { paramSchemas } from '../src/blockd/schemas.ts';
import { type FrozenControl, runSession, session } from '../test/support/control-freeze.ts';

const startMsMax = 30_000;
const pauseMs = 100;
const pause = (): Promise<void> => new Promise((wake) => setTimeout(wake, pauseMs));

async function answering(client: BlockdClient): Promise<void> {
  const end = systemClock.monotonicMs() + startMsMax;
  for (;;) {
    try {
      await client.hello();
      return;
    } catch (error) {
      if (systemClock.monotonicMs() >= end) throw error;
    }
    await pause();
  }
}

async function freeze(file: string): Promise<void> {
  const root = mkdtempSync('/tmp/dvce-freeze-');
  const { controlSocket } = dataDirectory(root);
  const child = spawn(process.execPath, [blockdEntry, '--data-dir', root, '--workers', '1'], {
    stdio: 'inherit',
  });
  const client = new BlockdClient({ socketPath: controlSocket, timers: systemTimers });
  try {
    await answering(client);
    const shapes = await runSession(client, session);
    const methods = Object.entries(paramSchemas).map(([name, params]) => {
      const result = shapes.get(name);
      return [name, result === undefined ? { params } : { params, result }];
    });
    const frozen: FrozenControl = {
      version: controlVersion,
      methods: Object.fromEntries(methods) as FrozenControl['methods'],
      session,
    };
    writeFileSync(file, `${JSON.stringify(frozen, null, 1)}\n`);
    process.stdout.write(`${methods.length} methods, ${shapes.size} with answers\n`);
    await client.call('shutdown', { graceful: true });
  } finally {
    client.close();
    child.kill();
    rmSync(root, { recursive: true, force: true });
  }
}

const [file] = process.argv.slice(2);
if (file === undefined) {
  process.stderr.write('usage: node scripts/freeze-control.ts FILE\n');
  process.exitCode = 64;
} else await freeze(file);
