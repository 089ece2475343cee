/** The test command itself, on a small project of its own whose tests misbehave in every way that must be noticed. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import t, { type Test } from 'tap';

const root = resolve(import.meta.dirname, '../..');

function project(t: Test, files: Readonly<Record<string, string>>): string {
  const directory = t.testdir({});
  cpSync(join(root, 'scripts/test.ts'), join(directory, 'scripts/test.ts'), { recursive: true });
  cpSync(join(root, 'scripts/test'), join(directory, 'scripts/test'), { recursive: true });
  cpSync(join(root, 'package.json'), join(directory, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(directory, name, '..'), { recursive: true });
    writeFileSync(join(directory, name), text);
  }
  return directory;
}

function run(directory: string, ...args: string[]) {
  const { DVCE_TEST_MARK: _, ...environment } = process.env;
  const result = spawnSync(process.execPath, ['scripts/test.ts', ...args], {
    cwd: directory,
    encoding: 'utf8',
    env: environment,
  });
  const last = result.stdout.trimEnd().split('\n').at(-1);
  return { status: result.status, last, stdout: result.stdout, stderr: result.stderr };
}

/** Not ended and not a zombie that its new parent has yet to collect. */
function lives(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

const passing = "import t from 'tap';\nt.test('fine', async (t) => { t.ok(true); });\n";

t.test('a run that passes ends with the sum and status 0', async (t) => {
  const directory = project(t, {
    'test/a.test.ts': passing,
    'test/b.test.ts': `${passing}t.test('needs a tool', { skip: 'no tool' }, async () => {});\n`,
  });
  const { status, last, stdout } = run(directory, '--only', 'unit');
  t.equal(status, 0);
  t.equal(last, '2 passed, 0 failed, 1 skipped');
  t.match(stdout, /skipped: test\/b\.test\.ts: needs a tool \(no tool\)/);
});

t.test('failures, crashes, empty files and hanging tests are counted and shown', async (t) => {
  const directory = project(t, {
    'test/empty.test.ts': "import 'tap';\n",
    'test/fails.test.ts': `${passing}t.test('bad', async (t) => { t.equal(1, 2, 'one is two'); });\n`,
    'test/crashes.test.ts': `${passing}t.test('dies', async () => { process.kill(process.pid, 'SIGKILL'); });\n`,
    'test/hangs.test.ts': `// limit: 4 s\n${passing}while (true) {}\n`,
  });
  const { status, last, stdout } = run(directory, '--only', 'unit');
  t.equal(status, 1);
  t.match(stdout, /one is two/);
  t.match(stdout, /killed by SIGKILL/);
  t.match(stdout, /over its limit of 4 s/);
  t.match(stdout, /empty\.test\.ts: 0 passed, 1 failed/);
  t.equal(last, '2 passed, 4 failed');
});

t.test(
  'a process left behind is a failure and is killed, also in a session of its own',
  async (t) => {
    const directory = project(t, {
      'test/leaks.test.ts': `import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import t from 'tap';
t.test('leaks', async (t) => {
  const child = spawn('sleep', ['300'], { detached: true, stdio: 'ignore' });
  child.unref();
  writeFileSync('pid', String(child.pid));
  t.ok(child.pid);
});
`,
    });
    const { status, last, stdout } = run(directory, 'test/leaks.test.ts');
    t.equal(status, 1);
    t.equal(last, '1 passed, 1 failed');
    const pid = Number(/sleep 300 \(pid (\d+)\)/.exec(stdout)?.[1]);
    t.ok(pid > 0);
    t.notOk(lives(pid));
  },
);

t.test('no test at all is a failure; unknown suites and files are refused', async (t) => {
  const directory = project(t, {});
  t.match(run(directory, '--only', 'unit'), { status: 1, last: '0 passed, 1 failed' });
  t.match(run(directory, '--only', 'nonsense'), { status: 64, stderr: /unknown suite nonsense/ });
  t.match(run(directory, 'test/none.test.ts'), { status: 64, stderr: /is not a test file/ });
  t.match(run(directory, '--frobnicate'), { status: 64, stderr: /usage:/ });
});
