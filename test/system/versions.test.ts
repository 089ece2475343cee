// limit: 120 s
/**
 * Agent and blockd of neighbouring releases: an upgrade restarts one after the other, so for a while they are not of one. What an
 * earlier release promised is in test/fixtures/control (frozen by scripts/freeze-control.ts).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { paramSchemas } from '../../src/blockd/schemas.ts';
import { seconds, testNode, until } from '../support/blockd-process.ts';
import { type FrozenControl, missing, runSession, shapeOf } from '../support/control-freeze.ts';
import { Dvce, projectRoot } from '../support/dvce.ts';
import { OldBlockd } from '../support/old-blockd.ts';

t.setTimeout(seconds(120));
const directory = join(import.meta.dirname, '../fixtures/control');
const releases = readdirSync(directory).map((name) => ({
  name,
  frozen: JSON.parse(readFileSync(join(directory, name), 'utf8')) as FrozenControl,
}));
const advice =
  'A member that is gone breaks hosts in the middle of an upgrade. Only before 0.1 is released: node scripts/freeze-control.ts test/fixtures/control/v1.json';

t.test('what is frozen and gone is found', async (t) => {
  const frozen = shapeOf({ a: 1, b: [{ c: 'x', d: null }] });
  t.same(missing(frozen, shapeOf({ a: 2, b: [{ c: 'y', e: 1 }] }), 'm'), ['m.b[].d is gone']);
  t.same(missing(frozen, shapeOf({ a: 2, b: [], z: 1 }), 'm'), [], 'additions are free');
  t.same(missing(frozen, shapeOf({ a: '2', b: 1 }), 'm'), [
    'm.a was number and is string',
    'm.b was list and is number',
  ]);
});

for (const { name, frozen } of releases) {
  t.test(`${name}: this blockd serves an agent of that release`, async (t) => {
    const gone = Object.keys(frozen.methods).filter((method) => !(method in paramSchemas));
    t.same(gone, [], `methods stay. ${advice}`);
    const node = testNode(t, ['--workers', '1']);
    node.spawn();
    await node.answers();
    const shapes = await runSession(node.client, frozen.session);
    const lost = [...shapes].flatMap(([method, shape]) =>
      missing(frozen.methods[method]?.result ?? 'null', shape, method),
    );
    t.same(lost, [], `members of answers stay. ${advice}`);
  });

  t.test(`${name}: this agent works with a blockd of that release`, async (t) => {
    const node = testNode(t, ['--workers', '1']);
    node.spawn();
    await node.answers();
    const root = mkdtempSync('/tmp/dvce-cli-');
    const dvce = new Dvce(root);
    mkdirSync(join(dvce.data, 'run'), { recursive: true });
    const old = new OldBlockd(
      frozen,
      node.directory.controlSocket,
      join(dvce.data, 'run/blockd.sock'),
    );
    await old.listen();
    const agent = startAgent(dvce.data);
    t.teardown(async () => {
      agent.kill();
      await until('the end of the agent', () => agent.exitCode !== null);
      old.close();
      rmSync(root, { recursive: true, force: true });
    });
    await until('the agent to answer', async () => (await dvce.cli('volume list')).code === 0);
    for (const line of [
      'volume create /a/one --size 16MiB',
      'snapshot create /a/one@s',
      'volume clone /a/one@s /a/two',
      'volume check /a/two',
      'snapshot diff /a/one@s',
      'snapshot rollback /a/one@s --yes',
      'volume resize /a/one --size 32MiB',
      'volume rename /a/one /a/three',
      'vm create web1 --disk /a/three --network none',
      'vm show web1',
      'vm delete web1 --yes',
      'volume delete /a/two --yes',
      'status',
    ]) {
      const { code, stderr } = await dvce.cli(line);
      t.equal(code, 0, `${line}: ${stderr}`);
    }
    t.same(old.refused, [], `nothing is asked that it does not know. ${advice}`);
    t.ok(old.asked.size > 8, `${old.asked.size} methods were asked`);
    t.equal(dvce.holder('launcher.lock'), undefined, 'no second blockd was started');
  });
}

function startAgent(data: string): ChildProcess {
  return spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      join(projectRoot, 'src/agent/main.ts'),
      ...['--data-dir', data, '--blockd', 'external', '--log', join(data, 'agent.log')],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
}
