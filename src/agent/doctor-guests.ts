/** What the host offers to guests beside processors: bridges for cards, cgroup v2 for shares. Neither is needed by all. */
import type { Doctor } from '../api/index.ts';
import { toDvceError } from '../base/index.ts';
import { bridges, cgroupAdvice, sharesRefused, tapsRefused } from '../vm/index.ts';

type Finding = Doctor['findings'][number];

/** A check that itself breaks is a warning about what it checks. */
async function warned(name: string, check: () => Promise<Finding>): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    const { message, advice } = toDvceError(error);
    return { name, result: 'warn', detail: message, advice };
  }
}

export function examineForGuests(): Promise<Finding[]> {
  return Promise.all([warned('bridges', checkBridges), warned('guarantees', checkCgroups)]);
}

async function checkBridges(): Promise<Finding> {
  const name = 'bridges';
  const refused = await tapsRefused();
  if (refused !== null)
    return {
      name,
      result: 'warn',
      detail: `cards of VMs cannot be put on a bridge: ${refused}`,
      advice: 'Run the agent as root with the module tun loaded, or use --net user.',
    };
  const found = await bridges();
  const detail =
    found.length === 0 ? 'possible; this host has none yet' : `possible: ${found.join(', ')}`;
  return { name, result: 'ok', detail, advice: null };
}

async function checkCgroups(): Promise<Finding> {
  const name = 'guarantees';
  const refused = await sharesRefused();
  return refused === null
    ? { name, result: 'ok', detail: 'processors and memory by cgroup v2', advice: null }
    : {
        name,
        result: 'warn',
        detail: `VMs get no guaranteed or limited share of processors or memory: ${refused}`,
        advice: cgroupAdvice,
      };
}
