/**
 * The volumes of a VM: found or made when it is created, attached while it runs, deleted with it.
 *
 * A volume made for a VM carries the label `dvce.vm` with the VM's id: that, and the volume's id in the document, is what
 * lets it be deleted again. Nothing else is ever deleted with a VM.
 */
import type { VmAttachDisk, VmCreate } from '../api/index.ts';
import { asVolumePath, checkName, DvceError, limits } from '../base/index.ts';
import type { VolumeInfo } from '../blockd/index.ts';
import type { VmDisk } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import { imagePath, imageSnapshot } from './images.ts';
import type { VmDocument, VmDocumentDisk } from './vm-documents.ts';

const ownerLabel = 'dvce.vm';
const long = { timeoutMs: limits.blockdLongCallMs } as const;

/** What is to be done for one disk. */
export interface DiskPlan {
  readonly disk: VmDocumentDisk;
  readonly make: { readonly cloneOf: string } | { readonly sizeBytes: number } | null;
  readonly sizeBytes?: number;
}

/** The disks that a request asks for, in order; touches nothing. */
export function planDisks(request: VmCreate): DiskPlan[] {
  const plans: DiskPlan[] = [];
  const add = (
    path: string,
    readOnly: boolean,
    make: DiskPlan['make'],
    sizeBytes?: number,
  ): void => {
    const at = plans.length;
    const disk: VmDocumentDisk = {
      name: `disk${at}`,
      path: asVolumePath(path),
      volumeId: '',
      readOnly,
      bootOrder: at + 1,
      owned: make !== null,
    };
    plans.push({ disk, make, ...(sizeBytes === undefined ? {} : { sizeBytes }) });
  };
  if (request.image !== undefined) {
    const source = `${imagePath(request.image)}@${imageSnapshot}`;
    add(
      `/vms/${checkName(request.name)}/disk0`,
      false,
      { cloneOf: source },
      request.imageDiskBytes,
    );
  }
  for (const { path, sizeBytes, readOnly = false } of request.disks ?? [])
    add(path, readOnly, sizeBytes === undefined ? null : { sizeBytes });
  const paths = plans.map(({ disk }) => disk.path);
  const twice = paths.find((path, at) => paths.indexOf(path) !== at);
  if (twice !== undefined)
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the list of disks',
      reason: `${twice} is there twice`,
      advice: 'Name each volume once.',
    });
  if (plans.length > limits.vmDisksMax)
    throw new DvceError('TOO_LARGE', {
      what: 'the list of disks',
      reason: `a VM has at most ${limits.vmDisksMax}`,
      advice: 'Use fewer, larger volumes.',
    });
  return plans;
}

/** One more disk for a VM that exists; touches nothing. @throws when it cannot have it */
export function planDisk(document: VmDocument, request: VmAttachDisk): DiskPlan {
  const { sizeBytes, readOnly = false } = request;
  const path = asVolumePath(request.path);
  const names = document.disks.map(({ name }) => name);
  if (document.disks.some((disk) => disk.path === path))
    throw new DvceError('IN_USE', {
      kind: 'volume',
      name: path,
      reason: `VM ${document.name} has it already`,
      advice: `See: dvce vm show ${document.name}`,
    });
  if (names.length >= limits.vmDisksMax)
    throw new DvceError('TOO_LARGE', {
      what: 'the list of disks',
      reason: `a VM has at most ${limits.vmDisksMax}`,
      advice: 'Use fewer, larger volumes.',
    });
  const number = Array.from({ length: limits.vmDisksMax }, (_, at) => at).find(
    (at) => !names.includes(`disk${at}`),
  );
  const disk: VmDocumentDisk = {
    name: `disk${number}`,
    path,
    volumeId: '',
    readOnly,
    bootOrder: null,
    owned: sizeBytes !== undefined,
  };
  return { disk, make: sizeBytes === undefined ? null : { sizeBytes } };
}

