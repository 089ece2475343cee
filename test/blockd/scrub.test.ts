/** The background scrub as a schedule: what is due, in which order, what survives a restart. The reading itself is faked. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { asVolumeId, nodeFileSystem, silentLogger, type Timers } from '../../src/base/index.ts';
import { Scrubber } from '../../src/blockd/scrub.ts';

const ids = ['a', 'b', 'c'].map((letter) =>
  asVolumeId(`${letter.repeat(8)}-${letter.repeat(4)}-4aaa-8aaa-${letter.repeat(12)}`),
);
const day = 86_400_000;
const finding = {
  code: 'X',
  severity: 'error',
  object: 'logs/l/seg/0',
  detail: 'it is damaged',
  advice: 'Look.',
  ranges: [{ of: 'current', offset: 0, length: 4096 }],
  omittedRanges: 0,
  concerns: [],
  repair: 'none',
};

class World {
  readonly path: string;
  nowMs = 100 * day;
  /** Slices that were asked for: volume and where it goes on. */
  readonly asked: string[] = [];
  /** Slices that each pass has. */
  slices = 2;
  notes: object[] = [];
  #waiting: (() => void) | undefined;
  #turns: (() => void)[] = [];

  constructor(t: Test) {
    const directory = mkdtempSync('/tmp/dvce-scrub-');
    t.teardown(() => rmSync(directory, { recursive: true }));
    this.path = `${directory}/scrub.json`;
  }

  get timers(): Timers {
    return {
      after: (_delayMs, task) => {
        this.#waiting = task;
        for (const turn of this.#turns.splice(0)) turn();
        return { cancel: () => {} };
      },
      defer: (task) => setImmediate(task),
    };
  }

  open(periodMs = 7 * day, bytesPerSecond = 1): Scrubber {
    const call = async (method: string, params: object): Promise<unknown> => {
      if (method === 'scrub.trace') return { findings: [finding] };
      const { volume, from } = params as { volume: string; from: { number: number } | null };
      const at = (from?.number ?? 0) + 1;
      this.asked.push(`${volume[0]}${at}`);
      const position = at < this.slices ? { log: 'l', number: at } : null;
      return { position, bytes: 10, segments: 1, notes: at === 1 ? this.notes : [] };
    };
    const listed = ids.map((id, index) => ({
      info: { id, path: `/${index}` },
      record: { id, head: { createdAtMs: (100 - 10 * (index + 1)) * day } },
    }));
    return new Scrubber({
      view: { list: async () => listed as never },
      pool: { leastLoaded: () => ({ call }) as never },
      files: nodeFileSystem,
      path: this.path,
      clock: { wallMs: () => this.nowMs, monotonicMs: () => this.nowMs },
      timers: this.timers,
      logger: silentLogger,
      bytesPerSecond,
      periodMs,
    });
  }

  /** Until it sleeps. */
  async idle(): Promise<string[]> {
    await new Promise<void>((resolve) => this.#turns.push(resolve));
    return this.asked.splice(0);
  }

  start(scrubber: Scrubber): Promise<string[]> {
    const idle = this.idle();
    scrubber.start();
    return idle;
  }

  wake(): void {
    this.#waiting?.();
  }
}

t.test('the one that was read longest ago comes first, each once in a period', async (t) => {
  const world = new World(t);
  const scrubber = world.open();
  t.same(await world.start(scrubber), ['c1', 'c2', 'b1', 'b2', 'a1', 'a2']);
  world.nowMs += 6 * day;
  world.wake();
  t.same(await world.idle(), []);
  world.nowMs += day;
  world.wake();
  t.equal((await world.idle()).length, 6);
  world.nowMs -= 30 * day;
  world.wake();
  t.same(await world.idle(), [], 'a clock that was set back');
  world.nowMs += 7 * day;
  world.wake();
  t.same(await world.idle(), [], 'the time noted is still ahead');
  scrubber.want([ids[0] ?? asVolumeId('')]);
  t.same(await world.idle(), ['a1', 'a2'], 'who asks does not wait for a clock');
  await scrubber.stop();
});

t.test(
  'it goes on where it was after a stop, keeps what it found, rests when told to',
  async (t) => {
    const world = new World(t);
    world.slices = 4;
    world.notes = [{ code: 'CHECK_BAD_CHUNK', object: 'x', detail: '' }];
    const first = world.open();
    const stopped = Promise.withResolvers<void>();
    const { asked } = world;
    asked.push = (...items: string[]): number => {
      if (items[0] === 'b2') void first.stop().then(stopped.resolve);
      return Array.prototype.push.apply(asked, items);
    };
    first.start();
    await stopped.promise;
    t.same(asked.splice(0), ['c1', 'c2', 'c3', 'c4', 'b1', 'b2']);
    t.equal(JSON.parse(readFileSync(world.path, 'utf8')).volumes[ids[1] ?? ''].position.number, 2);

    const second = world.open();
    t.same((await world.start(second)).slice(0, 2), ['b3', 'b4']);
    for (const id of ids)
      t.equal(second.resultOf(id).findings.length, 1, 'found, also before the stop');
    t.match(await second.status(), { state: 'idle', scrubbed: 3, damaged: { length: 3 } });
    const resting = world.idle();
    await second.setPaused(true);
    await resting;
    second.want(ids);
    t.same(await world.idle(), [], 'paused');
    await second.stop();

    const third = world.open();
    t.same(await world.start(third), [], 'also after a restart');
    t.equal((await third.status()).state, 'paused');
    world.notes = [];
    third.want(ids);
    await world.idle();
    const done = world.idle();
    await third.setPaused(false);
    await done;
    t.equal(third.resultOf(ids[0] ?? asVolumeId('')).findings.length, 0, 'a pass without findings');
    await third.stop();

    writeFileSync(world.path, '{"format":1,');
    const fourth = world.open();
    t.equal((await world.start(fourth)).length, 12, 'a damaged file costs a pass');
    await fourth.stop();
    const off = world.open(7 * day, 0);
    t.same(await world.start(off), []);
    t.equal((await off.status()).state, 'off');
    await off.stop();
  },
);

t.test('told to stop while it looks what is due, it does not fall asleep', async (t) => {
  const world = new World(t);
  const scrubber = world.open(1000 * day);
  scrubber.start();
  await scrubber.stop();
  t.same(world.asked, []);
});

t.test('what does not look as it should in its file is not believed', async (t) => {
  const good = {
    finishedAtMs: 100 * day,
    position: null,
    notes: [],
    bytes: 0,
    findings: [finding],
  };
  for (const bad of [
    { ...good, findings: undefined },
    { ...good, findings: [{ ...finding, ranges: 'all' }] },
    { ...good, finishedAtMs: 1e99 },
    { ...good, position: { log: 7 } },
    [],
  ]) {
    const world = new World(t);
    const volumes = { [ids[0] ?? '']: bad, [ids[1] ?? '']: good };
    writeFileSync(world.path, JSON.stringify({ format: 1, paused: true, volumes }));
    const scrubber = world.open();
    await world.start(scrubber);
    t.match(scrubber.resultOf(ids[0] ?? asVolumeId('')), { finishedAt: null, findings: [] });
    t.equal(scrubber.resultOf(ids[1] ?? asVolumeId('')).findings.length, 1, 'the others are');
    await scrubber.stop();
  }
});

t.test('of changes at the same time the last one is written down', async (t) => {
  const world = new World(t);
  const scrub = world.open();
  scrub.start();
  const changes = Array.from({ length: 21 }, (_, i) => scrub.setPaused(i === 20));
  await Promise.all(changes);
  t.match(JSON.parse(readFileSync(world.path, 'utf8')), { paused: true });
  await scrub.stop();
});
