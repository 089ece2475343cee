/** Files over many connections, from a server that cuts, lies and changes its mind; and what is kept between imports. */
// limit: 60 s
import { createHash } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import {
  DvceError,
  limits,
  MiB,
  seededRandom,
  systemRandom,
  systemTimers,
  type Timers,
} from '../../src/base/index.ts';
import { fetchChecksum, fetchFile, findChecksum } from '../../src/images/fetch.ts';
import { sweepTemporary } from '../../src/images/partial-file.ts';
import { SourceHash } from '../../src/images/source-hash.ts';

const alive = setInterval(() => {}, 60_000); // the project's timers keep no process alive
t.teardown(() => clearInterval(alive));

/** Pauses run a hundred times as fast. */
const fast: Timers = {
  ...systemTimers,
  after: (delayMs, task) => systemTimers.after(delayMs / 100, task),
};

const content = seededRandom(3).bytes(20 * MiB);
const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');

interface Behaviour {
  bytes: Buffer;
  etag: string | null;
  /** Bytes of each answer before the connection is cut; undefined: all. */
  cutAfter?: number | undefined;
  /** What the server does with a range. */
  ranges: 'right' | 'ignored' | 'shifted' | 'unsaid' | 'refused' | 'other-total' | 'unconditional';
  status?: number;
}

