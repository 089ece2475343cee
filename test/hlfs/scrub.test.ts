/** The scrub of a volume, slice by slice, on real files: every byte once, at the pace it is given, going on where it was. */
import { rmSync } from 'node:fs';
import t from 'tap';
import type { VolumeId } from '../../src/base/index.ts';
import {
  requireHead,
  type ScrubNote,
  type ScrubPosition,
  scrubSlice,
  traceDamage,
} from '../../src/hlfs/index.ts';
import { listSegments } from '../../src/hlfs/segments.ts';
import { bytesFrom, Rig } from '../support/engine-rig.ts';
import { flip, segmentFile } from '../support/segment-surgery.ts';

const { signal } = new AbortController();
const block = 4096;

t.test('slices read every segment once, and what is damaged is traced at the end', async (t) => {
  const rig = await Rig.make();
  t.teardown(() => rig.end());
  const id: VolumeId = await rig.create('/v');
  const disk = await rig.open(id);
  const firsts: number[] = [];
  const { log } = disk.volume;
  for (let write = 0; write < 4; write += 1) {
    firsts.push(((await listSegments(rig.store, log)).at(-1) ?? 0) + 1);
    await disk.write(write << 20, bytesFrom(rig.random, 8 * block));
    await disk.volume.publishAll();
  }
  await disk.close();
  const numbers = await listSegments(rig.store, log);
  const fileOf = (number: number) => segmentFile(`${rig.directory}/store`, log, number);

  let paced = 0;
  const pass = async (): Promise<{ notes: ScrubNote[]; slices: number; segments: number }> => {
    await rig.restart();
    paced = 0;
    let from: ScrubPosition | null = null;
    const result = { notes: [] as ScrubNote[], slices: 0, segments: 0 };
    for (;;) {
      // Time for one segment.
      const untilMs = rig.context.clock.monotonicMs();
      let isFirst = true;
      const clock = {
        ...rig.context.clock,
        monotonicMs: () => {
          const now = isFirst ? untilMs - 1 : untilMs + 1;
          isFirst = false;
          return now;
        },
      };
      const pace = async (bytes: number): Promise<void> => {
        paced += bytes;
      };
      const slice = await scrubSlice({ ...rig.context, clock }, id, {
        signal,
        from,
        pace,
        untilMs,
      });
      result.notes.push(...slice.notes);
      result.slices += 1;
      result.segments += slice.segments;
      if (slice.position === null) return result;
      t.not(slice.position.number, from?.number, 'it gets on');
      from = slice.position;
    }
  };
  const well = await pass();
  t.same(well.notes, []);
  t.equal(well.segments, numbers.length, 'each segment once');
  t.ok(well.slices >= numbers.length, `${well.slices} slices`);
  const stored = numbers.reduce((sum, number) => {
    const { header } = fileOf(number);
    return sum + header.chunkOffset - 4096;
  }, 0);
  t.equal(paced, stored, 'the pace is asked for every byte');

  const trace = async (notes: readonly ScrubNote[]) =>
    (await traceDamage(rig.context, id, notes, { signal, onProgress: () => {} })).findings;
  flip(fileOf(firsts[1] ?? 0), 4096 + 3 * block + 9);
  const { notes } = await pass();
  t.match(notes, [{ code: 'CHECK_BAD_CHUNK' }]);
  const found = await trace(notes);
  t.match(
    found.map(({ code }) => code),
    ['CHECK_BAD_CHECKSUM', 'CHECK_BAD_CHUNK'],
  );
  t.same(found[0]?.ranges, [{ of: 'current', offset: (1 << 20) + 3 * block, length: block }]);

  // On a host that has not read it before: a file that is open can be read after it was removed.
  const other = await rig.copy();
  t.teardown(() => other.end());
  rmSync(segmentFile(`${other.directory}/store`, log, firsts[2] ?? 0).path);
  const pace = async (): Promise<void> => {};
  const options = { signal, from: null, pace, untilMs: Number.POSITIVE_INFINITY };
  const missing = await scrubSlice(other.context, id, options);
  t.ok(missing.notes.some(({ code }) => code === 'CHECK_MISSING'));
  const traced = await traceDamage(other.context, id, missing.notes, {
    signal,
    onProgress: () => {},
  });
  const { ranges } = traced.findings.find(({ code }) => code === 'CHECK_MISSING') ?? {};
  t.same(ranges, [{ of: 'current', offset: 2 << 20, length: 8 * block }]);
  // Cleaned since it was noted: no finding.
  const gone = {
    code: 'CHECK_BAD_CHUNK',
    object: `logs/${log}/seg/00000000/0000000999`,
    detail: '',
  };
  t.same(await trace([gone as ScrubNote]), []);
  t.equal((await requireHead(rig.context, id)).value.state, 'active');
});
