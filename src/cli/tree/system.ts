import type { CommandSpec, NounSpec, OptionSpec } from '../spec.ts';
import * as option from './options.ts';

const processes = () => import('../commands/processes.ts');
const system = () => import('../commands/system.ts');
const operation = () => import('../commands/operation.ts');

const id = { name: '<id>', text: 'id of the operation', names: 'operation' } as const;

/** Also settings: api.listen, api.cert_file, api.key_file. */
const doorOptions: readonly OptionSpec[] = [
  { flags: '--api-listen <address>', text: 'serve the API over HTTPS, too, at HOST:PORT' },
  {
    flags: '--api-cert-file <file>',
    text: 'certificate for it; one that signs itself is made when not given',
    names: 'file',
  },
  { flags: '--api-key-file <file>', text: 'key of that certificate', names: 'file' },
];

const blockdOptions = { name: '[options...]', text: 'options of blockd' } as const;

export const op: NounSpec = {
  name: 'op',
  summary: 'operations: work that takes longer',
  commands: [
    {
      name: 'list',
      summary: 'list operations, newest first',
      options: [{ flags: '--running', text: 'only those that run' }],
      examples: [
        'dvce op list',
        'dvce op list --running -o json',
        'dvce op list --filter status=failed --sort -started',
      ],
      run: async () => (await operation()).list,
    },
    {
      name: 'show',
      summary: 'show one operation',
      arguments: [id],
      examples: [
        'dvce op show "$(dvce op list -o name | head -1)"',
        'dvce op show "$(dvce volume check /prod/db --no-wait)"',
        'dvce op show "$(dvce volume check /prod/db --no-wait)" -o json',
      ],
      run: async () => (await operation()).show,
    },
    {
      name: 'wait',
      kind: 'read',
      summary: 'wait until an operation has ended; its exit code is the result',
      arguments: [id],
      options: [option.timeout],
      examples: [
        'dvce op wait "$(dvce volume check /prod/db --no-wait)"',
        'dvce op wait "$(dvce volume check /prod/db --no-wait)" --timeout 5m',
        'dvce op list --running -o name | xargs -r -n1 dvce op wait',
      ],
      run: async () => (await operation()).wait,
    },
    {
      name: 'log',
      summary: 'print what an operation said, kept with it',
      arguments: [id],
      examples: [
        'dvce op log "$(dvce op list -o name | head -1)"',
        'dvce op log "$(dvce volume check /prod/db --no-wait)"',
        'dvce op list -o name --filter status=failed | xargs -r -n1 dvce op log',
      ],
      run: async () => (await operation()).log,
    },
    {
      name: 'cancel',
      summary: 'cancel an operation',
      arguments: [id],
      examples: [
        'dvce op cancel "$(dvce image import huge.raw huge --no-wait)"',
        'dvce op cancel "$(dvce image import huge.raw huge2 --no-wait)" -o json',
        'dvce op list --running -o name | xargs -r -n1 dvce op cancel',
      ],
      run: async () => (await operation()).cancel,
    },
  ],
};

