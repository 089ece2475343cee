// limit: 3000 s
/**
 * The Debian package in an emulated Debian with systemd: installed, its services killed and starved, upgraded and removed while a
 * guest writes to its disk. What happens inside is test/support/debian-machine/story.sh; here it is built, run and read.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { hasTool, seconds } from '../support/blockd-process.ts';
import { projectRoot } from '../support/dvce.ts';
import { readStory } from '../support/story.ts';

t.setTimeout(seconds(3000));
const machine = join(projectRoot, 'test/support/debian-machine');
const cache = join(projectRoot, '.vm/debian-machine');
const stepsLeast = 30;
const storyMsMax = seconds(2400);

/**
 * Writes sectors 1 to 64 of its disk in turn with a counter, for ever; says `.` for every 16th write, `E` for one that failed.
 * Sixteen bits, INT 13h function 43h (extended write) on drive 80h, port 3F8h.
 */
const bootSector = Buffer.from(
  [
    'fa31c08ed88ec08ed0bc007cfb66c706007e1000010066c706047e0080000066c7060c7e0000000066c7060080000000',
    '0066ff06008066a100806683e03f664066a3087ebe007eb280b80043cd13b0457209a00080240f75d8b02ebaf803eeeb',
    'd0',
  ].join(''),
  'hex',
);

async function lacking(): Promise<string | false> {
  if (process.getuid?.() !== 0) return 'building a Debian needs root';
  for (const tool of ['mmdebstrap', 'qemu-system-x86_64', 'dpkg-deb', 'mke2fs', 'cpio', 'depmod'])
    if (!(await hasTool(tool))) return `${tool} is not installed`;
  return false;
}

function build(work: string): string {
  const make = (...more: string[]): string =>
    execFileSync(
      join(projectRoot, 'scripts/package.sh'),
      ['--out', work, '--only', 'deb', ...more],
      {
        encoding: 'utf8',
      },
    );
  const old = make();
  t.equal(make().split(' ')[2], old.split(' ')[2], 'the same input makes the same bytes');
  t.comment(old);
  make('--version', '99.0.0');
  const story = join(work, 'story');
  mkdirSync(story);
  copyFileSync(old.split(' ')[0] ?? '', join(story, 'old.deb'));
  copyFileSync(join(work, 'dvce_99.0.0_amd64.deb'), join(story, 'new.deb'));
  copyFileSync(join(machine, 'story.sh'), join(story, 'run'));
  writeFileSync(join(story, 'new-version'), '99.0.0\n');
  const disk = Buffer.alloc(1 << 20);
  bootSector.copy(disk);
  disk.writeUInt16LE(0xaa55, 510);
  writeFileSync(join(story, 'boot.raw'), disk);
  const image = join(work, 'story.raw');
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', story, image, '200M']);
  return image;
}

const drive = (id: string, file: string, more: string): string[] => [
  ...['-drive', `if=none,id=${id},file=${file},format=raw,${more}`],
  ...['-device', `virtio-blk-pci,drive=${id}`],
];

t.test(
  'installed, run, upgraded and removed under a guest',
  { skip: await lacking() },
  async (t) => {
    const work = mkdtempSync('/tmp/dvce-package-test-');
    t.teardown(() => rmSync(work, { recursive: true, force: true }));
    execFileSync(join(machine, 'build.sh'), [cache], { stdio: ['ignore', 'ignore', 'inherit'] });
    const story = build(work);
    const child = spawn(
      'qemu-system-x86_64',
      [
        ...[
          // One thread for both processors: with one each, the emulator corrupts memory of the machine now and then (its kernel
          // panics with "corrupted stack end", or the emulator itself dies).
          '-accel',
          'tcg,thread=single',
          '-machine',
          'q35',
          '-cpu',
          'max,-avx,-avx2',
          '-smp',
          '2',
          '-m',
          '1536',
        ],
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
        ...['-kernel', join(cache, 'vmlinuz'), '-initrd', join(cache, 'initrd'), '-append'],
        'console=ttyS0 loglevel=3 panic=-1 no_timer_check mitigations=off systemd.show_status=0',
        ...drive('root', join(cache, 'root.raw'), 'snapshot=on'),
        ...drive('story', story, 'readonly=on'),
        ...['-device', 'virtio-rng-pci'],
      ],
      { stdio: ['ignore', 'pipe', 'inherit'], timeout: storyMsMax, killSignal: 'SIGKILL' },
    );
    t.teardown(() => void child.kill('SIGKILL'));
    const closed = once(child, 'close');
    const { steps, ended } = await readStory(t, child.stdout);
    await closed;
    t.ok(steps.length >= stepsLeast, `${steps.length} steps were taken`);
    t.ok(ended, 'the story came to its end');
  },
);
