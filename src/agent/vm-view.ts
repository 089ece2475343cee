/** A VM as the API shows it: its document, and what the hypervisor says. */
import type { Vm } from '../api/index.ts';
import type { VmDefinition, VmDisk, VmObservation } from '../vm/index.ts';
import type { VmDocument, VmEntry } from './vm-documents.ts';
import { guestOf, guestViewOf } from './vm-guest-view.ts';
import { lifeViewOf, unknownLife } from './vm-life-view.ts';

/** What the hypervisor is asked for; the disks are known only once the volumes are attached. */
export function definitionOf(document: VmDocument, disks: readonly VmDisk[] = []): VmDefinition {
  const { id, name, cpus, memoryBytes, machine, firmware, readyPattern, cpuModel } = document;
  return {
    id,
    name,
    cpus,
    memoryBytes,
    machine,
    ...(cpuModel === undefined ? {} : { cpuModel }),
    firmware,
    readyPattern,
    disks,
    ...guestOf(document),
  };
}

/** True while a process of the hypervisor exists, whatever its guest does. */
export const isAlive = (observation: VmObservation): boolean => observation.pid !== null;

/**
 * Wanted running, but its process is gone: `crashed`, until somebody starts or stops it, unless it is known to have ended on
 * purpose, which is recorded soon. (While it is being started the process may not exist yet.)
 */
function phaseOf(
  document: VmDocument,
  observation: VmObservation,
  isStarting: boolean,
): Pick<Vm, 'phase' | 'detail'> {
  const { phase, detail } = observation;
  if (isStarting && !isAlive(observation)) return { phase: 'starting', detail };
  if (isAlive(observation)) return { phase, detail };
  // How it ended stays in the detail; once somebody has stopped it, it is no crash any more.
  if (document.desired === 'stopped') return { phase: 'stopped', detail: document.held ?? detail };
  if (phase === 'stopped' && detail !== null) return { phase, detail };
  return { phase: 'crashed', detail: document.held ?? detail ?? 'its process is gone' };
}

export function viewOf(
  document: VmDocument,
  revision: number,
  observation: VmObservation,
  isStarting: boolean,
): Vm {
  const { id, name, desired, cpus, memoryBytes, machine, firmware } = document;
  const { readyPattern, labels, createdAt, startedAt } = document;
  return {
    id,
    name,
    desired,
    ...phaseOf(document, observation, isStarting),
    ready: isAlive(observation) ? observation.ready : null,
    pid: observation.pid,
    cpus,
    memoryBytes,
    machine,
    firmware,
    ...guestViewOf(document),
    readyPattern,
    disks: document.disks.map((disk) => ({
      name: disk.name,
      path: disk.path,
      readOnly: disk.readOnly,
      bootOrder: disk.bootOrder,
      owned: disk.owned,
      state: disk.transit ?? 'attached',
    })),
    ...lifeViewOf(document),
    revision,
    labels,
    createdAt,
    startedAt,
  };
}

/** N7: what is known of a VM whose document cannot be read: its name, and why. */
export const unreadableView = ({ name, error }: Extract<VmEntry, { error: unknown }>): Vm => ({
  id: '',
  name,
  desired: null,
  phase: 'unreadable',
  detail: error.message,
  ready: null,
  pid: null,
  cpus: 0,
  memoryBytes: 0,
  machine: '',
  firmware: 'bios',
  network: 'none',
  nics: [],
  cloudInit: null,
  vnc: false,
  resources: {},
  readyPattern: null,
  disks: [],
  ...unknownLife,
  revision: 0,
  labels: {},
  createdAt: '',
  startedAt: null,
});
