/**
 * What a change would do, for `dryRun=true`: each plan refuses with the error that the change itself would answer, as far as that
 * can be known beforehand, and lists the steps otherwise. Reads only.
 */
import { type ImageImport, urls, type Vm, type VmCreate } from '../api/index.ts';
import type { PlanStep } from '../api/schema/index.ts';
import {
  asSnapshotName,
  asVolumePath,
  checkName,
  DvceError,
  formatSize,
  limits,
  parseSource,
  type VolumePath,
} from '../base/index.ts';
import type { VolumeInfo } from '../blockd/index.ts';
import { publicName } from '../images/index.ts';
import type { Agent } from './agent.ts';
import { snapshotNamed, snapshotPages } from './snapshot-pages.ts';
import { planDisks } from './vm-disks.ts';
import { hardwareOf } from './vm-request.ts';

/** A validated request. */
export interface Asked {
  readonly url: string;
  readonly params: Readonly<Record<string, string>>;
  readonly body: Readonly<Record<string, unknown>>;
  readonly query: Readonly<Record<string, unknown>>;
}

type MakePlan = (agent: Agent, asked: Asked) => Promise<readonly PlanStep[]>;

const step = (action: PlanStep['action'], resource: string, detail = ''): PlanStep => ({
  action,
  resource,
  detail,
});

const text = (value: unknown): string => (typeof value === 'string' ? value : '');
const number = (value: unknown): number | undefined =>
  typeof value === 'number' ? value : undefined;
const pathOf = ({ params }: Asked): VolumePath => asVolumePath(params['path'] ?? '');

const volumeAt = ({ blockd }: Agent, path: VolumePath): Promise<VolumeInfo> =>
  blockd.call('volume.get', { path });

/** The object that the URL is about. @throws NOT_FOUND */
export async function existing(agent: Agent, asked: Asked): Promise<void> {
  const { url, params } = asked;
  if (params['path'] !== undefined) await volumeAt(agent, pathOf(asked));
  const name = params['name'];
  if (name !== undefined && url.startsWith('/v1/vms/')) await agent.vms.get(name);
  if (name !== undefined && url.startsWith('/v1/images/')) await agent.images.get(name);
  if (params['id'] !== undefined && url.startsWith('/v1/operations/'))
    agent.operations.get(params['id']);
}

