// limit: 300 s
/** The command line against a real agent and a real blockd: each command once, bad input, and what outlives what. */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import t, { type Test } from 'tap';
import type { Doctor, Image, Operation, Status, Vm, Volume } from '../../src/api/index.ts';
import { namedSchemas } from '../../src/api/schema/index.ts';
import { exitCodes } from '../../src/base/index.ts';
import { isAlive, until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';

const has = (tool: string): boolean => spawnSync(tool, ['--version']).error === undefined;
const needs = (...tools: string[]): { skip: string | false } => {
  const missing = tools.filter((tool) => !has(tool));
  return { skip: missing.length > 0 ? `needs ${missing.join(', ')}` : false };
};
const ajv = new Ajv({ strict: false, schemas: [...namedSchemas] });
const fits = (t: Test, name: string, value: unknown): void => {
  ajv.validate(name, value);
  t.equal(ajv.errorsText(), 'No errors', `it fits the schema ${name}`);
};

/** A command that must fail, with its exit code and words. */
async function fails(
  t: Test,
  dvce: Dvce,
  line: string,
  code: number,
  message: RegExp,
): Promise<void> {
  const outcome = await dvce.cli(line, { input: '' });
  t.equal(outcome.code, code, `${line}: ${outcome.stderr}`);
  t.match(outcome.stderr, message, line);
  t.equal(outcome.stdout, '', `${line}: no data`);
}

const codeOf = exitCodes;

t.test('volumes and snapshots', async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  t.match((await dvce.cli('up')).stderr, /runs already/);
  const volume = await dvce.json<Volume>('volume create /prod/db --size 64MiB --label tier=gold');
  fits(t, 'Volume', volume);
  t.match(volume, { path: '/prod/db', sizeBytes: 64 * 1024 ** 2, labels: { tier: 'gold' } });
  t.match((await dvce.cli('volume create /prod/db --size 1MiB --if-not-exists')).stderr, /left as/);
  t.equal(await dvce.ok('volume list -q'), '/prod/db\n');
  t.match(await dvce.ok('volume list'), /^PATH .*\n\/prod\/db +64MiB /);
  t.match(await dvce.ok('volume list --no-headers'), /^\/prod\/db +64MiB /);
  t.match(await dvce.ok('volume show /prod/db'), /size +64MiB \(67108864 bytes\)/);
  fits(t, 'Volume', (await dvce.json<Volume[]>('volume list'))[0]);

  fits(t, 'Snapshot', await dvce.json('snapshot create /prod/db@one'));
  await dvce.ok('snapshot create /prod/db@two --protect');
  t.match(await dvce.ok('snapshot list /prod/db'), /one .*\n.*two/);
  t.match(
    await dvce.ok('snapshot tree /prod/db'),
    /\/prod\/db\n└─ one .*\n {3}└─ two .*protected\n {6}└─ \* now/,
  );
  t.match(await dvce.json('snapshot diff /prod/db@one two'), { ranges: [], changedBytes: 0 });
  t.match(await dvce.ok('snapshot rollback /prod/db@one --dry-run'), /rollback/);
  await fails(t, dvce, 'snapshot rollback /prod/db@one', codeOf.notAllowed, /Repeat it with --yes/);
  await dvce.ok('snapshot rollback /prod/db@one --yes');
  t.match(await dvce.ok('snapshot tree /prod/db'), /one[^\n]*\n[^\n]*(two|now)/);
  await fails(t, dvce, 'snapshot delete /prod/db@two --yes', codeOf.notAllowed, /protected/);
  await dvce.ok('volume clone /prod/db@one /test/db --size 128MiB');
  t.match(await dvce.json<Volume>('volume show /test/db'), {
    sizeBytes: 128 * 1024 ** 2,
    origin: { path: '/prod/db', snapshot: 'one' },
  });
  t.match(await dvce.ok('snapshot delete /prod/db@one --dry-run'), /1 clones/);

  await dvce.ok('volume resize /test/db --size 256MiB');
  await fails(t, dvce, 'volume resize /test/db --size 64MiB', codeOf.usage, /making it smaller/);
  await dvce.ok('volume resize /test/db --size 64MiB --shrink --yes');
  await dvce.ok('volume rename /test/db /test/other');
  await dvce.ok('volume update /test/other --label a=b --protect');
  t.match(await dvce.json<Volume>('volume show /test/other'), {
    labels: { a: 'b' },
    protected: true,
  });
  await fails(t, dvce, 'volume delete /test/other --yes', codeOf.notAllowed, /--no-protect/);
  await dvce.ok('volume update /test/other --no-protect --no-labels');
  const check = await dvce.json<{ findings: unknown[] }>('volume check /prod/db');
  fits(t, 'VolumeCheckResult', check);
  t.strictSame(check.findings, []);
  t.match(
    await dvce.ok('volume check /prod/db --repair --dry-run'),
    /put right what loses nothing/,
  );
  await dvce.ok('volume check /prod/db --repair');
  await dvce.ok('scrub start /prod/db');
  await until(
    'the scrub of the volume',
    async () => (await dvce.json<Volume>('volume show /prod/db')).scrub?.finishedAt,
  );
  t.match(await dvce.ok('scrub pause'), /rests/);
  const scrub = await dvce.json('scrub show');
  fits(t, 'Scrub', scrub);
  t.match(scrub, { state: 'paused', damaged: [] });
  await dvce.ok('scrub resume');
  await dvce.ok('volume recover /prod/db --accept-loss --yes');
  await dvce.ok('volume delete /test/other --yes');
  await dvce.ok('volume delete /test/other --yes --if-exists');

  const [operation] = await dvce.json<Operation[]>('op list');
  fits(t, 'Operation', operation);
  const id = (await dvce.ok('volume check /prod/db --no-wait')).trim();
  await dvce.ok(`op wait ${id}`);
  fits(t, 'Operation', await dvce.json(`op show ${id}`));
  await fails(t, dvce, `op cancel ${id}`, codeOf.conflict, /it has succeeded already/);
  fits(t, 'Status', await dvce.json<Status>('status'));
  t.match(await dvce.ok('api GET /v1/volumes/prod%2Fdb'), /"path": "\/prod\/db"/);
  const body = '{"labels":{"from":"stdin"}}';
  await dvce.ok('api PATCH /v1/volumes/prod%2Fdb --body -', { input: body });
  t.match(await dvce.json<Volume>('volume show /prod/db'), { labels: { from: 'stdin' } });
  t.match(await dvce.ok('version'), /agent +\d+\.\d+\.\d+\nblockd +\d/);
  const words = await dvce.run(['__complete', 'volume', 'show', '']);
  t.equal(words.stdout, '/prod/db\n', 'completion asks the agent for names');
});

