/** The service manager's protocol: what is taken from the environment, and when there is a sign of life. */
import t from 'tap';
import {
  inheritedSockets,
  isJournal,
  journalPriority,
  Supervisor,
  silentLogger,
  systemTimers,
  type Timers,
} from '../../src/base/index.ts';

const pid = 4711;

t.test('sockets are taken only when they are meant for this process', async (t) => {
  const environment = { LISTEN_PID: `${pid}`, LISTEN_FDS: '2', LISTEN_FDNAMES: 'agent:viewer' };
  t.same(
    inheritedSockets(environment, pid),
    new Map([
      ['agent', 3],
      ['viewer', 4],
    ]),
    'named',
  );
  t.same(inheritedSockets({ ...environment, LISTEN_FDNAMES: undefined }, pid).get('1'), 4);
  t.equal(inheritedSockets(environment, pid + 1).size, 0, 'of another process');
  for (const count of ['0', '-1', 'x', '1e9', undefined])
    t.equal(inheritedSockets({ ...environment, LISTEN_FDS: count }, pid).size, 0, `${count}`);
});

/** Pauses pass at once; every sentence is kept. */
function rig(environment: Record<string, string>) {
  const said: string[] = [];
  const pauses: { readonly delayMs: number; readonly task: () => void }[] = [];
  const timers: Timers = {
    ...systemTimers,
    after(delayMs, task) {
      const entry = { delayMs, task };
      pauses.push(entry);
      return { cancel: () => void pauses.splice(pauses.indexOf(entry), 1) };
    },
  };
  const supervisor = new Supervisor({
    environment,
    pid,
    timers,
    logger: silentLogger,
    say: async (words) => void said.push(words.join(' ')),
  });
  const turn = async (): Promise<void> => {
    for (const { task } of pauses.splice(0)) task();
    for (let i = 0; i < 20; i += 1) await Promise.resolve();
  };
  return { supervisor, said, pauses, turn };
}

const watched = { NOTIFY_SOCKET: '/run/n', WATCHDOG_USEC: '30000000', WATCHDOG_PID: `${pid}` };

t.test('signs of life only while the parts answer', async (t) => {
  const { supervisor, said, pauses, turn } = rig(watched);
  let answer: () => Promise<boolean> = async () => true;
  await supervisor.ready('well', () => answer());
  t.same(said, ['READY=1 STATUS=well']);
  t.equal(pauses[0]?.delayMs, 10_000, 'three signs in the time');
  await turn();
  t.same(said.splice(0).slice(1), ['WATCHDOG=1']);
  answer = async () => false;
  await turn();
  t.same(said, [], 'a part says no');
  answer = () => Promise.reject(new Error('no'));
  await turn();
  t.same(said, [], 'a part fails');
  t.equal(pauses[0]?.delayMs, 2000, 'asked again sooner');
  const late = Promise.withResolvers<boolean>();
  let asked = 0;
  answer = () => {
    asked += 1;
    return asked === 1 ? late.promise : new Promise(() => {});
  };
  await turn(); // asks
  await turn(); // it is late
  await turn();
  t.same(said, [], 'a part has not answered');
  late.resolve(true);
  await turn();
  t.same(
    said,
    ['WATCHDOG=1'],
    'a late answer counts: the service manager decides what is too late',
  );
  t.equal(pauses[0]?.delayMs, 10_000);
  await supervisor.stopping();
  t.same(said, ['WATCHDOG=1', 'STOPPING=1']);
  await turn();
  t.equal(said.length, 2, 'the end has begun: no more signs');
});

t.test('nothing is said where nobody listens', async (t) => {
  const alone = rig({});
  await alone.supervisor.ready('well', async () => true);
  t.same([alone.said, alone.pauses], [[], []]);
  const other = rig({ ...watched, WATCHDOG_PID: '1' });
  t.equal(other.supervisor.watchdogMs, undefined, "another process's watchdog");
});

t.test('levels of the log become priorities of the journal', async (t) => {
  t.same([60, 50, 40, 30, 20].map(journalPriority), ['<3>', '<3>', '<4>', '<6>', '<7>']);
  t.same([isJournal({}), isJournal({ JOURNAL_STREAM: '8:1' })], [false, true]);
});
