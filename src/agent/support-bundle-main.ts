/**
 * `node src/agent/support-bundle-main.ts --data-dir DIR --output FILE [--qemu PROGRAM]`: write a support bundle and tell, as one
 * JSON object, where it is and what is not in it. A process of its own: it is wanted most when there is no agent.
 */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { DvceError, nodeFileSystem, systemClock, toDvceError } from '../base/index.ts';
import { writeSupportBundle } from './support-bundle.ts';

const { values } = parseArgs({
  options: {
    'data-dir': { type: 'string' },
    output: { type: 'string' },
    qemu: { type: 'string', default: 'qemu-system-x86_64' },
  },
});
const { version } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string };

async function main(): Promise<object> {
  const { output, 'data-dir': dataDirectory } = values;
  if (output === undefined || dataDirectory === undefined)
    throw new DvceError('INVALID_ARGUMENT', {
      what: 'the command line',
      reason: '--data-dir or --output is missing',
      advice: 'Use: dvce support-bundle FILE',
    });
  return writeSupportBundle({
    dataDirectory,
    output,
    release: version,
    qemu: values.qemu,
    files: nodeFileSystem,
    clock: systemClock,
  });
}

let answer: object;
try {
  answer = await main();
} catch (error) {
  const { code, context } = toDvceError(error);
  answer = { error: { code, context } };
}
process.stdout.write(`${JSON.stringify(answer)}\n`, () => process.exit(0));
