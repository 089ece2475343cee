/**
 * Write the generated pages of docs/reference: `node scripts/reference.ts`. With `--check` nothing is written and the exit
 * code says whether something is out of date. (`node scripts/openapi.ts` writes the OpenAPI document alone.)
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cliPage } from './reference/cli.ts';
import { configPage, configSchemaDocument } from './reference/config.ts';
import { metricsPage } from './reference/metrics.ts';
import { openApiDocument } from './reference/openapi.ts';
import { errorsPage, findingsPage, limitsPage } from './reference/tables.ts';

const folder = new URL('../docs/reference/', import.meta.url);
const pages: Readonly<Record<string, string>> = {
  'cli.md': cliPage(),
  'config.md': configPage(),
  'dvce-config.schema.json': configSchemaDocument(),
  'errors.md': errorsPage(),
  'findings.md': findingsPage(),
  'limits.md': limitsPage(),
  'metrics.md': metricsPage(),
  'openapi.json': await openApiDocument(),
};

function read(name: string): string | undefined {
  try {
    return readFileSync(new URL(name, folder), 'utf8');
  } catch {
    // Not there yet: out of date.
    return undefined;
  }
}

mkdirSync(folder, { recursive: true });
for (const [name, text] of Object.entries(pages)) {
  if (read(name) === text) continue;
  if (process.argv.includes('--check')) {
    process.stderr.write(`docs/reference/${name} is out of date: node scripts/reference.ts\n`);
    process.exitCode = 1;
  } else {
    writeFileSync(new URL(name, folder), text);
    process.stdout.write(`docs/reference/${name}\n`);
  }
}
