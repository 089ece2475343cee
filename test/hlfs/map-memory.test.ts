/** The memory of a map, as the kernel counts it: the same writes on few leaves and on many times what the budget holds. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { limits, MiB } from '../../src/base/index.ts';

async function load(
  t: Test,
  leaves: number,
  writes: number,
): Promise<{ peakMib: number; wrong: number }> {
  const directory = mkdtempSync('/tmp/dvce-map-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const script = fileURLToPath(new URL('../support/map-load.ts', import.meta.url));
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', script, directory, ...[leaves, writes].map(String)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  let output = '';
  child.stdout.on('data', (bytes: Buffer) => (output += bytes.toString()));
  const code = await new Promise((resolve) => child.once('close', resolve));
  t.equal(code, 0, `${leaves} leaves`);
  return JSON.parse(output);
}

t.test('B-32 a map of many times its budget costs no more than its budget', async (t) => {
  const writes = 60_000;
  const few = await load(t, 4000, writes);
  const many = await load(t, writes, writes);
  t.equal(few.wrong + many.wrong, 0, 'every block reads as it was written');
  const moreMib = many.peakMib - few.peakMib;
  t.comment(`VmHWM ${few.peakMib.toFixed(0)} MiB and ${many.peakMib.toFixed(0)} MiB`);
  // Its pages have 300 MiB, which they take when none is evicted.
  t.ok(moreMib <= limits.mapCacheBytes / MiB, `${moreMib.toFixed(1)} MiB more`);
});
