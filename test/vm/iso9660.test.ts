/** The medium of a seed disk, read by programs that know nothing of it. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { isoImage } from '../../src/vm/iso9660.ts';

const files = [
  { name: 'user-data', content: Buffer.from(`#cloud-config\n${'x'.repeat(5000)}\n`) },
  { name: 'meta-data', content: Buffer.from('{}\n') },
  { name: 'network-config', content: Buffer.alloc(0) },
];

function written(t: Test): string {
  const directory = mkdtempSync('/tmp/dvce-iso-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const path = `${directory}/seed.iso`;
  writeFileSync(path, isoImage('cidata', files));
  return path;
}

t.test('the same files give the same bytes', async (t) => {
  t.ok(isoImage('cidata', files).equals(isoImage('cidata', files)));
  t.equal(isoImage('cidata', files).byteLength % 2048, 0);
  t.throws(() => isoImage('ci data', files), { code: 'INTERNAL' });
  t.throws(() => isoImage('cidata', [{ name: '../x', content: Buffer.alloc(0) }]));
});

const blkid = '/usr/sbin/blkid';
const noBlkid = spawnSync(blkid, ['--version']).error === undefined ? false : 'blkid is missing';
t.test('blkid knows it by its label', { skip: noBlkid }, async (t) => {
  const out = execFileSync(blkid, ['-p', '-o', 'export', written(t)]).toString();
  t.match(out, /^LABEL=cidata$/m);
  t.match(out, /^TYPE=iso9660$/m);
});

const noIsoinfo =
  spawnSync('isoinfo', ['-version']).error === undefined
    ? false
    : 'isoinfo (genisoimage) is missing';
t.test('isoinfo reads every file by its real name', { skip: noIsoinfo }, async (t) => {
  const path = written(t);
  for (const { name, content } of files)
    t.ok(execFileSync('isoinfo', ['-R', '-x', `/${name}`, '-i', path]).equals(content), name);
});
