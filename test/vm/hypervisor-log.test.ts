/** How a guest ended, told by the log of its hypervisor to an agent that was not there. */
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { endFromLog, lastWords, noteEnd, noteRunning } from '../../src/vm/hypervisor-log.ts';
import { spawnDetached } from '../../src/vm/processes.ts';
import { until } from '../support/blockd-process.ts';

const alive = setInterval(() => {}, 60_000); // what is spawned keeps no process alive
t.teardown(() => clearInterval(alive));

function logIn(t: Test, text = ''): string {
  const directory = mkdtempSync('/tmp/dvce-hlog-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(`${directory}/qemu.log`, text);
  return `${directory}/qemu.log`;
}

const asked = (reason: number): string =>
  `1@1699999999.1:qemu_system_shutdown_request reason=${reason}\n`;

t.test('what the hypervisor says', async (t) => {
  t.match(await endFromLog(logIn(t, asked(6)), true), {
    phase: 'stopped',
    detail: 'guest-shutdown',
  });
  t.match(await endFromLog(logIn(t, `${asked(6)}${asked(8)}`), true), { phase: 'crashed' });
  t.match(await endFromLog(logIn(t, 'out of memory\n'), true), {
    phase: 'crashed',
    detail: 'out of memory',
  });
  t.equal(await endFromLog(logIn(t), false), undefined);
});

t.test('one that was killed on purpose is stopped, whatever it said', async (t) => {
  const path = logIn(t, 'a warning\n');
  await noteEnd(path);
  t.match(await endFromLog(path, true), { phase: 'stopped', detail: 'killed' });
  appendFileSync(path, 'the connection was lost\n');
  t.match(await endFromLog(path, true), { phase: 'stopped', detail: 'killed' });
});

t.test('one that was to be killed and was found running may crash later', async (t) => {
  const path = logIn(t, 'a warning\n');
  await noteRunning(path);
  t.equal(readFileSync(path, 'utf8'), 'a warning\n', 'nothing to note');
  await noteEnd(path);
  await noteRunning(path);
  t.match(await endFromLog(path, true), { phase: 'crashed', detail: 'a warning' });
  t.equal(lastWords(readFileSync(path, 'utf8').split('\n')), 'a warning');
});

t.test('what the program writes after a note does not overwrite it', async (t) => {
  const path = logIn(t, 'of an earlier run, and longer than what comes\n');
  const script = 'echo one; while [ ! -e "$0" ]; do sleep 0.02; done; echo two';
  const child = spawnDetached('/bin/sh', ['-c', script, `${path}.go`], path);
  const ended = once(child, 'exit');
  await until('it has written', async () => readFileSync(path, 'utf8') === 'one\n');
  await noteEnd(path);
  writeFileSync(`${path}.go`, '');
  await ended;
  t.equal(readFileSync(path, 'utf8'), 'one\ndvce: it is ended\ntwo\n');
});
