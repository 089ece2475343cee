/** Networks and the cards of VMs, which lease from them: each needs the other, so they are made together. */
import type { Clock } from '../base/index.ts';
import type { DataProcess } from './data-process.ts';
import { type Leases, Networks } from './networks.ts';
import type { VmDocuments } from './vm-documents.ts';
import { Nics } from './vm-nics.ts';

export interface AddressPoolsOptions {
  readonly documents: Pick<VmDocuments, 'list'>;
  readonly blockd: DataProcess;
  readonly clock: Clock;
}

export interface AddressPools {
  readonly nics: Nics;
  readonly networks: Networks;
}

export function addressPools({ documents, blockd, clock }: AddressPoolsOptions): AddressPools {
  const leases = async (): Promise<Leases> => {
    const entries = await documents.list();
    return {
      documents: entries.flatMap((entry) => ('document' in entry ? [entry.document] : [])),
      unreadable: entries.flatMap((entry) => ('error' in entry ? [entry.name] : [])),
    };
  };
  const networks: Networks = new Networks({
    blockd,
    clock,
    leases,
    betweenClaims: (task) => nics.betweenClaims(task),
  });
  const nics = new Nics({ leases, networks });
  return { nics, networks };
}
