/** Where the graphical display of a running guest is, and its password; only for a VM that was given one. */
import { readFile } from 'node:fs/promises';
import { systemCode } from '../base/index.ts';
import type { VmDisplay } from './driver.ts';
import type { Guest } from './guest.ts';

/** @returns null when this run of the guest has no display */
export async function displayOf(guest: Guest): Promise<VmDisplay | null> {
  let password: string;
  try {
    password = await readFile(guest.paths.vncPassword, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return null;
    throw error;
  }
  const { enabled, host, service } = await guest.execute('query-vnc');
  if (!enabled || host === undefined || service === undefined) return null;
  return { host, port: Number(service), password };
}
