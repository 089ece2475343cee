/**
 * A disk that really fails: a file system on a loop device on a file that an NBD server serves through FUSE. The server answers EIO
 * when it is told to, so what the kernel makes of it, in write-back, fdatasync and reads, is what it makes of a broken disk.
 *
 *   ext4 without a journal -> /dev/loopN -> FUSE (nbdfuse) -> nbdkit with the error filter -> image
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { hasTool, run, until } from './blockd-process.ts';

const tools = ['nbdkit', 'nbdfuse', 'losetup', 'blockdev', 'mkfs.ext4', 'mount'];

/** Why there can be none here; false when there can. */
export async function noFailingDisk(): Promise<string | false> {
  if (process.getuid?.() !== 0) return 'needs root';
  if (!existsSync('/dev/fuse')) return 'this kernel has no FUSE';
  for (const tool of tools) if (!(await hasTool(tool))) return `${tool} is not installed`;
  return false;
}

async function must(command: readonly string[]): Promise<string> {
  const { code, output } = await run(command);
  if (code !== 0) throw new Error(`${command.join(' ')}: ${code} ${output}`);
  return output.trim();
}

export class FailingDisk {
  readonly #root: string;
  #server: ChildProcess | undefined;
  #fuse: ChildProcess | undefined;
  #loop = '';

  private constructor(root: string) {
    this.#root = root;
  }

  static async make(t: Test, sizeBytes: number): Promise<FailingDisk> {
    const disk = new FailingDisk(mkdtempSync('/tmp/dvce-failing-'));
    t.teardown(() => disk.#end());
    for (const name of ['fuse', 'mounted']) mkdirSync(join(disk.#root, name));
    writeFileSync(disk.#image, '');
    truncateSync(disk.#image, sizeBytes);
    await must(['mkfs.ext4', '-q', '-O', '^has_journal', '-E', 'lazy_itable_init=0', disk.#image]);
    await disk.#attach();
    return disk;
  }

  /** Where the file system is. */
  get path(): string {
    return join(this.#root, 'mounted');
  }
  get #image(): string {
    return join(this.#root, 'image');
  }
  get #socket(): string {
    return join(this.#root, 'nbd.sock');
  }

  /** From now on, or no more: writes or reads of the device are answered with EIO. */
  fail(what: 'write' | 'read', isFailing: boolean): void {
    const trigger = join(this.#root, `fail-${what}`);
    if (isFailing) writeFileSync(trigger, '');
    else rmSync(trigger, { force: true });
  }

  /**
   * Reads of these bytes of a file fail from now on, as of a disk with bad sectors there: all else was read before and is in the
   * page cache. Nobody may have the file open.
   */
  async failReadsOf(file: string, offset: number, length: number): Promise<void> {
    await must(['umount', this.path]);
    // One page at a time is read and can be dropped.
    await must(['blockdev', '--setra', '0', this.#loop]);
    await must(['mount', this.#loop, this.path]);
    await must(['sh', '-c', `find ${this.path} -type f -exec cat {} + > /dev/null`]);
    const at = ['bs=4096', `skip=${offset / 4096}`, `count=${length / 4096}`];
    const drop = ['dd', `if=${join(this.path, file)}`, 'of=/dev/null', 'iflag=nocache', ...at];
    this.fail('read', true);
    // What is read so is dropped when it has been; pages on their way into the cache take another time.
    await until('the bytes to be dropped', async () => (await run(drop)).code !== 0);
  }

  async #attach(): Promise<void> {
    this.#server = this.#serve();
    await until('the NBD server', () => existsSync(this.#socket));
    const file = join(this.#root, 'fuse/disk');
    this.#fuse = spawn('nbdfuse', [file, `nbd+unix:///?socket=${this.#socket}`], {
      stdio: 'ignore',
    });
    await until('the disk', () => existsSync(file));
    this.#loop = await must(['losetup', '--direct-io=on', '--find', '--show', file]);
    await must(['mount', '-o', 'errors=continue', this.#loop, this.path]);
  }

  #serve(): ChildProcess {
    const when = (call: string, what: string): string[] => [
      `error-${call}-rate=100%`,
      `error-${call}-file=${join(this.#root, `fail-${what}`)}`,
    ];
    const words = [
      ...['-f', '-U', this.#socket, '--filter=error', 'file', this.#image, 'error=EIO'],
      ...[...when('pread', 'read'), ...when('pwrite', 'write'), ...when('zero', 'write')],
      ...when('trim', 'write'),
    ];
    return spawn('nbdkit', words, { stdio: 'ignore' });
  }

  /** Whatever state it is in. */
  async #end(): Promise<void> {
    for (const what of ['read', 'write'] as const) this.fail(what, false);
    await run(['umount', '-l', this.path]);
    if (this.#loop !== '') await run(['losetup', '-d', this.#loop]);
    await run(['umount', '-l', join(this.#root, 'fuse')]);
    await ended(this.#fuse);
    await ended(this.#server);
    rmSync(this.#root, { recursive: true, force: true });
  }
}

async function ended(child: ChildProcess | undefined): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.kill('SIGTERM');
  await gone;
}
