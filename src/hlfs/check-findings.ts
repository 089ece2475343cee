/**
 * What a check or a scrub can find: one table of codes, and the list in which findings are collected.
 *
 * Invariants:
 * - a code never changes its meaning; docs/reference/findings.md is generated from the table;
 * - one finding for each (code, object), however many blocks and roots lead to it. It names every range of the volume that
 *   it concerns, and in which content: the current one, a snapshot, a clone;
 * - bounded: beyond the limits ranges and findings are counted, no longer kept, and the result says so.
 */
import { limits } from '../base/index.ts';

export const checkTable = {
  CHECK_BAD_CHECKSUM: {
    severity: 'error',
    says: 'blocks or map pages in a segment do not fit the checksums that lead to them; reading these ranges gives an error',
    advice: 'Bring the ranges back from a backup or from a snapshot that is not named here.',
  },
  CHECK_UNREADABLE: {
    severity: 'error',
    says: 'the disk of the store answers with an error for this object; reading these ranges gives an error',
    advice: 'See the kernel log, replace the disk; then bring the ranges back from a backup.',
  },
  CHECK_MISSING: {
    severity: 'error',
    says: 'a segment that is needed is not there; reading these ranges gives an error, never zeros',
    advice:
      'Put the object back from a copy of the store; else bring the ranges back from a backup.',
  },
  CHECK_BAD_ROOT: {
    severity: 'error',
    says: 'a root that the content or a snapshot needs cannot be read',
    advice:
      'A snapshot without its root is lost: delete it. A volume without one: see dvce volume recover, or a backup.',
  },
  CHECK_OLDER_ROOT: {
    severity: 'warning',
    says: 'a root is damaged that nothing depends on: another one is used, with the segments behind it; nothing is lost',
    advice:
      'Nothing needs to be done: the next root takes its place. Look at the disk of the store.',
  },
  CHECK_GAP: {
    severity: 'error',
    says: 'segments lie beyond a gap of the log and are not applied; the volume opens read-only',
    advice: 'Put the missing segment back from a copy of the store.',
  },
  CHECK_BROKEN_CHAIN: {
    severity: 'error',
    says: 'a segment cannot be read as the one that follows the segment before it; what is behind it is not applied',
    advice: 'Put the segment back from a copy of the store.',
  },
  CHECK_BAD_INDEX: {
    severity: 'warning',
    says: 'the header or index of a segment is damaged; its content can be read, but it cannot be cleaned',
    advice: 'Look at the disk of the store. The segment stays until its content is overwritten.',
  },
  CHECK_BAD_COPY: {
    severity: 'warning',
    says: 'one of the two copies of a header is damaged; the other one is used',
    advice: 'Look at the disk of the store.',
  },
  CHECK_BAD_CHUNK: {
    severity: 'warning',
    says: 'a part of a segment does not fit the table of chunks; whether content is concerned, CHECK_BAD_CHECKSUM says',
    advice: 'Look at the disk of the store. Run: dvce volume check',
  },
  CHECK_WRONG_COUNT: {
    severity: 'warning',
    says: 'the segment table disagrees with the map or with the object; space may not be given back',
    advice: 'Nothing is lost. Stop what uses the volume and run: dvce volume check --repair',
  },
  CHECK_UNREACHABLE: {
    severity: 'warning',
    says: 'a segment that no table knows takes space',
    advice: 'Nothing is lost, the space is. It goes with the volume.',
  },
  CHECK_LEAKED_UPLOAD: {
    severity: 'warning',
    says: 'unfinished uploads of a writer that is gone take space',
    advice: 'Run: dvce volume check --repair',
  },
  CHECK_LEAKED_SCOPE: {
    severity: 'warning',
    says: 'a publishing scope that the volume does not name was never taken away',
    advice: 'Run: dvce volume check --repair',
  },
  CHECK_LEAKED_PIN: {
    severity: 'warning',
    says: 'a pin holds segments for a log that does not exist or does not need them',
    advice: 'Nothing is lost, the space is. Report it: dvce support-bundle',
  },
  CHECK_MISSING_PIN: {
    severity: 'error',
    says: 'the volume reads segments of another log without a pin there; they could be deleted under it',
    advice: 'Do not delete snapshots of the other volume before: dvce volume check --repair',
  },
  CHECK_DISAGREES: {
    severity: 'error',
    says: 'two documents, or a document and a segment, say different things',
    advice: 'Bring the object back from a copy of the store, or delete the snapshot that is named.',
  },
  CHECK_BAD_DOCUMENT: {
    severity: 'error',
    says: 'a document is damaged or not there',
    advice: 'Bring it back from a copy of the store.',
  },
  CHECK_UNSETTLED: {
    severity: 'warning',
    says: 'the volume changed faster than this could be read; nothing is known to be wrong',
    advice: 'Check again when less is written.',
  },
} as const satisfies Readonly<
  Record<string, { severity: 'error' | 'warning'; says: string; advice: string }>
