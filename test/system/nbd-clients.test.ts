/** Stock NBD clients against the server, served from memory: content and maps must be equal to the reference. */
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { MiB, seededRandom } from '../../src/base/index.ts';
import { makeCertificates } from '../support/certificates.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import { startServer } from '../support/nbd-wire.ts';

const has = (tool: string): boolean =>
  (process.env['PATH'] ?? '').split(':').some((directory) => existsSync(join(directory, tool)));
const missing = (...tools: string[]): string | false => {
  const absent = tools.filter((tool) => !has(tool));
  return absent.length === 0 ? false : `not installed: ${absent.join(', ')}`;
};

const directory = mkdtempSync(join(tmpdir(), 'nbd-clients-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
const sizeBytes = 64 * MiB;

function run(tool: string, ...words: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      tool,
      words,
      { timeout: 60_000, killSignal: 'SIGKILL', maxBuffer: 1 << 24 },
      (error, out, err) => {
        if (error)
          reject(new Error(`${tool} ${words.join(' ')}: ${error.message}\n${out}\n${err}`));
        else resolve(out);
      },
    );
  });
}

/** Islands of random bytes, so that there are holes to find. */
function reference(): Buffer {
  const random = seededRandom(7);
  const image = Buffer.alloc(sizeBytes);
  for (let i = 0; i < 12; i += 1)
    random.bytes(4096 * (1 + random.below(40))).copy(image, 4096 * random.below(sizeBytes / 4096));
  return image;
}

function filled(image: Buffer): MemoryBackend {
  const backend = new MemoryBackend({ sizeBytes });
  for (let at = 0; at < sizeBytes; at += 4096) {
    const page = image.subarray(at, at + 4096);
    if (page.some((byte) => byte !== 0)) backend.put(at, page);
  }
  return backend;
}

interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

t.test('nbdinfo: --json, --list, --map', { skip: missing('nbdinfo') }, async (t) => {
  const image = reference();
  const { path, stop } = await startServer(filled(image));
  t.teardown(stop);
  const uri = `nbd+unix:///?socket=${path}`;
  const facts = JSON.parse(await run('nbdinfo', '--json', uri));
  t.match(facts, {
    protocol: 'newstyle-fixed',
    structured: true,
    exports: [
      {
        'export-size': sizeBytes,
        contexts: ['base:allocation'],
        is_read_only: false,
        can_multi_conn: true,
        can_fast_zero: true,
        block_size_minimum: 1,
        block_size_maximum: 32 * MiB,
      },
    ],
  });
  t.match(JSON.parse(await run('nbdinfo', '--json', '--list', uri)), {
    exports: [{ 'export-name': '' }],
  });
  const map: Extent[] = JSON.parse(await run('nbdinfo', '--map', '--json', uri));
  t.equal(
    map.reduce((sum, { length }) => sum + length, 0),
    sizeBytes,
  );
  for (const { offset, length, type } of map) {
    const zero = image.subarray(offset, offset + length).every((byte) => byte === 0);
    t.equal(type === 3, zero, `${offset}+${length} type ${type}`);
  }
});

t.test('nbdcopy both ways', { skip: missing('nbdcopy') }, async (t) => {
  const image = reference();
  const source = join(directory, 'source.raw');
  const copy = join(directory, 'copy.raw');
  writeFileSync(source, image);
  const backend = new MemoryBackend({ sizeBytes });
  const { path, stop } = await startServer(backend);
  t.teardown(stop);
  const uri = `nbd+unix:///?socket=${path}`;
  await run('nbdcopy', '--flush', source, uri);
  t.ok(backend.content(0, sizeBytes).equals(image), 'to the server');
  t.ok(backend.flushes > 0);
  await run('nbdcopy', uri, copy);
  t.ok(readFileSync(copy).equals(image), 'and back');
  t.ok(statSync(copy).blocks * 512 < sizeBytes / 2, 'holes stayed holes');
});

