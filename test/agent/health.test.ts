/** Causes of health: each from what was seen, with its time, its events, and over a restart of the agent. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { causesOf, type Seen } from '../../src/agent/health-causes.ts';
import { addHealthSources, type HealthParts } from '../../src/agent/health-sources.ts';
import type { HealthCause, Vm } from '../../src/api/index.ts';
import { causeTable } from '../../src/api/schema/index.ts';
import { DvceError, limits } from '../../src/base/index.ts';
import { agentOnFakes } from '../support/agent-on-fakes.ts';
import { figures, volumeFigures } from '../support/blockd-figures.ts';

const alive = setInterval(() => {}, 1000);
t.teardown(() => clearInterval(alive));

const well: Seen = {
  blockd: figures(),
  store: '/store',
  blockdStarts: 1,
  vms: [],
  missingHypervisor: undefined,
  clockJump: undefined,
  certificates: [],
};
const vm = (phase: Vm['phase'], detail: string | null = null, held: string | null = null): Vm =>
  ({ name: 'web1', phase, detail, held }) as unknown as Vm;
const volume = (change: object) => figures({ volumes: [{ ...volumeFigures, ...change }] });
const away = new DvceError('BLOCKD_UNAVAILABLE', { where: '/x', reason: 'gone' });

t.test('nothing is wrong where nothing is wrong', async (t) => {
  t.strictSame(causesOf(well), []);
  t.strictSame(causesOf({ ...well, missingHypervisor: 'qemu' }), [], 'nobody needs one');
  t.strictSame(causesOf({ ...well, vms: [vm('running'), vm('stopped'), vm('paused')] }), []);
  t.strictSame(causesOf({ ...well, certificates: [{ path: '/c', leftMs: 1e12 }] }), []);
});

t.test('each cause, from what shows it', async (t) => {
  const reserve = limits.storeReserveBytes;
  const space = (freeBytes: number) => figures({ store: { freeBytes, totalBytes: 1e12 } });
  const cases: readonly (readonly [string, Partial<Seen>, RegExp])[] = [
    ['BLOCKD_DOWN', { blockd: { failure: 'no answer' } }, /no answer/],
    ['BLOCKD_RESTARTING', { blockdStarts: 3 }, /started 3 times within 10m/],
    ['STORE_NEARLY_FULL', { blockd: space(reserve * 1.5) }, /only 384MiB left/],
    ['STORE_FULL', { blockd: space(reserve) }, /guests may not use it/],
    ['STORE_FULL', { blockd: volume({ publishingWaits: 'NO_SPACE' }) }, /only/],
    ['STORE_UNAVAILABLE', { blockd: volume({ publishingWaits: 'TIMED_OUT' }) }, /TIMED_OUT/],
    ['VOLUME_READ_ONLY', { blockd: volume({ readOnlyReason: 'it crashed' }) }, /it crashed/],
    [
      'VOLUME_UNOPENED',
      { blockd: figures({ unopened: [{ path: '/a', vm: 'web1', code: 'X', reason: 'bad' }] }) },
      /\/a of web1 cannot be opened: bad/,
    ],
    ['JOURNAL_FAILING', { blockd: volume({ journalFailedFiles: 2 }) }, /2 journal files/],
    ['FLUSH_LAG_HIGH', { blockd: volume({ flushLagMs: 90_001 }) }, /more than 1m30s/],
    ['VM_CRASHED', { vms: [vm('crashed', 'killed')] }, /VM web1 crashed: killed/],
    [
      'VM_HELD',
      { vms: [vm('crashed', 'too often', 'too often')] },
      /crashed and is held: too often/,
    ],
    ['VM_IO_ERROR', { vms: [vm('io-error')] }, /waits for its disk/],
    ['VM_UNREADABLE', { vms: [vm('unreadable', 'no JSON')] }, /VM web1 is unreadable: no JSON/],
    ['HYPERVISOR_MISSING', { missingHypervisor: 'qemu', vms: [vm('stopped')] }, /qemu/],
    ['CLOCK_JUMPED', { clockJump: { atMs: 0, byMs: -3_600_000 } }, /back by 1h/],
    ['CERTIFICATE_EXPIRING', { certificates: [{ path: '/c', leftMs: 86_400_001 }] }, /within 2d/],
    ['CERTIFICATE_EXPIRED', { certificates: [{ path: '/c', leftMs: 0 }] }, /\/c has expired/],
  ];
  for (const [code, change, text] of cases) {
    const found = causesOf({ ...well, ...change });
    t.equal(found.length, 1, code);
    t.match(found[0], { code, text, severity: causeTable[code as 'VM_HELD'].severity });
    t.ok((found[0]?.advice ?? '').length > 10, `${code} has advice`);
  }
});

t.test('figures of an older blockd raise nothing', async (t) => {
  const old = { ...volumeFigures } as Record<string, unknown>;
  for (const name of ['journalFailedFiles', 'publishingWaits', 'dirtyBytes']) delete old[name];
  t.strictSame(causesOf({ ...well, blockd: volume(old) }), []);
});

t.test('a cause comes and goes with events; since outlives the agent', async (t) => {
  const root = mkdtempSync('/tmp/dvce-hlt-');
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  let nowMs = Date.parse('2026-01-01T10:00:00Z');
  let monotonicMs = 0;
  const clock = { wallMs: () => nowMs, monotonicMs: () => monotonicMs };
  const pass = (ms: number): void => {
    nowMs += ms;
    monotonicMs += ms;
  };
  const first = await agentOnFakes(t, { root, clock });
  const told: unknown[] = [];
  first.agent.events.follow(
    undefined,
    ['node.*'],
    ({ type, data }) => told.push([type, data['change'], data['code']]),
    () => {},
  );
  first.blockd.figures = figures();
  t.equal((await first.agent.status()).health, 'ok');
  first.blockd.figures = away;
  pass(1000);
  const bad = await first.agent.status();
  t.equal(bad.health, 'critical');
  t.equal(bad.blockd, null);
  const [since] = bad.causes.map((one: HealthCause) => one.since);
  t.equal(since, '2026-01-01T10:00:01.000Z');
  pass(60_000);
  t.equal((await first.agent.status()).causes[0]?.since, since, 'the time stays');
  t.strictSame(told, [['node.health', 'raised', 'BLOCKD_DOWN']], 'told once');
  await first.close();

  pass(60_000);
  const second = await agentOnFakes(t, { root, clock });
  const toldAgain: unknown[] = [];
  second.agent.events.follow(
    undefined,
    ['node.*'],
    ({ data }) => toldAgain.push([data['change'], data['code']]),
    () => {},
  );
  second.blockd.figures = away;
  t.equal((await second.agent.status()).causes[0]?.since, since, 'after a restart too');
  second.blockd.figures = figures();
  t.match(await second.agent.status(), { health: 'ok', causes: [] });
  t.strictSame(toldAgain, [['cleared', 'BLOCKD_DOWN']], 'not raised a second time');
  second.blockd.figures = away;
  pass(1000);
  t.not((await second.agent.status()).causes[0]?.since, since, 'it came anew');
  await second.close();

  const path = join(root, 'state/health.json');
  for (const text of ['', '{"format":1}', '[]', '{"format":2,"causes":[],"blockd":[]}']) {
    writeFileSync(path, text);
    const third = await agentOnFakes(t, { root, clock });
    third.blockd.figures = away;
    t.equal((await third.agent.status()).causes.length, 1, `a file with ${JSON.stringify(text)}`);
    await third.close();
  }
  t.match(JSON.parse(readFileSync(path, 'utf8')), { format: 1, causes: [{ code: 'BLOCKD_DOWN' }] });
});

t.test(
  'a blockd that is started again and again, and one that was stopped on purpose',
  async (t) => {
    const first = await agentOnFakes(t);
    const start = async (
      pid: number,
      { agent, blockd }: Pick<typeof first, 'agent' | 'blockd'> = first,
    ): Promise<readonly string[]> => {
      blockd.figures = figures({ process: { ...figures().process, pid } });
      return (await agent.status()).causes.map(({ code }) => code);
    };
    t.strictSame(await start(1), []);
    t.strictSame(await start(1), []);
    t.strictSame(await start(2), []);
    t.strictSame(await start(3), ['BLOCKD_RESTARTING']);
    t.equal(first.agent.health.blockdRestarts, 2);
    await first.agent.health.blockdStopped();
    await first.close();
    const second = await agentOnFakes(t, { root: first.root });
    t.strictSame(await start(4, second), [], 'not by the next agent either');
  },
);

t.test('the clock is set', async (t) => {
  let nowMs = 1e12;
  let monotonicMs = 0;
  const clock = { wallMs: () => nowMs, monotonicMs: () => monotonicMs };
  const { agent, blockd } = await agentOnFakes(t, { clock });
  blockd.figures = figures();
  const codes = async () =>
    (await agent.status()).causes.map(({ code, text }) => `${code} ${text}`);
  nowMs += 10_500;
  monotonicMs += 10_000;
  t.strictSame(await codes(), [], 'half a second is a clock that is slewed');
  nowMs += 3_600_000;
  t.strictSame(await codes(), ['CLOCK_JUMPED the clock was set forward by 1h']);
  nowMs += limits.clockJumpShownMs + 1;
  monotonicMs += limits.clockJumpShownMs + 1;
  t.strictSame(await codes(), []);
});

const openssl = (() => {
  try {
    execFileSync('openssl', ['version']);
    return false;
  } catch {
    return 'openssl is missing';
  }
})();
t.test('certificates that expire, or cannot be read', { skip: openssl }, async (t) => {
  const folder = t.testdir({ broken: 'no certificate' });
  const make = (name: string, days: string): string => {
    const path = join(folder, name);
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'],
        ...['-subj', '/CN=x', '-days', days, '-keyout', join(folder, 'key'), '-out', path],
      ],
      { stdio: 'ignore' },
    );
    return path;
  };
  const certificates = [make('soon', '3'), make('later', '300'), join(folder, 'broken')];
  const { agent, blockd } = await agentOnFakes(t, { certificates });
  blockd.figures = figures();
  const { causes } = await agent.status();
  t.strictSame(causes.map(({ code }) => code).sort(), [
    'CERTIFICATE_EXPIRED',
    'CERTIFICATE_EXPIRING',
  ]);
});

t.test('schedules, networks and capacity say what is wrong with them', async (t) => {
  const { agent, blockd } = await agentOnFakes(t);
  const parts = {
    blockd: {
      call: async () => ({
        damaged: [
          { path: '/bad', findings: [{ code: 'CHECK_MISSING', severity: 'error' }] },
          { path: '/odd', findings: [{ code: 'CHECK_BAD_COPY', severity: 'warning' }] },
        ],
        warnings: [
          { code: 'OVERCOMMIT', object: '/store', detail: 'too much', advice: 'watch it' },
          { code: 'QUOTA_NEARLY_USED', object: '/prod', detail: '95 %', advice: 'raise it' },
          { code: 'STORE_LOW', object: '/store', detail: 'low', advice: 'x' },
        ],
      }),
    },
    schedules: {
      list: async () => ({
        schedules: [
          { name: 'good', lastRun: { failed: 0, error: null } },
          { name: 'new', lastRun: null },
          { name: 'bad', lastRun: { failed: 2, error: null } },
        ],
        unreadable: [{ name: 'torn', reason: 'no JSON' }],
      }),
    },
    networks: { unreadable: async () => [{ name: 'lan', reason: 'no JSON' }] },
  };
  addHealthSources(agent.health, parts as unknown as HealthParts);
  blockd.figures = figures();
  const { causes, health } = await agent.status();
  t.equal(health, 'critical');
  t.strictSame(causes.map(({ code, object, severity }) => `${severity} ${code} ${object}`).sort(), [
    'critical DOCUMENT_DAMAGED /v1/networks/lan',
    'critical DOCUMENT_DAMAGED /v1/schedules/torn',
    'critical VOLUME_DAMAGED /v1/volumes/bad',
    'notice OVERCOMMITTED ',
    'notice OVERCOMMITTED /v1/quotas/%2Fprod',
    'warning SCHEDULE_FAILING /v1/schedules/bad',
  ]);
  t.match(causes.at(-1), { text: /95 %|too much/, advice: /watch it|raise it/ });
});

t.test('parts of others: their causes, their failures, their silence', async (t) => {
  const { agent, blockd } = await agentOnFakes(t);
  blockd.figures = figures();
  agent.health.addSource('schedules', async () => [
    {
      code: 'SCHEDULE_FAILING',
      object: '/v1/schedules/a',
      severity: 'warning',
      text: 'x',
      advice: 'y',
    },
  ]);
  agent.health.addSource('quotas', async () => {
    throw new DvceError('DOCUMENT_DAMAGED', { name: 'q', reason: 'r' });
  });
  t.match((await agent.status()).causes.map(({ code, text }) => `${code} ${text}`).sort(), [
    /^CHECK_FAILED quotas: document q cannot be read/,
    'SCHEDULE_FAILING x',
  ]);
  blockd.figures = away;
  t.notOk(
    (await agent.status()).causes.some(({ code }) => code === 'CHECK_FAILED'),
    'without blockd nobody can look, which is no news',
  );
});