/** Whether a volume is there; every other failure is one. */
async function found(agent: Agent, path: VolumePath): Promise<VolumeInfo | undefined> {
  try {
    return await volumeAt(agent, path);
  } catch (error) {
    if (error instanceof DvceError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  }
}

async function mustBeFree(agent: Agent, path: VolumePath): Promise<void> {
  if ((await found(agent, path)) !== undefined)
    throw new DvceError('ALREADY_EXISTS', { kind: 'volume', name: path });
}

function checkSize(sizeBytes: number): void {
  const { volumeBytesMin, volumeBytesMax } = limits;
  if (sizeBytes >= volumeBytesMin && sizeBytes <= volumeBytesMax && sizeBytes % 512 === 0) return;
  throw new DvceError('INVALID_SIZE', {
    size: sizeBytes,
    reason: 'it is no multiple of 512 bytes from 1MiB to 16TiB',
  });
}

function refuseProtected(volume: VolumeInfo): void {
  if (volume.protected) throw new DvceError('PROTECTED', { kind: volume.kind, name: volume.path });
}

async function refuseUsed(agent: Agent, path: VolumePath): Promise<void> {
  const [user] = await agent.vms.usersOf(path);
  if (user !== undefined)
    throw new DvceError('IN_USE', {
      kind: 'volume',
      name: path,
      reason: `it is a disk of VM ${user.name}`,
      advice: `Delete the VM first: dvce vm delete ${user.name}`,
    });
}

function refuseAttached({ path, open }: VolumeInfo): void {
  if (open !== null && open.attachId !== null)
    throw new DvceError('IN_USE', {
      kind: 'volume',
      name: path,
      reason: `it is attached to ${open.attachId}`,
      advice: 'Stop the VM first.',
    });
}

/** @throws NOT_FOUND as the change would */
async function snapshotAt(agent: Agent, asked: Asked) {
  const path = pathOf(asked);
  const name = asSnapshotName(asked.params['name'] ?? '');
  const snapshot = await snapshotNamed(agent.blockd, path, name);
  if (snapshot === undefined)
    throw new DvceError('NOT_FOUND', { kind: 'snapshot', name: `${path}@${name}` });
  return { path, name, snapshot };
}

const createVolume: MakePlan = async (agent, { body }) => {
  const path = asVolumePath(text(body['path']));
  const sizeBytes = number(body['sizeBytes']) ?? 0;
  checkSize(sizeBytes);
  await mustBeFree(agent, path);
  return [step('create', urls.volume(path), formatSize(sizeBytes))];
};

const cloneVolume: MakePlan = async (agent, { body }) => {
  const { path: from, snapshot } = parseSource(text(body['source']));
  const path = asVolumePath(text(body['path']));
  const source = await volumeAt(agent, from);
  if (snapshot !== undefined)
    await snapshotAt(agent, { url: '', body, query: {}, params: { path: from, name: snapshot } });
  await mustBeFree(agent, path);
  const sizeBytes = number(body['sizeBytes']) ?? source.sizeBytes;
  checkSize(sizeBytes);
  const detail = `${formatSize(sizeBytes)} from ${from}${snapshot === undefined ? ' as it is' : `@${snapshot}`}`;
  return [step('create', urls.volume(path), detail)];
};

const updateVolume: MakePlan = async (agent, asked) => {
  const volume = await volumeAt(agent, pathOf(asked));
  const { path: to, ...rest } = asked.body;
  if (to !== undefined && asVolumePath(text(to)) !== volume.path)
    await mustBeFree(agent, asVolumePath(text(to)));
  const details = [
    ...(to === undefined ? [] : [`renamed to ${text(to)}`]),
    ...Object.entries(rest).map(([key, value]) => `${key}: ${JSON.stringify(value)}`),
  ];
  return [step('change', urls.volume(volume.path), details.join('; '))];
};

const resizeVolume: MakePlan = async (agent, asked) => {
  const volume = await volumeAt(agent, pathOf(asked));
  const sizeBytes = number(asked.body['sizeBytes']) ?? 0;
  checkSize(sizeBytes);
  if (sizeBytes < volume.sizeBytes && asked.body['shrink'] !== true)
    throw new DvceError('INVALID_SIZE', {
      size: sizeBytes,
      reason: `the volume has ${volume.sizeBytes} bytes and is only made smaller when told so`,
    });
  if (sizeBytes < volume.sizeBytes) refuseAttached(volume);
  const detail = `${formatSize(volume.sizeBytes)} -> ${formatSize(sizeBytes)}`;
  return [step('change', urls.volume(volume.path), detail)];
};

const deleteVolume: MakePlan = async (agent, asked) => {
  const volume = await volumeAt(agent, pathOf(asked));
  await refuseUsed(agent, asVolumePath(volume.path));
  refuseProtected(volume);
  refuseAttached(volume);
  const steps = [step('delete', urls.volume(volume.path), formatSize(volume.sizeBytes))];
  let more = 0;
  for await (const snapshots of snapshotPages(agent.blockd, volume.path)) {
    const kept = snapshots.find((one) => one.protected);
    if (kept !== undefined)
      throw new DvceError('PROTECTED', { kind: 'snapshot', name: `${volume.path}@${kept.name}` });
    for (const { name } of snapshots)
      if (steps.length > limits.planSnapshotsMax) more += 1;
      else steps.push(step('delete', urls.snapshot(volume.path, name)));
  }
  if (more > 0) steps.push(step('delete', urls.snapshots(volume.path), `${more} more snapshots`));
  return steps;
};

const onVolume =
  (detail: string): MakePlan =>
  async (agent, asked) => {
    const { path } = await volumeAt(agent, pathOf(asked));
    return [step('change', urls.volume(path), detail)];
  };

const checkVolume: MakePlan = async (agent, asked) => {
  const { path } = await volumeAt(agent, pathOf(asked));
  const end = asked.body['repair'] === true ? 'put right what loses nothing' : 'nothing is changed';
  return [step('start', urls.volume(path), `read and verify all of it; ${end}`)];
};

const startScrub: MakePlan = async (agent, asked) => {
  const given = asked.body['path'];
  const path = given === undefined ? null : (await volumeAt(agent, asVolumePath(text(given)))).path;
  return [step('start', path === null ? '/v1/scrub' : urls.volume(path), 'in the background')];
};

const pauseScrub: MakePlan = async () => [step('change', '/v1/scrub')];

const createSnapshot: MakePlan = async (agent, asked) => {
  const { path } = await volumeAt(agent, pathOf(asked));
  const name = asSnapshotName(text(asked.body['name']));
  if ((await snapshotNamed(agent.blockd, path, name)) !== undefined)
    throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name: `${path}@${name}` });
  return [step('create', urls.snapshot(path, name))];
};

