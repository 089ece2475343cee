/**
 * One process per data directory (N3).
 *
 * The lock is an open-file-description lock on `<directory>/<name>`, held until `release` or the end of the process, however
 * that comes: a lock left behind by kill -9 does not exist. The file itself stays and carries the pid of the last holder, for
 * people and for the message to whoever comes second; it is never removed, because removing it would let two processes
 * lock two files of the same name.
 */
import * as fs from 'node:fs';
import { tryLock } from 'fs-native-extensions';
import { DvceError, toDvceError } from './errors.ts';

export interface DataDirectoryLock {
  release(): void;
}

/** @throws LOCKED, naming the pid of the holder */
export function lockDataDirectory(directory: string, name = 'lock'): DataDirectoryLock {
  const path = `${directory}/${name}`;
  let fd: number;
  try {
    // Not truncated on opening: until the lock is ours, the pid in it is somebody else's.
    fd = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o640);
  } catch (error) {
    throw toDvceError(error, path);
  }
  try {
    if (!tryLock(fd))
      throw new DvceError('LOCKED', { what: `the data directory ${directory}`, pid: readPid(fd) });
    fs.ftruncateSync(fd, 0);
    fs.writeSync(fd, `${process.pid}\n`, 0);
  } catch (error) {
    fs.closeSync(fd);
    throw toDvceError(error, path);
  }
  let isHeld = true;
  return {
    release() {
      if (isHeld) fs.closeSync(fd);
      isHeld = false;
    },
  };
}

function readPid(fd: number): string {
  const bytes = Buffer.alloc(32);
  const pid = bytes
    .subarray(0, fs.readSync(fd, bytes, 0, 32, 0))
    .toString('latin1')
    .trim();
  // Empty for the instant between locking and writing.
  return /^\d+$/.test(pid) ? pid : 'unknown';
}
