// limit: 150 s
/**
 * Volumes as an operator uses them day by day, through the real program: deleted and had back, limited, exported, mapped, and
 * snapshots taken at times. blockd and the agent are killed in the middle.
 */
import t, { type Test } from 'tap';
import { exitCodes } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';

interface Named {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

async function fails(t: Test, dvce: Dvce, line: string, code: number, text: RegExp) {
  const outcome = await dvce.cli(line);
  t.equal(outcome.code, code, `${line}: ${outcome.stderr}`);
  t.match(outcome.stderr, text, line);
}

const snapshotsOf = async (dvce: Dvce, path: string): Promise<string[]> =>
  (await dvce.json<Named[]>(`snapshot list ${path}`)).map(({ name }) => name);

function kill(dvce: Dvce, lock: 'agent.lock' | 'lock'): void {
  const pid = dvce.holder(lock);
  if (pid === undefined) throw new Error(`nobody holds ${lock}`);
  process.kill(pid, 'SIGKILL');
}

async function killBlockd(dvce: Dvce): Promise<void> {
  kill(dvce, 'lock');
  await until('blockd to be back', async () => (await dvce.cli('volume list')).code === 0);
}

t.test('volumes of an operator', async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');

  // trash, with blockd killed while the volume is in it
  await dvce.ok('volume create /prod/a --size 64MiB --label tier=gold --protect');
  await fails(t, dvce, 'volume delete /prod/a --yes', exitCodes.notAllowed, /protected/);
  await dvce.ok('volume update /prod/a --no-protect');
  await dvce.ok('snapshot create /prod/a@manual --protect');
  await fails(t, dvce, 'volume delete /prod/a --yes', exitCodes.notAllowed, /--no-protect/);
  await dvce.ok('snapshot update /prod/a@manual --no-protect');
  await dvce.ok('volume delete /prod/a --yes');
  await killBlockd(dvce);
  t.match(await dvce.ok('volume trash list'), /\/prod\/a .*64MiB/);
  await dvce.ok('volume create /prod/a --size 32MiB');
  await fails(t, dvce, 'volume undelete /prod/a', exitCodes.exists, /exists already/);
  await dvce.ok('volume undelete /prod/a --to /prod/old');
  t.same(await snapshotsOf(dvce, '/prod/old'), ['manual'], 'with its snapshots');
  await dvce.ok('volume delete /prod/old --yes --now');
  await fails(t, dvce, 'volume undelete /prod/old', exitCodes.notFound, /does not exist/);
  t.equal((await dvce.json<unknown[]>('trash list')).length, 0);

  // quota
  await dvce.ok('quota set /prod --size 1GiB --volumes 9');
  await fails(t, dvce, 'volume create /prod/big --size 2GiB', exitCodes.noSpace, /quota of \/prod/);
  await fails(t, dvce, 'volume resize /prod/a --size 3GiB', exitCodes.noSpace, /quota of \/prod/);
  await fails(t, dvce, 'quota set ../x --size 1GiB', exitCodes.usage, /not valid/);
  await fails(t, dvce, 'quota set /prod', exitCodes.usage, /sets nothing/);

  // exports, held over a death of blockd
  await dvce.ok('snapshot create /prod/a@s');
  const id = (await dvce.ok('volume export /prod/a@s -o name')).trim();
  await killBlockd(dvce);
  await fails(t, dvce, 'snapshot delete /prod/a@s --yes', exitCodes.conflict, /is exported as/);
  await fails(t, dvce, 'volume delete /prod/a --yes', exitCodes.conflict, /is exported as/);
  t.match(await dvce.ok('volume exports'), new RegExp(id));
  await dvce.ok(`volume unexport ${id}`);
  await fails(t, dvce, 'volume export /prod/a --tcp', exitCodes.failed, /does not listen on TCP/);
  t.match(await dvce.ok('volume map /prod/a'), /hole/);

  // schedules: a run of eight volumes, with the agent killed in the middle of it
  const paths = Array.from({ length: 8 }, (_, index) => `/prod/v${index}`);
  for (const path of paths) await dvce.ok(`volume create ${path} --size 16MiB`);
  await fails(
    t,
    dvce,
    'schedule create x --volumes /prod/* --every never --keep 1',
    exitCodes.usage,
    /neither a weekday/,
  );
  await fails(t, dvce, 'schedule create x --volumes /p --every daily', exitCodes.usage, /how long/);
  await fails(
    t,
    dvce,
    'schedule create x --every daily --keep 1',
    exitCodes.usage,
    /which volumes/,
  );
  const minutely = ['schedule', 'create', 'often', '--volumes', '/prod/v*', '--keep', '2'];
  const due = new Date(Date.now() + 4000);
  const at = due.toISOString().slice(11, 19);
  const made = await dvce.run([...minutely, '--every', `*-*-* ${at} UTC`]);
  t.equal(made.code, 0, made.stderr);
  await until('the first snapshots of the run', async () => {
    const taken = await snapshotsOf(dvce, '/prod/v0');
    return taken.some((name) => name.startsWith('often-'));
  });
  kill(dvce, 'agent.lock');
  await dvce.ok('up');
  const isDone = async (): Promise<boolean> =>
    (await dvce.json<{ lastRun: unknown }>('schedule show often')).lastRun !== null;
  await until('the run to be finished by the next agent', isDone);
  for (const path of paths)
    t.same(
      (await snapshotsOf(dvce, path)).filter((name) => name.startsWith('often-')),
      [`often-${due.toISOString().replace(/[-:]|\.\d+/g, '')}`],
      `${path}: neither lost nor doubled`,
    );

  // what it keeps, and what it leaves alone
  await dvce.ok('snapshot create /prod/v0@often-20200101T000000Z');
  await dvce.ok('snapshot create /prod/v0@mine');
  for (let run = 0; run < 2; run += 1) {
    await dvce.ok('schedule run often');
    await until('another second', () => Date.now() % 1000 < 100);
  }
  const left = await snapshotsOf(dvce, '/prod/v0');
  t.ok(left.includes('mine') && left.includes('often-20200101T000000Z'), 'those of the operator');
  t.equal(left.length, 4, `two of the schedule: ${left.join(' ')}`);
  t.match(await dvce.json('schedule preview often --count 3'), {
    runs: [{ takes: 8 }, { takes: 8 }, { takes: 8 }],
  });
  await dvce.ok('schedule pause often');
  t.match(await dvce.json('schedule show often'), { state: 'paused', nextDue: null });
  await dvce.ok('schedule resume often');
  await dvce.ok('schedule delete often --yes');
  t.equal((await snapshotsOf(dvce, '/prod/v0')).length, 4, 'its snapshots stay');
});