t.test('qemu-img info, convert, compare', { skip: missing('qemu-img') }, async (t) => {
  const image = reference();
  const source = join(directory, 'image.raw');
  const qcow2 = join(directory, 'image.qcow2');
  writeFileSync(source, image);
  const backend = new MemoryBackend({ sizeBytes });
  const { path, stop } = await startServer(backend);
  t.teardown(stop);
  const uri = `nbd+unix:///?socket=${path}`;
  t.match(JSON.parse(await run('qemu-img', 'info', '--output=json', '-f', 'raw', uri)), {
    'virtual-size': sizeBytes,
  });
  await run('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', source, uri);
  t.ok(backend.content(0, sizeBytes).equals(image), 'convert to the server');
  t.match(
    await run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, uri),
    'Images are identical',
  );
  await run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri, qcow2);
  t.match(
    await run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', qcow2, uri),
    'Images are identical',
  );
  const map: { start: number; length: number; data: boolean }[] = JSON.parse(
    await run('qemu-img', 'map', '--output=json', '-f', 'raw', uri),
  );
  for (const { start, length, data } of map)
    t.equal(
      data,
      image.subarray(start, start + length).some((byte) => byte !== 0),
      `map ${start}+${length}`,
    );
});

t.test('qemu-io: read, write, zero, discard, FUA', { skip: missing('qemu-io') }, async (t) => {
  const backend = new MemoryBackend({ sizeBytes });
  const { path, stop } = await startServer(backend);
  t.teardown(stop);
  const commands = [
    'write -P 7 1000 70000',
    'read -P 7 1000 70000',
    'read -P 0 0 1000',
    'write -f -P 9 512k 4k',
    'write -z 8k 8k',
    'read -P 0 8k 8k',
    'write -z -u 20k 4k',
    'discard 512k 4k',
    'read -P 0 512k 4k',
    'aio_write -P 3 1M 1M',
    'aio_flush',
    'read -P 3 1M 1M',
    'flush',
    'map',
  ];
  const out = await run(
    'qemu-io',
    '-f',
    'raw',
    '-t',
    'none',
    `nbd+unix:///?socket=${path}`,
    ...commands.flatMap((command) => ['-c', command]),
  );
  t.notMatch(out, /failed|error|verification/i);
  t.ok(
    backend.options.some(({ fua }) => fua),
    'FUA arrived',
  );
  t.ok(
    backend.options.some((each) => 'noHole' in each && each.noHole),
    'NO_HOLE arrived',
  );
  t.ok(backend.content(1000, 7192).every((byte) => byte === 7));
});

t.test('fio nbd engine with crc32c verification', { skip: missing('fio') }, async (t) => {
  const { path, stop } = await startServer(new MemoryBackend({ sizeBytes }));
  t.teardown(stop);
  const common = [
    '--ioengine=nbd',
    `--uri=nbd+unix:///?socket=${path}`,
    '--thread',
    '--size=32m',
    '--output-format=json',
    '--randrepeat=1',
  ];
  const out = await run(
    'fio',
    '--name=verify',
    ...common,
    '--rw=randwrite',
    '--bsrange=512-64k',
    '--bs_unaligned=0',
    '--blockalign=512',
    '--iodepth=32',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--do_verify=1',
  );
  t.match(JSON.parse(out.slice(out.indexOf('{'))), { jobs: [{ error: 0 }] });
});

const pems = makeCertificates(directory);
const withoutTls = pems === null ? 'not installed: openssl' : missing('nbdinfo', 'qemu-img');
t.test('TLS with x509: nbdinfo over TCP, qemu-img over TCP', { skip: withoutTls }, async (t) => {
  if (pems === null) return;
  const backend = filled(reference());
  const tls = {
    mode: 'required',
    certificate: pems.serverCertificate,
    key: pems.serverKey,
    clientAuthority: pems.authority,
  } as const;
  const { server, stop } = await startServer(backend, { tls });
  t.teardown(stop);
  const port = await server.listenTcp('127.0.0.1', 0);
  const secured = `nbds://127.0.0.1:${port}/?tls-certificates=${directory}`;
  t.match(JSON.parse(await run('nbdinfo', '--json', secured)), {
    TLS: true,
    exports: [{ 'export-size': sizeBytes }],
  });
  await t.rejects(run('nbdinfo', '--json', `nbd://127.0.0.1:${port}/`), 'plain text is refused');
  const object = `tls-creds-x509,id=tls0,endpoint=client,dir=${directory}`;
  const image = `driver=nbd,host=127.0.0.1,port=${port},tls-creds=tls0`;
  t.match(
    JSON.parse(
      await run('qemu-img', 'info', '--output=json', '--object', object, '--image-opts', image),
    ),
    { 'virtual-size': sizeBytes },
  );
});
