/** Design invariant 9: what earlier versions wrote stays readable, byte for byte, and can be written on. */
import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';
import { checkVolume, findSnapshot, getVolume, openSnapshot } from '../../src/hlfs/index.ts';
import { bytesFrom, Rig } from '../support/engine-rig.ts';
import { contentOf, type Expected, unpack } from '../support/fixture.ts';
import { digestOf } from '../support/fixture-content.ts';

t.setTimeout(120_000);
const root = new URL('../fixtures/', import.meta.url).pathname;
/** Fixtures are never made anew. */
const digests: Readonly<Record<string, string>> = {
  v1: 'c56ef213d3671f8ee80b035cff12f8d3316cf71a45f4416bfadfd07fd735e506',
  'v1-zstd': 'ede3899a8f3442931bdea31aa0bca8559cc93db4fb6bcf8555b7c67f1e929488',
};

for (const version of readdirSync(root)
  .filter((name) => /^v\d+(-[a-z]+)?$/.test(name))
  .sort())
  t.test(
    `invariant 9: a store and a journal of format ${version} are read and written on`,
    async (t) => {
      const archive = `${root}${version}/store.json.gz`;
      t.equal(
        digestOf(readFileSync(archive)),
        digests[version],
        'the fixture is the one that was released',
      );
      const expected: Expected = JSON.parse(
        readFileSync(`${root}${version}/expected.json`, 'utf8'),
      );
      const rig = await Rig.at(unpack(archive), expected.nodes);
      t.teardown(() => rig.end());
      for (const [name, content] of Object.entries(expected.contents)) {
        const [path = '', snapshot] = name.split('@');
        const { id, head } = await getVolume(rig.context, path);
        if (snapshot !== undefined) {
          const { value } = await findSnapshot(rig.context, id, snapshot);
          t.same(
            await contentOf(await openSnapshot(rig.context, value, head.blockBytes)),
            content,
            name,
          );
          continue;
        }
        const disk = await rig.open(id);
        t.same(await contentOf(disk.volume), content, name);
        const bytes = bytesFrom(rig.random, 5000);
        await disk.write(70_000, bytes);
        await disk.close();
        const { findings } = await checkVolume(rig.context, id, {
          signal: new AbortController().signal,
          onProgress: () => {},
        });
        t.same(findings, [], `${name} checked`);
        const again = await rig.open(id);
        t.ok((await again.read(70_000, 5000)).equals(bytes), `${name} written on`);
        await again.close();
      }
    },
  );