/** A server of one file; `asked` has the ranges that were asked for. */
async function rig(t: Test, change: Partial<Behaviour> = {}) {
  const behaviour: Behaviour = { bytes: content, etag: '"one"', ranges: 'right', ...change };
  const asked: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    asked.push(request.headers.range);
    answer(behaviour, request, response);
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  const directory = mkdtempSync('/tmp/dvce-fetch-');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
    rmSync(directory, { recursive: true, force: true });
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.raw`;
  const fetch = async (signal = new AbortController().signal, to = url): Promise<Buffer> => {
    const options = { timers: fast, random: systemRandom, signal, onProgress: () => {} };
    const partial = await fetchFile(to, directory, options);
    const { size } = await partial.file.stat();
    const bytes = Buffer.alloc(size);
    await partial.file.read(bytes, 0, size, 0);
    await partial.close(false);
    return bytes;
  };
  return { behaviour, asked, directory, url, fetch, left: () => readdirSync(directory).sort() };
}

function answer(behaviour: Behaviour, request: IncomingMessage, response: ServerResponse): void {
  const { bytes, etag, cutAfter, status } = behaviour;
  if (etag !== null) response.setHeader('etag', etag);
  if (status !== undefined) {
    response.writeHead(status).end();
    return;
  }
  const rest = bytes.subarray(head(behaviour, request, response));
  if (cutAfter === undefined || cutAfter >= rest.length) response.end(rest);
  else response.write(rest.subarray(0, cutAfter), () => setTimeout(() => response.destroy(), 20));
}

/** @returns where the body begins */
function head(behaviour: Behaviour, request: IncomingMessage, response: ServerResponse): number {
  const { bytes, etag, ranges } = behaviour;
  const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '');
  if (range !== null && ranges === 'refused') {
    response.writeHead(416);
    return bytes.length;
  }
  const isSame = ranges === 'unconditional' || request.headers['if-range'] === etag;
  if (range === null || ranges === 'ignored' || !isSame) {
    response.writeHead(200, { 'content-length': bytes.length });
    return 0;
  }
  const from = Number(range[1]);
  const shown = ranges === 'shifted' ? from + 1 : from;
  const total = bytes.length + (ranges === 'other-total' ? 1 : 0);
  const text = `bytes ${shown}-${total - 1}/${total}`;
  response.writeHead(206, {
    'content-length': bytes.length - from,
    ...(ranges === 'unsaid' ? {} : { 'content-range': text }),
  });
  return from;
}

t.test('a connection that breaks again and again is gone on with', async (t) => {
  const r = await rig(t, { cutAfter: 6 * MiB });
  t.ok((await r.fetch()).equals(content), 'every byte is there');
  t.equal(r.asked[0], undefined);
  t.ok(r.asked.length >= 4, `${r.asked.length} requests`);
  for (const range of r.asked.slice(1)) t.match(range, /^bytes=[1-9]\d*-$/);
  t.same(r.left(), []);
});

for (const ranges of ['shifted', 'unsaid', 'refused', 'ignored', 'other-total'] as const)
  t.test(`a server whose ranges are ${ranges} is asked for all of it again`, async (t) => {
    const r = await rig(t, { cutAfter: 6 * MiB, ranges });
    const fetching = r.fetch();
    // The second request shows what the server is like; then it stops cutting.
    const timer = setInterval(() => {
      if (r.asked.length >= 2) r.behaviour.cutAfter = undefined;
    }, 1);
    t.teardown(() => clearInterval(timer));
    t.ok((await fetching).equals(content), 'no byte of the wrong part was taken');
  });

t.test('another version of the file is fetched from its begin', async (t) => {
  const r = await rig(t, { cutAfter: 6 * MiB });
  const other = seededRandom(4).bytes(9 * MiB);
  const fetching = r.fetch();
  const timer = setInterval(() => {
    if (r.asked.length < 1) return;
    clearInterval(timer);
    Object.assign(r.behaviour, { bytes: other, etag: '"two"', cutAfter: undefined });
  }, 1);
  t.teardown(() => clearInterval(timer));
  t.equal(sha256(await fetching), sha256(other), 'nothing of the old one is in it');
});

t.test(
  'a part of another version is refused by its ETag, also from a server that sends it all the same',
  async (t) => {
    const r = await rig(t, { cutAfter: 6 * MiB, ranges: 'unconditional' });
    // Of the same size: nothing but the ETag tells the two apart.
    const other = seededRandom(5).bytes(content.length);
    const fetching = r.fetch();
    const timer = setInterval(() => {
      if (r.asked.length < 1) return;
      clearInterval(timer);
      Object.assign(r.behaviour, { bytes: other, etag: '"two"', cutAfter: undefined });
    }, 1);
    t.teardown(() => clearInterval(timer));
    t.equal(sha256(await fetching), sha256(other), 'nothing of the old one is in it');
    t.match(r.asked[1], /^bytes=/, 'it was asked for the rest');
    t.equal(r.asked[2], undefined, 'and then for all of it');
  },
);

t.test('a weak ETag, or none, proves nothing', async (t) => {
  for (const etag of ['W/"one"', null]) {
    const r = await rig(t, { cutAfter: 6 * MiB, etag });
    await t.rejects(r.fetch(), { code: 'DOWNLOAD_FAILED', message: /broke after/ });
    t.ok(
      r.asked.every((range) => range === undefined),
      'no part was asked for',
    );
    t.ok(r.asked.length <= 2 * limits.downloadTriesMax, `${r.asked.length} requests`);
    t.same(r.left(), [], 'what cannot be continued is not kept');
  }
});

t.test('a server that brings nothing any more is given up, and what came is kept', async (t) => {
  const r = await rig(t, { cutAfter: 9 * MiB });
  const fetching = r.fetch();
  const timer = setInterval(() => {
    if (r.asked.length >= 1) r.behaviour.status = 503;
  }, 1);
  t.teardown(() => clearInterval(timer));
  await t.rejects(fetching, { code: 'DOWNLOAD_FAILED', message: /503/ });
  clearInterval(timer);
  t.ok(r.asked.length <= limits.downloadTriesMax + 2, `${r.asked.length} requests`);
  t.equal(r.left().length, 2, 'the bytes and their identity');
  t.notMatch(readFileSync(`${r.directory}/${r.left()[1]}`, 'utf8'), '127.0.0.1', 'no address');
  Object.assign(r.behaviour, { status: undefined, cutAfter: undefined });
  r.asked.length = 0;
  t.ok((await r.fetch()).equals(content), 'the next import goes on');
  t.same(r.asked.length, 1);
  t.match(r.asked[0], /^bytes=[1-9]\d{6}-$/, 'behind what is there');
  t.same(r.left(), []);
});

t.test('only what is surely on the disk is gone on with', async (t) => {
  const r = await rig(t, { cutAfter: 9 * MiB });
  const stop = new AbortController();
  const gone = new DvceError('INTERRUPTED', { what: 'it', advice: '' });
  const fetching = r.fetch(stop.signal);
  const timer = setInterval(() => {
    if (r.asked.length >= 2) stop.abort(gone);
  }, 1);
  t.teardown(() => clearInterval(timer));
  await t.rejects(fetching, { code: 'INTERRUPTED' });
  const [data = '', identity = ''] = r.left();
  const known = JSON.parse(readFileSync(`${r.directory}/${identity}`, 'utf8'));
  // As after a loss of power: the tail was never written, other bytes are in its place.
  const bytes = readFileSync(`${r.directory}/${data}`);
  writeFileSync(`${r.directory}/${identity}`, JSON.stringify({ ...known, syncedBytes: 5 * MiB }));
  // The file is even longer than what is to come: nothing behind the last sync may stay.
  const tail = Buffer.alloc(25 * MiB - bytes.length);
  writeFileSync(`${r.directory}/${data}`, Buffer.concat([bytes.fill(0, 5 * MiB), tail]));
  r.behaviour.cutAfter = undefined;
  r.asked.length = 0;
  t.ok((await r.fetch()).equals(content));
  t.same(r.asked, [`bytes=${5 * MiB}-`]);
});

t.test('a cancelled download keeps nothing', async (t) => {
  const r = await rig(t, { cutAfter: 9 * MiB });
  const stop = new AbortController();
  const fetching = r.fetch(stop.signal);
  const timer = setInterval(() => {
    if (r.asked.length >= 2) stop.abort(new DvceError('CANCELLED', { what: 'it' }));
  }, 1);
  t.teardown(() => clearInterval(timer));
  await t.rejects(fetching, { code: 'CANCELLED' });
  t.same(r.left(), []);
});

t.test('two downloads of one address at the same time do not meet', async (t) => {
  const r = await rig(t);
  const both = await Promise.all([r.fetch(), r.fetch()]);
  t.ok(both.every((bytes) => bytes.equals(content)));
  t.same(r.left(), []);
});

t.test('checksum files of all kinds', async (t) => {
  const a = 'ab'.repeat(32);
  const b = 'CD'.repeat(64);
  t.equal(findChecksum(`${a}  other\n${a} *x.qcow2\n`, 'x.qcow2'), `sha256:${a}`);
  t.equal(findChecksum(`# c\n${b}  ./x\n`, 'x'), `sha512:${b.toLowerCase()}`);
  t.equal(findChecksum(`SHA256 (x.raw) = ${a}\n`, 'x.raw'), `sha256:${a}`);
  t.equal(findChecksum(`${a}\n`, 'x'), `sha256:${a}`);
  t.equal(findChecksum(`${a}  other\n`, 'x'), undefined);
  t.equal(findChecksum(`${a}\n${a}\n`, 'x'), undefined, 'two digests without names');
  t.equal(findChecksum(`${a}  xx\n`, 'x'), undefined, 'a longer name');
  const r = await rig(t, { bytes: Buffer.from(`${a}  disk.raw\n`) });
  const options = {
    timers: fast,
    random: systemRandom,
    signal: new AbortController().signal,
    onProgress: () => {},
  };
  t.equal(await fetchChecksum(r.url, r.url, options), `sha256:${a}`);
  await t.rejects(fetchChecksum(r.url, 'http://h/else.raw', options), {
    code: 'DOWNLOAD_FAILED',
    message: /does not name else.raw/,
  });
});

t.test('a digest by sha512 is looked at, and said', (t) => {
  const hash = new SourceHash('x', `sha512:${'0'.repeat(128)}`);
  hash.add(Buffer.from('x'));
  t.throws(() => hash.end(), { code: 'CHECKSUM_MISMATCH', message: /has sha512 / });
  t.end();
});

t.test('leftovers go, young downloads stay, and nothing that is not ours is touched', async (t) => {
  const directory = t.testdir({
    'image-0011': 'x',
    'import-0022': 'x',
    'download-aa': 'x',
    'download-bb': 'x',
    'somebody-else': 'x',
  });
  mkdirSync(`${directory}/image-dd`);
  const nowMs = 10 * limits.partialKeepMs;
  utimesSync(`${directory}/download-aa`, nowMs / 1000 - 60, nowMs / 1000 - 60);
  utimesSync(`${directory}/download-bb`, 1, 1);
  t.same((await sweepTemporary(directory, nowMs)).sort(), [
    'download-bb',
    'image-0011',
    'import-0022',
  ]);
  t.same(readdirSync(directory).sort(), ['download-aa', 'image-dd', 'somebody-else']);
  t.same(await sweepTemporary(`${directory}/none`, nowMs), []);
});
