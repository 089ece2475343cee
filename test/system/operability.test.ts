/**
 * A host as an operator and a monitoring system see it: metrics, readiness, causes with their time and advice, logs and support
 * bundles without secrets; with blockd, a guest and the agent killed in the middle.
 */
// limit: 180 s
import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  globSync,
  mkdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:https';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Status, Vm } from '../../src/api/index.ts';
import { isAlive, until } from '../support/blockd-process.ts';
import { type Dvce, freshDvce } from '../support/dvce.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { type Metrics, parseMetrics } from '../support/prometheus.ts';

t.setTimeout(180_000);
const missing = ['qemu-system-x86_64', 'tar'].filter(
  (tool) => spawnSync(tool, ['--version']).error !== undefined,
);
const skip = missing.length > 0 ? `needs ${missing.join(', ')}` : false;
const marker = 'MARKb7f1PLANTED';
const planted = 'MARKc9e2INALOG';
const blockBytes = 4096;

const freePort = (): Promise<number> =>
  new Promise((done, reject) => {
    const server = createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => done(typeof address === 'object' && address !== null ? address.port : 0));
    });
  });

/** What a monitoring system gets over HTTPS. */
function ask(
  port: number,
  path: string,
  token?: string,
): Promise<{ status: number; body: string }> {
  return new Promise((done, reject) => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    request(
      { host: '127.0.0.1', port, path, headers, rejectUnauthorized: false, agent: false },
      (answer) => {
        let body = '';
        answer.setEncoding('utf8').on('data', (part: string) => {
          body += part;
        });
        answer.on('end', () => done({ status: answer.statusCode ?? 0, body }));
      },
    )
      .on('error', reject)
      .end();
  });
}

const metricsOf = async (dvce: Dvce): Promise<Metrics> => parseMetrics(await dvce.ok('metrics'));
/** Ends with 2 when something is wrong, and says what all the same. */
const statusOf = async (dvce: Dvce): Promise<Status> =>
  JSON.parse((await dvce.cli('status -o json')).stdout) as Status;
const causeOf = ({ causes }: Status, code: string) => causes.find((one) => one.code === code);

