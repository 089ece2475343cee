// limit: 900 s
/**
 * Power loss: the real blockd in an emulated machine whose QEMU is killed with SIGKILL under load, on a disk that then loses
 * what was not flushed, torn and out of order (test/support/power-loss). After every cut the volume must be a prefix of
 * the history of writes that contains every flushed one (J1, invariants 3 and 4), and the machine goes on from there.
 *
 * DVCE_POWER_CUTS raises the number of cuts, DVCE_POWER_SEED repeats a run (as far as the time of a kill can be repeated).
 */
import { mkdtempSync, rmSync } from 'node:fs';
import t, { type Test } from 'tap';
import { seededRandom, systemRandom } from '../../src/base/index.ts';
import { guestsMissing } from '../support/guest-rig.ts';
import { Judge } from '../support/power-loss/history.ts';
import { type BootOptions, Machine } from '../support/power-loss/machine.ts';
import {
  buildPayload,
  dataBytes,
  makeDataDisk,
  type Payload,
  payloadMissing,
} from '../support/power-loss/payload.ts';
import { VolatileDisk } from '../support/power-loss/volatile-disk.ts';

const cuts = Number(process.env['DVCE_POWER_CUTS'] ?? 6);
const seed = Number(process.env['DVCE_POWER_SEED'] ?? systemRandom.below(2 ** 31));
const startMsMax = 120_000;
const loadMsMax = 60_000;
const lastDelayMsMax = 300;

const skip = guestsMissing('mcopy', 'mke2fs', 'ldd') || payloadMissing();

let payload: Payload | undefined;
const directory = skip === false ? mkdtempSync('/tmp/dvce-power-') : '';
t.teardown(() => {
  if (directory !== '') rmSync(directory, { recursive: true, force: true });
});

async function newMachine(t: Test, name: string): Promise<Machine> {
  payload ??= buildPayload(directory);
  const path = `${directory}/${name}.raw`;
  makeDataDisk(path);
  const disk = new VolatileDisk(path, dataBytes, seededRandom(seed));
  const machine = new Machine(payload, disk, `${directory}/${name}.sock`);
  t.teardown(() => machine.destroy());
  await machine.listen();
  return machine;
}

/** Boot after boot: judge what the last power failure left, load, cut the power; the last boot only judges. */
async function lose(
  t: Test,
  machine: Machine,
  { count, code }: { count: number; code: BootOptions['code'] },
): Promise<string[]> {
  const random = seededRandom(seed + 1);
  const judge = new Judge(seed);
  let said = { flushed: 0, acknowledged: 0 };
  const wrong: string[] = [];
  for (let boot = 1; boot <= count + 1; boot += 1) {
    const startedMs = performance.now();
    machine.powerOn({ seed, boot, code });
    const verdict = judge.compare(boot - 1, said, await machine.content(startMsMax));
    t.comment(`boot ${boot}: content known after ${Math.round(performance.now() - startedMs)} ms`);
    wrong.push(...verdict.wrong.map((text) => `after cut ${boot - 1}: ${text}`));
    if (boot > 1) t.comment(`cut ${boot - 1}: ${verdict.cut} writes survived`);
    if (boot > count || wrong.length > 0) break;
    await machine.flushed(4 + random.below(12), loadMsMax);
    const share = random.below(1000) / 1000;
    const lost = await cut(machine, code === 'code' && boot % 2 === 1, share);
    t.comment(`cut ${boot}, seed ${seed}: ${JSON.stringify(lost)}`);
    said = lost;
  }
  await machine.powerOff();
  return wrong;
}

/** In the middle of what goes to the disk, so that its cache holds something to lose, or at any moment. */
async function cut(machine: Machine, amidWrites: boolean, share: number) {
  if (amidWrites) return machine.powerOffAfterWrites(1 + Math.floor(share * 40), loadMsMax);
  await new Promise((wake) => setTimeout(wake, share * lastDelayMsMax));
  return machine.powerOff();
}

t.test(
  'J1 power loss under load: a prefix of the writes is left, with every flushed one',
  { skip },
  async (t) => {
    const machine = await newMachine(t, 'real');
    t.strictSame(await lose(t, machine, { count: cuts, code: 'code' }), [], `seed ${seed}`);
  },
);

t.test(
  'the test sees a journal that answers a flush without fdatasync (negative control)',
  { skip },
  async (t) => {
    const machine = await newMachine(t, 'broken');
    const wrong = await lose(t, machine, { count: 1, code: 'no-sync' });
    t.match(wrong[0], /was flushed, the newest one found is/, `seed ${seed}`);
  },
);