/** Make or find the volume of one disk. @returns the disk with the volume's id */
export async function provideDisk(
  blockd: DataProcess,
  vmId: string,
  { disk, make, sizeBytes }: DiskPlan,
): Promise<VmDocumentDisk> {
  const { path } = disk;
  const labels = { [ownerLabel]: vmId };
  let volume: VolumeInfo;
  if (make === null) volume = await blockd.call('volume.get', { path });
  else if ('cloneOf' in make)
    volume = await blockd.call(
      'volume.clone',
      { source: make.cloneOf, path, labels, ...(sizeBytes === undefined ? {} : { sizeBytes }) },
      long,
    );
  else
    volume = await blockd.call('volume.create', { path, labels, sizeBytes: make.sizeBytes }, long);
  if (volume.kind === 'image' && !disk.readOnly)
    throw new DvceError('NOT_ALLOWED', {
      what: `the image ${path} as a disk`,
      reason: 'an image takes no writes',
      advice: 'Use --image, which makes a clone of it.',
    });
  return { ...disk, volumeId: volume.id };
}

/** Attach one volume; may be repeated. */
export async function attachDisk(
  blockd: DataProcess,
  document: Pick<VmDocument, 'id' | 'name'>,
  { name, path, readOnly, bootOrder }: VmDocumentDisk,
  signal: AbortSignal,
): Promise<VmDisk> {
  const { socketPath, exportName, blockBytes } = await blockd.call(
    'volume.attach',
    { path, attachId: document.id, vm: document.name },
    { ...long, signal },
  );
  return { name, socketPath, exportName, readOnly, blockBytes, bootOrder };
}

/** Attach all volumes, in order; on a failure those already attached are let go. */
export async function attachDisks(
  blockd: DataProcess,
  document: VmDocument,
  signal: AbortSignal,
): Promise<VmDisk[]> {
  const attached: VmDisk[] = [];
  try {
    for (const disk of document.disks)
      attached.push(await attachDisk(blockd, document, disk, signal));
    return attached;
  } catch (error) {
    await detachDisks(blockd, document);
    throw error;
  }
}

/** Let all volumes go; one that is gone or is not ours is no failure. */
export async function detachDisks(blockd: DataProcess, document: VmDocument): Promise<void> {
  for (const disk of document.disks) await detachDisk(blockd, document, disk);
}

export async function detachDisk(
  blockd: DataProcess,
  document: Pick<VmDocument, 'id'>,
  { path }: Pick<VmDocumentDisk, 'path'>,
): Promise<void> {
  try {
    await blockd.call('volume.detach', { path, attachId: document.id }, long);
  } catch (error) {
    if (!(error instanceof DvceError && (error.code === 'NOT_FOUND' || error.code === 'IN_USE')))
      throw error;
  }
}

/** Delete the volume that was made for a disk which could not be attached; nothing else is touched. */
export async function discardDisk(
  blockd: DataProcess,
  vmId: string,
  disk: VmDocumentDisk,
): Promise<void> {
  for (const { path } of await ownedVolumes(blockd, { id: vmId, disks: [disk] }))
    await blockd.call('volume.delete', { path, now: true }, long);
}

/** The volumes that were made for this VM and may go with it. */
async function ownedVolumes(
  blockd: DataProcess,
  document: Pick<VmDocument, 'id' | 'disks'>,
): Promise<VolumeInfo[]> {
  const owned: VolumeInfo[] = [];
  for (const disk of document.disks) {
    if (!disk.owned) continue;
    try {
      const volume = await blockd.call('volume.get', { path: disk.path });
      // A volume of that path that somebody made since is not ours.
      const isOurs =
        disk.volumeId === ''
          ? volume.labels[ownerLabel] === document.id
          : volume.id === disk.volumeId;
      if (isOurs) owned.push(volume);
    } catch (error) {
      if (!(error instanceof DvceError && error.code === 'NOT_FOUND')) throw error;
    }
  }
  return owned;
}

/** @throws PROTECTED before anything is deleted */
export async function refuseProtected(blockd: DataProcess, document: VmDocument): Promise<void> {
  const kept = (await ownedVolumes(blockd, document)).find((volume) => volume.protected);
  if (kept !== undefined) throw new DvceError('PROTECTED', { kind: 'volume', name: kept.path });
}

/** Those of a VM that was never whole are nothing to have back from the trash. */
export async function deleteOwnedDisks(blockd: DataProcess, document: VmDocument): Promise<void> {
  const now = document.half === 'creating';
  for (const { path } of await ownedVolumes(blockd, document))
    await blockd.call('volume.delete', { path, now }, long);
}
