/** blockd's command line, data directory and turns. */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { limits, nodeFileSystem, systemRandom } from '../../src/base/index.ts';
import {
  checkSocketPaths,
  dataDirectory,
  loadNodeId,
  prepareDataDirectory,
  volumeSocket,
} from '../../src/blockd/data-directory.ts';
import { formatBlockdArguments, parseBlockdArguments } from '../../src/blockd/options.ts';
import { Turns } from '../../src/blockd/turns.ts';

t.test('every option is read, and formatted so that it is read again', async (t) => {
  const argv = [
    '--data-dir',
    '/d',
    '--store',
    '/s',
    '--nbd-tcp',
    '[::1]:10809',
    '--nbd-tls-dir',
    '/t',
  ];
  argv.push(
    '--journal-bytes',
    '256MiB',
    '--workers',
    '3',
    '--log-level',
    'debug',
    '--foreground',
    '--export-idle',
    '5s',
    '--scrub-rate',
    '3MiB',
    '--scrub-period',
    '1d',
  );
  const command = parseBlockdArguments(argv);
  if (command.kind === 'help') throw new Error('no help was asked for');
  t.strictSame(command, {
    kind: 'run',
    options: {
      dataDirectory: '/d',
      storeDirectory: '/s',
      nbdTcp: { host: '::1', port: 10_809 },
      nbdTlsDirectory: '/t',
      nbdInsecure: false,
      journalBytes: 268_435_456,
      workers: 3,
      exportIdleMs: 5000,
      scrubBytesPerSecond: 3 * 2 ** 20,
      scrubPeriodMs: 86_400_000,
      logLevel: 'debug',
      foreground: true,
      trashWindowMs: limits.trashWindowMs,
      readCacheBytes: limits.readCacheBytes,
      trashFreeBytesMin: limits.trashFreeBytesMin,
    },
  });
  t.strictSame(parseBlockdArguments(formatBlockdArguments(command.options)), command);
  const least = parseBlockdArguments(['--data-dir', 'd', '--supervise']);
  t.match(least, {
    kind: 'supervise',
    options: { journalBytes: limits.journalBytes, nbdTcp: null },
  });
  t.strictSame(parseBlockdArguments(['--help']), { kind: 'help' });
});

t.test('bad command lines say what is wrong', async (t) => {
  const bad: readonly (readonly [string, readonly string[]])[] = [
    ['--data-dir is missing', []],
    ['--nope', ['--nope']],
    ['TLS', ['--nbd-tcp', 'localhost:1']],
    ['HOST:PORT', ['--nbd-tcp', 'localhost', '--nbd-insecure']],
    ['HOST:PORT', ['--nbd-tcp', 'localhost:70000', '--nbd-insecure']],
    ['contradicts', ['--nbd-tcp', 'localhost:1', '--nbd-insecure', '--nbd-tls-dir', '/t']],
    ['number from 1', ['--workers', '0']],
    ['number from 1', ['--workers', '2.5']],
    ['debug, info', ['--log-level', 'loud']],
  ];
  for (const [text, argv] of bad) {
    const whole = text.includes('data-dir') ? argv : ['--data-dir', '/d', ...argv];
    t.throws(() => parseBlockdArguments(whole), {
      message: new RegExp(text.replaceAll('-', '.')),
      exitCode: 64,
    });
  }
  t.throws(() => parseBlockdArguments(['--data-dir', '/d', '--journal-bytes', '1GB']), {
    code: 'INVALID_SIZE',
  });
});

t.test('a data directory: made, its node id kept, too long a path refused', async (t) => {
  const root = mkdtempSync('/tmp/dvce-dir-');
  t.teardown(() => rmSync(root, { recursive: true }));
  const directory = dataDirectory(join(root, 'a', 'b'));
  await prepareDataDirectory(nodeFileSystem, directory);
  await prepareDataDirectory(nodeFileSystem, directory);
  t.equal(statSync(directory.root).mode & 0o007, 0, 'nothing for others');
  const node = await loadNodeId(nodeFileSystem, directory, systemRandom);
  t.equal(await loadNodeId(nodeFileSystem, directory, systemRandom), node);
  const long = dataDirectory(join(root, 'x'.repeat(100)));
  t.throws(() => checkSocketPaths(long), { code: 'PATH_TOO_LONG', exitCode: 64 });
  checkSocketPaths(directory);
});

t.test('B-45 volumes named alike in different folders share no socket', async (t) => {
  const directory = dataDirectory('/d');
  const sockets = [
    '11111111-1111-4111-8111-111111111111',
    '11111111-1111-4111-8111-111111111112',
  ].flatMap((id) => [
    volumeSocket(directory, id),
    volumeSocket(directory, id, 'one'),
    volumeSocket(directory, id, 'two'),
  ]);
  t.equal(new Set(sockets).size, 6);
  t.equal(volumeSocket(directory, 'a'), volumeSocket(directory, 'a'), 'and keep theirs');
});

t.test(
  'turns: one at a time per key, in order, bounded; a failure does not stop the next',
  async (t) => {
    const turns = new Turns();
    const seen: string[] = [];
    let release: () => void = () => {};
    const first = turns.run('a', async () => {
      await new Promise<void>((resolve) => (release = resolve));
      seen.push('first');
      throw new Error('first failed');
    });
    const failing = t.rejects(first, /first failed/);
    const second = turns.run('a', async () => void seen.push('second'));
    await turns.run('b', async () => void seen.push('other'));
    t.strictSame(seen, ['other']);
    const others = Array.from({ length: limits.volumeWaitersMax - 2 }, () =>
      turns.run('a', async () => {}),
    );
    await t.rejects(
      turns.run('a', async () => {}),
      { code: 'IN_USE' },
    );
    release();
    await Promise.all([failing, second, ...others]);
    await turns.idle();
    t.strictSame(seen, ['other', 'first', 'second']);
  },
);
