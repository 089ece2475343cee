/** The lock of the data directory: one holder, told by pid, gone with its process. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import t from 'tap';
import { DvceError, lockDataDirectory } from '../../src/base/index.ts';

const modulePath = join(import.meta.dirname, '../../src/base/index.ts');

t.test('N3 a second process is refused and told who holds the lock', async (t) => {
  const directory = t.testdir();
  const program = `
    import { lockDataDirectory } from ${JSON.stringify(modulePath)};
    lockDataDirectory(process.argv[1]);
    process.stdout.write('held');
    setInterval(() => {}, 1000);`;
  const holder = spawn(process.execPath, ['--input-type=module', '-e', program, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => holder.kill('SIGKILL'));
  await once(holder.stdout, 'data');
  try {
    lockDataDirectory(directory);
    t.fail('the lock was given twice');
  } catch (error) {
    t.ok(error instanceof DvceError && error.code === 'LOCKED', 'LOCKED');
    t.match(String(error), new RegExp(`in use by process ${holder.pid}\\b`));
  }

  const gone = once(holder, 'exit');
  holder.kill('SIGKILL');
  await gone;
  lockDataDirectory(directory).release();
  t.pass('free after kill -9 of the holder');
});

t.test('N3 the lock can be taken again after its release, and only then', async (t) => {
  const directory = t.testdir();
  const first = lockDataDirectory(directory);
  t.throws(() => lockDataDirectory(directory), {
    code: 'LOCKED',
    context: { pid: String(process.pid) },
  });
  first.release();
  first.release();
  const second = lockDataDirectory(directory);
  t.throws(() => lockDataDirectory(directory), { code: 'LOCKED' });
  second.release();
});

t.test('a missing directory is an error of the table', async (t) => {
  t.throws(() => lockDataDirectory(`${t.testdir()}/absent`), { code: 'IO_FAILED' });
});
