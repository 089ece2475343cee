/** What a request for a VM says about its hardware, checked and completed. */
import type { NicRequest, VmCreate, VmUpdate } from '../api/index.ts';
import { DvceError, limits, MiB } from '../base/index.ts';
import type { VmDocument } from './vm-documents.ts';
import { checkResources } from './vm-resources.ts';
import { checkCloudInit } from './vm-seed.ts';

/** The fields of what a guest has beside processors, memory and disks; the cards come from elsewhere. */
export function guestOfRequest(
  request: VmCreate,
  memoryBytes: number,
): Pick<VmDocument, 'cloudInit' | 'vnc' | 'resources'> {
  const { cloudInit, vnc, resources } = request;
  if (cloudInit !== undefined) checkCloudInit(cloudInit);
  if (resources !== undefined) checkResources(resources, memoryBytes);
  return {
    ...(cloudInit === undefined ? {} : { cloudInit }),
    ...(vnc === undefined ? {} : { vnc }),
    ...(resources === undefined ? {} : { resources }),
  };
}

/** What was asked for about its life; what was not stays open. */
export function lifeOf(request: VmUpdate): VmUpdateFields {
  const { cpuModel, autostart, startOrder, onCrash } = request;
  return {
    ...(cpuModel === undefined ? {} : { cpuModel }),
    ...(request.protected === undefined ? {} : { protected: request.protected }),
    ...(autostart === undefined ? {} : { autostart }),
    ...(startOrder === undefined ? {} : { startOrder }),
    ...(onCrash === undefined ? {} : { onCrash }),
  };
}
type VmUpdateFields = Pick<
  VmDocument,
  'cpuModel' | 'protected' | 'autostart' | 'startOrder' | 'onCrash'
>;

export function hardwareOf(
  request: VmCreate,
): Pick<VmDocument, 'cpus' | 'memoryBytes' | 'machine' | 'firmware' | 'readyPattern'> {
  const memoryBytes = request.memoryBytes ?? 512 * MiB;
  checkMemory(memoryBytes);
  if (request.readyPattern !== undefined) checkPattern(request.readyPattern);
  return {
    cpus: request.cpus ?? 1,
    memoryBytes,
    machine: request.machine ?? 'q35',
    firmware: request.firmware ?? 'bios',
    readyPattern: request.readyPattern ?? null,
  };
}

export function checkMemory(memoryBytes: number): void {
  if (
    memoryBytes < limits.vmMemoryBytesMin ||
    memoryBytes > limits.vmMemoryBytesMax ||
    memoryBytes % MiB !== 0
  )
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the memory of ${memoryBytes} bytes`,
      reason: `it is no multiple of 1MiB from ${limits.vmMemoryBytesMin} to ${limits.vmMemoryBytesMax}`,
      advice: 'For example 512MiB.',
    });
}

/** The cards that are asked for: `nics`, or the older `network`, which knows one card. */
export function wantedNics({ nics, network }: VmCreate): readonly NicRequest[] {
  if (nics === undefined) return network === 'none' ? [] : [{ kind: 'user' }];
  if (network === undefined) return nics;
  throw new DvceError('INVALID_ARGUMENT', {
    what: 'the network of the VM',
    reason: 'it is given twice, as network and as nics',
    advice: 'Give nics only.',
  });
}

/** Told now, not at the first start. */
export function checkPattern(text: string): void {
  try {
    new RegExp(text);
  } catch (error) {
    throw new DvceError(
      'INVALID_ARGUMENT',
      {
        what: `the ready pattern ${JSON.stringify(text)}`,
        reason: error instanceof Error ? error.message : String(error),
        advice: 'Give a regular expression, for example login:',
      },
      error,
    );
  }
}
