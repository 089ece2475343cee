/** The OpenAPI document, from the routes of the shipped server. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent, agentLayout, buildServer } from '../../src/agent/index.ts';
import {
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { BlockdClient, dataDirectory } from '../../src/blockd/index.ts';
import { createQemuDriver } from '../../src/vm/index.ts';

export async function openApiDocument(): Promise<string> {
  const { version } = JSON.parse(
    await readFile(new URL('../../package.json', import.meta.url), 'utf8'),
  ) as { version: string };
  // Nothing is asked of the agent, so one on an empty directory, with no blockd, is enough.
  const root = await mkdtemp(join(tmpdir(), 'dvce-openapi-'));
  const layout = agentLayout(root);
  const wiring = {
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
  };
  const agent = await Agent.open({
    ...wiring,
    layout,
    release: version,
    files: nodeFileSystem,
    blockd: new BlockdClient({
      socketPath: dataDirectory(root).controlSocket,
      timers: systemTimers,
    }),
    driver: createQemuDriver({
      ...wiring,
      runDirectory: layout.vmRun,
      logDirectory: layout.vmLog,
    }),
    onStop: () => {},
  });
  try {
    const server = await buildServer(agent, silentLogger, version);
    const document = server.swagger();
    await server.close();
    return `${JSON.stringify(document, null, 2)}\n`;
  } finally {
    await agent.close();
    await rm(root, { recursive: true, force: true });
  }
}
