/**
 * Images through the program, as an operator uses it: from a publisher over HTTPS to a file on another disk, with agent, import
 * process, blockd and command killed in the middle.
 */
// limit: 180 s
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Image, Operation, Snapshot } from '../../src/api/index.ts';
import { exitCodes, MiB } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { makeCertificates } from '../support/certificates.ts';
import { type Dvce, freshDvce, projectRoot } from '../support/dvce.ts';

t.setTimeout(180_000);
const missing = ['qemu-img', 'openssl'].filter(
  (tool) => spawnSync(tool, ['--version']).error !== undefined,
);
const skip = missing.length > 0 ? `needs ${missing.join(', ')}` : false;

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

/** A publisher: one image, its checksums; `holdAfter` stops each answer there and keeps the connection. */
class Publisher {
  readonly image: Buffer;
  readonly ranges: (string | undefined)[] = [];
  etag = '"1"';
  holdAfter = Number.POSITIVE_INFINITY;
  sums = '';

  constructor(image: Buffer) {
    this.image = image;
    this.sums = `${sha256(image)}  disk.qcow2\n`;
  }

  readonly answer = (request: IncomingMessage, response: ServerResponse): void => {
    if (request.url === '/SHA256SUMS') return void response.end(this.sums);
    if (request.url === '/loop') return void response.writeHead(302, { location: '/loop' }).end();
    if (request.url !== '/disk.qcow2') return void response.writeHead(404).end();
    this.ranges.push(request.headers.range);
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    const { length } = this.image;
    response.writeHead(from > 0 ? 206 : 200, {
      etag: this.etag,
      'content-length': length - from,
      ...(from > 0 ? { 'content-range': `bytes ${from}-${length - 1}/${length}` } : {}),
    });
    const end = Math.min(length, this.holdAfter);
    response.write(this.image.subarray(from, Math.max(from, end)));
    if (end === length) response.end();
  };
}

async function publish(t: Test, directory: string, image: Buffer) {
  const certificates = makeCertificates(directory);
  if (certificates === null) throw new Error('openssl made no certificates');
  const publisher = new Publisher(image);
  const server = createServer(
    { cert: certificates.serverCertificate, key: certificates.serverKey },
    publisher.answer,
  );
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const catalogue = join(directory, 'images.yaml');
  writeFileSync(
    catalogue,
    `builtin: false\nimages:\n  - name: demo-1\n    url: ${url}/disk.qcow2\n    checksumUrl: ${url}/SHA256SUMS\n    labels: { os: demo }\n`,
  );
  const authorities = join(directory, 'authorities.pem');
  writeFileSync(authorities, certificates.authority);
  return { publisher, url, catalogue, authorities };
}

/** Image processes of this installation. */
function imageProcesses(dvce: Dvce): number[] {
  const agent = dvce.holder('agent.lock');
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
        const parent = /^PPid:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
        return command.includes('images/main') && Number(parent) === agent;
      } catch {
        return false; // it has ended meanwhile
      }
    })
    .map(Number);
}

const downloaded = (dvce: Dvce): number => {
  const directory = join(dvce.data, 'tmp');
  if (!existsSync(directory)) return 0;
  const names = readdirSync(directory).filter((name) => /^download-[0-9a-f]+$/.test(name));
  return names.reduce((sum, name) => sum + statSync(join(directory, name)).size, 0);
};
const synced = (dvce: Dvce): boolean =>
  readdirSync(join(dvce.data, 'tmp')).some((name) => name.endsWith('.json'));

const operation = (dvce: Dvce, id: string): Promise<Operation> =>
  dvce.json<Operation>(`op show ${id}`);

async function killAgent(dvce: Dvce): Promise<void> {
  process.kill(dvce.agentPid(), 'SIGKILL');
  await until('the end of the agent', () => dvce.holder('agent.lock') === undefined);
}

