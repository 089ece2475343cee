/** VMs on a blockd and a hypervisor that do as they are told, and the same again as after a restart of the agent. */
import { mkdtempSync, rmSync } from 'node:fs';
import type { Test } from 'tap';
import { addressPools } from '../../src/agent/address-pools.ts';
import { Events } from '../../src/agent/events.ts';
import { Images } from '../../src/agent/images.ts';
import { OperationLog } from '../../src/agent/operation-log.ts';
import { Operations } from '../../src/agent/operations.ts';
import { type VmDocument, VmDocuments } from '../../src/agent/vm-documents.ts';
import { Vms } from '../../src/agent/vms.ts';
import {
  nodeFileSystem,
  silentLogger,
  systemClock,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { FakeBlockd, FakeHypervisor } from './fake-host.ts';

const never = new AbortController().signal;

export async function vmHost(t: Test) {
  const directory = mkdtempSync('/tmp/dvce-vm-');
  const files = nodeFileSystem;
  const world = {
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
    logger: silentLogger,
  };
  const log = await OperationLog.open(`${directory}/operations`, files, silentLogger, 1);
  const { operations } = await Operations.open({
    log,
    events: new Events({ clock: systemClock, logger: silentLogger }),
    ...world,
  });
  const blockd = new FakeBlockd();
  const oldDirectory = `${directory}/vms`;
  const documents = new VmDocuments({ blockd, files, logger: silentLogger, oldDirectory });
  const driver = new FakeHypervisor();
  const images = new Images({ blockd, operations, ...world, temporaryDirectory: directory });
  const { nics } = addressPools({ documents, blockd, clock: systemClock });
  const state = { hostStarted: false };
  const hostStarted = async (): Promise<boolean> => state.hostStarted;
  const options = { driver, blockd, operations, images, nics, hostStarted, ...world };
  const vms = new Vms({ ...options, documents });
  /** As after a restart of the agent. */
  const again = (): Vms =>
    new Vms({
      ...options,
      documents: new VmDocuments({ blockd, files, logger: silentLogger, oldDirectory }),
    });
  const change = async (name: string, fields: Partial<VmDocument>): Promise<void> => {
    const entry = await documents.read(name);
    if (entry === undefined || !('document' in entry)) throw new Error('no document');
    await documents.update(entry.document, (now) => ({ ...now, ...fields }));
  };
  t.teardown(async () => {
    await vms.close();
    await operations.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const ended = async (begun: Promise<{ id: string }>) =>
    operations.wait((await begun).id, 10_000, never);
  return { directory, blockd, driver, vms, ended, change, state, again };
}