t.test('bad input gets a clear error and loses nothing', async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok('volume create /prod/db --size 16MiB');
  await dvce.ok('snapshot create /prod/db@one');
  const before = await dvce.ok('api GET /v1/volumes');
  const cases: readonly (readonly [string, number, RegExp])[] = [
    ['volume show /nothing', codeOf.notFound, /volume \/nothing does not exist\n {2}List what/],
    ['volume delete /nothing --yes', codeOf.notFound, /does not exist/],
    ['volume create /prod/db --size 1MiB', codeOf.exists, /exists already/],
    ['volume clone /prod/db@nine /test/db', codeOf.notFound, /nine/],
    ['volume clone /prod/db@one /prod/db', codeOf.exists, /exists already/],
    ['volume create /prod/../db --size 1MiB', codeOf.usage, /"\.\." is not allowed/],
    ['volume create /prod//db --size 1MiB', codeOf.usage, /empty part/],
    ['volume create /prod/a\u0007b --size 1MiB', codeOf.usage, /not allowed/],
    ['volume create /zero --size 0', codeOf.usage, /the size 0 is not valid/],
    ['volume create /small --size 512', codeOf.usage, /is not valid/],
    ['volume create /odd --size 1048577', codeOf.usage, /is not valid/],
    ['volume create /huge --size 17TiB', codeOf.usage, /is not valid/],
    ['snapshot create /prod/db@one', codeOf.exists, /exists already/],
    ['snapshot delete /prod/db@nine --yes', codeOf.notFound, /nine does not exist/],
    ['snapshot rollback /prod/db@nine --yes', codeOf.notFound, /nine/],
    ['volume rename /prod/db /prod/../x', codeOf.usage, /not allowed/],
    ['image import /nothing.raw x', codeOf.notFound, /nothing\.raw/],
    ['image delete x --yes', codeOf.notFound, /image x does not exist/],
    ['vm create a --image nothing', codeOf.notFound, /image nothing does not exist/],
    ['vm create a --disk /nothing', codeOf.notFound, /nothing/],
    ['vm create a --memory 1MiB', codeOf.usage, /memory/],
    ['vm create ../a', codeOf.usage, /not valid/],
    ['vm start nothing', codeOf.notFound, /vm nothing does not exist/],
    ['console nothing', codeOf.notFound, /vm nothing does not exist/],
    ['op show nothing', codeOf.notFound, /op nothing does not exist/],
    ['api GET /v1/nothing', codeOf.usage, /no such route/],
  ];
  for (const [line, code, message] of cases) await fails(t, dvce, line, code, message);
  t.equal(await dvce.ok('api GET /v1/volumes'), before, 'everything is as it was');
  t.strictSame(await dvce.json('vm list'), []);
});

