/** A disk of a few MiB that really can be full: a tmpfs of its own. Needs the right to mount. */
import { mkdtempSync, rmdirSync } from 'node:fs';
import type { Test } from 'tap';
import { run } from './blockd-process.ts';

/** @returns where it is mounted; undefined without the permission. It goes with the test. */
export async function smallDisk(t: Test, sizeBytes: number): Promise<string | undefined> {
  const path = mkdtempSync('/tmp/dvce-small-');
  const mount = ['mount', '-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', path];
  const isMounted = (await run(mount)).code === 0;
  t.teardown(async () => {
    if (isMounted) await run(['umount', path]);
    rmdirSync(path);
  });
  return isMounted ? path : undefined;
}
