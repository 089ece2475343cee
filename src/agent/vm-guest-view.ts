/** The guest's side of a VM document: for the hypervisor, and for the API. */
import type { Vm } from '../api/index.ts';
import type { VmDefinition } from '../vm/index.ts';
import { type GuestFields, nicsOf } from './vm-guest-fields.ts';

export function guestOf(document: GuestFields): Pick<VmDefinition, 'nics'> {
  return {
    nics: nicsOf(document).map(({ name, mac, kind, bridge }) => ({
      name,
      mac,
      kind,
      ...(bridge === undefined ? {} : { bridge }),
    })),
  };
}

export function guestViewOf(document: GuestFields): Pick<Vm, 'network' | 'nics'> {
  const nics = nicsOf(document);
  return {
    network: nics[0]?.kind ?? 'none',
    nics: nics.map(({ name, mac, kind, bridge = null, network = null, address = null }) => ({
      name,
      mac,
      kind,
      bridge,
      network,
      address,
    })),
  };
}
