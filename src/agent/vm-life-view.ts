/** The life of a VM as the API shows it. */
import type { Vm } from '../api/index.ts';
import type { VmDocument } from './vm-documents.ts';

type LifeView = Pick<
  Vm,
  'cpuModel' | 'protected' | 'autostart' | 'startOrder' | 'onCrash' | 'crashes' | 'held' | 'pending'
>;

export function lifeViewOf(document: VmDocument): LifeView {
  const { cpus = null, memoryBytes = null } = document.pending ?? {};
  return {
    cpuModel: document.cpuModel ?? 'host',
    protected: document.protected ?? false,
    autostart: document.autostart ?? false,
    startOrder: document.startOrder ?? 0,
    onCrash: document.onCrash ?? 'restart',
    crashes: [...(document.crashes ?? [])],
    held: document.held ?? null,
    pending: document.pending === undefined ? null : { cpus, memoryBytes },
  };
}

export const unknownLife: LifeView = {
  cpuModel: '',
  protected: false,
  autostart: false,
  startOrder: 0,
  onCrash: 'hold',
  crashes: [],
  held: null,
  pending: null,
};
