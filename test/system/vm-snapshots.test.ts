// limit: 120 s
/** Snapshots of VMs by the command line: a hypervisor that runs, and the agent killed in the middle of the way back. */
import { join } from 'node:path';
import t from 'tap';
import type { Vm, VmSnapshot } from '../../src/api/index.ts';
import { exitCodes } from '../../src/base/index.ts';
import { isAlive, until } from '../support/blockd-process.ts';
import { freshDvce } from '../support/dvce.ts';
import { guestsMissing } from '../support/guest-rig.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

t.setTimeout(120_000);
const skip = guestsMissing();
const paths = ['/vms/web1/a', '/vms/web1/b'] as const;

t.test('a VM is set back as it was, whole, whatever ends in between', { skip }, async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  const socket = join(dvce.data, 'run/nbd.sock');
  const onDisks = async <T>(act: (nbd: RawNbd) => Promise<T>): Promise<T[]> => {
    const all: T[] = [];
    for (const path of paths) {
      const nbd = await RawNbd.connect({ path: socket }, path);
      all.push(await act(nbd));
      await nbd.disconnect();
    }
    return all;
  };
  const write = (number: number) =>
    onDisks(async (nbd) => {
      await nbd.write(0, stamp(0, number));
      await nbd.flush();
    });
  const numbers = () => onDisks(async (nbd) => readStamp(await nbd.read(0, blockBytes), 0));
  const refused = async (line: string, code: number, words: RegExp): Promise<void> => {
    const outcome = await dvce.cli(line, { input: '' });
    t.equal(outcome.code, code, `${line}: ${outcome.stderr}`);
    t.match(outcome.stderr, words);
  };

  const disks = paths.map((path) => `--disk ${path},8MiB`).join(' ');
  await dvce.ok(`vm create web1 ${disks} --memory 64MiB --net none --label team=shop`);
  await write(1);
  await dvce.ok('vm start web1');
  await dvce.ok('vm snapshot web1@running --label why=test');
  await refused('vm snapshot web1@running', exitCodes.exists, /web1@running exists already/);
  await refused(
    'vm snapshot web1@quiet --quiesce',
    exitCodes.conflict,
    /guest agent does not answer/,
  );
  await refused('vm snapshot web1', exitCodes.usage, /names no snapshot/);
  await refused('vm snapshot web1@a@b', exitCodes.usage, /names no snapshot/);
  await refused('vm rollback web1@running --yes', exitCodes.conflict, /it runs/);
  await refused('vm rollback web1@none --yes', exitCodes.notFound, /web1@none/);
  await refused(
    'snapshot delete /vms/web1/a@running --yes',
    exitCodes.conflict,
    /VM snapshot web1@running/,
  );
  await dvce.ok('vm stop web1 --force');
  t.match(await dvce.ok('vm snapshots web1'), /running .*why=test/);
  const [listed] = await dvce.json<VmSnapshot[]>('vm snapshots web1');
  t.match(listed, { name: 'running', quiesced: false, cpus: 1 });
  t.strictSame(
    listed?.disks.map(({ snapshot }) => snapshot),
    paths.map((path) => `${path}@running`),
  );

  await write(2);
  await dvce.ok('vm resize web1 --cpus 2');
  await dvce.ok('vm update web1 --label team=other');
  t.match(await dvce.ok('vm rollback web1@running --dry-run'), /change .*\/vms%2Fweb1%2Fb|web1\/b/);
  t.strictSame(await numbers(), [2, 2], 'a dry run changes nothing');

  // Cut at different moments: it is as before, or as then, never in between; what was begun is finished.
  for (const delayMs of [0, 15, 40, 90]) {
    await write(2);
    await dvce.ok('vm resize web1 --cpus 2');
    const rollback = dvce.cli('vm rollback web1@running --yes --no-wait');
    if (delayMs === 0) await rollback;
    else await new Promise((resolve) => setTimeout(resolve, delayMs));
    const pid = dvce.agentPid();
    process.kill(pid, 'SIGKILL');
    await until('the agent is gone', () => !isAlive(pid));
    await rollback;
    await dvce.ok('up');
    const { cpus } = await dvce.json<Vm>('vm show web1');
    const state = [cpus, ...(await numbers())].join(' ');
    t.ok(['1 1 1', '2 2 2'].includes(state), `killed after ${delayMs} ms: ${state}`);
  }
  t.match(await dvce.ok('vm rollback web1@running --yes'), /is at running again/);
  t.match(await dvce.json<Vm>('vm show web1'), { cpus: 1, labels: { team: 'shop' } });
  t.strictSame(await numbers(), [1, 1]);
  await dvce.ok('vm start web1');
  await dvce.ok('vm stop web1 --force');

  await dvce.ok('vm delete-snapshot web1@running --yes');
  t.equal(await dvce.ok('snapshot list /vms/web1/a -q'), '');
  await refused('vm delete-snapshot web1@running --yes', exitCodes.notFound, /web1@running/);
  await dvce.ok('vm delete-snapshot web1@running --yes --if-exists');
  await dvce.ok('vm delete web1 --yes');
});
