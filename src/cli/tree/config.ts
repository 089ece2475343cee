import type { NounSpec } from '../spec.ts';

const load = () => import('../commands/config.ts');

export const config: NounSpec = {
  name: 'config',
  summary: 'settings of this host',
  commands: [
    {
      name: 'check',
      summary: 'say whether the configuration files are right, and where they are not',
      details: 'Needs no agent. Ends with exit code 64 when something is wrong.',
      kind: 'local',
      arguments: [
        {
          name: '[file]',
          text: 'file to check; /etc/dvce/dvce.yaml and conf.d/*.yaml beside it when left out',
          names: 'file',
        },
      ],
      examples: ['dvce config check', 'dvce config check ./dvce.yaml', 'dvce config check -o json'],
      run: async () => (await load()).check,
    },
    {
      name: 'show',
      summary: 'show the settings that hold, and with --origin where each comes from',
      details:
        'As a process started now would read them: flag, environment variable, file, default.',
      kind: 'local',
      arguments: [{ name: '[name]', text: 'only this setting or section, e.g. nbd.listen' }],
      options: [{ flags: '--origin', text: 'file with line and column, variable or default' }],
      examples: [
        'dvce config show',
        'dvce config show --origin',
        'dvce config show vm.memory -o json',
      ],
      run: async () => (await load()).show,
    },
    {
      name: 'schema',
      summary: 'print the JSON Schema of the configuration file, for editors and programs',
      details:
        'Needs no agent. The Debian package has it as /usr/share/dvce/dvce-config.schema.json.',
      kind: 'local',
      examples: [
        'dvce config schema',
        'dvce config schema -o yaml',
        'dvce config schema --quiet > dvce-config.schema.json',
      ],
      run: async () => (await load()).schema,
    },
    {
      name: 'reload',
      summary: 'have the agent read its configuration again, as SIGHUP does',
      details:
        'Settings marked so in the reference are taken over; the others are named and wait for the next start. With a mistake in a file nothing changes.',
      kind: 'mutation',
      examples: [
        'dvce config reload',
        'dvce config reload --dry-run',
        'dvce config reload -o json',
      ],
      run: async () => (await load()).reload,
    },
  ],
};
