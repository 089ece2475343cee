/**
 * `npm run bench -- SUITE [options]`: measure a suite, print its table, write bench/out/SUITE.json.
 *
 *   block   fio's nbd engine against dvce and its peers on the same disk (bench/block.ts)
 *   fairness   latency of a volume beside another one that is flooded (bench/fairness.ts)
 *   host    what an operator waits for, and what an idle host costs (bench/host.ts)
 *   scale   large, deep, often snapshotted volumes, and two at a time (bench/scale.ts)
 *   waf     what writing costs besides the guest's bytes (bench/waf.ts)
 *
 * Benchmarks never gate tests by time.
 */
import { measureBlock } from './block.ts';
import { measureFairness } from './fairness.ts';
import { measureHost } from './host.ts';
import { measureScale } from './scale.ts';
import { measureWaf } from './waf.ts';

const [suite, ...options] = process.argv.slice(2);
const suites: Readonly<Record<string, (options: readonly string[]) => Promise<void>>> = {
  block: measureBlock,
  fairness: measureFairness,
  host: measureHost,
  scale: measureScale,
  waf: measureWaf,
};
const measure = suite === undefined ? undefined : suites[suite];
if (measure === undefined) {
  process.stderr.write(`usage: npm run bench -- ${Object.keys(suites).join('|')} [--help]\n`);
  process.exitCode = 64;
} else await measure(options);
