import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { examineHost } from '../../src/agent/index.ts';
import { DvceError, type FileSystem, nodeFileSystem } from '../../src/base/index.ts';
import { FakeBlockd, FakeHypervisor } from '../support/fake-host.ts';

function place(t: Test): string {
  const directory = mkdtempSync('/tmp/dvce-doc-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

function host(root: string) {
  writeFileSync(`${root}/qemu-img`, '#!/bin/sh\n', { mode: 0o755 });
  writeFileSync(`${root}/kvm`, '');
  mkdirSync(`${root}/data`, { mode: 0o750 });
  return {
    dataDirectory: `${root}/data`,
    driver: new FakeHypervisor(),
    blockd: new FakeBlockd(),
    files: nodeFileSystem,
    agentRuns: false,
    programPath: root,
  };
}

const found = async (options: Parameters<typeof examineHost>[0]) => {
  const { ok, findings } = await examineHost(options);
  return { ok, by: Object.fromEntries(findings.map((one) => [one.name, one])) };
};
const unavailable = new DvceError('BLOCKD_UNAVAILABLE', { where: '/s', reason: 'none' });

t.test('a host that has everything', async (t) => {
  const options = host(place(t));
  options.blockd.failures.set('status', unavailable);
  const { ok, by } = await found(options);
  t.equal(ok, true);
  t.match(by, {
    node: { result: 'ok' },
    hypervisor: { result: 'ok' },
    kvm: { result: 'ok' },
    'qemu-img': { result: 'ok' },
    'data directory': { result: 'ok' },
    blockd: { result: 'warn', advice: 'Start them: dvce up' },
  });
});

t.test('missing qemu: the doctor says what to install', async (t) => {
  const options = host(place(t));
  const advice = 'apt-get install qemu-system-x86';
  options.driver.problems = [new DvceError('TOOL_MISSING', { tool: 'qemu-system-x86_64', advice })];
  const { ok, by } = await found({ ...options, programPath: '/nowhere' });
  t.equal(ok, false);
  t.match(by, {
    hypervisor: { result: 'fail', advice: /apt-get install qemu-system-x86/ },
    'qemu-img': { result: 'fail', advice: /apt-get install qemu-utils/ },
    kvm: { result: 'warn', detail: /no guest ran/ },
  });
});

t.test(
  'a device that opens proves nothing: what counts is under what the probe guest ran',
  async (t) => {
    const options = host(place(t));
    t.match((await found(options)).by, { kvm: { result: 'ok' } });
    options.driver.kvmProblem = 'a guest hung\nfor ever';
    t.match((await found(options)).by, {
      kvm: { result: 'warn', detail: /emulated.*: a guest hung$/ },
    });
  },
);

t.test('the data directory: not there yet, open to all, a file', async (t) => {
  const root = place(t);
  const options = host(root);
  const of = async (dataDirectory: string) => (await found({ ...options, dataDirectory })).by;
  t.match(await of(`${root}/not/yet`), {
    'data directory': { result: 'ok', detail: /will be made/ },
  });
  chmodSync(`${root}/data`, 0o755);
  t.match(await of(`${root}/data`), {
    'data directory': { result: 'warn', advice: /chmod o-rwx/ },
  });
  t.match(await of(`${root}/kvm`), { 'data directory': { result: 'fail' } });
});

t.test('space, and a blockd that should run', async (t) => {
  const options = host(place(t));
  const of = async (freeBytes: number) => {
    const files: FileSystem = {
      ...nodeFileSystem,
      space: async () => ({ freeBytes, totalBytes: 1024 ** 4 }),
    };
    return (await found({ ...options, files })).by['free space']?.result;
  };
  t.equal(await of(100 * 1024 ** 3), 'ok');
  t.equal(await of(2 * 1024 ** 3), 'warn');
  t.equal(await of(1024 ** 2), 'fail');
  options.blockd.failures.set('status', unavailable);
  const { ok, by } = await found({ ...options, agentRuns: true });
  t.equal(ok, false);
  t.match(by, { blockd: { result: 'fail' } });
});

t.test('a check that breaks hides no other', async (t) => {
  const options = host(place(t));
  options.driver.probe = async () => {
    throw new Error('boom');
  };
  const { by } = await found(options);
  t.match(by, { hypervisor: { result: 'fail', detail: /boom/ }, node: { result: 'ok' } });
});