const createSnapshotSet: MakePlan = async (agent, asked) => {
  const name = asSnapshotName(text(asked.body['name']));
  const paths = [asked.body['volumes']].flat().map((path) => asVolumePath(text(path)));
  const steps: PlanStep[] = [];
  for (const given of paths) {
    const { path } = await volumeAt(agent, given);
    if ((await snapshotNamed(agent.blockd, path, name)) !== undefined)
      throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name: `${path}@${name}` });
    steps.push(step('create', urls.snapshot(path, name)));
  }
  return steps;
};

const deleteSnapshot: MakePlan = async (agent, asked) => {
  const { path, name, snapshot } = await snapshotAt(agent, asked);
  if (snapshot.protected)
    throw new DvceError('PROTECTED', { kind: 'snapshot', name: `${path}@${name}` });
  const detail = snapshot.clones > 0 ? `${snapshot.clones} clones keep what they share` : '';
  return [step('delete', urls.snapshot(path, name), detail)];
};

const rollbackVolume: MakePlan = async (agent, asked) => {
  const { path, name } = await snapshotAt(agent, asked);
  refuseAttached(await volumeAt(agent, path));
  const { changedBytes } = await agent.blockd.call(
    'snapshot.diff',
    { path, from: name, to: null, limit: 1 },
    { timeoutMs: limits.blockdLongCallMs },
  );
  const detail = `back to ${name}; ${formatSize(changedBytes)} written since are given up`;
  return [step('change', urls.volume(path), detail)];
};

const deleteImage: MakePlan = async (agent, { params }) => {
  const image = await agent.images.get(params['name'] ?? '');
  if (image.protected) throw new DvceError('PROTECTED', { kind: 'image', name: image.name });
  const detail = `${formatSize(image.sizeBytes)}; clones stay whole`;
  return [step('delete', urls.image(image.name), detail)];
};

const importImage: MakePlan = async (agent, { body }) => {
  const name = checkName(text(body['name']));
  if ((await agent.images.list()).some((one) => one.name === name))
    throw new DvceError('ALREADY_EXISTS', { kind: 'image', name });
  const { source, digest, checksumUrl } = await agent.images.order(body as ImageImport);
  const check = digest ?? checksumUrl;
  const detail = `from ${publicName(source)}${check === undefined ? '' : `, checked by ${check}`}`;
  return [step('create', urls.image(name), detail)];
};

const createVm: MakePlan = async (agent, { body }) => {
  // The schema of the route has been kept, so this is what the route would get.
  const request = body as VmCreate;
  const name = checkName(request.name);
  hardwareOf(request);
  if ((await agent.vms.list()).some((one) => one.name === name))
    throw new DvceError('ALREADY_EXISTS', { kind: 'vm', name });
  if (request.image !== undefined) await agent.images.published(request.image);
  const steps = [step('create', urls.vm(name))];
  for (const { disk, make } of planDisks(request)) {
    const path = asVolumePath(disk.path);
    if (make === null) await volumeAt(agent, path);
    else await mustBeFree(agent, path);
    if (make !== null && 'sizeBytes' in make) checkSize(make.sizeBytes);
    const detail = make !== null && 'cloneOf' in make ? `from ${make.cloneOf}` : disk.name;
    steps.push(step(make === null ? 'keep' : 'create', urls.volume(path), detail));
  }
  return steps;
};

async function mayRun(agent: Agent, name: string, running: boolean): Promise<Vm> {
  const vm = await agent.vms.get(name);
  if ((vm.pid !== null) === running) return vm;
  throw new DvceError('VM_STATE', {
    name,
    state: vm.phase,
    reason: running ? 'it does not run' : `it runs already (process ${vm.pid})`,
    advice: `See: dvce vm show ${name}`,
  });
}

