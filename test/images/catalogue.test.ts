/** The catalogue: what is shipped, what the operator lays over it, and files that are refused. */
import { truncateSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { limits } from '../../src/base/index.ts';
import { type Catalogue, readCatalogue } from '../../src/images/index.ts';

const x86 = { mustExist: true, arch: 'x64' };

t.test('what is shipped can be checked, and is for this host or another', async (t) => {
  const { entries } = await readCatalogue('/none', { mustExist: false, arch: 'x64' });
  t.ok(entries.length > 5);
  for (const { name, url, checksumUrl } of entries) {
    t.match(url, /^https:\/\//, name);
    t.match(checksumUrl, /^https:\/\//, `${name} has checksums`);
  }
  const arm = await readCatalogue('/none', { mustExist: false, arch: 'arm64' });
  t.match(arm.find('debian-12'), { arch: 'aarch64', url: /arm64/ });
  t.throws(() => arm.find('fedora-41'), { code: 'UNSUPPORTED', message: /x86_64/ });
  await t.rejects(readCatalogue('/none', x86), { code: 'INVALID_ARGUMENT' });
});

t.test("the operator's entries replace and add", async (t) => {
  const file = `${t.testdir()}/images.yaml`;
  const read = (text: string): Promise<Catalogue> => {
    writeFileSync(file, text);
    return readCatalogue(file, x86);
  };
  const own =
    'images:\n  - name: debian-12\n    url: http://mirror/d.qcow2\n  - { name: own, url: "https://h/o" }\n';
  const both = await read(own);
  t.match(both.find('debian-12'), { url: 'http://mirror/d.qcow2', origin: 'file', arch: 'x86_64' });
  t.equal(both.find('debian-12').checksumUrl, undefined, 'nothing of the old entry is left');
  t.equal(both.find('debian-13').origin, 'builtin');
  const alone = await read(`${own}builtin: false\n`);
  t.same(
    alone.entries.map(({ name }) => name),
    ['debian-12', 'own'],
  );
  t.throws(() => alone.find('debian-13'), { code: 'NOT_FOUND' });
  t.same((await read('builtin: false\n')).entries, []);
});

t.test('what does not fit is refused, with its place', async (t) => {
  const file = `${t.testdir()}/images.yaml`;
  const entry = (more: string): string => `images: [{ name: a, url: "http://h/x", ${more} }]`;
  const cases: readonly [string, RegExp][] = [
    ['images: {', /at line 1/],
    ['images: 7', /images must be array/],
    [entry('what: 1'), /images.0 must NOT have additional properties: what/],
    ['images: [{ name: a, url: "file:///etc/passwd" }]', /images.0.url/],
    ['images: [{ name: a, url: "http://u:p@h/x" }]', /user name or password/],
    ['images: [{ name: ../a, url: "http://h/x" }]', /not valid/],
    [entry(`sha256: ${'0'.repeat(63)}`), /images.0.sha256/],
    [entry(`sha256: "${'0'.repeat(64)}", checksumUrl: "http://h/s"`), /more than one checksum/],
    [entry('diskBytes: -1'), /images.0.diskBytes/],
    ['images: [{ name: a, url: "http://h/x" }, { name: a, url: "http://h/y" }]', /comes twice/],
  ];
  for (const [text, message] of cases) {
    writeFileSync(file, text);
    await t.rejects(readCatalogue(file, x86), { code: 'INVALID_ARGUMENT', message }, text);
  }
  truncateSync(file, limits.catalogueBytesMax + 1);
  await t.rejects(readCatalogue(file, x86), { code: 'INVALID_ARGUMENT', message: /bytes/ });
});
