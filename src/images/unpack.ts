/**
 * Compressed images: gzip, xz and zstd, unpacked into a temporary file whose zeros are holes.
 *
 * Invariants: never more than limits.unpackedBytesMax, never the last space of the disk, whatever small file it came from;
 * a stream that is cut or damaged is an error; the programs get no more memory than they need for honest files.
 */
import { spawn } from 'node:child_process';
import type { FileHandle } from 'node:fs/promises';
import { PassThrough, type Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { DvceError, formatSize, limits } from '../base/index.ts';
import { isZero } from './content.ts';
import { writeAll } from './partial-file.ts';
import { badImage } from './protocol.ts';
import type { SpaceGuard } from './space-guard.ts';

const magics = {
  gzip: Buffer.from([0x1f, 0x8b]),
  xz: Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]),
  zstd: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]),
};
export type Compression = keyof typeof magics;

export function compressionOf(start: Buffer): Compression | undefined {
  const names: readonly Compression[] = ['gzip', 'xz', 'zstd'];
  return names.find((name) => start.subarray(0, magics[name].length).equals(magics[name]));
}

const outputBytes = 256 * 1024;
/** What `xz -9` and `zstd -19 --long` need to unpack. */
const xzMemory = '256MiB';
const zstdWindowLog = 27;

export interface UnpackOptions {
  /** For messages. */
  readonly name: string;
  readonly compression: Compression;
  readonly packed: AsyncIterable<Buffer>;
  readonly into: FileHandle;
  readonly space: SpaceGuard;
  readonly signal: AbortSignal;
  readonly unpackedBytesMax?: number;
}

/** @returns the length of what was unpacked */
export async function unpack(options: UnpackOptions): Promise<number> {
  const { name, compression, packed, signal } = options;
  const most = options.unpackedBytesMax ?? limits.unpackedBytesMax;
  const tool = compression === 'xz' ? xz(name) : inflater(compression);
  let position = 0;
  const write = async (output: AsyncIterable<Buffer>): Promise<void> => {
    for await (const chunk of output) {
      signal.throwIfAborted();
      if (position + chunk.length > most)
        throw badImage(name, `it unpacks to more than ${formatSize(most)}`);
      if (!isZero(chunk)) {
        await options.space.add(chunk.length);
        await writeAll(options.into, chunk, position);
      }
      position += chunk.length;
    }
  };
  try {
    await Promise.all([
      pipeline(packed, tool.input, { signal }),
      pipeline(tool.output, write, { signal }),
      tool.ended,
    ]);
  } catch (error) {
    tool.stop();
    if (signal.aborted) throw signal.reason;
    if (error instanceof DvceError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw isDisk(error)
      ? error
      : badImage(name, `it cannot be unpacked (${compression}): ${reason}`);
  }
  await options.into.truncate(position);
  return position;
}

const isDisk = (error: unknown): boolean =>
  error instanceof Error && 'syscall' in error && 'code' in error;

interface Tool {
  readonly input: Writable;
  readonly output: Readable;
  readonly ended: Promise<void>;
  stop(): void;
}

function inflater(compression: 'gzip' | 'zstd'): Tool {
  const stream =
    compression === 'gzip'
      ? createGunzip({ chunkSize: outputBytes })
      : createZstdDecompress({
          chunkSize: outputBytes,
          params: { [constants.ZSTD_d_windowLogMax]: zstdWindowLog },
        });
  return { input: stream, output: stream, ended: Promise.resolve(), stop: () => stream.destroy() };
}

function xz(name: string): Tool {
  const child = spawn('xz', ['-dc', `--memlimit-decompress=${xzMemory}`], {
    stdio: ['pipe', 'pipe', 'pipe'],
    cwd: '/',
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C' },
  });
  let complaint = '';
  child.stderr.on('data', (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(0, 500);
  });
  // It may end before it has read everything; why, its status tells.
  const input = new PassThrough();
  child.stdin.on('error', () => input.destroy());
  input.pipe(child.stdin);
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', (error) =>
      reject(
        new DvceError('TOOL_MISSING', { tool: 'xz', advice: 'apt-get install xz-utils' }, error),
      ),
    );
    child.once('close', (status) => {
      const reason = complaint.replace(/^xz: (\(stdin\): )?/, '').trim();
      if (status === 0) resolve();
      else reject(badImage(name, `it cannot be unpacked (xz): ${reason || `status ${status}`}`));
    });
  });
  const stop = (): void => {
    input.destroy();
    child.kill('SIGKILL');
  };
  return { input, output: child.stdout, ended, stop };
}
