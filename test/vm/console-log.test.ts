/** The console log, what is looked for in it, and when a guest counts as ready. */
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import t, { type Test } from 'tap';
import { limits, MiB, systemClock, systemRandom, systemTimers } from '../../src/base/index.ts';
import { guestPaths } from '../../src/vm/arguments.ts';
import {
  ConsoleSearch,
  compilePattern,
  limitConsoleLog,
  startConsoleLog,
  tail,
} from '../../src/vm/console-log.ts';
import { GuestAgent } from '../../src/vm/guest-agent.ts';
import type { VmDefinition } from '../../src/vm/index.ts';
import { Readiness } from '../../src/vm/readiness.ts';
import { scriptedAgent } from '../support/scripted-agent.ts';

function temporary(t: Test): string {
  const directory = mkdtempSync('/tmp/dvce-console-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

t.test('a pattern is found in whatever pieces it is printed', async (t) => {
  const path = `${temporary(t)}/console.log`;
  const search = new ConsoleSearch(path, '^ready after \\d+ s$');
  t.equal(await search.advance(), false, 'no log yet');
  writeFileSync(path, 'booting\r\nnot ready after 5 s\r\nrea');
  t.equal(await search.advance(), false);
  appendFileSync(path, 'dy aft');
  t.equal(await search.advance(), false);
  appendFileSync(path, 'er 12 s');
  t.equal(await search.advance(), true, 'a line without its end, as a prompt is');
});

t.test('a log that was cut is read from its new start', async (t) => {
  const path = `${temporary(t)}/console.log`;
  writeFileSync(path, 'x'.repeat(1000));
  const search = new ConsoleSearch(path, 'login:');
  t.equal(await search.advance(), false);
  truncateSync(path, 0);
  appendFileSync(path, '\nlogin: ');
  t.equal(await search.advance(), true);
});

t.test('a pattern that would take for ever counts as no match', async (t) => {
  const matches = compilePattern('^(a+)+$');
  const startedMs = performance.now();
  t.equal(matches(`${'a'.repeat(60)}b`), false);
  t.ok(performance.now() - startedMs < 20 * limits.vmReadyPatternMs);
  t.equal(matches('aaa'), true, 'and it goes on to work');
});

t.test('what is no pattern is refused', async (t) => {
  for (const pattern of ['', '(', 'x'.repeat(limits.vmReadyPatternCharactersMax + 1)])
    t.throws(() => compilePattern(pattern), { code: 'INVALID_ARGUMENT' });
});

t.test('each boot has its log, and the one before is kept', async (t) => {
  const path = `${temporary(t)}/console.log`;
  await startConsoleLog(path);
  writeFileSync(path, 'first');
  await startConsoleLog(path);
  t.notOk(existsSync(path));
  t.equal(readFileSync(`${path}.1`, 'utf8'), 'first');
});

t.test('a log that outgrows its limit becomes the old one', async (t) => {
  const path = `${temporary(t)}/console.log`;
  writeFileSync(path, 'x'.repeat(1000));
  t.equal(await limitConsoleLog(path, 1000), false);
  appendFileSync(path, 'y');
  t.equal(await limitConsoleLog(path, 1000), true);
  t.equal(readFileSync(path, 'utf8'), '');
  t.equal(readFileSync(`${path}.1`, 'utf8').length, 1001);
  appendFileSync(path, 'the end');
  t.equal(await tail(path, 3), 'end');
  t.equal(await tail(`${path}.2`, 3), '');
});

const definition = (readyPattern: string | null): VmDefinition => ({
  id: 'guest',
  name: 'guest',
  cpus: 1,
  memoryBytes: 64 * MiB,
  machine: 'q35',
  firmware: 'bios',
  nics: [],
  readyPattern,
  disks: [],
});

function readinessOf(readyPattern: string | null, directory: string): Readiness {
  const paths = {
    ...guestPaths(directory, directory, 'x'),
    agent: `${directory}/agent.sock`,
    consoleLog: `${directory}/console.log`,
  };
  const world = { clock: systemClock, timers: systemTimers, random: systemRandom };
  return new Readiness({
    ...world,
    vm: definition(readyPattern),
    paths,
    agent: new GuestAgent({ ...world, path: paths.agent, vm: 'guest' }),
    identity: { pid: process.pid, startTicks: 0 },
    signal: new AbortController().signal,
    onReady: () => {},
  });
}

t.test(
  'ready is the first of agent, pattern, and a minute; a reset makes it the past',
  async (t) => {
    const directory = temporary(t);
    const guest = await scriptedAgent(t, `${directory}/agent.sock`);
    const readiness = readinessOf('up', directory);
    t.equal(await readiness.check(0), null);
    t.equal(await readiness.check(limits.vmReadyMs), 'timeout');
    readiness.askAgent();
    readiness.askAgent();
    await guest.asked('guest-sync');
    writeFileSync(`${directory}/console.log`, 'system is up\n');
    t.equal(await readiness.check(0), 'pattern');
    t.equal(guest.connections, 1, 'asked once');
    guest.begin();
    while ((await readiness.check(0)) !== 'agent') await new Promise((turn) => setImmediate(turn));
    await readiness.reset();
    t.equal(await readiness.check(0), null, 'neither the old answer nor the old text counts');
  },
);

t.test('without a pattern the log does not matter', async (t) => {
  const readiness = readinessOf(null, temporary(t));
  t.equal(await readiness.check(limits.vmReadyMs - 1), null);
  t.equal(await readiness.check(limits.vmReadyMs), 'timeout');
});
