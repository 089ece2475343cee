/** An agent, with its server or without, on a blockd and a hypervisor that do as they are told. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import type { Test } from 'tap';
import { Agent, agentLayout, buildServer } from '../../src/agent/index.ts';
import {
  type Clock,
  DvceError,
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import type {
  BlockdMetrics,
  ControlMethod,
  ControlParams,
  ControlResult,
} from '../../src/blockd/index.ts';
import { FakeBlockd, FakeHypervisor } from './fake-host.ts';

/** Tells the figures that it was given, or fails as it was told. */
export class CountingBlockd extends FakeBlockd {
  figures: BlockdMetrics | DvceError | undefined;

  override async call<M extends ControlMethod>(
    method: M,
    params: ControlParams<M>,
  ): Promise<ControlResult<M>> {
    const { figures } = this;
    if (method !== 'metrics' && method !== 'status') return super.call(method, params);
    if (figures === undefined) throw new DvceError('BLOCKD_UNAVAILABLE', { where: '', reason: '' });
    const isOld = figures instanceof DvceError && figures.code === 'UNSUPPORTED';
    if (figures instanceof DvceError && !(isOld && method === 'status')) throw figures;
    if (method === 'metrics') return figures as ControlResult<M>;
    return {
      pid: 77,
      version: '1',
      controlVersion: 1,
      startedAt: new Date(0).toISOString(),
      node: 'n',
      store: '/the/store',
      storeFreeBytes: 5e11,
      storeTotalBytes: 1e12,
      nbdSocket: '',
      nbdTcp: null,
      openVolumes: 0,
      workers: 1,
    } as unknown as ControlResult<M>;
  }
}

export interface FakesOptions {
  readonly root?: string;
  readonly clock?: Clock;
  readonly certificates?: readonly string[];
}

export async function agentOnFakes(t: Test, options: FakesOptions = {}) {
  const root = options.root ?? mkdtempSync('/tmp/dvce-ops-');
  const layout = agentLayout(root);
  mkdirSync(layout.state, { recursive: true });
  const blockd = new CountingBlockd();
  const driver = new FakeHypervisor();
  const agent = await Agent.open({
    layout,
    release: '1.2.3',
    blockd,
    driver,
    files: nodeFileSystem,
    clock: options.clock ?? systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
    certificates: options.certificates ?? [],
    onStop: () => {},
  });
  let isClosed = false;
  const close = async (): Promise<void> => {
    if (isClosed) return;
    isClosed = true;
    await agent.close();
  };
  t.teardown(async () => {
    await close();
    rmSync(root, { recursive: true, force: true });
  });
  return { root, blockd, driver, agent, close };
}

export async function servedAgentOnFakes(t: Test, options: FakesOptions = {}) {
  const made = await agentOnFakes(t, options);
  const server = await buildServer(made.agent, silentLogger, '1.2.3');
  t.teardown(() => server.close());
  return { ...made, server };
}
