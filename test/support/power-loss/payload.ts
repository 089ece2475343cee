/**
 * What the machine boots: kernel and initramfs of the demonstration image, and a disk with Node, the libraries it needs, the
 * code of this checkout and the packages that blockd imports. The disk's label is the one the initramfs looks for.
 *
 *   /node /bin/busybox /sbin/init /lib*     the system
 *   /code/{src,test/support}                this checkout
 *   /no-sync/...                            the same with a journal that answers a flush without fdatasync
 *   /node_modules                           found from both
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { demoImage } from '../guest-rig.ts';

const root = resolve(import.meta.dirname, '../../..');
const blockdFolders = ['base', 'hlfs', 'stores', 'nbd', 'blockd'];
/** The program that `init` starts, as a path inside of the code's folder. */
const guestProgram = relative(root, fileURLToPath(import.meta.resolve('./guest.ts')));
const systemTools = ['sh', 'mount', 'findfs', 'stty', 'echo', 'poweroff'];
export const dataBytes = 192 * 1024 * 1024;

export interface Payload {
  readonly kernel: string;
  readonly initrd: string;
  readonly disk: string;
}

const path = `${process.env['PATH']}:/usr/sbin:/sbin`;
const run = (program: string, args: readonly string[]): string =>
  execFileSync(program, args, {
    encoding: 'utf8',
    env: { ...process.env, PATH: path, MTOOLS_SKIP_CHECK: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });

/** Why the machine cannot be built here, or false. */
export function payloadMissing(): string | false {
  if (process.arch !== 'x64') return 'the machine is an x86_64 one';
  try {
    demoImage();
  } catch {
    return 'the kernel is not there: scripts/demo-image.sh failed, see its message';
  }
  for (const tool of ['ldd', 'mke2fs', 'mcopy'])
    if (!path.split(':').some((folder) => existsSync(join(folder, tool))))
      return `${tool} is not installed`;
  return false;
}

export function buildPayload(directory: string): Payload {
  const payload = {
    kernel: join(directory, 'vmlinuz'),
    initrd: join(directory, 'initrd.img'),
    disk: join(directory, 'payload.raw'),
  };
  // The first partition of the demonstration image begins at 1 MiB.
  run('mcopy', ['-n', '-i', `${demoImage()}@@1M`, '::vmlinuz', '::initrd.img', directory]);
  const stage = join(directory, 'stage');
  stageSystem(stage);
  for (const name of packagesOf(blockdFolders)) copyPackage(name, stage);
  stageLibraries(stage);
  for (const name of ['code', 'no-sync']) stageCode(join(stage, name));
  breakJournal(join(stage, 'no-sync/src/hlfs/journal.ts'));
  for (const name of ['code', 'no-sync']) stripTypes(join(stage, name));
  makeDisk(payload.disk, '320M', ['-L', 'demo-root', '-O', '^has_journal', '-d', stage]);
  rmSync(stage, { recursive: true });
  return payload;
}

/** An empty file system for /data. */
export function makeDataDisk(disk: string): void {
  makeDisk(disk, `${dataBytes / 1024 / 1024}M`, ['-L', 'power-data']);
}

function makeDisk(disk: string, size: string, options: readonly string[]): void {
  const extended = 'root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0';
  run('mke2fs', ['-q', '-F', '-t', 'ext4', '-b', '4096', '-E', extended, ...options, disk, size]);
}

function stageSystem(stage: string): void {
  for (const name of ['bin', 'sbin', 'proc', 'sys', 'dev', 'tmp', 'data'])
    mkdirSync(join(stage, name), { recursive: true });
  copyFileSync('/bin/busybox', join(stage, 'bin/busybox'));
  for (const name of systemTools) symlinkSync('busybox', join(stage, 'bin', name));
  const init = readFileSync(join(import.meta.dirname, 'init'), 'utf8');
  writeFileSync(join(stage, 'sbin/init'), init.replace('GUEST_PROGRAM', guestProgram));
  chmodSync(join(stage, 'sbin/init'), 0o755);
  copyFileSync(process.execPath, join(stage, 'node'));
}

/** The libraries of Node and of the packages' addons. */
function stageLibraries(stage: string): void {
  const programs = [
    process.execPath,
    ...globSync('node_modules/**/*.node', { cwd: stage }).map((name) => join(stage, name)),
  ];
  // Lines such as `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x..)`, and the loader by its path alone.
  for (const [, library = ''] of run('ldd', programs).matchAll(/(\/\S+) \(0x/g)) {
    mkdirSync(join(stage, dirname(library)), { recursive: true });
    copyFileSync(library, join(stage, library));
  }
}

function stageCode(folder: string): void {
  for (const name of ['package.json', 'src', 'test/support'])
    cpSync(join(root, name), join(folder, name), { recursive: true });
}

/** Once here instead of three times under emulation at each start; the hook plain.mjs lets Node take them as they are. */
function stripTypes(folder: string): void {
  for (const file of globSync(join(folder, '**/*.ts')))
    writeFileSync(file, stripTypeScriptTypes(readFileSync(file, 'utf8')));
}

/** Packages imported by files of these folders of src. */
function packagesOf(folders: readonly string[]): Set<string> {
  const names = new Set<string>();
  for (const file of folders.flatMap((name) => globSync(join(root, 'src', name, '**/*.ts'))))
    for (const [, name = ''] of readFileSync(file, 'utf8').matchAll(/ from '([^.'][^']*)'/g))
      if (!name.startsWith('node:')) names.add(name);
  return names;
}

/** A package with what it depends on; optional ones only where they are installed, which is the binary of this platform. */
function copyPackage(name: string, stage: string): void {
  const source = join(root, 'node_modules', name);
  const target = join(stage, 'node_modules', name);
  if (existsSync(target) || !existsSync(source)) return;
  cpSync(source, target, {
    recursive: true,
    filter: (file) => !/prebuilds\/(?!linux-x64)/.test(file),
  });
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
    readFileSync(join(source, 'package.json'), 'utf8'),
  ) as Record<string, Record<string, string>>;
  for (const needed of Object.keys({ ...dependencies, ...optionalDependencies }))
    copyPackage(needed, stage);
}

function breakJournal(file: string): void {
  const call = 'slot.file.dataSync((error) => {';
  const text = readFileSync(file, 'utf8');
  if (text.split(call).length !== 2)
    throw new Error(`the negative control does not fit ${file} any more: no single "${call}"`);
  const nothing = '((done: (error: Error | null) => void) => setImmediate(done, null))';
  writeFileSync(file, text.replace(call, `${nothing}((error) => {`));
}