const startVm: MakePlan = async (agent, { params }) => {
  const vm = await mayRun(agent, params['name'] ?? '', false);
  for (const { path } of vm.disks) await volumeAt(agent, asVolumePath(path));
  return [step('start', urls.vm(vm.name), `${vm.cpus} CPUs, ${formatSize(vm.memoryBytes)}`)];
};

const stopVm: MakePlan = async (agent, { params, body }) => {
  const vm = await agent.vms.get(params['name'] ?? '');
  const detail = body['force'] === true ? 'hard' : 'by its power button, hard when that fails';
  return [step('stop', urls.vm(vm.name), vm.pid === null ? 'it does not run' : detail)];
};

const deleteVm: MakePlan = async (agent, { params, query }) => {
  const name = params['name'] ?? '';
  const { protected: isProtected } = await agent.vms.get(name);
  if (isProtected) throw new DvceError('PROTECTED', { kind: 'vm', name });
  const vm = await mayRun(agent, name, false);
  const keepAll = query['keepDisks'] === true;
  const steps = [step('delete', urls.vm(vm.name))];
  for (const { path, owned } of vm.disks) {
    const goes = owned && !keepAll;
    if (goes) {
      const volume = await found(agent, asVolumePath(path));
      if (volume !== undefined) refuseProtected(volume);
    }
    const detail = owned ? 'made with the VM' : 'existed before';
    steps.push(step(goes ? 'delete' : 'keep', urls.volume(path), detail));
  }
  return steps;
};

const createVmSnapshot: MakePlan = async (agent, { params, body }) => {
  const vm = await agent.vms.get(params['name'] ?? '');
  const name = asSnapshotName(text(body['name']));
  if ((await agent.vms.snapshots.list(vm.name)).some((one) => one.name === name))
    throw new DvceError('ALREADY_EXISTS', { kind: 'snapshot', name: `${vm.name}@${name}` });
  const disks = vm.disks.filter(({ readOnly }) => !readOnly);
  return [
    step('create', urls.vmSnapshot(vm.name, name)),
    ...disks.map(({ path }) => step('create', urls.snapshot(path, name), 'at one instant')),
  ];
};

const rollbackVm: MakePlan = async (agent, { params }) => {
  const { name = '', snapshot = '' } = params;
  const disks = await agent.vms.snapshots.plan(name, asSnapshotName(snapshot));
  return [
    step('change', urls.vm(name), 'its configuration and cards'),
    ...disks.map(({ path }) => step('change', urls.volume(path), `to ${snapshot}`)),
  ];
};

const shutdown: MakePlan = async ({ vms }, { body }) => {
  const running = (await vms.list()).filter(({ pid }) => pid !== null);
  if (running.length > 0 && body['stopVms'] !== true && body['force'] !== true)
    throw new DvceError('VM_STATE', {
      name: running.map(({ name }) => name).join(', '),
      state: 'running',
      reason: 'the agent is not stopped while VMs run',
      advice: 'Pass --stop-vms to stop them first, or --force.',
    });
  return [
    ...running.map(({ name }) =>
      step(body['stopVms'] === true ? 'stop' : 'keep', urls.vm(name), 'running'),
    ),
    step('stop', '/v1/status', body['keepBlockd'] === true ? 'the agent' : 'agent and blockd'),
  ];
};

const cancelOperation: MakePlan = async ({ operations }, { params }) => {
  const operation = operations.get(params['id'] ?? '');
  if (operation.status !== 'running' || !operation.mayCancel)
    throw new DvceError('CONFLICT', {
      kind: 'operation',
      name: operation.id,
      reason: operation.status === 'running' ? 'it cannot be cancelled' : 'it has ended',
    });
  return [step('stop', urls.operation(operation.id), operation.kind)];
};

/** By operationId. */
export const plans: Readonly<Record<string, MakePlan>> = {
  createVolume,
  cloneVolume,
  updateVolume,
  resizeVolume,
  deleteVolume,
  checkVolume,
  startScrub,
  pauseScrub,
  recoverVolume: onVolume('what follows a damaged journal record is given up'),
  createSnapshot,
  createSnapshotSet,
  deleteSnapshot,
  rollbackVolume,
  importImage,
  deleteImage,
  createVm,
  startVm,
  stopVm,
  deleteVm,
  createVmSnapshot,
  rollbackVm,
  cancelOperation,
  shutdown,
};
