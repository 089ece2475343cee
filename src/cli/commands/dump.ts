/** `dvce segment dump`, `dvce journal dump`. */
import { exitCodes } from '../../base/errors.ts';
import { formatSize } from '../../base/units.ts';
import type { Context } from '../context.ts';
import { usageError } from '../output.ts';
import { runDump } from '../processes.ts';
import type { Given, Run } from '../spec.ts';

interface SegmentList {
  readonly kind: 'segments';
  readonly segments: readonly {
    readonly number: number;
    readonly bytes: number;
    readonly file: string;
  }[];
}
interface Segment {
  readonly kind: 'segment';
  readonly header: (Readonly<Record<string, unknown>> & { flagNames: readonly string[] }) | null;
  readonly runs: readonly {
    readonly kind: string;
    readonly block: number;
    readonly count: number;
    readonly offset: number | null;
  }[];
  readonly runCount: number;
  readonly findings: readonly string[];
}
interface JournalFile {
  readonly file: string;
  readonly header: Readonly<Record<string, unknown>> | null;
  readonly records: readonly {
    readonly at: number;
    readonly kind: string;
    readonly seq: number;
    readonly offset: number;
    readonly length: number;
    readonly flushedSeq: number;
    readonly payload: string;
  }[];
  readonly recordCount: number;
  readonly findings: readonly string[];
}

function argumentsOf(given: Given): string[] {
  const volume = given.optionalArgument('volume');
  const file = given.text('file');
  const log = given.text('log');
  if ([volume, file, log].filter((one) => one !== undefined).length !== 1)
    throw usageError(
      'the command',
      'it needs one thing to look at',
      'Give the path of a volume, --log ID, or --file FILE.',
    );
  const options = { volume, file, log, store: given.text('store') };
  const limit = given.number('limit');
  return [
    ...Object.entries(options).flatMap(([name, value]) =>
      value === undefined ? [] : [`--${name}=${value}`],
    ),
    ...(limit === undefined ? [] : [`--limit=${limit}`]),
  ];
}

function tell({ output, setExitCode }: Context, findings: readonly string[]): void {
  for (const finding of findings) output.note(`Damaged: ${finding}`);
  if (findings.length > 0) setExitCode(exitCodes.failed);
}

const plain = (value: unknown): string =>
  typeof value === 'string' ? value : JSON.stringify(value);

export const segmentDump: Run = async (context, given) => {
  const { output } = context;
  const number = given.optionalArgument('number');
  if (number !== undefined && !/^\d{1,9}$/.test(number))
    throw usageError(JSON.stringify(number), 'it is no number of a segment', 'For example 1.');
  const rest = number === undefined ? [] : [`--number=${number}`];
  const found = (await runDump(context, ['segment', ...argumentsOf(given), ...rest])) as
    | SegmentList
    | Segment;
  if (found.kind === 'segment') tell(context, found.findings);
  if (output.json) return output.object(found);
  if (found.kind === 'segments') {
    await output.list(found.segments, (one) => `${one.number}`, [
      { title: 'number', value: (one) => `${one.number}`, right: true },
      { title: 'bytes', value: ({ bytes }) => formatSize(bytes), right: true },
      { title: 'file', value: ({ file }) => file },
    ]);
    return;
  }
  for (const [name, value] of Object.entries(found.header ?? {}))
    output.raw(`${name.padEnd(16)}${plain(value)}\n`);
  await output.list(found.runs, ({ block }) => `${block}`, [
    { title: 'kind', value: ({ kind }) => kind },
    { title: 'block', value: ({ block }) => `${block}`, right: true },
    { title: 'count', value: ({ count }) => `${count}`, right: true },
    { title: 'at', value: ({ offset }) => (offset === null ? '-' : `${offset}`), right: true },
  ]);
  output.note(`${found.runCount} runs, ${found.runs.length} shown.`);
};

export const journalDump: Run = async (context, given) => {
  const { output } = context;
  const found = (await runDump(context, ['journal', ...argumentsOf(given)])) as
    | { readonly kind: 'journals'; readonly files: readonly JournalFile[] }
    | (JournalFile & { readonly kind: 'journal' });
  const files = found.kind === 'journals' ? found.files : [found];
  tell(
    context,
    files.flatMap(({ file, findings }) => findings.map((finding) => `${file}: ${finding}`)),
  );
  if (output.json) return output.object(found);
  for (const { file, header, recordCount } of files) {
    const words = Object.entries(header ?? {}).map(([name, value]) => `${name} ${plain(value)}`);
    output.note(
      `${file}: ${header === null ? 'no use yet' : words.join(', ')}; ${recordCount} records`,
    );
  }
  await output.list(
    files.flatMap(({ records }) => records),
    ({ seq }) => `${seq}`,
    [
      { title: 'seq', value: ({ seq }) => `${seq}`, right: true },
      { title: 'kind', value: ({ kind }) => kind },
      { title: 'offset', value: ({ offset }) => `${offset}`, right: true },
      { title: 'length', value: ({ length }) => `${length}`, right: true },
      { title: 'flushed', value: ({ flushedSeq }) => `${flushedSeq}`, right: true },
      { title: 'payload', value: ({ payload }) => payload },
      { title: 'at', value: ({ at }) => `${at}`, right: true },
    ],
  );
};
