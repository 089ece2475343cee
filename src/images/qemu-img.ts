/**
 * qemu-img, on files that are open already: it gets descriptor 3, never a path of the user's, and is told the format and
 * that there is no backing file, so that it guesses and follows nothing.
 */
import { spawn } from 'node:child_process';
import { Ajv } from 'ajv';
import Type from 'typebox';
import { DvceError, limits, type Timers } from '../base/index.ts';
import { badImage, type ExportFormat, type ImageTarget } from './protocol.ts';
import type { FilePart } from './vmdk.ts';

export interface QemuImgOptions {
  readonly timers: Timers;
  readonly signal: AbortSignal;
  /** Descriptor of the image, or of the file to fill. */
  readonly descriptor: number;
  /** Where in it the image lies. */
  readonly part: FilePart;
  readonly format: 'raw' | 'qcow2' | 'vmdk';
  /** Name of the source, for messages. */
  readonly name: string;
}

interface Outcome {
  readonly status: number | null;
  readonly output: string;
  readonly complaint: string;
}

const outputBytesMax = 1024 * 1024;
const complaintBytesMax = 2000;

const isInfo = new Ajv({ strict: false }).compile<{
  'virtual-size': number;
  encrypted?: boolean;
  'backing-filename'?: string;
  'format-specific'?: { data?: { 'data-file'?: string; corrupt?: boolean } };
}>(
  Type.Object({
    'virtual-size': Type.Integer({ minimum: 0 }),
    encrypted: Type.Optional(Type.Boolean()),
    'backing-filename': Type.Optional(Type.String()),
    'format-specific': Type.Optional(
      Type.Object({
        data: Type.Optional(
          Type.Object({
            'data-file': Type.Optional(Type.String()),
            corrupt: Type.Optional(Type.Boolean()),
          }),
        ),
      }),
    ),
  }),
);

const ourFile = { driver: 'file', filename: '/dev/fd/3', locking: 'off' };

const source = ({ format, part }: QemuImgOptions): string =>
  `json:${JSON.stringify({
    driver: format,
    ...(format === 'raw' ? {} : { backing: null }),
    file:
      part.offset === 0
        ? ourFile
        : { driver: 'raw', offset: part.offset, size: part.length, file: ourFile },
  })}`;

const exportOf = ({ socketPath, exportName }: ImageTarget) => ({
  driver: 'nbd',
  server: { type: 'unix', path: socketPath },
  export: exportName,
  'reconnect-delay': limits.imageReconnectMs / 1000,
  'open-timeout': limits.imageReconnectMs / 1000,
});

/**
 * What QEMU makes of an image must agree with what its header said, and every block that its tables name must lie
 * inside of the file: QEMU reads zeros beyond the end, so a truncated image would be imported without a complaint.
 * @returns the virtual size
 */
export async function verifyImage(options: QemuImgOptions): Promise<number> {
  const { name } = options;
  const info = await run(options, ['info', '--output=json', source(options)]);
  const facts = info.status === 0 ? parse(info.output) : undefined;
  if (!isInfo(facts)) throw badImage(name, firstLine(info.complaint));
  const data = facts['format-specific']?.data;
  if (facts.encrypted === true) throw badImage(name, 'it is encrypted');
  if (facts['backing-filename'] !== undefined || data?.['data-file'] !== undefined)
    throw badImage(name, 'it names another file');
  const check = await run(options, ['check', '--output=json', source(options)]);
  // 0: consistent; 3: clusters that nothing uses, which is harmless.
  if (check.status !== 0 && check.status !== 3)
    throw badImage(
      name,
      `it is truncated or damaged: ${firstLine(check.complaint)}`,
      'Fetch it again, and give its sha256.',
    );
  return facts['virtual-size'];
}

