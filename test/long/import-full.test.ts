// limit: 180 s
/** An image that does not fit into the store: a clear error, and the space is given back. */
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { exitCodes, MiB } from '../../src/base/index.ts';
import { until } from '../support/blockd-process.ts';
import { freshDvce } from '../support/dvce.ts';
import { smallDisk } from '../support/small-disk.ts';

const hasTool = spawnSync('qemu-img', ['--version']).error === undefined;

t.test(
  'S9 an import that fills the store fails with no space, and the space comes back',
  { skip: hasTool ? false : 'needs qemu-img' },
  async (t) => {
    const disk = await smallDisk(t, 64 * MiB);
    if (disk === undefined) {
      t.pass('not run: no permission to mount a file system');
      return;
    }
    const store = join(disk, 'store');
    mkdirSync(store);
    const dvce = freshDvce(t);
    // Noise: what can be left out or shrunk would fit.
    writeFileSync(join(dvce.directory, 'large.raw'), randomBytes(128 * MiB));
    writeFileSync(join(dvce.directory, 'small.raw'), randomBytes(4 * MiB));
    await dvce.ok(`up -- --store ${store} --journal-bytes 16MiB`);
    const free = (): number => {
      const { bavail, bsize } = statfsSync(disk);
      return bavail * bsize;
    };
    const before = free();
    const outcome = await dvce.cli('image import large.raw large', { input: '' });
    t.equal(outcome.code, exitCodes.noSpace, outcome.stderr);
    t.match(outcome.stderr, /no space left/);
    t.equal(await dvce.ok('volume list --all -q'), '', 'nothing is left of it');
    await until('the space of the failed import', () => free() > before - 2 * MiB);
    await dvce.ok('image import small.raw small');
    t.equal(await dvce.ok('image list -q'), 'small\n', 'the next one fits');
  },
);
