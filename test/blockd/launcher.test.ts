/** The launcher with small programs in blockd's place: what it restarts, when, and when it ends. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import {
  type Clock,
  limits,
  nodeFileSystem,
  silentLogger,
  systemTimers,
  type Timers,
} from '../../src/base/index.ts';
import { type ControlHandlers, ControlServer } from '../../src/blockd/control-server.ts';
import { type DataDirectory, dataDirectory } from '../../src/blockd/data-directory.ts';
import { ensureBlockd } from '../../src/blockd/index.ts';
import { keepAlive } from '../../src/blockd/keep-alive.ts';
import { type LauncherOptions, superviseBlockd } from '../../src/blockd/launcher.ts';

interface Rig {
  readonly directory: DataDirectory;
  readonly options: LauncherOptions;
  readonly stop: AbortController;
  /** Pauses before restarts, in order. */
  readonly pausesMs: number[];
  nowMs: number;
  /** Lines that the program wrote. */
  lines(): string[];
}

/** `body` is the program: `turn` counts its starts from 1, `say(text)` leaves a line. */
function rig(t: Test, body: string): Rig {
  const root = mkdtempSync('/tmp/dvce-launcher-');
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  const directory = dataDirectory(root);
  for (const path of [directory.run, directory.state, directory.log]) mkdirSync(path);
  const said = join(root, 'said');
  writeFileSync(said, '');
  const program = `const fs = require('node:fs');
    const say = (text) => fs.appendFileSync(${JSON.stringify(said)}, text + '\\n');
    const turn = fs.readFileSync(${JSON.stringify(said)}, 'utf8').split('\\n').filter((l) => l === 'start').length + 1;
    say('start');
    ${body}`;
  const pausesMs: number[] = [];
  const stop = new AbortController();
  const made = { nowMs: 0 };
  const clock: Clock = { wallMs: () => 5, monotonicMs: () => made.nowMs };
  const timers: Timers = {
    ...systemTimers,
    after(delayMs, task) {
      // The deadlines of the client are real; the pauses are noted and skipped.
      if (delayMs === limits.controlHelloMs) return systemTimers.after(delayMs, task);
      pausesMs.push(delayMs);
      return systemTimers.after(1, task);
    },
  };
  const options: LauncherOptions = {
    directory,
    command: [process.execPath, '-e', program],
    environment: { PATH: process.env['PATH'] },
    files: nodeFileSystem,
    clock,
    timers,
    logger: silentLogger,
    stop: stop.signal,
  };
  return Object.assign(made, {
    directory,
    options,
    stop,
    pausesMs,
    lines: () => readFileSync(said, 'utf8').split('\n').filter(Boolean),
  });
}

/** The pauses keep no process alive; the launcher's main does that, here the test does. */
const letGo = keepAlive();
t.teardown(letGo);

t.test(
  'it restarts after a crash with a pause that doubles, and ends when blockd ends with 0',
  async (t) => {
    const made = rig(t, `process.exit(turn < 9 ? 70 : 0)`);
    t.equal(await superviseBlockd(made.options), 0);
    t.equal(made.lines().length, 9);
    t.strictSame(made.pausesMs, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
  },
);

t.test('the pause starts over after a blockd that lived for a while', async (t) => {
  const made = rig(t, `process.exit(turn < 5 ? 70 : 0)`);
  const clock: Clock = {
    wallMs: () => 5,
    // Each look at the clock is half of a long life later from the third start on.
    monotonicMs: () => (made.nowMs += made.lines().length >= 3 ? limits.blockdRestartResetMs : 0),
  };
  t.equal(await superviseBlockd({ ...made.options, clock }), 0);
  t.strictSame(made.pausesMs, [200, 400, 200, 200]);
});

t.test('a command line that blockd does not understand is not tried again', async (t) => {
  const made = rig(t, 'process.exit(64)');
  t.equal(await superviseBlockd(made.options), 64);
  t.strictSame(made.lines(), ['start']);
});

t.test(
  'N5 blockd gets its thread pool; N4 a fault signal is recorded, a kill is not',
  async (t) => {
    const made = rig(
      t,
      `say(process.env.UV_THREADPOOL_SIZE);
    if (turn === 1) process.kill(process.pid, 'SIGKILL');
    if (turn === 2) process.abort();`,
    );
    t.equal(await superviseBlockd(made.options), 0);
    t.equal(made.lines()[1], String(limits.threadPoolThreads));
    t.match(JSON.parse(readFileSync(made.directory.crashFile, 'utf8')), {
      reason: 'it died of SIGABRT',
    });
    const killed = rig(t, `if (turn === 1) process.kill(process.pid, 'SIGKILL')`);
    await superviseBlockd(killed.options);
    t.throws(() => readFileSync(killed.directory.crashFile), { code: 'ENOENT' });
  },
);

t.test('told to stop, it tells blockd and ends with it', async (t) => {
  const made = rig(
    t,
    `process.on('SIGTERM', () => { say('term'); process.exit(0); });
    setInterval(() => {}, 1000);
    say('up');`,
  );
  const ended = superviseBlockd(made.options);
  while (!made.lines().includes('up')) await new Promise((resolve) => setTimeout(resolve, 10));
  made.stop.abort();
  t.equal(await ended, 0);
  t.strictSame(made.lines(), ['start', 'up', 'term']);
});

t.test('a launcher started anew adopts the blockd that runs', async (t) => {
  for (const asTold of [false, true]) {
    const made = rig(t, '');
    const server = new ControlServer({
      socketPath: made.directory.controlSocket,
      handlers: {} as ControlHandlers,
      logger: silentLogger,
      timers: systemTimers,
      release: '1',
    });
    await server.listen();
    const ended = superviseBlockd(made.options);
    while (server.connections === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    t.strictSame(made.lines(), [], 'no second one while it answers');
    const hello = await ensureBlockd({
      dataDirectory: made.directory.root,
      clock: made.options.clock,
      timers: systemTimers,
    });
    t.equal(hello.pid, process.pid);
    if (asTold) writeFileSync(made.directory.exitFile, `{"pid":${process.pid}}\n`);
    await server.close();
    t.equal(await ended, 0);
    t.strictSame(
      made.lines(),
      asTold ? [] : ['start'],
      asTold ? 'ended as told' : 'it is replaced',
    );
  }
});