t.test('from a publisher to a volume and out again, whatever dies', { skip }, async (t) => {
  const content = Buffer.concat([randomBytes(30 * MiB), Buffer.alloc(10 * MiB), randomBytes(MiB)]);
  const work = mkdtempSync('/tmp/dvce-images-');
  t.teardown(() => rmSync(work, { recursive: true, force: true }));
  writeFileSync(join(work, 'disk.raw'), content);
  execFileSync('qemu-img', [
    ...['convert', '-f', 'raw', '-O', 'qcow2'],
    ...[join(work, 'disk.raw'), join(work, 'disk.qcow2')],
  ]);
  const { publisher, url, catalogue, authorities } = await publish(
    t,
    work,
    readFileSync(join(work, 'disk.qcow2')),
  );
  const dvce = freshDvce(t, {
    DVCE_IMAGES_CATALOGUE: catalogue,
    DVCE_IMAGES_AUTHORITIES: authorities,
  });
  await dvce.ok('up');
  const nothing = async (what: string): Promise<void> => {
    t.equal(await dvce.ok('volume list --all -q'), '', `${what}: no volume`);
    t.equal(imageProcesses(dvce).length, 0, `${what}: no process`);
  };

  await t.test('the agent is killed while it downloads', async (t) => {
    publisher.holdAfter = 20 * MiB;
    const id = (await dvce.ok('image import demo-1 --no-wait')).trim();
    await until('20 MiB', () => downloaded(dvce) === 20 * MiB && synced(dvce));
    const [job] = imageProcesses(dvce);
    await killAgent(dvce);
    await until('the end of the import process', () => !existsSync(`/proc/${job}`));
    await dvce.ok('up');
    t.match(await operation(dvce, id), { status: 'failed', error: { code: 'INTERRUPTED' } });
    await nothing('after the restart');
    t.ok(downloaded(dvce) > 0, 'what came is kept');
  });

  await t.test('the import process is killed, and the next one goes on', async (t) => {
    publisher.ranges.length = 0;
    const id = (await dvce.ok('image import demo-1 --no-wait')).trim();
    await until('the request', () => publisher.ranges.length === 1);
    t.match(publisher.ranges[0], /^bytes=[1-9]\d{6,}-$/, 'behind what is there');
    const [job = 0] = await until('the process', () => {
      const all = imageProcesses(dvce);
      return all.length > 0 ? all : undefined;
    });
    process.kill(job, 'SIGKILL');
    const waited = await dvce.cli(`op wait ${id}`);
    t.not(waited.code, 0);
    t.match(await operation(dvce, id), { status: 'failed', error: { code: 'INTERRUPTED' } });
    await nothing('after it was killed');
  });

  await t.test('it ends whole, by the digest of the publisher', async (t) => {
    publisher.holdAfter = Number.POSITIVE_INFINITY;
    publisher.ranges.length = 0;
    await dvce.ok('image import demo-1 --protect --label team=lab');
    t.match(publisher.ranges[0], /^bytes=[1-9]/);
    t.match(await dvce.json<Image>('image show demo-1'), {
      state: 'ready',
      format: 'qcow2',
      sha256: sha256(publisher.image),
      contentSha256: sha256(content),
      source: `${url}/disk.qcow2`,
      sourceBytes: publisher.image.length,
      sizeBytes: content.length,
      protected: true,
      labels: { os: 'demo', team: 'lab' },
    });
    t.same(readdirSync(join(dvce.data, 'tmp')), [], 'no file is left');
    t.equal((await dvce.cli('image delete demo-1 --yes')).code, exitCodes.notAllowed);
    await dvce.ok('image update demo-1 --no-protect --no-labels --label a=b');
    t.match(await dvce.json<Image>('image show demo-1'), { protected: false, labels: { a: 'b' } });
  });

  await t.test('blockd is killed while it is filled', async (t) => {
    const begun = dvce.begin(['image', 'import', join(work, 'disk.raw'), 'second']);
    await until('its volume', async () =>
      (await dvce.ok('volume list --all -q')).includes('second'),
    );
    process.kill(dvce.holder('lock') ?? 0, 'SIGKILL');
    const { code, stderr } = await begun.ended;
    t.equal(code, 0, stderr);
    t.match(await dvce.json<Image>('image show second'), { contentSha256: sha256(content) });
    await dvce.ok('image delete second --yes');
  });

  await t.test('the agent is killed while a volume is filled', async (t) => {
    // Little to read, and much to look at afterwards.
    const large = join(work, 'large.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', large, '6G']);
    const id = (await dvce.ok(`image import ${large} third --no-wait`)).trim();
    await until('its volume', async () =>
      (await dvce.ok('volume list --all -q')).includes('third'),
    );
    const [job] = imageProcesses(dvce);
    await killAgent(dvce);
    await until('the end of the import process', () => !existsSync(`/proc/${job}`));
    await dvce.ok('up');
    t.match(await operation(dvce, id), { status: 'failed', error: { code: 'INTERRUPTED' } });
    t.equal(await dvce.ok('volume list --all -q'), '/images/demo-1\n', 'half a volume is gone');
    t.same(readdirSync(join(dvce.data, 'tmp')), []);
  });

  await t.test('wrong digests and bad servers leave nothing', async (t) => {
    const cases: [string, string, number][] = [
      [`image import ${url}/disk.qcow2 bad --sha256 ${'0'.repeat(64)}`, 'sha256', exitCodes.failed],
      [`image import ${url}/none.qcow2 bad`, '404', exitCodes.failed],
      [`image import ${url}/loop bad`, 'more than 5 times', exitCodes.failed],
      ['image import demo-2', 'does not exist', exitCodes.notFound],
      ['image import ftp://h/x bad', 'is not valid', exitCodes.usage],
      [`image import ${url}/disk.qcow2 ../bad`, 'not valid', exitCodes.usage],
    ];
    for (const [line, message, code] of cases) {
      const outcome = await dvce.cli(line);
      t.equal(outcome.code, code, `${line}: ${outcome.stderr}`);
      t.match(outcome.stderr, message);
    }
    publisher.sums = `${'1'.repeat(64)}  disk.qcow2\n`;
    t.match((await dvce.cli('image import demo-1 bad')).stderr, /expected 1{64}/);
    t.equal(await dvce.ok('volume list --all -q'), '/images/demo-1\n');
    t.same(readdirSync(join(dvce.data, 'tmp')), []);
  });

  await t.test('out again, to files and to standard output', async (t) => {
    const at = (name: string): string => join(work, name);
    for (const format of ['raw', 'qcow2']) {
      const file = at(`out.${format}`);
      await dvce.ok(`image export demo-1 ${file} --format ${format}`);
      const args = ['compare', '-f', format, '-F', 'raw', file, at('disk.raw')];
      t.match(execFileSync('qemu-img', args).toString(), /identical/, format);
    }
    const { blocks, size } = statSync(at('out.raw'));
    t.ok(blocks * 512 < size - 9 * MiB, 'holes are holes');
    t.equal((await dvce.cli(`image export demo-1 ${at('out.raw')}`)).code, exitCodes.exists);
    const piped = await dvce.shell('dvce image export demo-1 - | sha256sum');
    t.match(piped.stdout, sha256(content));
    t.equal((await dvce.cli('image export demo-1@none -')).code, exitCodes.notFound);
    t.equal((await dvce.cli(`image export /none ${at('x')}`)).code, exitCodes.notFound);
    t.notOk(existsSync(at('x')));
  });

  await t.test(
    'an export whose command is killed ends, and so does one whose agent is',
    async (t) => {
      await dvce.ok('volume clone /images/demo-1 /v');
      const slow = () => {
        // Nobody reads its output: it waits in the middle.
        const child = spawn(join(projectRoot, 'bin/dvce'), ['image', 'export', '/v', '-'], {
          stdio: ['ignore', 'pipe', 'ignore'],
          env: { ...process.env, DVCE_DATA_DIR: dvce.data },
        });
        t.teardown(() => child.kill('SIGKILL'));
        return child;
      };
      const snapshots = async (): Promise<string[]> =>
        (await dvce.json<Snapshot[]>('snapshot list /v')).map(({ name }) => name);
      const first = slow();
      await until('its snapshot', async () => (await snapshots()).length === 1);
      first.kill('SIGKILL');
      await until('the end of the snapshot', async () => (await snapshots()).length === 0);
      const [ended] = await dvce.json<Operation[]>('op list');
      t.match(ended, { kind: 'volume.export', status: 'cancelled' });
      const second = slow();
      await until('its snapshot', async () => (await snapshots()).length === 1);
      await killAgent(dvce);
      second.stdout.resume();
      const code = await new Promise((done) => second.on('close', done));
      t.not(code, 0, 'the command says that it is not whole');
      await dvce.ok('up');
      t.same(await snapshots(), [], 'its snapshot is gone after the restart');
    },
  );
});
