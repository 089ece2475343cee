/** VMDK, OVA, compressed files and NBD disks: made by the real tools, damaged by hand, imported into a real NBD export. */
// limit: 120 s
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import t, { type Test } from 'tap';
import {
  limits,
  MiB,
  seededRandom,
  silentLogger,
  systemRandom,
  systemTimers,
} from '../../src/base/index.ts';
import { exportImage } from '../../src/images/export.ts';
import { importImage } from '../../src/images/import.ts';
import { parseNbdUri } from '../../src/images/nbd-source.ts';
import type { ImportRequest, ImportResult } from '../../src/images/protocol.ts';
import { fixedExport, NbdServer } from '../../src/nbd/index.ts';
import { MemoryBackend } from '../support/memory-backend.ts';

const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));

const missing = ['qemu-img', 'qemu-nbd', 'xz', 'zstd', 'gzip', 'tar'].filter(
  (tool) => spawnSync(tool, ['--version']).error !== undefined,
);
const skip = missing.length > 0 ? `needs ${missing.join(', ')}` : false;

const sizeBytes = 6 * MiB;
/** Data, a hole, data, zeros that are written. */
function content(): Buffer {
  const bytes = Buffer.alloc(sizeBytes);
  const random = seededRandom(11);
  random.bytes(MiB).copy(bytes, 0);
  random.bytes(MiB).copy(bytes, 4 * MiB);
  return bytes;
}
const disk = content();
const hash = (algorithm: string, bytes: Buffer): string =>
  createHash(algorithm).update(bytes).digest('hex');

async function rig(t: Test) {
  const directory = mkdtempSync('/tmp/dvce-formats-');
  const target = new MemoryBackend({ sizeBytes });
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
  const path = (name: string): string => `${directory}/${name}`;
  const temporary = path('tmp');
  let described = 0;
  const run = (
    source: string,
    change: Partial<ImportRequest> = {},
    unpackedBytesMax?: number,
  ): Promise<ImportResult> => {
    target.content(0, sizeBytes).fill(0);
    const request: ImportRequest = {
      version: 1,
      task: 'import',
      source: source.includes(':') ? source : path(source),
      format: 'auto',
      digest: null,
      checksumUrl: null,
      temporaryDirectory: temporary,
      ...change,
    };
    return importImage(request, {
      timers: systemTimers,
      random: systemRandom,
      signal: new AbortController().signal,
      onProgress: () => {},
      ...(unpackedBytesMax === undefined ? {} : { unpackedBytesMax }),
      prepareVolume: async () => {
        described += 1;
        return { socketPath, exportName: '' };
      },
    });
  };
  writeFileSync(path('disk.raw'), disk);
  return {
    path,
    import: run,
    target,
    socketPath,
    temporary,
    described: () => described,
    left: () => (existsSync(temporary) ? readdirSync(temporary) : []),
    /** A qemu-img conversion of the disk. */
    make(name: string, format: string, ...options: string[]): Buffer {
      const more = options.flatMap((option) => ['-o', option]);
      const args = ['convert', '-f', 'raw', '-O', format, ...more];
      execFileSync('qemu-img', [...args, path('disk.raw'), path(name)], { stdio: 'pipe' });
      return readFileSync(path(name));
    },
  };
}
type Rig = Awaited<ReturnType<typeof rig>>;

function arrived(t: Test, r: Rig, result: ImportResult, file: Buffer): void {
  t.ok(r.target.content(0, sizeBytes).equals(disk), 'every byte arrived');
  t.equal(result.digest, `sha256:${hash('sha256', file)}`, 'the digest of the source as given');
  t.equal(result.contentDigest, `sha256:${hash('sha256', disk)}`, 'and of the disk as seen');
  t.same(r.left(), []);
}

t.test('vmdk of both kinds that hold everything themselves', { skip }, async (t) => {
  const r = await rig(t);
  for (const subformat of ['monolithicSparse', 'streamOptimized']) {
    const file = r.make('disk.vmdk', 'vmdk', `subformat=${subformat}`);
    const result = await r.import('disk.vmdk');
    t.match(result, { format: 'vmdk', virtualBytes: sizeBytes, sourceBytes: file.length });
    arrived(t, r, result, file);
  }
});