export const single: readonly CommandSpec[] = [
  {
    name: 'up',
    kind: 'mutation',
    summary: 'start the agent in the background and wait until it answers',
    details: 'What follows -- is handed to blockd when it has to be started (see: dvce blockd).',
    arguments: [blockdOptions],
    options: [option.timeout, ...doorOptions],
    examples: ['dvce up', 'dvce up --timeout 1m', 'dvce up -- --journal-bytes 256MiB'],
    run: async () => (await processes()).up,
  },
  {
    name: 'down',
    summary: 'stop the agent and blockd',
    details:
      'Refused while VMs run. --stop-vms stops them first; with --force they keep running and their I/O waits for the next "dvce up".',
    options: [
      { flags: '--stop-vms', text: 'stop all VMs first' },
      { flags: '--force', text: 'also while VMs run' },
      option.timeout,
    ],
    examples: ['dvce down --dry-run', 'dvce down', 'dvce down --stop-vms --timeout 2m'],
    run: async () => (await processes()).down,
  },
  {
    name: 'status',
    kind: 'read',
    summary: 'show whether this host is well, and why not',
    details: 'Ends with exit code 2 when it is not.',
    examples: ['dvce status', 'dvce status -o json', 'dvce status --quiet'],
    run: async () => (await system()).status,
  },
  {
    name: 'doctor',
    kind: 'read',
    summary: 'check what this host needs to run VMs; works without an agent',
    details: 'Ends with exit code 2 when a check failed.',
    examples: ['dvce doctor', 'dvce doctor --filter result=fail', 'dvce doctor -o json'],
    run: async () => (await system()).doctor,
  },
  {
    name: 'console',
    kind: 'read',
    summary: 'connect to the serial console of a VM; leave with Ctrl-]',
    arguments: [{ name: '<name>', text: 'name of the VM', names: 'vm' }],
    examples: ['dvce console web1', 'echo | dvce console web1', 'dvce console web1 --debug'],
    run: async () => (await import('../commands/console.ts')).console,
  },
  {
    name: 'agent',
    kind: 'local',
    summary: 'run the agent in the foreground',
    details: 'What follows -- is handed to blockd when it has to be started (see: dvce blockd).',
    arguments: [blockdOptions],
    options: doorOptions,
    examples: [
      'dvce agent',
      'dvce agent --data-dir /srv/dvce',
      'dvce agent --data-dir /srv/dvce -- --journal-bytes 256MiB',
    ],
    run: async () => (await processes()).agent,
  },
  {
    name: 'blockd',
    kind: 'local',
    summary: 'run blockd in the foreground (the agent does this by itself)',
    details:
      'Its own options: --store DIR, --nbd-tcp HOST:PORT with --nbd-tls-dir DIR or --nbd-insecure, --journal-bytes SIZE, --workers COUNT, --export-idle TIME, --log-level LEVEL, --foreground, --supervise.',
    arguments: [blockdOptions],
    passThrough: true,
    examples: [
      'dvce blockd',
      'dvce blockd --log-level debug',
      'dvce blockd --data-dir /srv/dvce --journal-bytes 256MiB',
    ],
    run: async () => (await processes()).blockd,
  },
  {
    name: 'api',
    kind: 'local',
    summary: 'send a request to the API and print the answer',
    arguments: [
      { name: '<method>', text: 'HTTP method', choices: ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] },
      { name: '<path>', text: 'path, e.g. /v1/volumes' },
    ],
    details:
      'A change needs no confirmation here: what is sent is done. --dry-run asks what it would do.',
    options: [
      {
        flags: '-d, --data <json>',
        text: 'body of the request; @FILE reads a file, @- and - standard input',
        names: 'file',
      },
      { flags: '--body <json>', text: 'older form of --data' },
      option.dryRun,
    ],
    examples: [
      'dvce api GET /v1/status',
      'dvce api GET /v1/volumes/prod%2Fdb',
      'dvce api PATCH /v1/volumes/prod%2Fdb -d \'{"labels":{"tier":"gold"}}\'',
      'echo \'{"protected":false}\' | dvce api PATCH /v1/volumes/prod%2Fdb -d @-',
      'dvce api DELETE /v1/volumes/prod%2Fdb --dry-run',
    ],
    run: async () => (await system()).api,
  },
  {
    name: 'completion',
    kind: 'local',
    summary: 'print the completion script of a shell',
    arguments: [{ name: '<shell>', text: 'shell', choices: ['bash', 'zsh', 'fish'] }],
    examples: [
      'dvce completion bash > dvce.bash',
      'dvce completion zsh > _dvce',
      'dvce completion fish > dvce.fish',
    ],
    run: async () => (await import('../commands/completion.ts')).completion,
  },
  {
    name: 'version',
    kind: 'read',
    summary: 'print the versions of this program and of the agent',
    examples: ['dvce version', 'dvce version -o json', 'dvce version -o yaml'],
    run: async () => (await system()).version,
  },
];
