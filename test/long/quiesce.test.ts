/**
 * File systems of a real guest, frozen by its agent: writes stall and go on; and they go on by themselves when whoever froze them
 * dies, hangs, or forgets. The same kernel and guest agent as Debian's.
 */
// limit: 600 s
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Vm } from '../../src/api/index.ts';
import { limits, systemClock, systemRandom, systemTimers } from '../../src/base/index.ts';
import { GuestAgent } from '../../src/vm/guest-agent.ts';
import { freshDvce } from '../support/dvce.ts';
import {
  demoImage,
  type GuestRig,
  guestRig,
  guestsMissing,
  Shell,
  until,
} from '../support/guest-rig.ts';

t.setTimeout(600_000);
const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));
const skip = guestsMissing();
const never = new AbortController().signal;

/** A process in the guest that writes a number and syncs it, again and again, and says so where no freeze holds it. */
const writer =
  'i=0; while :; do i=$((i+1)); echo $i > /root/count; sync; echo $i > /run/count; sleep 0.2; done';

class Writer {
  readonly #shell: Shell;
  constructor(shell: Shell) {
    this.#shell = shell;
  }
  async begin(): Promise<void> {
    await this.#shell.run(`(${writer}) > /dev/null 2>&1 & echo begun`);
    await this.goesOn();
  }
  async count(): Promise<number> {
    return Number((await this.#shell.run('cat /run/count 2>/dev/null || echo 0')).trim());
  }
  /** Until it has written once more. */
  async goesOn(delayMs = 60_000): Promise<void> {
    const from = await this.count();
    await until('the guest writes', delayMs, async () => (await this.count()) > from + 1);
  }
  /** Two counts some time apart: how much was written between them. */
  async progress(delayMs: number): Promise<number> {
    // What was under way when it was frozen may still be told.
    await new Promise((wake) => setTimeout(wake, 1000));
    const from = await this.count();
    await new Promise((wake) => setTimeout(wake, delayMs));
    return (await this.count()) - from;
  }
}

async function guestWithAgent(t: Test): Promise<GuestRig & { writer: Writer }> {
  const rig = await guestRig(t, undefined, demoImage('--agent'));
  await rig.driver.start(rig.vm, never);
  await until('its agent answers', 120_000, async () =>
    (await rig.driver.guest(rig.vm)).agentAnswers(1000),
  );
  const shell = new Shell(rig.driver.consoleSocket(rig.vm));
  t.teardown(() => shell.close());
  const writes = new Writer(shell);
  await writes.begin();
  return { ...rig, writer: writes };
}

const agentOf = ({ directory, vm }: GuestRig): GuestAgent =>
  new GuestAgent({
    path: `${directory}/run/${vm.id}/agent.sock`,
    vm: vm.name,
    clock: systemClock,
    timers: systemTimers,
    random: systemRandom,
  });

const markOf = ({ directory, vm }: GuestRig): string => `${directory}/run/${vm.id}/frozen`;

t.test('a guest is frozen, and goes on', { skip }, async (t) => {
  const rig = await guestWithAgent(t);
  const { driver, vm, writer: writes } = rig;

  await t.test('writes stall while it is frozen, and go on when it is thawed', async (t) => {
    await driver.freeze(vm, 30_000);
    t.ok(existsSync(markOf(rig)));
    t.equal(await writes.progress(3000), 0);
    await t.rejects(driver.freeze(vm, 5000), { code: 'VM_STATE' });
    await driver.thaw(vm, 30_000);
    t.notOk(existsSync(markOf(rig)));
    await writes.goesOn();
  });

  await t.test(
    'nobody thaws it: it goes on after its time, and the next thaw says so',
    async (t) => {
      await driver.freeze(vm, 30_000);
      const startMs = performance.now();
      t.equal(await writes.progress(2000), 0);
      await writes.goesOn(limits.vmFrozenMs + 30_000);
      const frozenMs = performance.now() - startMs;
      t.ok(frozenMs > limits.vmFrozenMs - 5000, `frozen for ${Math.round(frozenMs)} ms`);
      t.comment(`frozen for ${Math.round(frozenMs)} ms`);
      await t.rejects(driver.thaw(vm, 5000), { code: 'TIMED_OUT' });
    },
  );

  await t.test('who froze it is gone: it goes on as soon as another one looks', async (t) => {
    await driver.freeze(vm, 30_000);
    t.equal(await writes.progress(2000), 0);
    await driver.close();
    const next = rig.anotherDriver();
    t.ok(await next.adopt(vm));
    await writes.goesOn(20_000);
    await until('the mark is gone', 5000, () => !existsSync(markOf(rig)));
    await next.freeze(vm, 30_000);
    await next.thaw(vm, 30_000);
    await next.close();
  });

  await t.test('what somebody else froze stays frozen', async (t) => {
    const agent = agentOf(rig);
    await agent.freeze(30_000);
    const third = rig.anotherDriver();
    await third.adopt(vm);
    t.equal(await writes.progress(4000), 0);
    await t.rejects(third.freeze(vm, 5000), 'it is refused by the guest');
    t.equal(await agent.freezeStatus(), 'frozen');
    await agent.thaw(30_000);
    await writes.goesOn();
  });
});

t.test('the agent of the host dies while a guest is frozen for a snapshot', { skip }, async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok(`image import ${demoImage('--agent')} demo`);
  await dvce.ok('vm create web1 --image demo --memory 192MiB --net none');
  await dvce.ok('vm start web1');
  await dvce.ok('vm wait web1 --for agent --timeout 2m');
  const { id } = await dvce.json<Vm>('vm show web1');
  const shell = new Shell(join(dvce.data, 'run', 'vm', id, 'console.sock'));
  t.teardown(() => shell.close());
  const writes = new Writer(shell);
  await writes.begin();
  await dvce.ok('vm snapshot web1@whole --quiesce');
  await writes.goesOn();

  const blockd = dvce.holder('lock') ?? 0;
  const mark = join(dvce.data, 'run', 'vm', id, 'frozen');
  const taking = dvce.cli('vm snapshot web1@half --quiesce');
  await until('it is being frozen', 30_000, () => existsSync(mark));
  // The snapshot does not come to its end, and the guest, which writes everything before it freezes, does so later.
  process.kill(blockd, 'SIGSTOP');
  try {
    await new Promise((wake) => setTimeout(wake, 1000));
    process.kill(dvce.agentPid(), 'SIGKILL');
    await until('the agent is gone', 5000, () => dvce.holder('agent.lock') === undefined);
  } finally {
    process.kill(blockd, 'SIGCONT');
  }
  await taking;
  t.ok(existsSync(mark), 'it was in the middle');
  t.equal(await writes.progress(3000), 0, 'blockd answers, and the guest is frozen');
  await dvce.ok('up');
  await writes.goesOn(30_000);
  await until('the mark is gone', 10_000, () => !existsSync(mark));
  t.notMatch(await dvce.ok('vm snapshots web1'), /half/);
});