>;

export type CheckCode = keyof typeof checkTable;

/** Bytes of one content: `current`, `snapshot NAME`, `clone PATH`, `clone PATH@NAME`. */
export interface FindingRange {
  readonly of: string;
  readonly offset: number;
  readonly length: number;
}

export interface Finding {
  readonly code: CheckCode;
  readonly severity: 'error' | 'warning';
  /** Key in the store. */
  readonly object: string;
  readonly detail: string;
  readonly advice: string;
  /** Of the volume or its clones, as exactly as a block or map page allows. */
  readonly ranges: readonly FindingRange[];
  /** Ranges that were found and are not named. */
  readonly omittedRanges: number;
  /** Every content that is concerned, also where no range is known. */
  readonly concerns: readonly string[];
  /** `possible`: `--repair` would; `done`: it was. */
  readonly repair: 'none' | 'possible' | 'done';
}

interface Collected {
  readonly code: CheckCode;
  readonly object: string;
  readonly detail: string;
  readonly ranges: { of: string; offset: number; length: number }[];
  readonly concerns: Set<string>;
  omittedRanges: number;
  repair: Finding['repair'];
}

export class Findings {
  readonly #found = new Map<string, Collected>();
  /** Findings that did not fit. */
  omitted = 0;

  add(code: CheckCode, object: string, detail: string): Collected | undefined {
    const key = `${code} ${object}`;
    const known = this.#found.get(key);
    if (known !== undefined) return known;
    if (this.#found.size >= limits.checkFindingsMax) {
      this.omitted += 1;
      return undefined;
    }
    const made: Collected = {
      ...{ code, object, detail, ranges: [], omittedRanges: 0 },
      ...{ concerns: new Set<string>(), repair: 'none' as const },
    };
    this.#found.set(key, made);
    return made;
  }

  /** A finding that concerns these bytes of a content. */
  addRange(code: CheckCode, object: string, detail: string, range: FindingRange): void {
    const finding = this.add(code, object, detail);
    if (finding === undefined) return;
    finding.concerns.add(range.of);
    const last = finding.ranges.findLast(({ of }) => of === range.of);
    if (last !== undefined && last.offset + last.length === range.offset)
      last.length += range.length;
    else if (finding.ranges.length < limits.checkRangesMax) finding.ranges.push({ ...range });
    else finding.omittedRanges += 1;
  }

  addConcern(code: CheckCode, object: string, detail: string, of: string): void {
    this.add(code, object, detail)?.concerns.add(of);
  }

  /** Something that `--repair` can put right. */
  addRepair(code: CheckCode, object: string, detail: string, done: boolean): void {
    const finding = this.add(code, object, detail);
    if (finding !== undefined) finding.repair = done ? 'done' : 'possible';
  }

  has(code: CheckCode, object: string): boolean {
    return this.#found.has(`${code} ${object}`);
  }

  /** Objects with a finding of one of these codes. */
  objects(...codes: readonly CheckCode[]): string[] {
    return [...this.#found.values()]
      .filter(({ code }) => codes.includes(code))
      .map(({ object }) => object);
  }

  /** Errors first, then by object. */
  list(): Finding[] {
    const rank = (finding: Finding): number => (finding.severity === 'error' ? 0 : 1);
    return [...this.#found.values()]
      .map((each): Finding => {
        const { severity, advice } = checkTable[each.code];
        return { ...each, severity, advice, concerns: [...each.concerns] };
      })
      .sort((a, b) => rank(a) - rank(b) || (a.object < b.object ? -1 : 1));
  }
}
