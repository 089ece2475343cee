/** `dvce metrics`, `dvce support-bundle`. */
import type { CommandSpec } from '../spec.ts';

const commands = () => import('../commands/support.ts');

export const support: readonly CommandSpec[] = [
  {
    name: 'metrics',
    summary: 'print the metrics of this host in the Prometheus text format',
    details: 'GET /metrics answers the same; docs/reference/metrics.md explains each.',
    examples: ['dvce metrics', 'dvce metrics | grep dvce_build_info', 'dvce metrics -o json'],
    run: async () => (await commands()).metrics,
  },
  {
    name: 'support-bundle',
    summary: 'write what helps to find a fault into one file, without secrets',
    details:
      'Logs, status, checks, settings, metrics, operations, recent events, versions; not the consoles of guests. Works without an agent.',
    arguments: [
      {
        name: '[file]',
        text: 'file to write; dvce-support-TIME.tar.gz when not given',
        names: 'file',
      },
    ],
    examples: [
      'dvce support-bundle',
      'dvce support-bundle fault.tar.gz',
      'dvce support-bundle second.tar.gz -o json',
    ],
    run: async () => (await commands()).supportBundle,
  },
];
