// Loaded before anything in the guest: its .ts files were stripped of their types on the host, because doing it under
// emulation takes most of the start. Node would strip them again.
import { readFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';

registerHooks({
  load: (url, context, nextLoad) =>
    url.endsWith('.ts')
      ? { format: 'module', source: readFileSync(fileURLToPath(url)), shortCircuit: true }
      : nextLoad(url, context),
});
