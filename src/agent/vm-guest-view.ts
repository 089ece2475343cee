/** The guest's side of a VM document: for the hypervisor, and for the API. */
import type { Vm } from '../api/index.ts';
import type { VmDefinition } from '../vm/index.ts';
import { type GuestFields, nicsOf } from './vm-guest-fields.ts';
import { hostnameOf, instanceIdOf, seedOf } from './vm-seed.ts';

export function guestOf(
  document: GuestFields,
): Pick<VmDefinition, 'nics' | 'seed' | 'vnc' | 'resources'> {
  const seed = seedOf(document);
  return {
    nics: nicsOf(document).map(({ name, mac, kind, bridge }) => ({
      name,
      mac,
      kind,
      ...(bridge === undefined ? {} : { bridge }),
    })),
    ...(seed === undefined ? {} : { seed }),
    vnc: document.vnc ?? false,
    resources: document.resources ?? {},
  };
}

export function guestViewOf(
  document: GuestFields,
): Pick<Vm, 'network' | 'nics' | 'cloudInit' | 'vnc' | 'resources'> {
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
    cloudInit: cloudInitView(document),
    vnc: document.vnc ?? false,
    resources: { ...document.resources },
  };
}

function cloudInitView(document: GuestFields): Vm['cloudInit'] {
  if (seedOf(document) === undefined) return null;
  const { sshKeys = [], userData = '', networkConfig } = document.cloudInit ?? {};
  return {
    instanceId: instanceIdOf(document),
    hostname: hostnameOf(document),
    sshKeys: [...sshKeys],
    userDataBytes: Buffer.byteLength(userData),
    networkConfig: networkConfig === undefined ? 'made' : 'given',
  };
}