t.test('a second agent on a data directory is refused and told by whom', async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  const pid = dvce.agentPid();
  const second = await dvce.cli('agent');
  t.equal(second.code, codeOf.conflict);
  t.match(second.stderr, new RegExp(`in use by process ${pid}\\n {2}Stop that process`));
  t.equal(dvce.agentPid(), pid);
  await dvce.ok('volume list');
});

t.test('a data directory that cannot work', async (t) => {
  const dvce = freshDvce(t);
  const long = join(dvce.directory, 'x'.repeat(90));
  await fails(t, dvce, `up --data-dir ${long}`, codeOf.usage, /takes at most 107/);
  writeFileSync(join(dvce.directory, 'file'), '');
  await fails(t, dvce, `up --data-dir ${join(dvce.directory, 'file')}`, codeOf.failed, /file/);
});

t.test(
  'what keeps blockd from starting is told at once, and nothing is left running',
  async (t) => {
    const dvce = freshDvce(t);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => server.close());
    const { port } = server.address() as AddressInfo;
    const tcp = `up -- --nbd-tcp 127.0.0.1:${port} --nbd-insecure`;
    await fails(t, dvce, tcp, codeOf.unhealthy, /the address 127\.0\.0\.1:\d+ is in use/);
    t.equal(dvce.holder('launcher.lock'), undefined);
    await dvce.ok('up');
    await dvce.ok('volume create /a --size 1MiB');
    await dvce.ok('down');
    const marker = join(dvce.data, 'store/dvce-store.json');
    const text = readFileSync(marker, 'utf8');
    writeFileSync(marker, text.replace(/"format":\s*1/, '"format": 99'));
    await fails(
      t,
      dvce,
      'up',
      codeOf.unhealthy,
      /has format version 99; this program reads up to 1/,
    );
    writeFileSync(marker, text);
    await dvce.ok('up');
    t.equal(await dvce.ok('volume list -q'), '/a\n', 'a newer format was refused and left alone');
  },
);

t.test('missing qemu: a VM does not start, the doctor says what to install', async (t) => {
  const dvce = freshDvce(t, { DVCE_QEMU: '/nonexistent/qemu-system-x86_64' });
  for (const when of ['without an agent', 'with one']) {
    const doctor = await dvce.cli('doctor -o json');
    t.equal(doctor.code, codeOf.unhealthy, when);
    const result = JSON.parse(doctor.stdout) as Doctor;
    fits(t, 'Doctor', result);
    t.match(
      result.findings.find(({ name }) => name === 'hypervisor'),
      { result: 'fail', advice: /apt-get install .*qemu-system-x86/ },
      when,
    );
    await dvce.ok('up');
  }
  await dvce.ok('vm create a --disk /a,16MiB');
  await fails(t, dvce, 'vm start a', codeOf.unhealthy, /was not found\n {2}Install it/);
  t.match(await dvce.json<Vm>('vm show a'), { phase: 'stopped', desired: 'stopped' });
  await dvce.ok('vm delete a --yes');
  t.equal(await dvce.ok('volume list -q'), '', 'its disk went with it');
});

