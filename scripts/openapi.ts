/** Print the OpenAPI document of the API, or with `--write` put it where it belongs: docs/reference/openapi.json. */
import { writeFileSync } from 'node:fs';
import { openApiDocument } from './reference/openapi.ts';

const text = await openApiDocument();
if (process.argv.includes('--write'))
  writeFileSync(new URL('../docs/reference/openapi.json', import.meta.url), text);
else process.stdout.write(text);
