/**
 * Who may know whom. One table gives the rules of dependency-cruiser (.dependency-cruiser.mjs), the table and the picture
 * in ARCHITECTURE.md (scripts/architecture.ts) and the list of folders that a test expects to have a front door.
 *
 * A folder may always import itself. Folders that do not exist yet are listed all the same: the place of a later part is
 * decided, only its code is missing.
 */
export interface Layer {
  /** What the folder is for, in one line; printed in ARCHITECTURE.md. */
  readonly purpose: string;
  /** The folders of src/ that it may import besides itself; `'*'` is every one but `cli`. */
  readonly mayImport: readonly string[] | '*';
}

export const layers: Readonly<Record<string, Layer>> = {
  base: {
    purpose: 'errors, ids, units, limits, clock, randomness, files, logging contract',
    mayImport: [],
  },
  identity: {
    purpose: 'node key, membership certificate, revocation, TLS between peers',
    mayImport: ['base'],
  },
  config: {
    purpose: 'settings of a host: files, environment, flags, their origins',
    mayImport: ['base'],
  },
  hlfs: {
    purpose:
      'the volume engine: journal, overlay, segments, map, roots, documents, names; defines SegmentStore',
    mayImport: ['base'],
  },
  stores: { purpose: 'places of truth: memory, local directory', mayImport: ['base', 'hlfs'] },
  nbd: { purpose: 'NBD server and client; defines BlockBackend', mayImport: ['base'] },
  chunkserver: {
    purpose: 'both ends of chunk transfer and journal mirroring, boot sets',
    mayImport: ['base', 'identity', 'hlfs'],
  },
  blockd: {
    purpose: 'the data process: opens volumes and exports them; control protocol and its client',
    mayImport: ['base', 'config', 'identity', 'hlfs', 'stores', 'nbd', 'chunkserver'],
  },
  attach: { purpose: 'kernel NBD devices by netlink', mayImport: ['base', 'nbd'] },
  guard: { purpose: 'self-fencing process', mayImport: ['base'] },
  images: {
    purpose: 'disk image formats (raw, qcow2), download, import, export',
    mayImport: ['base', 'nbd'],
  },
  history: { purpose: 'records of starts and boots, roll-up', mayImport: ['base', 'hlfs'] },
  backup: {
    purpose: 'schedules, retention, verification, restore',
    mayImport: ['base', 'hlfs', 'history'],
  },
  cluster: { purpose: 'membership, gossip, RPC', mayImport: ['base', 'identity'] },
  placement: {
    purpose: 'scoring and set placement; pure functions without any I/O',
    mayImport: ['base'],
  },
  vm: { purpose: 'hypervisor drivers', mayImport: ['base', 'attach'] },
  api: {
    purpose: 'schemas of the HTTP API, operations, events, and the client of it',
    mayImport: ['base'],
  },
  agent: {
    purpose: 'the control process: reconcile loops, API server; wires everything',
    mayImport: '*',
  },
  cli: {
    purpose: 'the `dvce` command over the API client',
    mayImport: ['base', 'config', 'api'],
  },
};

/** Folders beside src/ that may use it; src/ never uses them. */
export const outside = ['test', 'scripts', 'bench'] as const;

/** Regular expression of the folders that `name` may import, itself included. */
export function allowedPattern(name: string): string {
  const layer = layers[name];
  if (layer === undefined) throw new Error(`${name} is not in the table of layers`);
  const names =
    layer.mayImport === '*'
      ? Object.keys(layers).filter((other) => other !== 'cli')
      : [name, ...layer.mayImport];
  return names.join('|');
}