/** Copy into a volume that is all zeros. @param onPercent gets 0 to 100 */
export async function copyToVolume(
  options: QemuImgOptions,
  target: ImageTarget,
  onPercent: (percent: number) => void,
): Promise<void> {
  const { status, complaint } = await run(
    options,
    [
      ...['convert', '-p', '-n', '--target-is-zero', '-t', 'writeback', '-O', 'raw'],
      source(options),
      `json:${JSON.stringify({ driver: 'raw', file: exportOf(target) })}`,
    ],
    onPercent,
  );
  if (status !== 0) throw copyFailed(options, `volume ${target.exportName}`, complaint);
}

function copyFailed({ name }: QemuImgOptions, where: string, complaint: string): DvceError {
  const reason = firstLine(complaint);
  if (/No space left/i.test(complaint)) return new DvceError('NO_SPACE', { where, reason });
  // What the tool finds out only while it unpacks is the image's fault.
  if (/while reading|error while decompress|Invalid argument/i.test(complaint))
    return badImage(name, `it is truncated or damaged: ${reason}`, 'Fetch it again.');
  return new DvceError('IO_FAILED', { what: `copying image ${name}`, where, reason });
}

/** Fill the file, which is empty, with a qcow2 image of the disk. */
export async function copyToFile(
  options: QemuImgOptions & { readonly format: ExportFormat },
  from: ImageTarget,
  onPercent: (percent: number) => void,
): Promise<void> {
  const { status, complaint } = await run(
    options,
    [
      ...['convert', '-p', '-O', options.format],
      `json:${JSON.stringify({ driver: 'raw', file: exportOf(from) })}`,
      '/dev/fd/3',
    ],
    onPercent,
  );
  if (status !== 0) throw copyFailed(options, 'the temporary file', complaint);
}

function run(
  options: QemuImgOptions,
  args: readonly string[],
  onPercent?: (percent: number) => void,
): Promise<Outcome> {
  const { timers, signal, descriptor, name } = options;
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const child = spawn('qemu-img', args, {
      stdio: ['ignore', 'pipe', 'pipe', descriptor],
      cwd: '/',
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C' },
    });
    let failure: unknown;
    const stop = (reason: unknown): void => {
      failure ??= reason;
      child.kill('SIGKILL');
    };
    const expire = (): void => {
      const what = `qemu-img ${args[0]} of ${name}`;
      stop(new DvceError('TIMED_OUT', { what, ms: limits.imageStallMs }));
    };
    const cancel = (): void => stop(signal.reason);
    signal.addEventListener('abort', cancel, { once: true });
    let timer = timers.after(limits.imageStallMs, expire);
    let output = '';
    let complaint = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      timer.cancel();
      timer = timers.after(limits.imageStallMs, expire);
      output = (output + chunk.toString()).slice(-outputBytesMax);
      const percent = /\(([\d.]+)\/100%\)[^(]*$/.exec(output)?.[1];
      if (percent !== undefined) onPercent?.(Number(percent));
    });
    child.stderr?.on('data', (chunk: Buffer) => {
      complaint = (complaint + chunk.toString()).slice(0, complaintBytesMax);
    });
    const settle = (): void => {
      timer.cancel();
      signal.removeEventListener('abort', cancel);
    };
    child.on('error', (error) => {
      settle();
      reject(missing(error));
    });
    child.on('close', (status) => {
      settle();
      if (failure === undefined) resolve({ status, output, complaint });
      else reject(failure);
    });
  });
}

const missing = (error: Error): DvceError =>
  new DvceError(
    'TOOL_MISSING',
    { tool: 'qemu-img', advice: 'apt-get install --no-install-recommends qemu-utils' },
    error,
  );

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // the caller reports what the program said on standard error
  }
}

/** The first complaint, without the program's name and our descriptor's. */
function firstLine(complaint: string): string {
  const line = complaint
    .split('\n')
    .map((text) => text.replace(/^qemu-img: /, '').trim())
    .find((text) => text !== '' && !text.startsWith('Could not open'));
  return (line ?? complaint.trim().split('\n')[0] ?? '') || 'qemu-img gave no reason';
}
