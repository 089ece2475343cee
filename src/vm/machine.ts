/** Machine types of this host's QEMU. A name without a version means another machine after an upgrade, so VMs keep a version. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { DvceError, limits } from '../base/index.ts';

/** @returns `pc-q35-7.2` for `q35`; a type with a version as it is */
export async function versionOfMachine(binary: string, machine: string): Promise<string> {
  const { stdout } = await promisify(execFile)(binary, ['-machine', 'help'], {
    timeout: limits.vmProbeEmulatedMs,
    env: { LC_ALL: 'C' },
  });
  const lines = stdout.split('\n').map((line) => line.split(/\s+/));
  if (!lines.some(([name]) => name === machine))
    throw new DvceError('INVALID_ARGUMENT', {
      what: `the machine type ${machine}`,
      reason: 'the QEMU of this host does not have it',
      advice: 'Use q35 or pc.',
    });
  const alias = stdout.match(new RegExp(`^${machine}\\s.*\\(alias of ([\\w.-]+)\\)`, 'm'));
  return alias?.[1] ?? machine;
}
