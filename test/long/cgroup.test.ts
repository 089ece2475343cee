/** Shares of the host on a real kernel with cgroup v2: an emulated machine runs the shipped module. */
// limit: 300 s
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { buildPayload, payloadMissing } from '../support/power-loss/payload.ts';

t.setTimeout(300_000);
const root = resolve(import.meta.dirname, '../..');
/** As a path inside of the code's folder. */
const program = relative(root, fileURLToPath(import.meta.resolve('../support/cgroup-guest.ts')));

type Facts = Readonly<Record<string, unknown>>;

/** What the guest tells, by its word; all of its console goes to `lines`. */
async function run(directory: string, lines: string[]): Promise<Map<string, Facts>> {
  const { kernel, initrd, disk } = buildPayload(directory);
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...['-accel', 'tcg', '-machine', 'q35', '-cpu', 'max,-avx,-avx2', '-smp', '1', '-m', '768'],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
      ...['-kernel', kernel, '-initrd', initrd, '-append'],
      `console=ttyS0 loglevel=3 panic=-1 no_timer_check mitigations=off cgroup_no_v1=all code=code program=${program}`,
      ...['-drive', `if=none,id=payload,file=${disk},format=raw,snapshot=on`],
      ...['-device', 'virtio-blk-pci,drive=payload'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'], timeout: 240_000, killSignal: 'SIGKILL' },
  );
  const told = new Map<string, Facts>();
  for await (const line of createInterface({ input: child.stdout })) {
    lines.push(line.trim());
    const found = /^@ (\{.*\})$/.exec(line.trim());
    if (found === null) continue;
    const facts = JSON.parse(found[1] ?? '') as Facts;
    told.set(String(facts['what']), facts);
  }
  return told;
}

t.test('the kernel keeps what was promised', { skip: payloadMissing() }, async (t) => {
  const directory = mkdtempSync('/tmp/dvce-cgroup-');
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const lines: string[] = [];
  const told = await run(directory, lines);
  const facts = (what: string): Facts => told.get(what) ?? {};
  t.ok(told.has('end'), 'the guest came to its end', { lines: lines.slice(-30) });
  t.match(facts('host'), { refusal: null, controllers: /\bcpu\b.*\bmemory\b/ });
  t.match(facts('written'), {
    cpuMax: '20000 100000',
    memoryMin: `${16 * MiB}`,
    memoryMax: `${64 * MiB}`,
    parentMin: `${16 * MiB}`,
  });
  t.match(facts('limited'), { group: '0::/dvce/vm-limited', command: '/bin/busybox' });
  t.comment(JSON.stringify([...told.values()]));
  const share = Number(facts('limited')['share']);
  t.ok(share > 0.1 && share < 0.25, `a fifth of a processor: ${share}`);
  t.ok(Number(facts('limited')['throttled']) > 5);
  t.match(facts('memory'), { signal: 'SIGKILL', kills: 1 });
  t.match(facts('removed'), { left: false, parentMin: '0' });
  const ratio = Number(facts('weights')['ratio']);
  t.ok(ratio > 3 && ratio < 8, `500 against 100: ${ratio}`);
});
