/** The audit log when its file is full: moved aside, bounded in number, read across files, private. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AuditLog } from '../../src/agent/audit.ts';
import { limits, silentLogger } from '../../src/base/index.ts';

const entry = (path: string) => ({
  at: '2026-01-02T03:04:05.000Z',
  requestor: 'local',
  from: null,
  method: 'DELETE',
  path,
  operationId: 'deleteVolume',
  status: 200,
  operation: null,
  dryRun: false,
});

t.test('a full file is moved aside, and the oldest of them goes', async (t) => {
  const directory = t.testdir();
  const path = join(directory, 'audit.log');
  const line = `${JSON.stringify({ id: 'old', ...entry(`/v1/volumes/${'o'.repeat(4000)}`) })}\n`;
  writeFileSync(path, line.repeat(Math.ceil((limits.auditFileBytes + 1) / line.length)));
  for (let number = 1; number < limits.auditFiles; number += 1)
    writeFileSync(`${path}.${number}`, `${JSON.stringify({ id: `kept-${number}` })}\n`);

  const log = new AuditLog(path, silentLogger);
  log.add(entry('/v1/volumes/first'));
  log.add(entry('/v1/volumes/second'));
  const newest = await log.list(3);
  t.strictSame(
    newest.map(({ path }) => path.slice(0, 18)),
    ['/v1/volumes/second', '/v1/volumes/first', '/v1/volumes/oooooo'],
    'across the files, newest first',
  );
  await log.close();

  t.equal(readFileSync(path, 'utf8').trim().split('\n').length, 2, 'a new file was begun');
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.ok(statSync(`${path}.1`).size > limits.auditFileBytes);
  t.match(readFileSync(`${path}.2`, 'utf8'), 'kept-1');
  t.match(
    readFileSync(`${path}.${limits.auditFiles - 1}`, 'utf8'),
    `kept-${limits.auditFiles - 2}`,
  );
  t.equal(readdirSync(directory).length, limits.auditFiles, 'no more files than the limit');
  t.notOk(existsSync(`${path}.${limits.auditFiles}`));

  const again = new AuditLog(path, silentLogger);
  again.add(entry('/v1/volumes/third'));
  await again.close();
  t.equal(readFileSync(path, 'utf8').trim().split('\n').length, 3, 'the next agent goes on in it');
});

t.test('a line that a crash cut short hides none of the others', async (t) => {
  const path = join(t.testdir(), 'audit.log');
  const log = new AuditLog(path, silentLogger);
  log.add(entry('/v1/volumes/whole'));
  await log.close();
  writeFileSync(path, `${readFileSync(path, 'utf8')}{"id":"x","at":"20`);
  t.strictSame(
    (await new AuditLog(path, silentLogger).list(10)).map((one) => one.path),
    ['/v1/volumes/whole'],
  );
});
