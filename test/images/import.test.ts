/**
 * Imports with the real qemu-img into an export of the real NBD server over memory. What is about the import process (its
 * end, its files, its messages) runs in one; what is about the content of images calls the same work without it, as each
 * start of a process costs more than such an import.
 */
// limit: 120 s
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { resolve } from 'node:path';
import t, { type Test } from 'tap';
import {
  DvceError,
  limits,
  MiB,
  seededRandom,
  silentLogger,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { importImage } from '../../src/images/import.ts';
import {
  type ImageDescription,
  type ImportResult,
  type RunImportOptions,
  runImport,
} from '../../src/images/index.ts';
import { fixedExport, NbdServer } from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';

t.setTimeout(115_000);

const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined;
const skip = has('qemu-img') ? false : 'qemu-img is not installed';

type Progress = Parameters<NonNullable<RunImportOptions['onProgress']>>[0];

interface Rig {
  readonly directory: string;
  readonly temporary: string;
  readonly target: MemoryBackend;
  /** What the caller was asked to make a volume for. */
  readonly described: ImageDescription[];
  readonly progress: Progress[];
  /** In a process of its own, as the agent does it. */
  import(source: string, change?: Partial<RunImportOptions>): Promise<ImportResult>;
  /** The same work in this process. */
  work(source: string, digest?: string): Promise<ImportResult>;
  path(name: string): string;
}

async function rig(t: Test): Promise<Rig> {
  const directory = mkdtempSync('/tmp/dvce-import-');
  const target = new MemoryBackend({ sizeBytes: 64 * MiB });
  const server = new NbdServer({
    exports: fixedExport(target),
    timers: systemTimers,
    logger: silentLogger,
  });
  const socketPath = `${directory}/nbd.sock`;
  await server.listenUnix(socketPath, { mode: 0o600 });
  t.teardown(async () => {
    await server.close({ graceful: false });
    rmSync(directory, { recursive: true, force: true });
  });
  const temporary = `${directory}/tmp`;
  const described: ImageDescription[] = [];
  const progress: Progress[] = [];
  const options = () => ({
    timers: systemTimers,
    signal: new AbortController().signal,
    onProgress: (step: Progress) => progress.push(step),
    async prepareVolume(description: ImageDescription) {
      described.push(description);
      return { socketPath, exportName: '' };
    },
  });
  return {
    directory,
    temporary,
    target,
    described,
    progress,
    path: (name) => `${directory}/${name}`,
    import: (source, change = {}) =>
      runImport({ source, temporaryDirectory: temporary, ...options(), ...change }),
    work: (source, digest) =>
      importImage(
        {
          ...{ version: 1, task: 'import', source, format: 'auto', checksumUrl: null },
          ...{ digest: digest ?? null, temporaryDirectory: temporary },
        },
        { ...options(), random: systemRandom },
      ),
  };
}

const leftovers = (r: Rig): string[] => (existsSync(r.temporary) ? readdirSync(r.temporary) : []);
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const qemuImg = (...args: string[]): void => void execFileSync('qemu-img', args, { stdio: 'pipe' });

/** 8 MiB with random data, zeros between, and an odd end. */
function content(): Buffer {
  const bytes = Buffer.alloc(8 * MiB);
  const random = seededRandom(7);
  random.bytes(3 * MiB).copy(bytes, 0);
  random.bytes(1 * MiB).copy(bytes, 5 * MiB + 4711);
  return bytes;
}

t.test('raw and qcow2 become the same volume', { skip }, async (t) => {
  const r = await rig(t);
  const bytes = content();
  const raw = r.path('disk.raw');
  writeFileSync(raw, bytes);
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', raw, r.path('plain.qcow2'));
  qemuImg('convert', '-c', '-f', 'raw', '-O', 'qcow2', raw, r.path('packed.qcow2'));
  qemuImg('convert', '-o', 'compat=0.10', '-f', 'raw', '-O', 'qcow2', raw, r.path('old.qcow2'));
  for (const name of ['disk.raw', 'plain.qcow2', 'packed.qcow2', 'old.qcow2'])
    await t.test(name, async (t) => {
      const r = await rig(t);
      const source = `${raw.slice(0, -'disk.raw'.length)}${name}`;
      const file = readFileSync(source);
      const digest = sha256(file);
      const result = await (name === 'packed.qcow2'
        ? r.import(source, { digest: digest.toUpperCase() })
        : r.work(source, `sha256:${digest}`));
      t.match(result, {
        format: name.endsWith('raw') ? 'raw' : 'qcow2',
        virtualBytes: bytes.length,
        volumeBytes: bytes.length,
        sourceBytes: file.length,
        digest: `sha256:${sha256(file)}`,
      });
      t.ok(r.target.content(0, bytes.length).equals(bytes), 'every byte arrived');
      t.ok(r.target.flushes > 0, 'and was flushed');
      t.equal(r.described.length, 1);
      t.same(leftovers(r), []);
      t.ok(r.progress.some(({ stage, done, total }) => stage === 'copy' && done === total));
    });
});

t.test('zeros are not written', { skip }, async (t) => {
  const r = await rig(t);
  writeFileSync(r.path('disk.raw'), content());
  r.target.record = true;
  await r.work(r.path('disk.raw'));
  const written = r.target.calls
    .filter((call) => call.startsWith('write '))
    .reduce((sum, call) => sum + Number(call.split('+')[1]), 0);
  t.ok(written < 5 * MiB, `${written} bytes`);
});

t.test('a small or odd image gets whole sectors and the smallest volume', { skip }, async (t) => {
  const r = await rig(t);
  writeFileSync(r.path('small.raw'), Buffer.alloc(1000, 7));
  const small = await r.work(r.path('small.raw'));
  t.match(small, { virtualBytes: 1000, volumeBytes: limits.volumeBytesMin });
  writeFileSync(r.path('odd.raw'), Buffer.alloc(2 * MiB + 1, 8));
  t.match(await r.work(r.path('odd.raw')), { volumeBytes: 2 * MiB + 512 });
  t.ok(r.target.content(2 * MiB, 2).equals(Buffer.from([8, 0])));
});

t.test(
  'a wrong sha256 is said before a volume is asked for, and nothing is left',
  { skip },
  async (t) => {
    const r = await rig(t);
    writeFileSync(r.path('disk.raw'), content());
    qemuImg('create', '-q', '-f', 'qcow2', r.path('disk.qcow2'), '4M');
    const wrong = 'ab'.repeat(32);
    for (const name of ['disk.raw', 'disk.qcow2'])
      await t.rejects(r.work(r.path(name), `sha256:${wrong}`), {
        code: 'CHECKSUM_MISMATCH',
        message: new RegExp(`expected ${wrong}`),
      });
    await t.rejects(r.import(r.path('disk.raw'), { digest: 'abc' }), { code: 'INVALID_ARGUMENT' });
    t.same(r.described, []);
    t.same(leftovers(r), []);
  },
);

/** Images that name other files, made by qemu-img itself. */
function hostileImages(r: Rig): { secret: string; images: string[] } {
  const secret = r.path('secret');
  writeFileSync(secret, Buffer.alloc(2 * MiB, 's'));
  qemuImg('create', '-q', '-f', 'qcow2', '-b', secret, '-F', 'raw', r.path('backing.qcow2'));
  const options = `data_file=${secret},data_file_raw=on`;
  qemuImg('create', '-q', '-f', 'qcow2', '-o', options, r.path('data.qcow2'), '2M');
  writeFileSync(secret, Buffer.alloc(2 * MiB, 's'));
  return { secret, images: [r.path('backing.qcow2'), r.path('data.qcow2')] };
}

const entry = resolve(import.meta.dirname, '../../src/images/main.ts');

/** The import process by itself, under a tracer that notes every file that is opened. */
async function traced(r: Rig, source: string): Promise<{ answer: string; trace: string }> {
  const trace = r.path('trace');
  const child = spawn(
    'strace',
    [
      '-f',
      '-qq',
      '-s',
      '4096',
      '-e',
      'trace=open,openat,openat2,execve',
      '-o',
      trace,
      process.execPath,
      entry,
    ],
    { stdio: ['pipe', 'pipe', 'ignore'] },
  );
  const request = {
    version: 1,
    task: 'import',
    source,
    format: 'auto',
    digest: null,
    checksumUrl: null,
    temporaryDirectory: r.temporary,
  };
  child.stdin.write(`${JSON.stringify(request)}\n`);
  let answer = '';
  child.stdout.on('data', (bytes: Buffer) => {
    answer += bytes.toString();
    if (answer.includes('"described"')) child.stdin.end();
  });
  await once(child, 'close');
  return { answer, trace: readFileSync(trace, 'latin1') };
}

const skipTrace = skip || (has('strace') ? false : 'strace is not installed');

t.test(
  'an image that names files of the host is refused, and they stay unread',
  { skip: skipTrace },
  async (t) => {
    const r = await rig(t);
    const { secret, images } = hostileImages(r);
    for (const image of images) {
      const { answer, trace } = await traced(r, image);
      t.match(answer, /"error":\{"code":"BAD_IMAGE"/);
      t.match(trace, image, 'the tracer sees what is opened');
      t.notMatch(trace, secret);
      t.notMatch(trace, /execve\("[^"]*qemu-img"/, 'no tool was started on it');
    }
    // The tracer would see it: the same tool without our checks opens the data file.
    const control = r.path('control');
    spawnSync('strace', [
      '-f',
      '-qq',
      '-s',
      '4096',
      '-o',
      control,
      'qemu-img',
      'check',
      ...images.slice(1),
    ]);
    t.match(readFileSync(control, 'latin1'), secret);
    t.same(leftovers(r), []);
  },
);

t.test('damaged images are refused', { skip }, async (t) => {
  const r = await rig(t);
  writeFileSync(r.path('disk.raw'), content());
  const whole = r.path('whole.qcow2');
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', r.path('disk.raw'), whole);
  const bytes = readFileSync(whole);
  const cases: [string, (image: Buffer) => Buffer][] = [
    ['cut in its header', (image) => image.subarray(0, 60)],
    ['cut after its header', (image) => image.subarray(0, 65_536)],
    ['cut in its data', (image) => image.subarray(0, image.length / 2)],
    ['one cluster missing', (image) => image.subarray(0, image.length - 65_536)],
    ['a level 1 table beyond the end', (image) => image.fill(0x7f, 41, 48)],
    ['a level 1 table of 2^28 entries', (image) => image.fill(0x10, 36, 37)],
    ['a refcount table beyond the end', (image) => image.fill(0x7f, 49, 56)],
  ];
  for (const [what, damage] of cases) {
    writeFileSync(r.path('bad.qcow2'), damage(Buffer.from(bytes)));
    const startedMs = performance.now();
    await t.rejects(r.work(r.path('bad.qcow2')), { code: 'BAD_IMAGE' }, what);
    t.ok(performance.now() - startedMs < 20_000, `${what}: soon`);
  }
  t.same(r.described, []);
  t.same(leftovers(r), []);
});

t.test('an image larger than any volume is refused by its header', { skip }, async (t) => {
  const r = await rig(t);
  qemuImg('create', '-q', '-f', 'qcow2', r.path('bomb.qcow2'), '60T');
  await t.rejects(r.work(r.path('bomb.qcow2')), { code: 'BAD_IMAGE', message: /60TiB/ });
  writeFileSync(r.path('bomb.raw'), '');
  truncateSync(r.path('bomb.raw'), limits.imageBytesMax + 512);
  const refused = r.work(r.path('bomb.raw'));
  await t.rejects(refused, { code: 'BAD_IMAGE', message: /more than 4TiB/ });
  t.same(r.described, []);
});

t.test('what is no image file is refused and not waited for', { skip }, async (t) => {
  const r = await rig(t);
  execFileSync('mkfifo', [r.path('pipe')]);
  mkdirSync(r.path('directory'));
  writeFileSync(r.path('empty'), '');
  for (const source of [r.path('pipe'), r.path('directory'), '/dev/zero', r.path('empty')])
    await t.rejects(r.work(source), { code: 'BAD_IMAGE' }, source);
  await t.rejects(r.work(r.path('none')), { code: 'NOT_FOUND' });
  await t.rejects(r.work('relative'), { code: 'INVALID_ARGUMENT' });
  await t.rejects(r.work('file:///etc/passwd'), { code: 'INVALID_ARGUMENT' });
  t.same(r.described, []);
});

t.test('a raw file written to during the import is refused', { skip }, async (t) => {
  const r = await rig(t);
  const source = r.path('disk.raw');
  writeFileSync(source, content());
  const first = { socketPath: r.path('nbd.sock'), exportName: '' };
  await t.rejects(
    r.import(source, {
      async prepareVolume() {
        writeFileSync(source, Buffer.alloc(512, 1), { flag: 'r+' });
        return first;
      },
    }),
    { code: 'BAD_IMAGE', message: /changed/ },
  );
});

t.test('a full store ends the import with NO_SPACE', { skip }, async (t) => {
  const r = await rig(t);
  writeFileSync(r.path('disk.raw'), content());
  r.target.failures.set('write', new DvceError('NO_SPACE', { where: 'store', reason: 'full' }));
  await t.rejects(r.import(r.path('disk.raw')), { code: 'NO_SPACE' });
  t.same(leftovers(r), []);
});

const canMount =
  process.getuid?.() === 0 &&
  spawnSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt']).status === 0;

t.test(
  'a full temporary directory ends the import with NO_SPACE and keeps nothing',
  { skip: skip || (canMount ? false : 'mounting a small file system needs root') },
  async (t) => {
    const r = await rig(t);
    mkdirSync(r.temporary);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', r.temporary]);
    t.teardown(() => spawnSync('umount', [r.temporary]));
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'preallocation=full', r.path('disk.qcow2'), '4M');
    await t.rejects(r.import(r.path('disk.qcow2')), { code: 'NO_SPACE' });
    t.same(leftovers(r), []);
    t.same(r.described, []);
  },
);

/** The import processes of this test. */
const processes = (r: Rig): string[] =>
  readdirSync('/proc').filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      const command = readFileSync(`/proc/${name}/cmdline`, 'latin1');
      const parent = /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${name}/status`, 'latin1'));
      const ours = parent?.[1] === String(process.pid) && command.includes('images/main.ts');
      return ours || command.includes(r.directory);
    } catch {
      return false; // it ended meanwhile
    }
  });

t.test('a cancelled import ends soon, with its tool and without leftovers', { skip }, async (t) => {
  const r = await rig(t);
  writeFileSync(r.path('disk.raw'), content());
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', r.path('disk.raw'), r.path('disk.qcow2'));
  r.target.hold = true; // the copy does not get on
  const cancelling = new AbortController();
  const importing = r.import(r.path('disk.qcow2'), { signal: cancelling.signal });
  importing.catch(() => {}); // looked at below
  while (r.target.heldCount === 0) await new Promise((turn) => setTimeout(turn, 10));
  const startedMs = performance.now();
  cancelling.abort(new DvceError('CANCELLED', { what: 'the test' }));
  await t.rejects(importing, { code: 'CANCELLED' });
  t.ok(performance.now() - startedMs < limits.imageCancelMs);
  t.same(processes(r), []);
  t.same(leftovers(r), []);
  r.target.release();
});

t.test(
  'an import process that is killed leaves no file, and its parent an error',
  { skip },
  async (t) => {
    const r = await rig(t);
    qemuImg('create', '-q', '-f', 'qcow2', r.path('disk.qcow2'), '4M');
    const importing = r.import(r.path('disk.qcow2'), {
      async prepareVolume() {
        for (const pid of processes(r)) process.kill(Number(pid), 'SIGKILL');
        return { socketPath: r.path('nbd.sock'), exportName: '' };
      },
    });
    await t.rejects(importing, { code: 'INTERRUPTED', advice: /SIGKILL/ });
    t.same(leftovers(r), []);
  },
);

t.test('a failure to make the volume is passed on', { skip }, async (t) => {
  const r = await rig(t);
  writeFileSync(r.path('disk.raw'), content());
  const refusal = new DvceError('NO_SPACE', { where: 'store', reason: 'full' });
  await t.rejects(
    r.import(r.path('disk.raw'), { prepareVolume: () => Promise.reject(refusal) }),
    refusal,
  );
  t.same(processes(r), []);
});

/** Talks to the import process directly. */
async function say(...lines: string[]): Promise<[string, number | null]> {
  const child: ChildProcess = spawn(process.execPath, [entry], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let answer = '';
  child.stdout?.on('data', (bytes: Buffer) => {
    answer += bytes.toString();
  });
  child.stdin?.end(lines.map((line) => `${line}\n`).join(''));
  const [status] = (await once(child, 'close')) as [number | null];
  return [answer, status];
}

t.test('the import process checks what it is told', async (t) => {
  for (const line of ['hello', '{"version":2}']) {
    const [answer, status] = await say(line);
    t.match(JSON.parse(answer), { error: { code: 'PROTOCOL' } });
    t.equal(status, 1);
  }
  const [answer, status] = await say();
  t.match(JSON.parse(answer), { error: { code: 'CANCELLED' } });
  t.equal(status, 130);
});
