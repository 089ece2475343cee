/**
 * The agent: the control process of a node. Serves the API, keeps VM documents, runs operations, brings what is wanted and
 * what is together; wires blockd's client and the hypervisor driver. main.ts is its process.
 *
 * Invariants: the agent is not in the way of any guest I/O and may end at any time; what it cannot read it does not change
 * (N7); every request is checked against its schema; every error is one of the table.
 *
 *   process.ts  lock, start, stop        server.ts + routes/   the API           vms.ts + vm-*.ts   life of VMs
 *   agent.ts    the parts together       operations.ts         long work         images.ts          imports
 *   doctor.ts   what this host needs     consoles.ts           serial consoles   layout.ts          files
 */
export { Agent, type AgentOptions } from './agent.ts';
export type { DataProcess } from './data-process.ts';
export { examineHost } from './doctor.ts';
export { agentLayout } from './layout.ts';
export { buildServer } from './server.ts';
