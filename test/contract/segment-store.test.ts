/** Every store against the contract; the local one on the real disk and on the simulated one. */
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import t from 'tap';
import { nodeFileSystem, systemRandom } from '../../src/base/index.ts';
import type { SegmentStore } from '../../src/hlfs/index.ts';
import { openLocalStore, openMemoryStore } from '../../src/stores/index.ts';
import { FaultyStore } from '../sim/faulty-store.ts';
import { SimHost } from '../sim/world.ts';
import { type StoreFixture, segmentStoreContract } from './segment-store.ts';

/** Several handles of one memory store: closing one must not end the others. */
const shared = (store: SegmentStore) => async (): Promise<SegmentStore> => store;

const plantThroughStore: StoreFixture['plant'] = async (store, keys) => {
  await store.createScope('scopes/plant');
  for (const key of keys) await store.putIfAbsent('scopes/plant', key, [Buffer.from('x')]);
};

segmentStoreContract(t, {
  name: 'memory',
  async run(body) {
    const store = openMemoryStore();
    await body(store, shared(store));
  },
  async runSmall(capacityBytes, body) {
    await body(openMemoryStore({ capacityBytes }));
  },
  plant: plantThroughStore,
});

let realRoot = '';
segmentStoreContract(t, {
  name: 'local',
  async run(body) {
    realRoot = mkdtempSync(join(tmpdir(), 'dvce-store-'));
    const open = (create: boolean): Promise<SegmentStore> =>
      openLocalStore({ root: realRoot, files: nodeFileSystem, random: systemRandom, create });
    const store = await open(true);
    try {
      await body(store, () => open(false));
    } finally {
      await store.close();
      rmSync(realRoot, { recursive: true });
    }
  },
  async plant(_store, keys) {
    const made = new Set<string>();
    for (const key of keys) {
      const path = join(realRoot, key);
      const directory = dirname(path);
      if (!made.has(directory)) mkdirSync(directory, { recursive: true });
      made.add(directory);
      // Links to one file: what counts here are the names.
      if (key === keys[0]) writeFileSync(path, 'x');
      else linkSync(join(realRoot, keys[0] ?? ''), path);
    }
  },
});

const openSimulated = (host: SimHost, create: boolean): Promise<SegmentStore> =>
  openLocalStore({ root: '/store', files: host.files, random: host.random, create });

segmentStoreContract(t, {
  name: 'local on the simulated disk',
  async run(body) {
    const host = new SimHost(1);
    await host.scheduler.complete(
      (async () => {
        const store = await openSimulated(host, true);
        await body(store, () => openSimulated(host, false));
        await store.close();
      })(),
    );
  },
  async runSmall(capacityBytes, body) {
    const host = new SimHost(2, { capacityBytes });
    const run = async (): Promise<void> => body(await openSimulated(host, true));
    await host.scheduler.complete(run());
  },
});

segmentStoreContract(t, {
  name: 'faulty wrapper without faults',
  async run(body) {
    const host = new SimHost(3);
    const store = openMemoryStore();
    const wrap = (): SegmentStore =>
      new FaultyStore({ store, scheduler: host.scheduler, process: host.process });
    await host.scheduler.complete(body(wrap(), async () => wrap()));
  },
});
