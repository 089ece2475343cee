/**
 * Named breaks of the shipped code, each of which the simulation must catch. A mutant is a replacement of one piece of text in
 * one file of a copy of the sources; one whose text is not found any more is a failure too, so that the list stays true.
 */
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Mutant {
  readonly name: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** A test that has to see it; without one the simulation has to. */
  readonly proof?: string;
}

export const mutants: readonly Mutant[] = [
  {
    name: 'G5 a hold does not end by itself',
    file: 'src/hlfs/cuts.ts',
    find: 'timer: timers.after(limits.holdMs, () => this.#break(hold)),',
    replace: 'timer: timers.after(limits.holdMs, () => {}),',
    proof: 'test/hlfs/snapshot-sets.test.ts',
  },
  {
    name: 'G5 a member of a set is seen at once',
    file: 'src/hlfs/snapshots.ts',
    find: "state: made.set === undefined ? 'live' : 'pending',",
    replace: "state: 'live',",
    proof: 'test/hlfs/snapshot-sets.test.ts',
  },
  {
    name: 'G5 writes are journaled while held',
    file: 'src/hlfs/request-queue.ts',
    find: 'const isClosed = carrying || this.#isHeld;',
    replace: 'const isClosed = carrying;',
    proof: 'test/hlfs/snapshot-sets.test.ts',
  },
  {
    name: 'J1 flush is answered without fdatasync',
    file: 'src/hlfs/journal.ts',
    find: 'slot.file.dataSync((error) => {',
    replace:
      '((done: (error: Error | null) => void) => queueMicrotask(() => done(null)))((error) => {',
  },
  {
    name: 'writes are acknowledged first',
    file: 'src/hlfs/volume.ts',
    find: "this.#push({ kind: 'write', offset, length: data.byteLength, payload: data }, options, ended);",
    replace:
      "this.#push({ kind: 'write', offset, length: data.byteLength, payload: data }, options, () => {});\n    ended(null);",
  },
  {
    name: 'a flush is answered by any earlier sync',
    file: 'src/hlfs/journal.ts',
    find: 'if (this.#syncedSeq >= seq) {',
    replace: 'if (this.#syncedSeq > 0) {',
  },
  {
    name: 'J5 a failed fdatasync is taken for a passing trouble',
    file: 'src/hlfs/journal.ts',
    find: 'this.#moveTail(error);\n      } catch {',
    replace: 'this.#syncedSeq = 0;\n      } catch {',
  },
  {
    name: 'J6 short writes are not completed',
    file: 'src/base/files.ts',
    find: 'const written = file.writevSync(rest.slice(0, vectorsMax), at);',
    replace: 'file.writevSync(rest, at);\n    return;\n    const written = 0;',
  },
  {
    name: 'J2 every open has the same incarnation',
    file: 'src/hlfs/volume-open.ts',
    find: 'let incarnation = (before?.incarnation ?? 0) + 1;',
    replace: 'let incarnation = 1;',
  },
  {
    name: 'L2 recovery does not read the journal',
    file: 'src/hlfs/journal-walk.ts',
    find: 'const sorted = [...files].sort(',
    replace: 'const sorted = files.filter(() => false).sort(',
  },
  {
    name: 'J9 trim clears the edges of its range too',
    file: 'src/hlfs/volume.ts',
    find: 'const start = Math.ceil(offset / blockBytes) * blockBytes;',
    replace: 'const start = Math.floor(offset / blockBytes) * blockBytes;',
  },
  {
    name: 'older layers hide newer ones',
    file: 'src/hlfs/write-layers.ts',
    find: 'this.#overlays = [this.#active, ...frozen.toReversed()];',
    replace: 'this.#overlays = [...frozen.toReversed(), this.#active];',
  },
  {
    name: 'journal space is free before its batch is published',
    file: 'src/hlfs/publisher.ts',
    find: 'const { overlay } = batch;',
    replace: 'const { overlay } = batch;\n    this.#options.journal.cover(overlay.lastSeq);',
  },
  {
    name: 'G2 segments go although a snapshot needs them',
    file: 'src/hlfs/segment-table.ts',
    find: 'return first !== undefined && (death === 0 || first < death);',
    replace: 'return first !== undefined && first < 0 && first < death;',
  },
  {
    name: 'S1 names are given before bodies are durable',
    file: 'src/stores/local.ts',
    find: 'await dataSync(file);',
    replace: 'if (file.path === "") await dataSync(file);',
  },
  {
    name: 'B-22 the directory is not synced after a publish',
    file: 'src/stores/local.ts',
    find: 'await this.#files.link(temporary, this.#path(key));\n        await this.#files.syncDirectory(this.#path(directory));',
    replace: 'await this.#files.link(temporary, this.#path(key));',
  },
  {
    name: 'the journal state is not durable when it is replaced',
    file: 'src/hlfs/journal-open.ts',
    find: 'await dataSync(file);',
    replace: 'if (file.path === "") await dataSync(file);',
  },
  {
    name: 'J1 FUA is answered like any other write',
    file: 'src/hlfs/request-queue.ts',
    find: 'else if (request.fua) syncs.push(request);',
    replace: '',
  },
  {
    name: 'B-25 blocks of segments are not compared with their checksums',
    file: 'src/hlfs/segments.ts',
    find: 'else if (crc32c(target) === joinChecksums(run.checksums)) done(null);',
    replace: 'else if (run.checksums.length > 0) done(null);',
  },
  {
    name: 'B-11 blocks that are moved are taken for raw ones',
    file: 'src/hlfs/cleaner.ts',
    find: 'lengths.every((length) => length === blockBytes) ? run : { ...run, lengths },',
    replace: 'lengths.length > 0 ? run : { ...run, lengths },',
  },
  {
    name: 'compressed blocks have no checksum of their own in the index',
    file: 'src/hlfs/compression.ts',
    find: 'this.#stored.push(crc32c(bytes.subarray(start, start + length)));',
    replace: 'this.#stored.push(this.#checksums[this.#lengths.length] ?? 0);',
  },
  {
    name: 'G3 forks are not counted when segments go',
    file: 'src/hlfs/reaper.ts',
    find: '...pins.map(({ cut }) => cut),',
    replace: '...pins.map(({ cut }) => cut).slice(0, 0),',
  },
  {
    name: 'G4 a flatten lets go of the origin although snapshots of before need it',
    file: 'src/hlfs/base-release.ts',
    find: 'if (!points && snapshots.names.length === 0) return null;',
    replace: 'if (!points) return null;',
  },
  {
    name: 'G4 a promotion that was decided is undone',
    file: 'src/hlfs/promotion-steps.ts',
    find: '(head.value.promoting === log || head.value.logs.includes(log))',
    replace: "head.value.epoch === ''",
    proof: 'test/hlfs/catalog-crash.test.ts',
  },
  {
    name: 'G4 a flatten lets go of the origin when one root says that it may',
    file: 'src/hlfs/base-release.ts',
    find: 'if (older === null || !isOwn(older, log)) return needed;',
    replace: 'if (older === null) return needed;',
    proof: 'test/hlfs/flatten.test.ts',
  },
  {
    name: 'G5 members of a set are cut without being held',
    file: 'src/hlfs/cuts.ts',
    find: '    queue.hold();\n',
    replace: '',
  },
  {
    name: 'a batch that is cut after publishing has failed is no layer of reads',
    file: 'src/hlfs/publisher.ts',
    find: '    this.frozen.push(batch);\n    if (this.#failed) {',
    replace: '    if (!this.#failed) this.frozen.push(batch);\n    if (this.#failed) {',
    proof: 'test/hlfs/publisher.test.ts',
  },
  {
    // It takes two power failures, each of which loses the right pages.
    name: 'J2 what lies beyond a gap of the journal stays readable',
    file: 'src/hlfs/journal-tail.ts',
    find: 'await blankBeyond(files, walk);',
    replace: '',
    proof: 'test/hlfs/journal-chain.test.ts',
  },
  {
    name: 'B-25 blocks in the journal are not compared with their checksums',
    file: 'src/hlfs/overlay.ts',
    find: 'if (crc32c(target) === under.checksum) return;',
    replace: 'if (target.byteLength > 0) return;',
    proof: 'test/hlfs/journal-chain.test.ts',
  },
  {
    // Sequence numbers and sizes hide it from random runs: old records that fit them all are rare.
    name: 'J3 the checksum of a record is not seeded by the one before it',
    file: 'src/hlfs/journal-format.ts',
    find: 'crc32c(bytes.subarray(8, headerBytes), chain) !== checksum',
    replace: 'false',
    proof: 'test/hlfs/journal-chain.test.ts',
  },
];

