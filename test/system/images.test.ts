/**
 * Images through the program, as an operator uses it: from a publisher over HTTPS to a file on another disk, with agent, import
 * process, blockd and command killed in the middle.
 */
// limit: 180 s
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Image, Operation, Snapshot } from '../../src/api/index.ts';
import { exitCodes, MiB } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce, projectRoot } from '../support/dvce.ts';
import { nbdServer, publish, sha256 } from '../support/image-sources.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

t.setTimeout(180_000);
const missing = ['qemu-img', 'qemu-nbd', 'openssl'].filter(
  (tool) => spawnSync(tool, ['--version']).error !== undefined,
);
const skip = missing.length > 0 ? `needs ${missing.join(', ')}` : false;

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

  await t.test('the agent is stopped, and the next import goes on', async (t) => {
    publisher.ranges.length = 0;
    const id = (await dvce.ok('image import demo-1 --no-wait')).trim();
    await until('the request', () => publisher.ranges.length === 1);
    const before = downloaded(dvce);
    await dvce.ok('down');
    t.ok(before > 0 && downloaded(dvce) >= before, 'what came is kept');
    await dvce.ok('up');
    t.match(await operation(dvce, id), { status: 'failed', error: { code: 'INTERRUPTED' } });
  });

  await t.test('it ends whole, by the digest of the publisher', async (t) => {
    publisher.holdAfter = Number.POSITIVE_INFINITY;
    publisher.ranges.length = 0;
    await dvce.ok('image import demo-1 --protect --label team=lab');
    t.match(publisher.ranges[0], /^bytes=[1-9]\d{6,}-$/, 'behind what is there');
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

  await t.test('from the catalogue by a redirect, and from an NBD server over TCP', async (t) => {
    await dvce.ok('image import latest');
    const nbd = await nbdServer(t, join(work, 'disk.raw'));
    await dvce.ok(`image import ${nbd} live`);
    const images = await dvce.json<Image[]>('image list');
    t.same(
      images.map(({ name, contentSha256 }) => [name, contentSha256]),
      ['demo-1', 'latest', 'live'].map((name) => [name, sha256(content)]),
    );
    t.match(images[2], { format: 'raw', source: nbd, sizeBytes: content.length });
    await dvce.ok('image delete latest --yes');
    await dvce.ok('image delete live --yes');
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
    t.match((await dvce.cli('image import other')).stderr, /expected (2a){32}/);
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

  await dvce.ok('volume clone /images/demo-1 /v');
  const snapshots = async (): Promise<string[]> =>
    (await dvce.json<Snapshot[]>('snapshot list /v')).map(({ name }) => name);
  const lastOperation = async (): Promise<Operation | undefined> =>
    (await dvce.json<Operation[]>('op list'))[0];
  /** To standard output, which nobody reads yet: it waits in the middle. */
  const slow = (t: Test) => {
    const child = spawn(join(projectRoot, 'bin/dvce'), ['image', 'export', '/v', '-'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, DVCE_DATA_DIR: dvce.data },
    });
    t.teardown(() => child.kill('SIGKILL'));
    return child;
  };

  await t.test('an export whose command is killed ends', async (t) => {
    const child = slow(t);
    await until('its snapshot', async () => (await snapshots()).length === 1);
    child.kill('SIGKILL');
    await until('the end of the snapshot', async () => (await snapshots()).length === 0);
    t.match(await lastOperation(), { kind: 'volume.export', status: 'cancelled' });
  });

  await t.test('blockd is killed under an export, which comes out whole', async (t) => {
    const child = slow(t);
    await until('its content', () => child.stdout.readableLength > 0);
    const blockd = dvce.holder('lock') ?? 0;
    process.kill(blockd, 'SIGKILL');
    await until('another blockd', () => ![undefined, blockd].includes(dvce.holder('lock')));
    const hash = createHash('sha256');
    for await (const chunk of child.stdout) hash.update(chunk as Buffer);
    t.equal(hash.digest('hex'), sha256(content));
    if (child.exitCode === null) await once(child, 'exit');
    t.equal(child.exitCode, 0);
    t.same(await snapshots(), []);
  });

  await t.test('a cancelled export leaves no file and no snapshot', async (t) => {
    const directory = join(work, 'cancelled');
    mkdirSync(directory);
    // Its digest takes seconds, its content no space.
    await dvce.ok('volume create /large --size 64GiB');
    const begun = dvce.begin(['image', 'export', '/large', join(directory, 'large.raw')]);
    await until('the begin of the file', () => readdirSync(directory).length === 1);
    const { id = '' } = (await lastOperation()) ?? {};
    await dvce.ok(`op cancel ${id}`);
    const { code, stderr } = await begun.ended;
    t.equal(code, exitCodes.interrupted, stderr);
    t.match(await operation(dvce, id), { kind: 'volume.export', status: 'cancelled' });
    t.same(readdirSync(directory), [], 'neither file nor part of one');
    t.same(await dvce.json<Snapshot[]>('snapshot list /large'), []);
    t.same(readdirSync(join(dvce.data, 'tmp')), []);
    t.same(imageProcesses(dvce), []);
  });

  await t.test('an export of a disk that is written to is one instant of it', async (t) => {
    const nbd = await RawNbd.connect({ path: join(dvce.data, 'run/nbd.sock') }, '/v');
    const last = content.length - blockBytes;
    let number = 0;
    let isOver = false;
    // The first block always has the number of the last one, or the next.
    const writing = (async () => {
      while (!isOver) {
        number += 1;
        await nbd.write(0, stamp(0, number));
        await nbd.write(last, stamp(1, number));
      }
    })();
    await until('writes', () => number > 10);
    const before = number;
    const file = join(work, 'instant.raw');
    await dvce.ok(`image export /v ${file}`);
    isOver = true;
    await writing;
    await nbd.disconnect();
    const bytes = readFileSync(file);
    const first = readStamp(bytes.subarray(0, blockBytes), 0);
    const second = readStamp(bytes.subarray(last), 1);
    t.ok(first >= before && first < number - 10, `${before} <= ${first} < ${number}`);
    t.ok(first === second || first === second + 1, `${first} and ${second}`);
    t.ok(
      bytes.subarray(blockBytes, last).equals(content.subarray(blockBytes, last)),
      'and all between as it was',
    );
  });

  await t.test('an export whose agent is killed is not whole, and says so', async (t) => {
    const child = slow(t);
    await until('its snapshot', async () => (await snapshots()).length === 1);
    await killAgent(dvce);
    child.stdout.resume();
    const code = await new Promise((done) => child.on('close', done));
    t.not(code, 0, 'the command says that it is not whole');
    await dvce.ok('up');
    t.same(await snapshots(), [], 'its snapshot is gone after the restart');
  });
});
