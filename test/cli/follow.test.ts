/** Waiting for an operation: which failures of a request end the wait, and which are asked again. */
import { Writable } from 'node:stream';
import t from 'tap';
import type { Operation } from '../../src/api/index.ts';
import { DvceError } from '../../src/base/errors.ts';
import type { Context } from '../../src/cli/context.ts';
import { waitFor } from '../../src/cli/follow.ts';
import { Output } from '../../src/cli/output.ts';

const running = {
  id: 'op-1',
  kind: 'image.import',
  status: 'running',
  progress: null,
} as Operation;
const ended = { ...running, status: 'succeeded' } as Operation;
const slow = (): DvceError => new DvceError('TIMED_OUT', { what: 'the request GET', ms: 180_000 });
const away = (): DvceError => new DvceError('AGENT_UNAVAILABLE', { where: '/run/x', reason: 'no' });

/** Each request of the wait takes the next answer. */
function rig(...answers: (Operation | DvceError)[]) {
  let notes = '';
  const sink = new Writable({
    write(chunk, _encoding, done) {
      notes += String(chunk);
      done();
    },
  }) as unknown as NodeJS.WriteStream;
  const wait = async (): Promise<Operation> => {
    const answer = answers.shift() ?? ended;
    if (answer instanceof DvceError) throw answer;
    return answer;
  };
  const output = new Output(sink, sink, { format: 'table', headers: true, quiet: false });
  const context = { api: { operations: { wait } }, output, input: {} } as unknown as Context;
  return { context, notes: () => notes, left: () => answers.length };
}

const options = { cancelOnInterrupt: false };

t.test('a request that nobody took is asked again', async (t) => {
  for (const failure of [slow, away]) {
    const { context, notes } = rig(failure(), ended);
    t.same(await waitFor(context, running, options), ended);
    t.match(notes(), 'The agent went away');
  }
});

t.test('the time that was given is over', async (t) => {
  const { context, left } = rig(slow(), ended);
  await t.rejects(waitFor(context, running, { ...options, waitMs: 0 }), {
    code: 'TIMED_OUT',
    message: 'operation op-1 (image.import) did not finish within 0 ms',
  });
  t.equal(left(), 1, 'and not asked again');
});

t.test('any other failure ends the wait', async (t) => {
  const { context } = rig(new DvceError('INTERNAL', { reason: 'x' }), ended);
  await t.rejects(waitFor(context, running, options), { code: 'INTERNAL' });
});