t.test('images', needs('qemu-img'), async (t) => {
  const dvce = freshDvce(t);
  const file = (name: string): string => join(dvce.directory, name);
  const content = Buffer.alloc(4 * 1024 ** 2, 'data ');
  writeFileSync(file('disk.raw'), content);
  const sha256 = createHash('sha256').update(content).digest('hex');
  spawnSync('qemu-img', ['convert', '-O', 'qcow2', file('disk.raw'), file('disk.qcow2')]);
  await dvce.ok('up');
  const image = JSON.parse(
    await dvce.ok(`image import disk.raw raw --sha256 ${sha256} --label a=b -o json`),
  ) as Image;
  fits(t, 'Image', image);
  t.match(image, { state: 'ready', sha256, labels: { a: 'b' }, sizeBytes: content.length });
  await dvce.ok('image import disk.qcow2 cow');
  t.equal(await dvce.ok('image list -q'), 'cow\nraw\n');
  t.match(await dvce.ok('image show cow'), /format +qcow2/);
  await fails(t, dvce, 'image import disk.raw raw', codeOf.exists, /image raw exists already/);
  await dvce.ok('image import disk.raw raw --if-not-exists');
  const wrong = '0'.repeat(64);
  await fails(t, dvce, `image import disk.raw bad --sha256 ${wrong}`, codeOf.failed, /has sha256/);
  spawnSync('cp', [file('disk.qcow2'), file('cut.qcow2')]);
  truncateSync(file('cut.qcow2'), 300_000);
  await fails(t, dvce, 'image import cut.qcow2 bad', codeOf.failed, /cannot be used|damaged/);
  spawnSync(
    'qemu-img',
    ['create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', 'disk.raw', 'back.qcow2'],
    {
      cwd: dvce.directory,
    },
  );
  await fails(t, dvce, 'image import back.qcow2 bad', codeOf.failed, /backing/);
  t.equal(await dvce.ok('volume list --all -q'), '/images/cow\n/images/raw\n', 'nothing is left');

  // A clone has the content, and stays whole without the image.
  await dvce.ok('volume clone /images/raw /test/raw');
  await dvce.ok('image delete raw --yes');
  await dvce.ok('image delete raw --yes --if-exists');
  t.equal(await dvce.ok('image list -q'), 'cow\n');
  const status = await dvce.json<Status>('status');
  const url = `nbd+unix:///test/raw?socket=${status.blockd?.nbdSocket}`;
  spawnSync('qemu-img', ['convert', '-O', 'raw', url, file('back.raw')]);
  t.ok(readFileSync(file('back.raw')).equals(content), 'byte for byte');
});

