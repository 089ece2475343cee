/**
 * Listening: unix sockets with mode and group, TCP, and sockets handed over by a supervisor.
 *
 * A stale socket file is replaced only when nobody answers on it; anything else at that path is left alone.
 */
import { chmod, chown, lstat, unlink } from 'node:fs/promises';
import { connect, type ListenOptions, type Server } from 'node:net';
import { DvceError, systemCode, toDvceError } from '../base/index.ts';

/** `sun_path` has 108 bytes with the terminating zero. */
const unixPathBytesMax = 107;

export interface UnixSocketOptions {
  /** File mode, for example 0o660. */
  readonly mode: number;
  /** Group id that owns the socket; default the process's. */
  readonly group?: number;
}

export function checkUnixPath(path: string): void {
  const length = Buffer.byteLength(path);
  if (length > unixPathBytesMax)
    throw new DvceError('PATH_TOO_LONG', { where: path, length, max: unixPathBytesMax });
}

export async function listenOnUnixSocket(
  server: Server,
  path: string,
  { mode, group }: UnixSocketOptions,
): Promise<void> {
  checkUnixPath(path);
  try {
    await listen(server, { path }, path);
  } catch (error) {
    if (!(error instanceof DvceError) || error.code !== 'ADDRESS_IN_USE') throw error;
    if (!(await isStaleSocket(path))) throw error;
    await unlink(path);
    await listen(server, { path }, path);
  }
  // Until here the usual umask leaves others no write permission, and connecting needs it.
  try {
    if (group !== undefined) await chown(path, process.getuid?.() ?? 0, group);
    await chmod(path, mode);
  } catch (error) {
    server.close();
    throw toDvceError(error, path);
  }
}

export function listen(
  server: Server,
  options: ListenOptions | { fd: number },
  where: string,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => {
      const busy = systemCode(error) === 'EADDRINUSE';
      reject(busy ? new DvceError('ADDRESS_IN_USE', { where }, error) : toDvceError(error, where));
    };
    server.once('error', failed);
    server.listen(options, () => {
      server.removeListener('error', failed);
      resolve();
    });
  });
}

/** A socket file on which nobody listens. */
async function isStaleSocket(path: string): Promise<boolean> {
  const stat = await lstat(path).catch(() => null);
  if (stat?.isSocket() !== true) return false;
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error) => resolve(systemCode(error) === 'ECONNREFUSED'));
  });
}

/**
 * The listening socket that a supervisor passed as file descriptor 3 (`LISTEN_PID`, `LISTEN_FDS`), or null.
 * @example const fd = activatedSocket(process.env, process.pid)
 */
export function activatedSocket(
  environment: Readonly<Record<string, string | undefined>>,
  pid: number,
): number | null {
  if (environment['LISTEN_PID'] !== String(pid) || environment['LISTEN_FDS'] !== '1') return null;
  return 3;
}
