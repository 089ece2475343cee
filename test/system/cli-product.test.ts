// limit: 180 s
/** The command line as a product: formats, dry runs, waiting, Ctrl-C, a killed agent, settings; against real processes. */
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { parse } from 'yaml';
import type { Operation, Volume } from '../../src/api/index.ts';
import { exitCodes } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce, projectRoot } from '../support/dvce.ts';
import { RawNbd } from '../support/nbd-raw.ts';

t.setTimeout(180_000);
const hasScript = spawnSync('script', ['--version']).error === undefined;

/** A server whose download never ends: an operation for as long as one likes. */
async function endless(t: Test): Promise<{ url: string; asked: () => number }> {
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
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}/x.raw`, asked: () => asked };
}

const running = (dvce: Dvce): Promise<Operation[]> => dvce.json<Operation[]>('op list --running');

t.test('one agent, from its configuration to its end', async (t) => {
  const dvce = freshDvce(t);
  const file = join(dvce.directory, 'dvce.yaml');
  const environment = { DVCE_CONFIG: file };
  const run = (line: string) => dvce.cli(line, { environment, input: '' });
  writeFileSync(file, 'vm:\n  cpus: 2\n  memroy: 64MiB\n');

  await t.test('a mistake in the configuration keeps everything from starting', async (t) => {
    for (const line of ['agent', 'blockd', 'up', 'config check']) {
      const { code, stdout, stderr } = await run(line);
      t.not(code, 0, line);
      t.match(`${stdout}${stderr}`, `${file}:3:3`, line);
      t.match(`${stdout}${stderr}`, /Did you mean memory\?/, line);
    }
    t.equal(dvce.holder('agent.lock'), undefined);
  });

  writeFileSync(
    file,
    'vm:\n  cpus: 2\n  memory: 64MiB\nblockd: {workers: 1}\nlog: {level: warn}\n',
  );
  t.equal((await run('up')).code, 0);

  await t.test('settings reach agent and blockd, and are reloaded', async (t) => {
    const vm = JSON.parse((await run('vm create one -o json')).stdout) as { cpus: number };
    t.equal(vm.cpus, 2);
    const status = JSON.parse((await run('status -o json')).stdout) as {
      blockd: { workers: number };
    };
    t.equal(status.blockd.workers, 1);
    writeFileSync(file, 'vm:\n  cpus: 3\nblockd: {workers: 2}\n');
    t.match((await run('config reload --dry-run')).stdout, /vm\.cpus/);
    t.match((await run('config reload')).stdout, /Taken over: .*vm\.cpus/);
    writeFileSync(file, 'vm:\n  cpus: many\n');
    t.match(await run('config reload'), { code: exitCodes.usage, stderr: /dvce\.yaml:2:3/ });
    const next = JSON.parse((await run('vm create two -o json')).stdout) as { cpus: number };
    t.equal(next.cpus, 3, 'what held goes on');
    writeFileSync(file, 'vm: {cpus: 4}\n');
    process.kill(dvce.agentPid(), 'SIGHUP');
    await until('SIGHUP is heard', async () => {
      const { stdout } = await run('api GET /v1/config');
      return /"vm.cpus",\s+"value": 4/.test(stdout);
    });
  });

  await t.test('one list in every format', async (t) => {
    await dvce.ok('volume create /prod/db --size 64MiB --label tier=gold');
    await dvce.ok('volume create /prod/web --size 32MiB --protect');
    const json = await dvce.json<Volume[]>('volume list');
    t.strictSame(parse(await dvce.ok('volume list -o yaml')), json);
    t.match(
      await dvce.ok('volume list -o csv --columns path,size'),
      'path,size\r\n/prod/db,67108864\r\n',
    );
    t.equal(await dvce.ok('volume list -o name --sort size'), '/prod/web\n/prod/db\n');
    t.equal(await dvce.ok('volume list -o name --filter labels.tier=gold'), '/prod/db\n');
    t.match(await dvce.ok('volume list -o wide'), /ID/);
    const { stdout, stderr } = await dvce.cli('volume list --debug --no-headers');
    t.match(stderr, /^debug: GET \/v1\/volumes\S* -> 200 in \d+ ms/m);
    t.match(stdout, /^\/prod\/db +64MiB/);
  });

  await t.test('a dry run of each change changes nothing', async (t) => {
    const before = await dvce.ok('volume list -o json');
    const lines = [
      'volume create /new --size 1MiB',
      'volume clone /prod/db /copy',
      'volume rename /prod/db /prod/x',
      'volume update /prod/web --no-protect',
      'volume resize /prod/db --size 128MiB',
      'volume delete /prod/db',
      'volume check /prod/db',
      'snapshot create /prod/db@one',
      'vm create three --disk /three,1MiB',
      'vm start one',
      'vm delete one',
      'down',
    ];
    for (const line of lines) {
      const { code, stdout, stderr } = await dvce.cli(`${line} --dry-run`, { input: '' });
      t.equal(code, 0, `${line}: ${stderr}`);
      t.match(stdout, /^ACTION/, line);
      t.match(stderr, /Nothing was changed/, line);
    }
    t.equal(await dvce.ok('volume list -o json'), before);
    t.strictSame(await running(dvce), []);
    t.match(await dvce.cli('volume create /prod/db --size 1MiB --dry-run'), {
      code: exitCodes.exists,
    });
    // What the change would be refused for its dry run is refused for, with the same exit code.
    await dvce.ok('volume create /refused --size 2MiB --protect');
    await dvce.ok('snapshot create /refused@kept --protect');
    for (const line of [
      'volume delete /refused',
      'snapshot delete /refused@kept',
      'volume resize /refused --size 1MiB',
      'snapshot rollback /refused@nothing',
      'image delete nothing',
      'vm delete nothing',
    ]) {
      const dry = await dvce.cli(`${line} --dry-run`, { input: '' });
      const real = await dvce.cli(line.includes('resize') ? line : `${line} --yes`, { input: '' });
      t.not(dry.code, 0, line);
      t.equal(dry.code, real.code, line);
      t.match(dry.stderr, /^error: /m, line);
    }
    t.match(await dvce.ok('volume show /refused'), /2MiB/);
    // The address of an export is one that a client can use: its name begins with a slash, which the one of the URI is not.
    await dvce.ok('volume create /shown --size 1MiB');
    const address = new URL((await dvce.ok('volume export /shown --socket')).trim());
    const client = await RawNbd.connect(
      { path: address.searchParams.get('socket') ?? '' },
      decodeURIComponent(address.pathname.slice(1)),
    );
    await client.disconnect();
    await dvce.shell('dvce volume exports -o name | xargs -r -n1 dvce volume unexport');
    t.match(await dvce.cli('api GET /v1/volumes?dryRun=true'), { code: exitCodes.failed });
  });

  await t.test('waiting: no wait, time over, an event, its log', async (t) => {
    const { url, asked } = await endless(t);
    const id = (await dvce.ok(`image import ${url} slow --no-wait`)).trim();
    await until('the download', () => asked() > 0);
    const late = await dvce.cli(`op wait ${id} --timeout 300ms`);
    t.equal(late.code, exitCodes.timedOut, late.stderr);
    t.match((await running(dvce))[0], { id });
    t.equal((await dvce.cli(`op log ${id}`)).code, 0);
    await dvce.ok(`op cancel ${id}`);
    const event = await dvce.ok('event --types operation.* --since 0 --limit 1 -o json');
    t.match(JSON.parse(event), { resource: /^\/v1\/operations\// });
    await until('its end', async () => (await running(dvce)).length === 0);
    t.equal((await dvce.cli(`op wait ${id}`)).code, exitCodes.interrupted);
  });

  await t.test(
    'Ctrl-C at a terminal asks; d lets it go on, twice is 130',
    { skip: hasScript ? false : 'needs script' },
    async (t) => {
      const { url, asked } = await endless(t);
      for (const [name, keys] of [
        ['ask', ['\u0003', 'd\n']],
        ['twice', ['\u0003', '\u0003']],
      ] as const) {
        const before = asked();
        const terminal = spawn(
          'script',
          ['-qec', `${join(projectRoot, 'bin/dvce')} image import ${url} ${name}`, '/dev/null'],
          { env: { ...process.env, DVCE_DATA_DIR: dvce.data, NO_COLOR: '1' }, stdio: 'pipe' },
        );
        let shown = '';
        terminal.stdout.on('data', (bytes: Buffer) => {
          shown += bytes.toString();
        });
        const ended = new Promise<number | null>((resolve) => terminal.on('close', resolve));
        await until('the download', () => asked() > before && shown.includes('image.import'));
        terminal.stdin.write(keys[0]);
        await until('the question', () => shown.includes('keep waiting?'));
        terminal.stdin.write(keys[1]);
        t.equal(await ended, exitCodes.interrupted, shown);
        t.equal((await running(dvce)).length, 1, 'the operation goes on');
        const [operation] = await running(dvce);
        await dvce.ok(`op cancel ${operation?.id}`);
        await until('its end', async () => (await running(dvce)).length === 0);
      }
    },
  );

  await t.test('the agent is killed while a command waits', async (t) => {
    const { url, asked } = await endless(t);
    const waiting = dvce.begin(['image', 'import', url, 'lost']);
    await until('the download', () => asked() > 0);
    const [operation] = await running(dvce);
    process.kill(dvce.agentPid(), 'SIGKILL');
    const { code, stderr, stdout } = await waiting.ended;
    t.equal(code, exitCodes.unhealthy, stderr);
    t.match(stderr, `operation ${operation?.id} (image.import) was under way`);
    t.match(stderr, `dvce op show ${operation?.id}`);
    t.equal(stdout, '');
    await dvce.ok('up');
    t.match(await dvce.json<Operation>(`op show ${operation?.id}`), { status: 'failed' });
    t.strictSame(await dvce.json('image list'), [], 'nothing half done is left');
  });

  await t.test('top tells rates once', async (t) => {
    const rates = JSON.parse(await dvce.ok('top --once --interval 100ms -o json')) as object;
    t.match(rates, { vms: [{ name: 'one', cpuPercent: null }, { name: 'two' }], volumes: [] });
  });
  t.match(readFileSync(file, 'utf8'), /cpus: 4/, 'nothing of this writes the configuration');
});