t.test('Ctrl-C cancels an import; nothing is left; exit code 130', needs('qemu-img'), async (t) => {
  const dvce = freshDvce(t);
  // A server that never finishes.
  let asked = 0;
  const server = createServer((request, response) => {
    asked += 1;
    response.writeHead(200, { 'content-length': 64 * 1024 ** 2 });
    if (request.method !== 'HEAD') response.write(Buffer.alloc(1024 ** 2, 1));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  await dvce.ok('up');
  const { port } = server.address() as AddressInfo;
  const running = dvce.begin(['image', 'import', `http://127.0.0.1:${port}/x.raw`, 'slow']);
  await until('the download', () => asked > 0);
  const [operation] = await dvce.json<Operation[]>('op list --running');
  t.match(operation, { kind: 'image.import', mayCancel: true, resources: ['/v1/images/slow'] });
  await fails(t, dvce, 'image import /etc/hostname slow', codeOf.exists, /slow exists already/);
  running.child.kill('SIGINT');
  const { code, stderr } = await running.ended;
  t.equal(code, codeOf.interrupted, stderr);
  t.match(stderr, /cancelled/);
  t.match(await dvce.json<Operation>(`op show ${operation?.id}`), { status: 'cancelled' });
  t.strictSame(await dvce.json('volume list --all'), []);
  t.strictSame(readdirSync(join(dvce.data, 'tmp')), [], 'no temporary file stays');
});

t.test(
  'a VM from its creation to its end, its console, and the agent killed meanwhile',
  needs('qemu-system-x86_64'),
  async (t) => {
    const dvce = freshDvce(t);
    await dvce.ok('up');
    // SeaBIOS finds nothing to boot and says so on the serial console: enough of a guest.
    const pattern = ['--ready-pattern', 'No bootable device'];
    const create = ['vm', 'create', 'web1', '--disk', '/web1,16MiB', '--memory', '64MiB'];
    const policies = ['--network', 'none', '--on-crash', 'hold'];
    t.equal((await dvce.run([...create, ...policies, ...pattern])).code, 0);
    await fails(t, dvce, 'vm create web1', codeOf.exists, /vm web1 exists already/);
    t.match(await dvce.ok('vm start web1 --ready'), /ready: the console showed the pattern/);
    const vm = await dvce.json<Vm>('vm show web1');
    fits(t, 'Vm', vm);
    t.match(vm, { phase: 'running', desired: 'running', ready: 'pattern' });
    t.match(await dvce.ok('vm list'), /web1 +running +pattern/);
    t.match(await dvce.ok('vm log web1 --tail 3'), /No bootable device/);
    t.match((await dvce.cli('console web1', { input: '' })).stderr, /leave with Ctrl-\]/);
    const detached = await dvce.cli('console web1', { input: 'x\u001d' });
    t.match(detached, { code: 0, stderr: /Detached/ });
    await fails(t, dvce, 'vm start web1', codeOf.conflict, /it runs/);
    await fails(t, dvce, 'vm delete web1 --yes', codeOf.conflict, /Stop it first/);
    await fails(t, dvce, 'down', codeOf.conflict, /--stop-vms/);
    await fails(t, dvce, 'volume delete /web1 --yes', codeOf.conflict, /disk of VM web1/);
    await dvce.ok('snapshot create /web1@good');
    await fails(t, dvce, 'snapshot rollback /web1@good --yes', codeOf.conflict, /in use/);

    await t.test(
      'the agent ends although a console is open, and the console says so',
      async (t) => {
        const viewer = dvce.begin(['console', 'web1']);
        await until('the console', () => viewer.stderr().includes('Connected'));
        const pid = dvce.agentPid();
        process.kill(pid, 'SIGTERM');
        await until('the agent has ended', () => !isAlive(pid), 10_000);
        t.match(await viewer.ended, { code: 0, stderr: /The console was closed/ });
        await dvce.ok('up');
      },
    );

    await t.test('the agent is killed: the guest runs on and is found again', async (t) => {
      const killed = dvce.agentPid();
      process.kill(killed, 'SIGKILL');
      await until('it is gone', () => !isAlive(killed));
      t.ok(isAlive(vm.pid ?? 0), 'the guest runs');
      await dvce.ok('up');
      t.match(await dvce.json<Vm>('vm show web1'), {
        phase: 'running',
        pid: vm.pid,
        ready: 'pattern',
      });
    });

    await t.test('N7 a VM document that cannot be read changes nothing', async (t) => {
      const directory = join(dvce.data, 'store/state/vms/web1@');
      const path = join(directory, readdirSync(directory).sort().at(-1) ?? '');
      const text = readFileSync(path, 'utf8');
      process.kill(dvce.agentPid(), 'SIGKILL');
      writeFileSync(path, text.slice(0, -20));
      await dvce.ok('up');
      t.ok(isAlive(vm.pid ?? 0), 'the guest runs on');
      const status = await dvce.cli('status');
      t.equal(status.code, codeOf.unhealthy);
      t.match(status.stdout, /VM web1 is unreadable/);
      await fails(t, dvce, 'vm stop web1', codeOf.failed, /cannot be read/);
      t.ok(isAlive(vm.pid ?? 0));
      writeFileSync(path, text);
      t.match(await dvce.json<Vm>('vm show web1'), { phase: 'running', pid: vm.pid });
    });

    await t.test(
      'killed hypervisor: crashed, said by the status, held by its policy',
      async (t) => {
        process.kill(vm.pid ?? 0, 'SIGKILL');
        await until(
          'it is seen',
          async () => (await dvce.json<Vm>('vm show web1')).phase === 'crashed',
        );
        const status = await dvce.cli('status -o json');
        t.equal(status.code, codeOf.unhealthy);
        t.match(JSON.parse(status.stdout), {
          health: 'critical',
          causes: [{ code: 'VM_HELD', object: '/v1/vms/web1' }],
        });
        await dvce.ok('snapshot rollback /web1@good --yes');
        t.match(await dvce.ok('vm stop web1'), /is stopped/);
      },
    );

    t.match(await dvce.ok('vm start web1'), /is running/);
    t.match(await dvce.ok('vm stop web1 --timeout 200ms'), /ended hard/);
    t.match(await dvce.ok('vm delete web1 --dry-run'), /delete volume +\/web1 +made with the VM/);
    await dvce.ok('vm delete web1 --yes');
    t.equal(await dvce.ok('volume list -q'), '');
    t.match((await dvce.cli('down')).stderr, /have stopped/);
    t.equal(dvce.holder('lock'), undefined, 'blockd has ended');
    t.equal(dvce.holder('launcher.lock'), undefined, 'its launcher too');
  },
);

t.test('the agent is killed and restarted while a client does I/O', needs('fio'), async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  await dvce.ok('volume create /load --size 64MiB');
  const { blockd } = await dvce.json<Status>('status');
  const fio = spawn(
    'fio',
    [
      '--name=load',
      '--ioengine=nbd',
      `--uri=nbd+unix:///load?socket=${blockd?.nbdSocket}`,
      ...['--rw=randrw', '--bs=4k', '--size=64m', '--iodepth=4', '--verify=crc32c'],
      ...['--time_based', '--runtime=6', '--output-format=json', '--rate_iops=2000'],
    ],
    { cwd: dvce.directory, stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let output = '';
  fio.stdout.on('data', (bytes: Buffer) => {
    output += bytes.toString();
  });
  fio.stderr.on('data', (bytes: Buffer) => {
    output += bytes.toString();
  });
  const ended = new Promise<number | null>((resolve) => fio.on('close', resolve));
  const written = async (): Promise<number> =>
    (await dvce.json<Volume>('volume show /load')).open?.writes ?? 0;
  await until('the load', async () => (await written()) > 100);
  process.kill(dvce.agentPid(), 'SIGKILL');
  await until('it is gone', () => dvce.holder('agent.lock') === undefined);
  t.equal(fio.exitCode, null, 'the client works without an agent');
  await dvce.ok('up');
  const now = await written();
  await until('the load goes on', async () => (await written()) > now);
  t.equal((await dvce.json<Status>('status')).blockd?.pid, blockd?.pid, 'blockd is the same');
  t.equal(await ended, 0, 'every block is what was written', { output });
});

t.test('down after the agent was killed stops blockd too', async (t) => {
  const dvce = freshDvce(t);
  await dvce.ok('up');
  process.kill(dvce.agentPid(), 'SIGKILL');
  await until('it is gone', () => dvce.holder('agent.lock') === undefined);
  t.ok(dvce.holder('lock'), 'blockd outlives the agent');
  t.match((await dvce.cli('down')).stderr, /blockd has stopped/);
  t.equal(dvce.holder('lock'), undefined);
  t.equal(dvce.holder('launcher.lock'), undefined);
});