/** Nothing is broken: when this one is "caught", no other verdict means anything. */
export const control: Mutant = { name: 'nothing', file: 'package.json', find: '{', replace: '{' };

/** The part of the tree that a simulation needs, with one thing broken. @returns undefined when the text is not there */
function breakCopy(root: string, mutant: Mutant): string | undefined {
  const text = readFileSync(join(root, mutant.file), 'utf8');
  const at = text.indexOf(mutant.find);
  if (at < 0) return undefined;
  const copy = mkdtempSync(join(tmpdir(), 'dvce-mutant-'));
  for (const part of [
    'src',
    'test/sim',
    'test/support',
    'test/hlfs/model.ts',
    'scripts',
    'package.json',
    mutant.proof ?? '',
  ])
    if (part !== '') cpSync(join(root, part), join(copy, part), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  const broken = text.slice(0, at) + mutant.replace + text.slice(at + mutant.find.length);
  writeFileSync(join(copy, mutant.file), broken);
  return copy;
}

export interface Verdict {
  readonly isCaught: boolean;
  readonly says: string;
  readonly seconds: number;
}

/** A break has to be noticed within this time. */
const limitMs = 120_000;

/** Run the simulation on a broken copy. @returns what it said, or that nothing was noticed */
export async function runMutant(root: string, mutant: Mutant, seeds: number): Promise<Verdict> {
  const copy = breakCopy(root, mutant);
  if (copy === undefined)
    return { isCaught: false, says: `its text is not in ${mutant.file}`, seconds: 0 };
  const startedMs = performance.now();
  try {
    const simulation = ['scripts/sim.ts', '--seeds', String(seeds), '--until-failure'];
    const program = mutant.proof === undefined ? simulation : [mutant.proof];
    const { status, output } = await runProgram(copy, program);
    const seconds = (performance.now() - startedMs) / 1000;
    if (status === null) return { isCaught: false, says: 'no end in two minutes', seconds };
    if (status === 0) return { isCaught: false, says: `${program[0]} passed`, seconds };
    const [first = ''] = output.split('\n').filter((line) => /FAILED|Error|not ok/.test(line));
    return { isCaught: true, says: first.slice(0, 160), seconds };
  } finally {
    rmSync(copy, { recursive: true });
  }
}

/** `status` is null when it was ended for taking too long. */
async function runProgram(
  directory: string,
  program: readonly string[],
): Promise<{ status: number | null; output: string }> {
  const child = spawn(process.execPath, program, {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: limitMs,
    killSignal: 'SIGKILL',
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-20_000);
    });
  const status = await new Promise<number | null>((resolve) => {
    child.on('close', resolve);
  });
  return { status, output };
}