t.test('vmdk that names other files is refused before a tool sees it', { skip }, async (t) => {
  const r = await rig(t);
  r.make('flat.vmdk', 'vmdk', 'subformat=monolithicFlat');
  r.make('split.vmdk', 'vmdk', 'subformat=twoGbMaxExtentSparse');
  for (const name of ['flat.vmdk', 'split.vmdk'])
    await t.rejects(r.import(name), { code: 'BAD_IMAGE', message: /in other files/ }, name);
  const sparse = r.make('disk.vmdk', 'vmdk');
  const text = (from: string, to: string): Buffer =>
    Buffer.from(sparse.toString('latin1').replace(from, to.padEnd(from.length)), 'latin1');
  const zeroCapacity = Buffer.from(sparse);
  zeroCapacity.fill(0, 12, 20);
  const cases: [string, Buffer, RegExp][] = [
    ['a capacity of zero', zeroCapacity, /no size of its own/],
    ['a parent', text('parentCID=ffffffff', 'parentCID=12345678'), /names a parent/],
    ['another kind', text('"monolithicSparse"', '"monolithicFlat"'), /of the kind/],
    ['a flat extent', text('SPARSE "disk.vmdk"', 'FLAT "/etc/hosts"'), /names other files/],
  ];
  for (const [what, bytes, message] of cases) {
    writeFileSync(r.path('bad.vmdk'), bytes);
    await t.rejects(r.import('bad.vmdk'), { code: 'BAD_IMAGE', message }, what);
  }
  t.equal(r.described(), 0);
  t.same(r.left(), []);
});

t.test('truncated and oversized vmdk', { skip }, async (t) => {
  const r = await rig(t);
  for (const subformat of ['monolithicSparse', 'streamOptimized']) {
    const whole = r.make('disk.vmdk', 'vmdk', `subformat=${subformat}`);
    for (const length of [100, 2000, Math.floor(whole.length / 2), whole.length - 1024]) {
      writeFileSync(r.path('bad.vmdk'), whole.subarray(0, length));
      await t.rejects(r.import('bad.vmdk'), { code: 'BAD_IMAGE' }, `${subformat} ${length}`);
    }
    const large = Buffer.from(whole);
    large.writeBigUInt64LE(BigInt(limits.imageBytesMax / 512 + 1), 12);
    writeFileSync(r.path('bad.vmdk'), large);
    await t.rejects(r.import('bad.vmdk'), { code: 'BAD_IMAGE', message: /more than 4TiB/ });
  }
});

interface OvaParts {
  ovf?: string;
  /** null: none */
  mf?: string | null;
  /** Further arguments of tar. */
  more?: string[];
  order?: string[];
}

const ovfOf = (href: string, capacity = sizeBytes): string =>
  `<?xml version="1.0"?>\n<Envelope xmlns:ovf="o"><References><File ovf:href="${href}" ovf:id="file1"/></References>
<!-- <Disk ovf:fileRef="none"/> --><DiskSection><Disk ovf:capacity="${capacity}" ovf:diskId="d" ovf:fileRef="file1"/></DiskSection></Envelope>`;

function makeOva(r: Rig, parts: OvaParts = {}): Buffer {
  const vmdk = r.make('disk1.vmdk', 'vmdk', 'subformat=streamOptimized');
  const ovf = parts.ovf ?? ovfOf('disk1.vmdk');
  const mf = `SHA256(vm.ovf)= ${hash('sha256', Buffer.from(ovf))}\nSHA1(disk1.vmdk)= ${hash('sha1', vmdk)}\n`;
  writeFileSync(r.path('vm.ovf'), ovf);
  if (parts.mf !== null) writeFileSync(r.path('vm.mf'), parts.mf ?? mf);
  const names = parts.order ?? ['vm.ovf', ...(parts.mf === null ? [] : ['vm.mf']), 'disk1.vmdk'];
  const args = ['--format=ustar', ...(parts.more ?? []), '-C', r.path(''), '-cf', r.path('vm.ova')];
  execFileSync('tar', [...args, ...names], { stdio: 'pipe' });
  return readFileSync(r.path('vm.ova'));
}

t.test(
  'OVA: the disk is taken out of the archive, its manifest is believed',
  { skip },
  async (t) => {
    const r = await rig(t);
    for (const parts of [{}, { mf: null }, { more: ['--format=gnu'] }]) {
      const file = makeOva(r, parts);
      const result = await r.import('vm.ova');
      t.match(result, { format: 'ova', virtualBytes: sizeBytes, sourceBytes: file.length });
      arrived(t, r, result, file);
    }
  },
);

