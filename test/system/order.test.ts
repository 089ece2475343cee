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
import { fua, RawNbd } from '../support/nbd-raw.ts';
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
      before: ['strace', '-f', '-ttt', '-T', '-y', '-s', '32', '-x', '-e', trace, '-o', out],
      environment: { UV_THREADPOOL_SIZE: '16' },
    });
    const ended = new Promise((resolve) => child.on('exit', resolve));
    await node.answers();
    await node.client.call('volume.create', { path: '/a', sizeBytes: 16 * MiB });
    const attach = { path: '/a', attachId: 'x', vm: 'v' };
    const { socketPath, exportName } = await node.client.call('volume.attach', attach);
    const nbd = await RawNbd.connect({ path: socketPath }, exportName);
    const rounds = 20;
    // Cookies count from 1: the write of round i has 3i+1, the flush 3i+2, the write with FUA 3i+3.
    for (let i = 0; i < rounds; i += 1) {
      await nbd.write(i * blockBytes, stamp(i, 1));
      await nbd.flush();
      await nbd.write(i * blockBytes, stamp(i, 2), fua);
    }
    await node.client.call('snapshot.create', { path: '/a', name: 's' });
    nbd.destroy();
    await node.client.call('shutdown', { graceful: true });
    await ended;
    const calls = parse(readFileSync(out, 'utf8'));
    const isJournal = (call: Call): boolean => call.args.includes(node.directory.journal);
    const replyTo = (cookie: number): Call | undefined => {
      const bytes = `\\x67\\x44\\x66\\x98${'\\x00'.repeat(11)}\\x${cookie.toString(16).padStart(2, '0')}`;
      return calls.find((call) => call.args.includes(bytes));
    };
    const journalWrites = calls.filter((call) => /^p?write/.test(call.name) && isJournal(call));
    for (let cookie = 1; cookie <= 3 * rounds; cookie += 1) {
      if (cookie % 3 === 1) continue;
      // Requests follow each other. What a flush makes stable was in the journal before its write was answered (a sync may begin
      // with the write, before the flush came); what a write with FUA makes stable came after the reply before.
      const previous = replyTo(cookie - 1)?.startAt ?? Number.POSITIVE_INFINITY;
      const until = replyTo(cookie)?.startAt ?? 0;
      const written =
        cookie % 3 === 2
          ? journalWrites.findLast((call) => call.endAt <= previous)
          : journalWrites.find((call) => call.startAt >= previous);
      const from = written?.endAt ?? Number.POSITIVE_INFINITY;
      const synced = calls.some(
        (call) =>
          call.name === 'fdatasync' &&
          isJournal(call) &&
          call.result === 0 &&
          call.startAt >= from &&
          call.endAt <= until,
      );
      if (!synced) t.fail(`request ${cookie}: no fdatasync of the journal before its reply`);
    }
    t.pass(`${rounds} flushes and as many writes with FUA`);

    // Every published name: the content synced before, the directory after, by the same order of completion.
    const links = calls.filter((call) => /^link(at)?$/.test(call.name) && call.result === 0);
    t.ok(links.length >= 5, `${links.length} names published`);
    for (const link of links) {
      const [source = '', target = ''] = [...link.args.matchAll(/"([^"]*)"/g)].map(
        (match) => match[1] ?? '',
      );
      const directory = target.slice(0, target.lastIndexOf('/'));
      const before = calls.some(
        (call) =>
          call.name === 'fdatasync' &&
          call.result === 0 &&
          call.args.includes(source) &&
          call.endAt <= link.startAt,
      );
      const after = calls.some(
        (call) =>
          call.name === 'fsync' &&
          call.result === 0 &&
          call.args.includes(`<${directory}>`) &&
          call.startAt >= link.startAt,
      );
      if (!before || !after)
        t.fail(`${target}: content synced before ${before}, directory after ${after}`);
    }
    t.pass('every link');
    t.throws(() => readlinkSync(`/proc/${child.pid}/exe`), 'nothing is left running');
  },
);
