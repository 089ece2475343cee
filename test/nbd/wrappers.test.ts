/** The wrappers: each changes one thing and passes the rest through. */
import t from 'tap';
import { type DvceError, MiB, seededRandom, type Timers } from '../../src/base/index.ts';
import {
  type BlockBackend,
  CopyOnWriteBackend,
  DelayBackend,
  ErrorBackend,
  type Extent,
  LogBackend,
  ReadOnlyBackend,
  StatsBackend,
} from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';

const options = { fua: false, noHole: false, origin: { alive: true } };
const sizeBytes = MiB;

const read = (backend: BlockBackend, offset: number, length: number): Buffer | DvceError => {
  let result: Buffer | DvceError | null = null;
  backend.read(offset, length, (error, parts) => {
    result =
      error ??
      Buffer.concat(parts.map((part) => (typeof part === 'number' ? Buffer.alloc(part) : part)));
  });
  return result ?? Buffer.from('not answered');
};
const write = (backend: BlockBackend, offset: number, payload: Buffer): string => {
  let code = 'not answered';
  backend.write(offset, payload, options, (error) => {
    code = error?.code ?? 'ok';
  });
  return code;
};

class HandTimers implements Timers {
  readonly waiting: { delayMs: number; task: () => void }[] = [];
  after(delayMs: number, task: () => void): { cancel(): void } {
    this.waiting.push({ delayMs, task });
    return { cancel: () => {} };
  }
  defer(task: () => void): void {
    task();
  }
}

t.test(
  'copy-on-write: random requests give the content of a buffer, the backend is untouched',
  async (t) => {
    const random = seededRandom(3);
    const below = new MemoryBackend({ sizeBytes: sizeBytes - 512 });
    const model = Buffer.alloc(sizeBytes - 512);
    random.bytes(200_000).copy(model, 1000);
    below.put(0, model.subarray(0, 300_000));
    const original = below.content(0, sizeBytes - 512);
    const view = new CopyOnWriteBackend(new ReadOnlyBackend(below));
    t.equal(view.caps.readOnly, false);
    for (let i = 0; i < 400; i += 1) {
      const offset = random.below(model.length - 1);
      const length = 1 + random.below(Math.min(20_000, model.length - offset));
      const kind = random.below(4);
      if (kind === 0) {
        const payload = random.bytes(length);
        payload.copy(model, offset);
        if (write(view, offset, payload) !== 'ok') t.fail(`write ${i}`);
      } else if (kind === 1) {
        model.fill(0, offset, offset + length);
        view.writeZeroes(offset, length, options, (error) => error && t.fail(error));
      } else if (kind === 2) {
        view.extents(offset, length, (error, extents) => {
          if (error) t.fail(error);
          let at = offset;
          for (const extent of extents as readonly Extent[]) {
            if (
              extent.zero &&
              model.subarray(at, at + extent.lengthBytes).some((byte) => byte !== 0)
            )
              t.fail(`extent ${i}`);
            at += extent.lengthBytes;
          }
        });
      } else {
        const found = read(view, offset, length);
        if (!(found instanceof Buffer) || !found.equals(model.subarray(offset, offset + length)))
          t.fail(`read ${i}`);
      }
    }
    t.ok((read(view, 0, model.length) as Buffer).equals(model));
    t.ok(below.content(0, model.length).equals(original));
  },
);

t.test('read-only refuses what would change content', async (t) => {
  const view = new ReadOnlyBackend(new MemoryBackend({ sizeBytes }));
  t.equal(view.caps.readOnly, true);
  t.equal(write(view, 0, Buffer.from('x')), 'READ_ONLY');
  view.trim(0, 4096, options, (error) => t.equal(error?.code, 'READ_ONLY'));
  view.writeZeroes(0, 4096, options, (error) => t.equal(error?.code, 'READ_ONLY'));
  view.flush((error) => t.equal(error, null));
  t.same(read(view, 0, 4), Buffer.alloc(4));
});

t.test('error: by operation, range, skip and count', async (t) => {
  const inner = new MemoryBackend({ sizeBytes });
  const rule = {
    operations: ['write'],
    from: 4096,
    to: 8192,
    skip: 1,
    count: 2,
    code: 'NO_SPACE',
  } as const;
  const view = new ErrorBackend(inner, rule, seededRandom(1));
  const at = (offset: number): string => write(view, offset, Buffer.from('x'));
  t.same(
    [at(0), at(4096), at(4096), at(8192), at(5000), at(4096)],
    ['ok', 'ok', 'NO_SPACE', 'ok', 'NO_SPACE', 'ok'],
  );
  t.ok(read(view, 4096, 1) instanceof Buffer);
  const sometimes = new ErrorBackend(inner, { operations: ['read'], oneIn: 4 }, seededRandom(1));
  const failed = Array.from({ length: 400 }, () => read(sometimes, 0, 1)).filter(
    (found) => !(found instanceof Buffer),
  );
  t.ok(failed.length > 50 && failed.length < 150, `${failed.length} of 400`);
});

t.test('delay starts requests later', async (t) => {
  const timers = new HandTimers();
  const slow = new DelayBackend(new MemoryBackend({ sizeBytes }), { write: 25 }, timers);
  t.equal(write(slow, 0, Buffer.from('x')), 'not answered');
  t.ok(read(slow, 0, 1) instanceof Buffer, 'reads are not delayed');
  t.same(
    timers.waiting.map(({ delayMs }) => delayMs),
    [25],
  );
});

t.test('stats count, log tells', async (t) => {
  const inner = new MemoryBackend({ sizeBytes });
  let now = 0;
  const stats = new StatsBackend(inner, {
    wallMs: () => 0,
    monotonicMs: () => {
      now += 1;
      return now;
    },
  });
  write(stats, 0, Buffer.alloc(100));
  write(stats, 0, Buffer.alloc(50));
  read(stats, 0, 7);
  t.match(stats.stats.write, { requests: 2, bytes: 150, failures: 0, timeMs: 2, timeMsMax: 1 });
  t.match(stats.stats.read, { requests: 1, bytes: 7 });
  const lines: object[] = [];
  const line = (fields: object): void => void lines.push(fields);
  const log = new LogBackend(inner, { debug: line, info: line, warn: line, error: line });
  write(log, 512, Buffer.alloc(3));
  t.same(lines, [{ operation: 'write', offset: 512, length: 3 }]);
});
