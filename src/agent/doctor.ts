/**
 * Whether this host can do what dvce needs: each check says what it found and what to do about it. Runs in the agent, and
 * in a process of its own when there is no agent (doctor-main.ts).
 */
import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import type { Doctor } from '../api/index.ts';
import {
  DvceError,
  type FileSystem,
  formatSize,
  limits,
  systemCode,
  toDvceError,
} from '../base/index.ts';
import type { Hypervisor } from '../vm/index.ts';
import type { DataProcess } from './data-process.ts';
import { examineForGuests } from './doctor-guests.ts';

type Finding = Doctor['findings'][number];

export interface ExamineOptions {
  readonly dataDirectory: string;
  readonly driver: Hypervisor;
  readonly blockd: DataProcess;
  readonly files: FileSystem;
  /** Without an agent a blockd that does not run is no failure. */
  readonly agentRuns: boolean;
  /** Directories with programs; the usual ones when not given. */
  readonly programPath?: string;
}

const nodeMajorMin = 24;
const usualPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

const ok = (name: string, detail: string): Finding => ({
  name,
  result: 'ok',
  detail,
  advice: null,
});
const warn = (name: string, detail: string, advice: string): Finding => ({
  name,
  result: 'warn',
  detail,
  advice,
});
const fail = (name: string, detail: string, advice: string): Finding => ({
  name,
  result: 'fail',
  detail,
  advice,
});

/** A check that itself breaks is a failure of what it checks, and never hides the others. */
async function guarded(name: string, check: () => Promise<Finding>): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    const known = toDvceError(error);
    return fail(name, known.message, known.advice);
  }
}

export async function examineHost(options: ExamineOptions): Promise<Doctor> {
  const findings = await Promise.all([
    guarded('node', async () => checkNode(process.versions.node)),
    guarded('hypervisor', () => checkHypervisor(options)),
    guarded('kvm', () => checkKvm(options)),
    guarded('qemu-img', () => checkQemuImg(options.programPath ?? usualPath)),
    guarded('data directory', () => checkDirectory(options.dataDirectory)),
    guarded('free space', () => checkSpace(options)),
    guarded('blockd', () => checkBlockd(options)),
  ]);
  findings.push(...(await examineForGuests()));
  return { ok: findings.every(({ result }) => result !== 'fail'), findings };
}

function checkNode(version: string): Finding {
  const major = Number(version.split('.')[0]);
  return major >= nodeMajorMin
    ? ok('node', version)
    : fail(
        'node',
        `${version}; ${nodeMajorMin} is needed`,
        'Run npm install without --omit=optional.',
      );
}

/** The driver starts a probe guest: a program that is there but cannot run one would be found at the first VM. */
async function checkHypervisor({ driver }: ExamineOptions): Promise<Finding> {
  const [problem] = await driver.probe();
  return problem === undefined
    ? ok('hypervisor', `${driver.name} ran a guest`)
    : fail('hypervisor', problem.message, problem.advice);
}

/** A device that opens proves nothing: the probe guest ran under KVM, or it did not. */
async function checkKvm({ driver }: ExamineOptions): Promise<Finding> {
  if ((await driver.probe()).length > 0)
    return warn('kvm', 'not known, because no guest ran', 'First see to the hypervisor.');
  const refused = (await driver.kvmRefused())?.split('\n')[0] ?? null;
  return refused === null
    ? ok('kvm', 'guests run under KVM')
    : warn(
        'kvm',
        `guests run emulated, which is slow: ${refused}`,
        'Enable virtualisation in the firmware, load the module kvm_intel or kvm_amd, and let this user open /dev/kvm.',
      );
}

async function checkQemuImg(programPath: string): Promise<Finding> {
  for (const directory of programPath.split(delimiter)) {
    const path = join(directory, 'qemu-img');
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return ok('qemu-img', path);
  }
  return fail(
    'qemu-img',
    'it was not found; images cannot be imported',
    'Install it: apt-get install qemu-utils',
  );
}

/** The directory itself, or where it would be made. */
async function existing(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    const found = await stat(at).catch((error: unknown) => {
      if (systemCode(error) === 'ENOENT') return undefined;
      throw error;
    });
    if (found?.isDirectory() === true) return at;
    if (found !== undefined)
      throw new DvceError('INVALID_ARGUMENT', {
        what: `the data directory ${path}`,
        reason: `${at} is not a directory`,
        advice: 'Choose another with --data-dir.',
      });
    if (at === dirname(at)) return at;
  }
}

async function checkDirectory(path: string): Promise<Finding> {
  const at = await existing(path);
  try {
    await access(at, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch {
    return fail(
      'data directory',
      `${at} is not writable for this user`,
      'Choose another with --data-dir, or run as its owner.',
    );
  }
  const { mode } = await stat(at);
  if (at === path && (mode & 0o007) !== 0)
    return warn('data directory', `${path} is open to every user`, `Run: chmod o-rwx ${path}`);
  return ok('data directory', at === path ? path : `${path} will be made`);
}

async function checkSpace({ dataDirectory, files }: ExamineOptions): Promise<Finding> {
  const { freeBytes, totalBytes } = await files.space(await existing(dataDirectory));
  const detail = `${formatSize(freeBytes)} free of ${formatSize(totalBytes)}`;
  const advice = 'Delete what is not needed, or use a larger disk.';
  if (freeBytes < 2 * limits.storeReserveBytes) return fail('free space', detail, advice);
  return freeBytes < limits.doctorFreeBytes
    ? warn('free space', detail, advice)
    : ok('free space', detail);
}

async function checkBlockd({ blockd, agentRuns }: ExamineOptions): Promise<Finding> {
  try {
    const { pid, version } = await blockd.call('status', {}, { timeoutMs: limits.agentWatchMs });
    return ok('blockd', `${version}, process ${pid}`);
  } catch (error) {
    const known = toDvceError(error);
    if (!agentRuns && known.code === 'BLOCKD_UNAVAILABLE')
      return warn('blockd', 'neither agent nor blockd runs', 'Start them: dvce up');
    return fail(
      'blockd',
      known.message,
      'See log/blockd.log and log/launcher.log in the data directory.',
    );
  }
}
