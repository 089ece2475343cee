/**
 * Reads what one test file prints (TAP 14 as tap writes it) and counts tests, not assertions: a property test with ten
 * thousand assertions is one test.
 *
 *   a subtest without subtests             1 test
 *   an assertion outside of any subtest    1 test
 *   a skipped or todo point, at any depth  1 skipped test
 *   a subtest with subtests                the sum of them, and 1 failure more when only its own assertions failed
 *
 * A file that ends without its plan (`1..N`), with another number of points than planned, or with no test at all did not
 * do what it claims; `finish` turns each of these into a failure.
 */

export interface SkippedTest {
  readonly name: string;
  readonly reason: string;
}

export interface FailedTest {
  readonly name: string;
  /** The lines of the failing point with its diagnostics, without indentation. */
  readonly lines: readonly string[];
}

export interface Counts {
  passed: number;
  failed: FailedTest[];
  skipped: SkippedTest[];
}

interface Level {
  readonly name: string;
  readonly depth: number;
  /** Tests counted below this subtest, skipped ones apart. */
  tests: number;
  failures: number;
  skips: number;
  /** Assertions that were no tests of their own. */
  assertions: number;
  failure: FailedTest | undefined;
}

interface Point {
  readonly depth: number;
  readonly ok: boolean;
  readonly name: string;
  readonly directive: 'skip' | 'todo' | undefined;
  readonly reason: string;
}

const linesPerFailureMax = 60;

export function parsePoint(line: string): Point | undefined {
  const match = /^((?: {4})*)(ok|not ok) \d+(?: - (.*))?$/.exec(line);
  if (match === null) return undefined;
  let text = (match[3] ?? '').replace(/\s*\{$/, '').replace(/\s*# time=[\d.]+m?s$/, '');
  const directive = /(?:^|\s)# (SKIP|TODO)\b\s*(.*)$/i.exec(text);
  if (directive !== null) text = text.slice(0, directive.index);
  return {
    depth: (match[1] ?? '').length / 4,
    ok: match[2] === 'ok',
    name: text.trim(),
    directive:
      directive === null ? undefined : (directive[1]?.toLowerCase() as 'skip' | 'todo' | undefined),
    reason: directive?.[2] ?? '',
  };
}

export class TapReader {
  readonly counts: Counts = { passed: 0, failed: [], skipped: [] };
  private readonly open: Level[] = [];
  private planned: number | undefined;
  private points = 0;
  private bail: string | undefined;
  /** Diagnostics being read: their indentation, and where their lines go. */
  private diagnostics: { indent: string; into: string[] } | undefined;
  private lastFailure: { depth: number; lines: string[] } | undefined;

  line(line: string): void {
    if (this.readDiagnostics(line)) return;
    const subtest = /^((?: {4})*)# Subtest: (.*)$/.exec(line);
    if (subtest !== null) {
      const depth = (subtest[1] ?? '').length / 4;
      while (this.open.length > depth) this.open.pop();
      this.open.push({
        name: subtest[2] ?? '',
        depth,
        tests: 0,
        failures: 0,
        skips: 0,
        assertions: 0,
        failure: undefined,
      });
      return;
    }
    const plan = /^1\.\.(\d+)/.exec(line);
    if (plan !== null) this.planned = Number(plan[1]);
    if (line.startsWith('Bail out!')) this.bail = line;
    const point = parsePoint(line);
    if (point !== undefined) this.point(point, line.trimStart());
  }

  /** @returns true when the line belongs to a block of diagnostics */
  private readDiagnostics(line: string): boolean {
    if (this.diagnostics !== undefined) {
      const { indent, into } = this.diagnostics;
      if (into.length < linesPerFailureMax) into.push(line.slice(indent.length - 2));
      if (line === `${indent}...`) this.diagnostics = undefined;
      return true;
    }
    const start = /^(\s*) {2}---$/.exec(line);
    if (start === null) return false;
    const wanted = this.lastFailure?.depth === (start[1] ?? '').length / 4;
    const into = wanted ? (this.lastFailure?.lines ?? []) : [];
    into.push('  ---');
    this.diagnostics = { indent: `${start[1] ?? ''}  `, into };
    return true;
  }

  private point(point: Point, text: string): void {
    while (this.open.length > point.depth + 1) this.open.pop();
    if (point.depth === 0) this.points += 1;
    this.lastFailure =
      point.ok || point.directive !== undefined ? undefined : { depth: point.depth, lines: [text] };
    const closing = this.open.length === point.depth + 1 ? this.open.pop() : undefined;
    const parent = this.open[point.depth - 1];
    const name = [...this.open.map((level) => level.name), point.name].join(' > ');
    if (point.directive !== undefined) {
      this.skip(point, name, parent);
      return;
    }
    const failure = this.lastFailure && { name, lines: this.lastFailure.lines };
    if (closing !== undefined) this.close(closing, parent, failure, name);
    else if (parent === undefined) this.count(failure, undefined);
    else {
      parent.assertions += 1;
      parent.failure ??= failure;
    }
  }

  private skip(point: Point, name: string, parent: Level | undefined): void {
    if (/^no tests found/.test(point.reason)) {
      this.count({ name, lines: [`${name}: it has no assertion`] }, parent);
      return;
    }
    this.counts.skipped.push({ name, reason: point.reason || (point.directive ?? '') });
    if (parent !== undefined) parent.skips += 1;
  }

  private close(
    closing: Level,
    parent: Level | undefined,
    failure: FailedTest | undefined,
    name: string,
  ): void {
    const cause = closing.failure && { name, lines: closing.failure.lines };
    const onlySkips = closing.skips > 0 && closing.assertions === 0;
    if (closing.tests === 0 && !(onlySkips && failure === undefined)) {
      this.count(failure && (cause ?? failure), parent);
      return;
    }
    if (parent !== undefined) {
      parent.tests += closing.tests;
      parent.failures += closing.failures;
    }
    if (failure !== undefined && closing.failures === 0) this.count(cause ?? failure, parent);
  }

  private count(failure: FailedTest | undefined, parent: Level | undefined): void {
    if (failure === undefined) this.counts.passed += 1;
    else this.counts.failed.push(failure);
    if (parent === undefined) return;
    parent.tests += 1;
    if (failure !== undefined) parent.failures += 1;
  }

  /**
   * The file's process has ended.
   * @param ending how, when it is a fault of its own: `killed by SIGSEGV`, `exit status 3`, `over its limit of 60 s`
   */
  finish(ending: string | undefined): Counts {
    const faults: string[] = [];
    const { passed, failed, skipped } = this.counts;
    if (ending !== undefined && (failed.length === 0 || !ending.startsWith('exit status')))
      faults.push(ending);
    if (this.bail !== undefined) faults.push(this.bail);
    if (passed + failed.length + skipped.length === 0) faults.push('it has no test');
    else if (this.planned === undefined) faults.push('it ended before its plan was complete');
    else if (this.planned !== this.points)
      faults.push(`it planned ${this.planned} tests and reported ${this.points}`);
    if (faults.length > 0) failed.push({ name: 'the file as a whole', lines: faults });
    return this.counts;
  }
}
