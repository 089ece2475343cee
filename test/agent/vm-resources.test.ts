/** Admission: minima are promises, and none is made twice. */
import t from 'tap';
import { Admission, checkResources } from '../../src/agent/vm-resources.ts';
import { GiB, limits, MiB } from '../../src/base/index.ts';

type Holder = Parameters<Admission['admit']>[0];

const vm = (name: string, resources: Holder['resources']): Holder => ({
  id: name,
  name,
  desired: 'running',
  ...(resources === undefined ? {} : { resources }),
});

/** 4 CPUs, 8 GiB: 3.5 CPUs and 7 GiB may be promised. */
function host(...documents: Holder[]): { admission: Admission; documents: Holder[] } {
  const capacity = { cpus: 4, memoryBytes: 8 * GiB };
  return { documents, admission: new Admission({ capacity, documents: async () => documents }) };
}

t.test('a start that does not fit names who holds what, and records nothing', async (t) => {
  const { admission } = host(
    vm('big', { memoryMinBytes: 4 * GiB }),
    vm('small', { memoryMinBytes: 1 * GiB, cpuMinPercent: 300 }),
    { ...vm('stopped', { memoryMinBytes: 6 * GiB }), desired: 'stopped' },
    vm('free', undefined),
  );
  let recorded = 0;
  const record = async (): Promise<void> => {
    recorded += 1;
  };
  await t.rejects(admission.admit(vm('new', { memoryMinBytes: 3 * GiB }), record), {
    code: 'NOT_ADMITTED',
    message: /at least 3GiB, of 7GiB that may be promised 2GiB are left \(big 4GiB, small 1GiB\)/,
  });
  await t.rejects(admission.admit(vm('new', { cpuMinPercent: 51 }), record), {
    message: /0.51 CPUs, of 3.5 CPUs .* 0.5 CPUs are left \(small 3 CPUs\)/,
  });
  t.equal(recorded, 0);
  await admission.admit(vm('new', { memoryMinBytes: 2 * GiB, cpuMinPercent: 50 }), record);
  await admission.admit(vm('any', undefined), record);
  await admission.admit(vm('big', { memoryMinBytes: 6 * GiB }), record);
  t.equal(recorded, 3, 'its own promise does not count against it');
});

t.test('of two starts at once the second sees the first', async (t) => {
  const { admission, documents } = host();
  const start = (name: string): Promise<void> => {
    const one = vm(name, { memoryMinBytes: 4 * GiB });
    return admission.admit(one, async () => {
      await new Promise((wake) => setImmediate(wake));
      documents.push(one);
    });
  };
  const outcomes = await Promise.allSettled([start('a'), start('b')]);
  t.strictSame(
    outcomes.map(({ status }) => status),
    ['fulfilled', 'rejected'],
  );
});

t.test('bounds that contradict each other are refused', async (t) => {
  const memory = 512 * MiB;
  checkResources({}, memory);
  checkResources({ memoryMaxBytes: memory + limits.vmMemoryOverheadBytes }, memory);
  for (const share of [
    { cpuMinPercent: 200, cpuMaxPercent: 100 },
    { memoryMaxBytes: memory },
    { memoryMinBytes: 1 * GiB },
    { memoryMinBytes: 900 * MiB, memoryMaxBytes: 800 * MiB },
  ])
    t.throws(
      () => checkResources(share, memory),
      { code: 'INVALID_ARGUMENT' },
      JSON.stringify(share),
    );
});
