// limit: 2400 s
/**
 * A machine without Node: a bare Debian in a directory, a clean clone, the quickstart and the test command in it. What happens
 * inside is test/support/fresh-machine.sh.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { hasTool, run, seconds } from '../support/blockd-process.ts';
import { projectRoot } from '../support/dvce.ts';
import { readStory } from '../support/story.ts';

t.setTimeout(seconds(2400));
const stepsAll = 6;

async function lacking(): Promise<string | false> {
  if (process.getuid?.() !== 0) return 'building a Debian needs root';
  for (const tool of ['mmdebstrap', 'unshare', 'git', 'npm'])
    if (!(await hasTool(tool))) return `${tool} is not installed`;
  const asked = await run(['npm', 'ping', '--silent', '--fetch-retries=0']);
  return asked.code === 0 ? false : 'the npm registry does not answer';
}

t.test('quickstart and tests on a machine without Node', { skip: await lacking() }, async (t) => {
  const directory = mkdtempSync('/tmp/dvce-fresh-');
  const child = spawn(join(projectRoot, 'test/support/fresh-machine.sh'), [directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: seconds(2300),
    killSignal: 'SIGKILL',
  });
  const closed = once(child, 'close');
  t.teardown(async () => {
    child.kill('SIGKILL');
    await closed;
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  });
  const { steps, ended } = await readStory(t, child.stdout);
  await closed;
  t.equal(steps.length, stepsAll, 'every step was taken');
  t.ok(ended, 'it came to its end');
});