/** Content of a bundle, part by part. */
function unpack(t: Test, path: string): Map<string, string> {
  const folder = t.testdir();
  execFileSync('tar', ['--extract', '--gzip', `--file=${path}`, `--directory=${folder}`]);
  const files = globSync(`${folder}/*/**/*`).filter((file) => statSync(file).isFile());
  return new Map(
    files.map((file) => [
      file.slice(folder.length + 1).replace(/^[^/]*\//, ''),
      readFileSync(file, 'utf8'),
    ]),
  );
}

/** Processes of this data directory. */
const ownProcesses = (data: string): string[] =>
  globSync('/proc/[0-9]*').filter((path) => {
    try {
      return readFileSync(`${path}/cmdline`, 'utf8').includes(data);
    } catch {
      return false; // it has ended
    }
  });

t.test('a host as it is watched', { skip }, async (t) => {
  const port = await freePort();
  const dvce = freshDvce(t, { DVCE_API_LISTEN: `127.0.0.1:${port}` });
  await dvce.ok('up');

  await t.test('metrics agree with what was done', async (t) => {
    await dvce.ok('volume create /prod/db --size 64MiB');
    const nbd = await RawNbd.connect({ path: join(dvce.data, 'run/nbd.sock') }, '/prod/db');
    for (let at = 0; at < 8; at += 1)
      await nbd.write(at * blockBytes, Buffer.alloc(blockBytes, at));
    await nbd.read(0, blockBytes);
    await nbd.flush();
    const metrics = await metricsOf(dvce);
    const name = { volume: '/prod/db' };
    t.equal(metrics.value('dvce_blockd_up'), 1);
    t.equal(metrics.value('dvce_health_ok'), 1);
    t.equal(metrics.value('dvce_volume_writes_total', name), 8);
    t.equal(metrics.value('dvce_volume_write_bytes_total', name), 8 * blockBytes);
    t.equal(metrics.value('dvce_volume_flushes_total', name), 1);
    t.equal(metrics.value('dvce_dirty_bytes', name), 8 * blockBytes, 'in the journal alone so far');
    t.ok((metrics.value('dvce_journal_written_bytes_total', name) ?? 0) > 8 * blockBytes);
    t.ok((metrics.value('dvce_flush_lag_seconds', name) ?? 0) > 0);
    const op = { op: 'write' };
    const writes = metrics.value('dvce_nbd_request_duration_seconds_count', op);
    t.equal(writes, 8, 'requests of the relay are counted once');
    t.ok((metrics.value('dvce_nbd_request_duration_seconds_sum', op) ?? 0) > 0);
    t.ok((metrics.value('dvce_store_free_bytes') ?? 0) > 0);
    await nbd.disconnect();
    await dvce.ok('snapshot create /prod/db@s1');
    const published = (await metricsOf(dvce)).value('dvce_log_write_amplification_ratio', name);
    t.ok((published ?? 0) > 1, `a snapshot publishes: ${published}`);
  });

  let token = '';
  await t.test('over HTTPS everybody may ask for life, and a token for metrics', async (t) => {
    t.strictSame(await ask(port, '/livez'), { status: 200, body: 'ok\n' });
    t.match(await ask(port, '/readyz?verbose'), { status: 200, body: /^\[\+\]blockd ok$/m });
    t.equal((await ask(port, '/metrics')).status, 401);
    await dvce.ok('token create --name watcher --role viewer --expires 1h --out watcher.token');
    token = readFileSync(join(dvce.directory, 'watcher.token'), 'utf8').trim();
    const answer = await ask(port, '/metrics', token);
    t.equal(answer.status, 200);
    t.equal(parseMetrics(answer.body).value('dvce_blockd_up'), 1);
  });

  const secrets = new Map<string, string>();
  let vm = {} as Vm;
  await t.test('secrets are given to the host', async (t) => {
    writeFileSync(join(dvce.directory, 'user-data'), `#cloud-config\npassword: ${marker}\n`);
    await dvce.ok(
      'vm create web1 --disk /web1,64MiB --memory 64MiB --net none --vnc --on-crash hold --user-data user-data',
    );
    await dvce.ok('vm start web1');
    vm = await dvce.json<Vm>('vm show web1');
    const password = readFileSync(join(dvce.data, 'run/vm', vm.id, 'vnc-password'), 'utf8').trim();
    for (const source of [
      `https://joe:${marker}@127.0.0.1:1/x.img`,
      `https://127.0.0.1:1/x.img?token=${marker}`,
      `nbd://joe:${marker}@127.0.0.1:1/x`,
      // No address to the program: only what looks at every line and every answer takes this one out.
      `/srv/https://joe:${marker}@127.0.0.1/x.img`,
    ]) {
      const { code, stdout, stderr } = await dvce.run(['image', 'import', source, 'x']);
      t.not(code, 0, source.replace(marker, '...'));
      t.notOk(`${stdout}${stderr}`.includes(marker), 'not even said to who gave it');
    }
    const key = readFileSync(join(dvce.data, 'state/tls/api.key'), 'utf8').split('\n')[1] ?? '';
    secrets.set('user data or URL', marker);
    secrets.set('VNC password', password);
    secrets.set('token', token.split('_').slice(2).join('_'));
    secrets.set('TLS key', key);
    for (const [name, secret] of secrets) t.ok(secret.length >= 6, `${name} is one`);
  });

  await t.test('they are in no log, command line, environment, bundle', async (t) => {
    // A line that carries one along, whoever wrote it: the bundle looks once more at everything.
    appendFileSync(
      join(dvce.data, 'log/launcher.log'),
      `{"level":30,"msg":"GET https://joe:${planted}@h/"}\n`,
    );
    const bundle = join(dvce.directory, 'fault.tar.gz');
    await dvce.ok(`support-bundle ${bundle}`);
    t.equal(statSync(bundle).mode & 0o777, 0o600);
    const parts = unpack(t, bundle);
    for (const part of [
      'api/status.json',
      'api/doctor.json',
      'api/config.json',
      'api/vms.json',
      'api/operations.json',
      'metrics.txt',
      'events.txt',
      'host.json',
      'files.txt',
      'log/agent.log',
      'log/blockd.log',
      'manifest.json',
    ])
      t.ok((parts.get(part) ?? '').length > 1, `${part} is in it`);
    t.notOk(
      [...parts.keys()].some((part) => part.includes('console')),
      'what guests say is theirs',
    );
    t.match(parts.get('events.txt'), /event: vm\./);
    const logs = globSync(`${dvce.data}/log/**/*`).filter((path) => statSync(path).isFile());
    t.ok(logs.length >= 3);
    const own = ownProcesses(dvce.data);
    t.ok(own.length >= 4, `agent, launcher, blockd, hypervisor: ${own.length}`);
    const places = [
      ...[...parts].map(([part, text]) => [`bundle: ${part}`, text] as const),
      ...[...logs, ...own.flatMap((path) => [`${path}/cmdline`, `${path}/environ`])].map(
        (path) => [path, readFileSync(path, 'utf8')] as const,
      ),
    ];
    for (const [name, secret] of secrets)
      t.strictSame(
        places.filter(([, text]) => text.includes(secret)).map(([place]) => place),
        [],
        `nowhere: ${name}`,
      );
    const second = [...parts].filter(([part]) => part.startsWith('log/launcher'));
    t.match(second, [[/./, /GET https:/]], 'the line is in the bundle');
    t.notOk(
      [...parts.values()].some((text) => text.includes(planted)),
      'without its secret',
    );
    const again = await dvce.cli(`support-bundle ${bundle}`);
    t.equal(again.code, 3, 'nothing is overwritten');
  });

  await t.test(
    'kill -9 of blockd: what is wrong, since when, what to do; then well again',
    async (t) => {
      const launcher = dvce.holder('launcher.lock') ?? 0;
      const blockd = dvce.holder('lock') ?? 0;
      const beforeMs = Date.now();
      process.kill(launcher, 'SIGSTOP');
      t.teardown(() => isAlive(launcher) && process.kill(launcher, 'SIGCONT'));
      process.kill(blockd, 'SIGKILL');
      await until('it is gone', () => dvce.holder('lock') === undefined);
      const status = await statusOf(dvce);
      const down = causeOf(status, 'BLOCKD_DOWN');
      t.match(status, { health: 'critical', blockd: null });
      t.match(down, {
        severity: 'critical',
        text: /blockd does not answer/,
        advice: /dvce doctor/,
      });
      const sinceMs = Date.parse(down?.since ?? '');
      t.ok(sinceMs >= beforeMs - 1 && sinceMs <= Date.now(), `since ${down?.since}`);
      const said = await dvce.cli('status');
      t.equal(said.code, 2);
      t.match(said.stdout, /blockd does not answer: .* \(since \d{4}-/);
      t.match(said.stdout, /dvce doctor/);
      const ready = await ask(port, '/readyz');
      t.match(ready, { status: 503, body: /^\[-\]blockd failed: it does not answer$/m });
      t.match(await ask(port, '/livez'), { status: 200 });
      const metrics = await metricsOf(dvce);
      t.equal(metrics.value('dvce_blockd_up'), 0);
      t.equal(
        metrics.value('dvce_health_causes', { code: 'BLOCKD_DOWN', severity: 'critical' }),
        1,
      );
      t.equal(metrics.value('dvce_vms', { phase: 'running' }), 1, 'as it was seen last');
      t.equal(causeOf(await statusOf(dvce), 'BLOCKD_DOWN')?.since, down?.since, 'the time stays');

      process.kill(launcher, 'SIGCONT');
      await until('blockd is back', async () => (await statusOf(dvce)).health === 'ok');
      t.match(await ask(port, '/readyz'), { status: 200, body: 'ok\n' });
      t.equal((await metricsOf(dvce)).value('dvce_blockd_restarts_total'), 1);
    },
  );

  await t.test('kill -9 of a guest, then of the agent: the cause keeps its time', async (t) => {
    process.kill(vm.pid ?? 0, 'SIGKILL');
    const seen = await until('it is seen', async () => {
      const status = await statusOf(dvce);
      return causeOf(status, 'VM_HELD') ?? causeOf(status, 'VM_CRASHED');
    });
    t.match(seen, { object: '/v1/vms/web1', advice: /dvce vm log web1/ });
    const agent = dvce.agentPid();
    process.kill(agent, 'SIGKILL');
    await until('it is gone', () => !isAlive(agent));
    await dvce.ok('up');
    const after = await statusOf(dvce);
    t.equal(causeOf(after, seen.code)?.since, seen.since);
    await dvce.ok('vm delete web1 --yes');
    t.match(await statusOf(dvce), { health: 'ok', causes: [] });
    const told = await dvce.ok('support-bundle second.tar.gz');
    t.match(told, /second\.tar\.gz/);
    const events = unpack(t, join(dvce.directory, 'second.tar.gz')).get('events.txt') ?? '';
    t.match(events, /"change":"cleared","code":"VM_(HELD|CRASHED)"/, 'told to whoever listens');
    t.notMatch(events, /"change":"raised","code":"VM_/, 'not raised again by the new agent');
  });

  await t.test(
    'without an agent a bundle has what there is, and says what it has not',
    async (t) => {
      await dvce.ok('down');
      const { code, stderr } = await dvce.cli('support-bundle third.tar.gz');
      t.equal(code, 0);
      t.match(stderr, /not in it: api\/status\.json: the agent does not answer/);
      const parts = unpack(t, join(dvce.directory, 'third.tar.gz'));
      t.ok(parts.has('log/agent.log') && parts.has('host.json'));
      t.match(JSON.parse(parts.get('manifest.json') ?? '{}').missing, [/status/]);
      const bad = await dvce.cli(`support-bundle ${dvce.directory}/no/such/x.tar.gz`);
      t.equal(bad.code, 1);
      t.match(bad.stderr, /no such|No such|does not exist|Cannot open/);
      mkdirSync(join(dvce.directory, 'dir'));
      t.equal((await dvce.cli('support-bundle dir')).code, 3);
    },
  );
});
