/** Who of this host may open a socket of the API: its group. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { handOver } from '../../../src/agent/http/doors.ts';
import { silentLogger } from '../../../src/base/index.ts';

const idOf = (group: string): number => {
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((one) => one.startsWith(`${group}:`));
  return Number(line?.split(':')[2] ?? Number.NaN);
};

const nobody = 65_534;
const group = 'daemon';
const skip =
  process.getuid?.() !== 0
    ? 'needs root, to be another user'
    : Number.isNaN(idOf(group))
      ? `this host has no group ${group}`
      : false;

t.test('a socket is for its group, and one without a group for its owner', { skip }, async (t) => {
  const directory = mkdtempSync('/tmp/dvce-door-');
  chmodSync(directory, 0o711);
  const socket = join(directory, 's');
  const server = createServer((connection) => connection.end());
  await new Promise<void>((done) => {
    server.listen(socket, done);
  });
  t.teardown(() => {
    server.close();
    rmSync(directory, { recursive: true });
  });
  /** What another user of the host meets. */
  const opens = (gid: number, path = socket): string => {
    const code = `require('net').connect('${path}').on('connect', function () { console.log('open'); this.destroy(); })
      .on('error', (error) => console.log(error.code))`;
    const { stdout } = spawnSync(process.execPath, ['-e', code], { uid: nobody, gid });
    return String(stdout).trim();
  };
  await handOver(socket, group, silentLogger);
  t.match(statSync(socket), { gid: idOf(group), uid: 0 });
  t.equal(statSync(socket).mode & 0o777, 0o660);
  t.equal(opens(idOf(group)), 'open', 'a member of the group');
  t.equal(opens(nobody), 'EACCES', 'anybody else');

  const other = join(directory, 'o');
  const second = createServer((connection) => connection.end());
  await new Promise<void>((done) => {
    second.listen(other, done);
  });
  t.teardown(() => second.close());
  await handOver(other, 'no-such-group-here', silentLogger);
  t.match(statSync(other), { gid: process.getgid?.() ?? 0, uid: 0 });
  t.equal(opens(idOf(group), other), 'EACCES');
});
