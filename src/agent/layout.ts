/**
 * What the agent keeps in the data directory (blockd's part is described by blockd):
 *
 *   <data>/agent.lock         locked while an agent runs; holds its pid
 *   <data>/run/agent.sock     the API                                             (0660)
 *   <data>/run/vm/<id>/       sockets of running guests
 *   <data>/log/agent.log      log of an agent in the background; agent-start.log has what it printed
 *   <data>/log/vm/<id>/       console and hypervisor logs
 *   <data>/state/vms/*.json   VM documents (vm-documents.ts)
 *   <data>/state/operations/  ended operations; may be lost without harm (operation-log.ts)
 */
import { join, resolve } from 'node:path';
import { DvceError } from '../base/index.ts';

export interface AgentLayout {
  readonly root: string;
  readonly run: string;
  readonly state: string;
  readonly socket: string;
  readonly vmRun: string;
  readonly vmLog: string;
  readonly vmDocuments: string;
  readonly operations: string;
}

/** sizeof(sun_path) - 1 on Linux. */
const socketPathBytesMax = 107;

/** Names in a data directory; touches nothing. @throws PATH_TOO_LONG */
export function agentLayout(path: string): AgentLayout {
  const root = resolve(path);
  const at = (...parts: string[]): string => join(root, ...parts);
  const socket = at('run', 'agent.sock');
  const length = Buffer.byteLength(socket);
  if (length > socketPathBytesMax)
    throw new DvceError('PATH_TOO_LONG', { where: socket, length, max: socketPathBytesMax });
  return {
    root,
    run: at('run'),
    state: at('state'),
    socket,
    vmRun: at('run', 'vm'),
    vmLog: at('log', 'vm'),
    vmDocuments: at('state', 'vms'),
    operations: at('state', 'operations'),
  };
}
