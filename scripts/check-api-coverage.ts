/**
 * Did the end-to-end tests ask for every operation of the API, and did each work at least once?
 *
 *   node scripts/check-api-coverage.ts --begin FILE    an empty log; agents append to what DVCE_ACCESS_LOG names
 *   node scripts/check-api-coverage.ts FILE            exit status 1 and a line for each operation that is missing
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

interface Document {
  readonly paths: Readonly<
    Record<string, Readonly<Record<string, { readonly operationId?: string }>>>
  >;
}

/** Operation ids of the committed description. */
export function operationsOf({ paths }: Document): readonly string[] {
  return Object.values(paths)
    .flatMap((path) => Object.values(path))
    .flatMap(({ operationId }) => (operationId === undefined ? [] : [operationId]))
    .sort();
}

/** Lines are `METHOD OPERATION STATUS`; an answer that is an error covers nothing. */
export function missingOperations(wanted: readonly string[], log: string): readonly string[] {
  const seen = new Set(
    log.split('\n').flatMap((line) => {
      const [, name = '', status = ''] = line.split(' ');
      return Number(status) >= 100 && Number(status) < 400 ? [name] : [];
    }),
  );
  return wanted.filter((name) => !seen.has(name));
}

function main(): void {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { begin: { type: 'string' } },
  });
  if (values.begin !== undefined) {
    writeFileSync(values.begin, '');
    return;
  }
  const [path] = positionals;
  if (path === undefined) throw new Error('usage: check-api-coverage.ts [--begin] FILE');
  const description = readFileSync(
    new URL('../docs/reference/openapi.json', import.meta.url),
    'utf8',
  );
  const wanted = operationsOf(JSON.parse(description) as Document);
  const missing = missingOperations(wanted, readFileSync(path, 'utf8'));
  for (const name of missing) process.stdout.write(`no end-to-end test: ${name}\n`);
  process.stdout.write(`operations of the API: ${wanted.length}, ${missing.length} missing\n`);
  if (missing.length > 0) process.exitCode = 1;
}

if (import.meta.main) main();
