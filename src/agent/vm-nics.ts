/**
 * Cards for new VMs: a MAC address that no other VM has.
 *
 * Invariants
 * - the documents of the VMs are the only record: what none of them names is free, so a crash leaks nothing;
 * - between the choice and the document that names it a choice is held in memory, so that two VMs made at once differ. The
 *   agent is the only process that makes VMs (it holds the lock of the data directory).
 */
import type { NicRequest } from '../api/index.ts';
import { DvceError, limits } from '../base/index.ts';
import { type GuestFields, macOf, type NicDocument, nicsOf } from './vm-guest-fields.ts';

export interface NicsOptions {
  /** All readable documents of VMs. */
  readonly documents: () => Promise<readonly GuestFields[]>;
}

/** Cards that belong to nobody else until `release`; call it when the document is stored, or given up. */
export interface NicClaim {
  readonly nics: NicDocument[];
  release(): void;
}

const macTries = 1000;

export class Nics {
  readonly #options: NicsOptions;
  readonly #held = new Set<string>();
  /** Claims run one after another. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: NicsOptions) {
    this.#options = options;
  }

  /** Cards for a VM that is about to be made, or cloned. */
  claim(vmId: string, wanted: readonly NicRequest[]): Promise<NicClaim> {
    const claim = this.#turn.then(() => this.#claim(vmId, wanted));
    this.#turn = claim.catch(() => {}); // the caller has it
    return claim;
  }

  async #claim(vmId: string, wanted: readonly NicRequest[]): Promise<NicClaim> {
    if (wanted.length > limits.vmNicsMax)
      throw new DvceError('TOO_LARGE', {
        what: 'the list of cards',
        reason: `a VM has at most ${limits.vmNicsMax}`,
        advice: 'Use fewer.',
      });
    // A claim that is released while the documents are read may be in neither of the two.
    const heldBefore = [...this.#held];
    const documents = await this.#options.documents();
    const taken = new Set(documents.flatMap((one) => nicsOf(one).map(({ mac }) => mac)));
    for (const mac of heldBefore) taken.add(mac);
    const mine: string[] = [];
    const nics = wanted.map((request, index) => {
      const mac = this.#freeMac(vmId, `card${index}`, taken);
      this.#held.add(mac);
      mine.push(mac);
      return card(request, `card${index}`, mac);
    });
    return { nics, release: () => mine.forEach((mac) => void this.#held.delete(mac)) };
  }

  #freeMac(vmId: string, name: string, taken: ReadonlySet<string>): string {
    for (let attempt = 0; attempt < macTries; attempt += 1) {
      // The first card of a VM has had this address since release 0.1.0.
      const isFirst = attempt === 0 && name === 'card0';
      const mac = macOf(isFirst ? vmId : `${vmId}/${name}/${attempt}`);
      if (!taken.has(mac) && !this.#held.has(mac)) return mac;
    }
    throw new DvceError('NO_SPACE', {
      where: 'the pool of MAC addresses',
      reason: `${macTries} tries found only addresses in use`,
    });
  }
}

function card(request: NicRequest, name: string, mac: string): NicDocument {
  const { kind, bridge } = request;
  if (kind === 'user') return { name, mac, kind };
  if (kind === 'bridge' && bridge !== undefined) return { name, mac, kind, bridge };
  throw new DvceError('INVALID_ARGUMENT', {
    what: `the card ${name}`,
    reason: 'a card of kind bridge needs the name of the bridge',
    advice: 'For example --net bridge=br0.',
  });
}

/** What a card was asked for with, for a clone of its VM: the same place, another MAC and another address. */
export function wantedAgain(nics: readonly NicDocument[]): NicRequest[] {
  return nics.map(({ kind, bridge, network }) => {
    if (network !== undefined) return { kind: 'network', network };
    return bridge === undefined ? { kind } : { kind, bridge };
  });
}
