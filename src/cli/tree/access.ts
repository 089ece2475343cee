import type { NounSpec } from '../spec.ts';
import * as option from './options.ts';

const access = () => import('../commands/access.ts');
const token = { name: '<name>', text: 'name of the token', names: '/v1/tokens' } as const;

export const tokens: NounSpec = {
  name: 'token',
  summary: 'tokens for requests from other hosts',
  commands: [
    {
      name: 'create',
      summary: 'make a token; its secret is shown once',
      details:
        'Roles: viewer looks, operator changes, admin also has tokens, audit log and host. Paths are those of volumes; VM web1 counts as /vms/web1, image debian as /images/debian. The longest grant that covers a path decides.',
      options: [
        { flags: '--name <name>', text: 'name of the token', required: true },
        {
          flags: '--role <role>',
          text: 'role on --path',
          choices: ['viewer', 'operator', 'admin'],
        },
        { flags: '--path <path>', text: 'path that the role is for; / when not given' },
        { flags: '--grant <role:path>', text: 'one more grant; may be repeated', kind: 'texts' },
        {
          flags: '--expires <duration>',
          text: 'life, e.g. 12h; 30d when not given',
          kind: 'duration',
        },
        {
          flags: '--out <file>',
          text: 'write the secret to a new file of mode 0600',
          names: 'file',
        },
      ],
      examples: [
        'dvce token create --name ci --role operator --path /prod --expires 30d --out ci.token',
        'dvce token create --name watcher --role viewer --expires 12h',
        'dvce token create --name mixed --grant viewer:/ --grant operator:/test -o json > mixed.json',
      ],
      run: async () => (await access()).createToken,
    },
    {
      name: 'list',
      summary: 'list tokens',
      examples: ['dvce token list', 'dvce token list -o json', 'dvce token list --sort expires'],
      run: async () => (await access()).listTokens,
    },
    {
      name: 'show',
      summary: 'show a token, without its secret',
      arguments: [token],
      examples: ['dvce token show ci', 'dvce token show ci -o json', 'dvce token show watcher'],
      run: async () => (await access()).showToken,
    },
    {
      name: 'revoke',
      kind: 'mutation',
      summary: 'revoke a token; it is refused from now on',
      arguments: [token],
      options: [option.yes],
      examples: [
        'dvce token revoke watcher --dry-run',
        'dvce token revoke watcher --yes',
        'dvce token revoke mixed --yes -o json',
      ],
      run: async () => (await access()).revokeToken,
    },
  ],
};

export const audit: NounSpec = {
  name: 'audit',
  summary: 'who changed what',
  commands: [
    {
      name: 'list',
      summary: 'list changes and refused requests, newest first',
      examples: [
        'dvce audit list',
        'dvce audit list -o json',
        'dvce audit list --filter requestor=local --columns at,method,path,status',
      ],
      run: async () => (await access()).listAudit,
    },
  ],
};

export const context: NounSpec = {
  name: 'context',
  summary: 'agents of other hosts, by name',
  commands: [
    {
      name: 'add',
      kind: 'local',
      summary: 'remember an agent of another host and the token for it',
      details:
        'Its certificate is trusted by --fingerprint, by --ca-file, or by the usual authorities. The token is kept in ~/.config/dvce/contexts.json, which only you can read. Use it with --context NAME or DVCE_CONTEXT.',
      arguments: [{ name: '<name>', text: 'name for it' }],
      options: [
        { flags: '--url <url>', text: 'https://HOST:PORT', required: true },
        {
          flags: '--token-file <file>',
          text: 'file with the token',
          required: true,
          names: 'file',
        },
        { flags: '--ca-file <file>', text: 'authorities to trust, PEM', names: 'file' },
        { flags: '--fingerprint <sha256>', text: 'SHA-256 of its certificate' },
        { flags: '--replace', text: 'also when there is one of this name' },
      ],
      examples: [
        'dvce context add host1 --url https://host1.example:8443 --token-file ci.token',
        'dvce context add host1 --replace --url https://192.0.2.7:8443 --token-file ci.token --fingerprint 3f1c9d52a7e08b64d1c5f29e7a60b8431e5d7c92f6a3b0184c7e9d25a1f3b680',
        'dvce context add host2 --url https://[2001:db8::7]:8443 --token-file ci.token',
      ],
      run: async () => (await access()).addContext,
    },
    {
      name: 'list',
      kind: 'local',
      summary: 'list the agents that have a name',
      examples: ['dvce context list', 'dvce context list -o json', 'dvce context list -o name'],
      run: async () => (await access()).listContexts,
    },
    {
      name: 'remove',
      kind: 'local',
      summary: 'forget one; its token stays valid until it is revoked',
      arguments: [{ name: '<name>', text: 'its name' }],
      examples: [
        'dvce context remove host1',
        'dvce context remove host2 -o json',
        'dvce context list -o name | xargs -r -n1 dvce context remove',
      ],
      run: async () => (await access()).removeContext,
    },
  ],
};
