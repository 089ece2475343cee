import t from 'tap';
import { TapReader } from '../../scripts/test/tap.ts';

const read = (text: string, ending?: string) => {
  const reader = new TapReader();
  for (const line of text.split('\n')) reader.line(line);
  const { passed, failed, skipped } = reader.finish(ending);
  return { passed, failed: failed.map(({ name }) => name), skipped };
};

const nested = `TAP version 14
# Subtest: outer
    ok 1 - an assertion
    # Subtest: inner
        ok 1 - one
        ok 2 - two
        1..2
    ok 2 - inner # time=14.6ms
    # Subtest: broken
        not ok 1 - three
          ---
          diff: |
            not ok 99 - this is text of the diagnostics
          ...
        1..1
    not ok 3 - broken # time=1ms
    ok 4 - other # SKIP no qemu
    1..4
not ok 1 - outer # time=19ms
  ---
  at: here
  ...

ok 2 - bare
1..2
`;

t.test('counts leaf tests, bare assertions and skips', async (t) => {
  t.same(read(nested, 'exit status 1'), {
    passed: 2,
    failed: ['outer > broken'],
    skipped: [{ name: 'outer > other', reason: 'no qemu' }],
  });
});

t.test('a failing assertion beside passing subtests is a failure of its own', async (t) => {
  const text = `# Subtest: outer
    # Subtest: inner
        ok 1 - one
        1..1
    ok 1 - inner
    not ok 2 - loose
    1..2
not ok 1 - outer
1..1`;
  t.same(read(text, 'exit status 1'), { passed: 1, failed: ['outer'], skipped: [] });
});

t.test('a subtest that only skips is not counted as passed', async (t) => {
  const text = '# Subtest: outer\n    ok 1 - why # SKIP no kvm\n    1..1\nok 1 - outer\n1..1';
  t.match(read(text), { passed: 0, failed: [], skipped: [{ reason: 'no kvm' }] });
});

t.test('a test without an assertion and a file without a test fail', async (t) => {
  t.same(read('ok 1 - empty # SKIP no tests found\n1..1').failed, ['empty']);
  t.same(read('TAP version 14\n1..0 # no tests found').failed, ['the file as a whole']);
  t.same(read('').failed, ['the file as a whole']);
});

t.test(
  'a file that stops half-way, bails out, crashes or disagrees with its plan fails',
  async (t) => {
    const whole = ['the file as a whole'];
    t.same(read('ok 1 - a').failed, whole, 'no plan');
    t.same(read('ok 1 - a\n1..2').failed, whole, 'fewer than planned');
    t.same(read('ok 1 - a\nBail out! no disk\n1..1').failed, whole);
    t.same(read('ok 1 - a\n1..1', 'killed by SIGSEGV').failed, whole);
    t.same(read('ok 1 - a\n1..1', 'exit status 3').failed, whole, 'all passed but the exit status');
    t.same(read('not ok 1 - a\n1..1', 'exit status 1').failed, ['a'], 'counted once');
  },
);

t.test('the diagnostics of a failure are kept', async (t) => {
  const reader = new TapReader();
  for (const line of nested.split('\n')) reader.line(line);
  const [failure] = reader.finish(undefined).failed;
  t.match(failure?.lines.join('\n'), /not ok 1 - three\n {2}---\n {2}diff: \|\n {4}not ok 99/);
});
