/**
 * Make the fixture of the current format version: `node scripts/make-fixtures.ts DIRECTORY [none|zstd]`. A committed
 * fixture is never made anew: it stands for what a released version wrote (design invariant 9). Run it for a new version, into a
 * new folder.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { makeFixture } from '../test/support/fixture-content.ts';

const [directory, compression = 'none'] = process.argv.slice(2);
if (directory === undefined || existsSync(`${directory}/store.json.gz`)) {
  process.stderr.write('usage: node scripts/make-fixtures.ts NEW-DIRECTORY [none|zstd]\n');
  process.exitCode = 64;
} else {
  mkdirSync(directory, { recursive: true });
  const { archive, expected } = await makeFixture(compression === 'zstd' ? 'zstd' : 'none');
  writeFileSync(`${directory}/store.json.gz`, archive);
  writeFileSync(`${directory}/expected.json`, `${JSON.stringify(expected, null, 2)}\n`);
  process.stdout.write(`${archive.byteLength} bytes\n`);
}
