/** A journal that an operator put in the wrong place: refused, left as it is, and the right one is taken when it is back. */
import { cpSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { crc32c, type VolumeId } from '../../src/base/index.ts';
import { Rig } from '../support/engine-rig.ts';

const contentOf = (directory: string): Readonly<Record<string, string>> =>
  Object.fromEntries(
    readdirSync(directory).map((name) => [name, readFileSync(join(directory, name), 'latin1')]),
  );

/** A volume whose only copy of this content is its journal; blockd was killed. */
async function flushed(rig: Rig, path: string, fill: number): Promise<VolumeId> {
  const id = await rig.create(path);
  const disk = await rig.open(id);
  await disk.write(0, Buffer.alloc(4096, fill));
  await disk.flush();
  return id;
}

async function two(): Promise<{ rig: Rig; a: VolumeId; b: VolumeId }> {
  const rig = await Rig.make();
  const a = await flushed(rig, '/a', 1);
  const b = await flushed(rig, '/b', 2);
  await rig.process.kill();
  await rig.start();
  return { rig, a, b };
}

async function holds(rig: Rig, id: VolumeId, fill: number): Promise<boolean> {
  const disk = await rig.open(id);
  const isThere = (await disk.read(0, 4096)).equals(Buffer.alloc(4096, fill));
  await disk.close();
  return isThere;
}

t.test(
  'the journal of another volume is refused and stays as it is; the right one is taken',
  async (t) => {
    const { rig, a, b } = await two();
    t.teardown(() => rig.end());
    const [own, other] = [rig.journalOf(a), rig.journalOf(b)];
    renameSync(own, `${own}.aside`);
    cpSync(other, own, { recursive: true });
    const before = contentOf(own);
    for (const options of [{}, { acceptLoss: true }])
      await t.rejects(rig.open(a, options), {
        code: 'JOURNAL_FOREIGN',
        message: new RegExp(`that of volume ${b}`),
        advice: /Put the right one back/,
      });
    t.same(contentOf(own), before, 'nothing of it is overwritten');
    rmSync(own, { recursive: true });
    renameSync(`${own}.aside`, own);
    t.ok(await holds(rig, a, 1), 'what was flushed to the one');
    t.ok(await holds(rig, b, 2), 'and to the other');
  },
);

/** The state as the first release wrote it, and as a journal of another store has it. */
function rewriteState(directory: string, change: (state: Record<string, unknown>) => object): void {
  const path = join(directory, 'state');
  const line = JSON.stringify(change(JSON.parse(readFileSync(path, 'utf8').split('\n')[0] ?? '')));
  writeFileSync(path, `${line}\n${crc32c(Buffer.from(line)).toString(16)}\n`);
}

t.test('also one that does not say whose it is, and one of another store', async (t) => {
  const { rig, a, b } = await two();
  t.teardown(() => rig.end());
  const own = rig.journalOf(a);
  rewriteState(own, ({ volume: _, ...state }) => state);
  renameSync(own, `${own}.aside`);
  cpSync(rig.journalOf(b), own, { recursive: true });
  rewriteState(own, ({ volume: _, ...state }) => state);
  await t.rejects(rig.open(a), { code: 'JOURNAL_FOREIGN' }, 'its log tells');
  const stranger = '33333333-3333-4333-8333-333333333333';
  rewriteState(own, (state) => ({ ...state, volume: stranger, log: stranger }));
  await t.rejects(rig.open(a), { code: 'JOURNAL_FOREIGN' }, 'of another store');
  rmSync(own, { recursive: true });
  await t.rejects(rig.open(a), { code: 'JOURNAL_DAMAGED' }, 'without any it is missing');
  rmSync(own, { recursive: true, force: true });
  renameSync(`${own}.aside`, own);
  t.ok(await holds(rig, a, 1), 'its own, though it does not say so');
});
