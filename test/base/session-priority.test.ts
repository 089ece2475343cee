// The leader of a session asks for a share before those of guests, and nobody else does.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { comeBeforeGuests, type Logger } from '../../src/base/index.ts';

const seen: unknown[] = [];
const logger = { debug: (facts: unknown) => seen.push(facts) } as unknown as Logger; // says nothing else here

const proc = (session: number): string => {
  const directory = t.testdir();
  mkdirSync(directory, { recursive: true });
  writeFileSync(`${directory}/stat`, `77 (a) 1 (b c) S 1 77 ${session} 0 -1 4194560`);
  writeFileSync(`${directory}/autogroup`, '/autogroup-5 nice 0\n');
  return directory;
};

t.test('the leader of a session', async (t) => {
  const directory = proc(77);
  comeBeforeGuests(logger, 77, directory);
  t.equal(readFileSync(`${directory}/autogroup`, 'utf8'), '-10');
});

t.test('not a process in the session of somebody else', async (t) => {
  const directory = proc(12);
  comeBeforeGuests(logger, 77, directory);
  t.match(readFileSync(`${directory}/autogroup`, 'utf8'), /nice 0/);
});

t.test('a kernel that does not know it is no reason not to start', async (t) => {
  comeBeforeGuests(logger, 77, '/nonexistent');
  t.same(seen.at(-1), { code: 'ENOENT' });
});
