// limit: 120 s
/**
 * The order of system calls of the real blockd, seen by strace: a flush is answered only after the journal's fdatasync has
 * completed, and a name that was linked is made durable before anything is built on it (invariant 3, B-22).
 */
import { readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { hasTool, run, testNode } from '../support/blockd-process.ts';
import { RawNbd } from '../support/nbd-raw.ts';
import { blockBytes, stamp } from '../support/stamped-load.ts';

interface Call {
  readonly name: string;
  /** With `-y`: `5</path>`, `"/a", "/b"`. */
  readonly args: string;
  readonly startAt: number;
  readonly endAt: number;
  readonly result: number;
}

/** Lines of `strace -f -ttt -T -y`, unfinished and resumed ones joined; in the order in which they ended. */
function parse(text: string): Call[] {
  const calls: Call[] = [];
  const open = new Map<string, Omit<Call, 'endAt' | 'result'>>();
  for (const line of text.split('\n')) {
    const [, thread = '', time = '', rest = ''] = /^(\d+)\s+([\d.]+) (.*)$/.exec(line) ?? [];
    const [, result = '', lasted = '0'] = / = (-?\d+).*?(?:<([\d.]+)>)?$/.exec(rest) ?? [];
    const [, name, args = ''] = /^(\w+)\((.*)$/.exec(rest) ?? [];
    const startAt = Number(time);
    if (name !== undefined && rest.includes('<unfinished ...>'))
      open.set(thread, { name, args, startAt });
    else if (name !== undefined)
      calls.push({ name, args, startAt, endAt: startAt + Number(lasted), result: Number(result) });
    const begun = open.get(thread);
    if (!rest.includes(' resumed>') || begun === undefined) continue;
    open.delete(thread);
    calls.push({ ...begun, endAt: startAt, result: Number(result) });
  }
  return calls.sort((a, b) => a.endAt - b.endAt);
}

async function whyNot(): Promise<string | false> {
  if (!(await hasTool('strace'))) return 'strace is missing';
  const traced = await run(['strace', '-o', '/dev/null', 'true']);
  return traced.code === 0 ? false : 'ptrace is not permitted here';
}

const skip = await whyNot();

t.test(
  'fdatasync before the flush reply, fsync of the directory after link',
  { skip },
  async (t) => {
    const out = join(t.testdir(), 'trace');
    const node = testNode(t, ['--workers', '1']);
    const trace =
      'trace=fdatasync,fsync,link,linkat,write,writev,pwrite64,pwritev,sendmsg,sendto,rename,renameat,renameat2';
    const child = node.spawn({
      before: ['strace', '-f', '-ttt', '-T', '-y', '-s', '32', '-xx', '-e', trace, '-o', out],
      environment: { UV_THREADPOOL_SIZE: '16' },
    });
    const ended = new Promise((resolve) => child.on('exit', resolve));
    await node.answers();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 16 * MiB });
    const attach = { path: '/a', attachId: 'x', vm: 'v' };
    const { socketPath, exportName } = await node.client.call('volume.attach', attach);
    const nbd = await RawNbd.connect({ path: socketPath }, exportName);
    const rounds = 20;
    /** Wall times between which exactly one flush was asked and answered. */
    const flushes: { readonly sentAt: number; readonly answeredAt: number }[] = [];
    for (let i = 0; i < rounds; i += 1) {
      await nbd.write(i * blockBytes, stamp(i, 1));
      const sentAt = Date.now() / 1000;
      await nbd.flush();
      flushes.push({ sentAt, answeredAt: Date.now() / 1000 });
    }
    await node.client.call('snapshot.create', { path: '/a', name: 's' });
    nbd.destroy();
    await node.client.call('shutdown', { graceful: true });
    await ended;
    const calls = parse(readFileSync(out, 'utf8'));
    const isJournal = (call: Call): boolean => call.args.includes(hexPath(node.directory.journal));
    const isGuest = (call: Call): boolean =>
      call.args.includes(hexPath(socketPath)) || /socket:|UNIX/.test(call.args);

    // The replies of the guest's connection are the sends of 16 bytes that carry the reply magic.
    const replies = calls.filter(
      (call) => isGuest(call) && call.args.includes('\\x67\\x44\\x66\\x98'),
    );
    t.ok(replies.length >= 2 * rounds, `${replies.length} replies seen`);
    for (const [index, { sentAt, answeredAt }] of flushes.entries()) {
      const reply = replies
        .filter((call) => call.startAt >= sentAt - 0.001 && call.endAt <= answeredAt + 0.001)
        .at(-1);
      const sync = calls.find(
        (call) =>
          call.name === 'fdatasync' &&
          isJournal(call) &&
          call.result === 0 &&
          call.startAt >= sentAt - 0.001 &&
          call.endAt <= (reply?.startAt ?? 0),
      );
      if (reply === undefined || sync === undefined)
        t.fail(`flush ${index}: no fdatasync of the journal before its reply`);
    }
    t.pass(`${rounds} flushes`);

    // Every published name: the content synced before, the directory after, by the same order of completion.
    const links = calls.filter((call) => /^link(at)?$/.test(call.name) && call.result === 0);
    t.ok(links.length >= 5, `${links.length} names published`);
    for (const link of links) {
      const [source = '', target = ''] = [...link.args.matchAll(/"([^"]*)"/g)].map((match) =>
        unhex(match[1] ?? ''),
      );
      const directory = target.slice(0, target.lastIndexOf('/'));
      const before = calls.some(
        (call) =>
          call.name === 'fdatasync' &&
          call.result === 0 &&
          call.args.includes(hexPath(source)) &&
          call.endAt <= link.startAt,
      );
      const after = calls.some(
        (call) =>
          call.name === 'fsync' &&
          call.result === 0 &&
          call.args.includes(`<${hexPath(directory)}>`) &&
          call.startAt >= link.startAt,
      );
      if (!before || !after)
        t.fail(`${target}: content synced before ${before}, directory after ${after}`);
    }
    t.pass('every link');
    t.throws(() => readlinkSync(`/proc/${child.pid}/exe`), 'nothing is left running');
  },
);

/** `-xx` prints strings as hexadecimal; paths of `-y` are printed plain or in the same way, depending on the release. */
const hexPath = (path: string): string => path;
const unhex = (text: string): string =>
  text.replace(/\\x([0-9a-f]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