t.test('OVA that lies, climbs or is cut is refused', { skip }, async (t) => {
  const r = await rig(t);
  const two = ovfOf('disk1.vmdk').replace(
    '</DiskSection>',
    '<Disk ovf:fileRef="file1"/></DiskSection>',
  );
  const wrong = `SHA256(vm.ovf)= ${'0'.repeat(64)}\nSHA1(disk1.vmdk)= ${'0'.repeat(40)}\n`;
  const cases: [string, OvaParts, RegExp][] = [
    ['a wrong digest', { mf: wrong }, /its manifest says/],
    [
      'a manifest without the disk',
      { mf: wrong.split('\n')[0] ?? '' },
      /its manifest says|not name/,
    ],
    ['a manifest of nonsense', { mf: 'hello\n' }, /not understood/],
    ['two disks', { ovf: two }, /2 disks/],
    ['a path of the host', { ovf: ovfOf('/etc/hosts') }, /missing in it/],
    ['a disk that is elsewhere', { ovf: ovfOf('../disk1.vmdk') }, /missing in it/],
    [
      'entities',
      { ovf: `<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hosts">]>${ovfOf('a')}` },
      /entities/,
    ],
    ['another size', { ovf: ovfOf('disk1.vmdk', 512) }, /disagree about the size/],
    ['no disk', { ovf: '<Envelope/>' }, /names no disk/],
    [
      'a file twice',
      { more: ['--hard-dereference'], order: ['vm.ovf', 'vm.mf', 'disk1.vmdk', 'disk1.vmdk'] },
      /twice/,
    ],
    ['a name that climbs', { more: ['-P', '--transform=s,disk1,../disk1,'] }, /not allowed/],
    ['an absolute name', { more: ['-P', '--transform=s,disk1,/disk1,'] }, /not allowed/],
  ];
  for (const [what, parts, message] of cases) {
    makeOva(r, {
      ...parts,
      ...(what.startsWith('a ') || parts.mf !== undefined ? {} : { mf: null }),
    });
    await t.rejects(r.import('vm.ova'), { code: 'BAD_IMAGE', message }, what);
  }
  mkdirSync(r.path('sub'));
  execFileSync('ln', ['-s', '/etc/hosts', r.path('link.vmdk')]);
  makeOva(r, { mf: null, order: ['vm.ovf', 'link.vmdk', 'disk1.vmdk'] });
  await t.rejects(r.import('vm.ova'), { code: 'BAD_IMAGE', message: /no plain file/ }, 'a link');
  const whole = makeOva(r, { mf: null });
  for (const length of [600, 4096, Math.floor(whole.length / 2)]) {
    writeFileSync(r.path('vm.ova'), whole.subarray(0, length));
    await t.rejects(r.import('vm.ova'), { code: 'BAD_IMAGE' }, `cut after ${length}`);
  }
  t.equal(r.described(), 0);
  t.same(r.left(), []);
});

t.test('compressed by gzip, xz and zstd, raw and not', { skip }, async (t) => {
  const r = await rig(t);
  r.make('disk.qcow2', 'qcow2');
  for (const [tool, ending] of [
    ['gzip', 'gz'],
    ['xz', 'xz'],
    ['zstd', 'zst'],
  ] as const)
    for (const name of ['disk.raw', 'disk.qcow2']) {
      execFileSync(tool, ['-1', '-k', '-f', '-q', r.path(name)]);
      const file = readFileSync(r.path(`${name}.${ending}`));
      const result = await r.import(`${name}.${ending}`, {
        digest: `sha256:${hash('sha256', file)}`,
      });
      t.equal(result.format, name.slice(5), `${name}.${ending}`);
      t.equal(result.sourceBytes, file.length);
      arrived(t, r, result, file);
      if (name !== 'disk.raw') continue;
      writeFileSync(r.path('cut'), file.subarray(0, file.length - 100));
      await t.rejects(r.import('cut'), { code: 'BAD_IMAGE', message: /cannot be unpacked/ });
      const digest = `sha256:${'0'.repeat(64)}`;
      await t.rejects(r.import(`${name}.${ending}`, { digest }), { code: 'CHECKSUM_MISMATCH' });
    }
  t.same(r.left(), []);
});

