/**
 * What the agent keeps in the data directory (blockd's part is described by blockd):
 *
 *   <data>/agent.lock         locked while an agent runs; holds its pid
 *   <data>/run/agent.sock     the API                                             (0660)
 *   <data>/run/agent-readonly.sock  the same for looking only                      (0660)
 *   <data>/run/vm/<id>/       sockets of running guests
 *   <data>/log/agent.log      log of an agent in the background; agent-start.log has what it printed
 *   <data>/log/vm/<id>/       console and hypervisor logs
 *   <data>/state/vms/*.json   VM documents of release 0.1.0; now they are in the store (vm-documents.ts)
 *   <data>/state/host-boot    which boot of the host the last agent saw (host-boot.ts)
 *   <data>/log/audit.log      who changed what (audit.ts)                         (0600)
 *   <data>/state/tokens.json  API tokens, hashed (tokens.ts)                      (0600)
 *   <data>/state/tls/         certificate and key of the HTTPS door               (0700)
 *   <data>/state/idempotency/ answers kept by their key; may be lost (http/idempotency.ts)
 *   <data>/state/operations/  ended operations; may be lost without harm (operation-log.ts)
 */
import { join, resolve } from 'node:path';
import { DvceError } from '../base/index.ts';

export interface AgentLayout {
  readonly root: string;
  readonly run: string;
  readonly state: string;
  readonly socket: string;
  readonly viewerSocket: string;
  readonly vmRun: string;
  readonly vmLog: string;
  readonly vmDocuments: string;
  readonly hostBoot: string;
  readonly operations: string;
  readonly idempotency: string;
  readonly tokens: string;
  readonly tls: string;
  readonly log: string;
  readonly audit: string;
}

/** sizeof(sun_path) - 1 on Linux. */
const socketPathBytesMax = 107;

/** Names in a data directory; touches nothing. @throws PATH_TOO_LONG */
export function agentLayout(path: string, apiSocket?: string): AgentLayout {
  const root = resolve(path);
  const at = (...parts: string[]): string => join(root, ...parts);
  const socket = apiSocket ?? at('run', 'agent.sock');
  const viewerSocket = socket.replace(/(\.sock)?$/, '-readonly.sock');
  // The longer of the names of sockets here.
  const length = Buffer.byteLength(viewerSocket);
  if (length > socketPathBytesMax)
    throw new DvceError('PATH_TOO_LONG', { where: socket, length, max: socketPathBytesMax });
  return {
    root,
    run: at('run'),
    state: at('state'),
    socket,
    viewerSocket,
    vmRun: at('run', 'vm'),
    vmLog: at('log', 'vm'),
    vmDocuments: at('state', 'vms'),
    hostBoot: at('state', 'host-boot'),
    operations: at('state', 'operations'),
    idempotency: at('state', 'idempotency'),
    tokens: at('state', 'tokens.json'),
    tls: at('state', 'tls'),
    log: at('log'),
    audit: at('log', 'audit.log'),
  };
}
