/** One command that changes something of the host, by an argument list and with a deadline. */
import { execFile } from 'node:child_process';
import { DvceError, limits } from '../base/index.ts';
import { findProgram } from './processes.ts';

export type HostCommand = (program: string, args: readonly string[]) => Promise<string>;

const packages: Readonly<Record<string, string>> = { ip: 'iproute2' };
const outputBytesMax = 1024 * 1024;

/** @returns standard output; @throws TOOL_MISSING, HOST_UNPREPARED with what the program said */
export const hostCommand: HostCommand = async (program, args) => {
  const path = await findProgram(program);
  if (path === undefined)
    throw new DvceError('TOOL_MISSING', {
      tool: program,
      advice: `apt-get install ${packages[program] ?? program}`,
    });
  const options = { timeout: limits.hostCommandMs, maxBuffer: outputBytesMax };
  return new Promise((resolve, reject) => {
    execFile(path, args, { ...options, env: { LC_ALL: 'C' } }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      reject(
        new DvceError(
          'HOST_UNPREPARED',
          {
            what: [program, ...args].join(' '),
            reason: stderr.trim() || error.message,
            advice: 'See what of this host is missing: dvce doctor',
          },
          error,
        ),
      );
    });
  });
};