t.test('a bomb stops at the limit, and twice packed is refused', { skip }, async (t) => {
  const r = await rig(t);
  writeFileSync(r.path('zeros'), Buffer.alloc(20 * MiB));
  for (const [tool, ending] of [
    ['gzip', 'gz'],
    ['xz', 'xz'],
    ['zstd', 'zst'],
  ] as const) {
    execFileSync(tool, ['-k', '-f', '-q', r.path('zeros')]);
    await t.rejects(r.import(`zeros.${ending}`, {}, 16 * MiB), {
      code: 'BAD_IMAGE',
      message: /unpacks to more than 16MiB/,
    });
  }
  execFileSync('gzip', ['-k', '-q', r.path('zeros.xz')]);
  await t.rejects(r.import('zeros.xz.gz'), { code: 'BAD_IMAGE', message: /twice/ });
  t.equal(r.described(), 0);
  t.same(r.left(), []);
});

t.test('an NBD disk is read once, its holes stay holes', { skip }, async (t) => {
  const r = await rig(t);
  const socket = r.path('source.sock');
  const args = ['-f', 'raw', '-r', '-t', '-x', 'disk one', '-k', socket, r.path('disk.raw')];
  const server = spawn('qemu-nbd', args, { stdio: 'ignore' });
  t.teardown(() => server.kill('SIGKILL'));
  while (!existsSync(socket)) await new Promise((done) => setTimeout(done, 10));
  const source = `nbd+unix:///disk%20one?socket=${socket}`;
  r.target.record = true;
  const result = await r.import(source);
  arrived(t, r, result, disk);
  t.match(result, { format: 'raw', virtualBytes: sizeBytes });
  const written = r.target.calls
    .filter((call) => call.startsWith('write '))
    .reduce((sum, call) => sum + Number(call.split('+')[1]), 0);
  t.ok(written <= 2 * MiB, `${written} bytes written`);
  const digest = `sha256:${'1'.repeat(64)}`;
  await t.rejects(r.import(source, { digest }), { code: 'CHECKSUM_MISMATCH' });
  await t.rejects(r.import(source, { format: 'qcow2' }), { code: 'INVALID_ARGUMENT' });
  await t.rejects(r.import(`nbd+unix:///none?socket=${socket}`), { code: 'DOWNLOAD_FAILED' });
  await t.rejects(r.import('nbd://127.0.0.1:1/x'), { code: 'DOWNLOAD_FAILED' });
});

t.test('addresses of NBD servers', async (t) => {
  t.same(parseNbdUri('nbd://h'), { address: { host: 'h', port: 10_809 }, exportName: '' });
  t.same(parseNbdUri('nbd://[::1]:7/a%2Fb'), {
    address: { host: '::1', port: 7 },
    exportName: 'a/b',
  });
  t.same(parseNbdUri('nbd+unix:///x?socket=/s'), { address: { path: '/s' }, exportName: 'x' });
  for (const bad of [
    'nbd://',
    'nbd://u:p@h/x',
    'nbd://h:0/x',
    'nbd://h/x?y=1',
    'nbd+unix:///x',
    'nbd+unix:///x?socket=rel',
    'nbd+unix://h/x?socket=/s',
    'nbd+unix:///x?socket=/s&tls=no',
    `nbd+unix:///x?socket=/${'a'.repeat(108)}`,
    'nbd://h/%ff%zz',
  ])
    t.throws(() => parseNbdUri(bad), { code: 'INVALID_ARGUMENT' }, bad);
  t.throws(() => parseNbdUri('nbds://h/x'), { code: 'UNSUPPORTED' });
});

t.test('what is exported is what was imported', { skip }, async (t) => {
  const r = await rig(t);
  r.make('disk.qcow2', 'qcow2');
  const { contentDigest } = await r.import('disk.qcow2');
  const { PassThrough } = await import('node:stream');
  for (const [format, framing] of [
    ['raw', 'plain'],
    ['qcow2', 'plain'],
  ] as const) {
    const output = new PassThrough();
    const chunks: Buffer[] = [];
    output.on('data', (chunk: Buffer) => chunks.push(chunk));
    const result = await exportImage(
      {
        version: 1,
        task: 'export',
        name: 'x',
        from: { socketPath: r.socketPath, exportName: '' },
        ...{ format, framing },
        temporaryDirectory: r.temporary,
      },
      {
        timers: systemTimers,
        random: systemRandom,
        signal: new AbortController().signal,
        output,
        onProgress: () => {},
      },
    );
    const file = Buffer.concat(chunks);
    t.equal(result.digest, `sha256:${hash('sha256', file)}`);
    if (format === 'raw') t.equal(result.digest, contentDigest);
    writeFileSync(r.path('out'), file);
    execFileSync('qemu-img', [
      'compare',
      '-f',
      format,
      '-F',
      'raw',
      r.path('out'),
      r.path('disk.raw'),
    ]);
    t.same(r.left(), []);
  }
});
