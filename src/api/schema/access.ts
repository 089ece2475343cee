/** Tokens and the audit log. */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import { closed, nameText, nullable, pathText, ref, timestamp, word } from './common.ts';

const Grant = Type.Object(
  {
    role: word(['viewer', 'operator', 'admin'], 'Look; change; tokens, audit and the host itself.'),
    path: pathText(
      '`/`, or a path of volumes such as /prod. VM web1 counts as /vms/web1, image debian as /images/debian, network lan as /networks/lan. The longest grant that covers a path decides.',
    ),
  },
  closed,
);

export const Token = Type.Object(
  {
    id: Type.String({ description: 'Part of the token that is no secret.' }),
    name: nameText('Name.'),
    grants: Type.Array(Grant),
    createdAt: timestamp('When it was made.'),
    expiresAt: timestamp('When it ends.'),
    expired: Type.Boolean(),
    lastUsedAt: nullable(Type.String(), { description: 'Last use, to the minute, or null.' }),
  },
  { $id: 'Token', description: 'A token for requests from other hosts, without its secret.' },
);
export type Token = Static<typeof Token>;

export const TokenList = Type.Object({ tokens: Type.Array(ref(Token)) }, { $id: 'TokenList' });

export const TokenCreate = Type.Object(
  {
    name: nameText('Name, for the audit log and for revoking it.'),
    grants: Type.Array(Grant, { minItems: 1, maxItems: limits.tokenGrantsMax }),
    expiresMs: Type.Optional(
      Type.Integer({
        minimum: 1000,
        maximum: limits.tokenLifeMsMax,
        description: 'Life from now on; 30 days when not given.',
      }),
    ),
  },
  closed,
);
export type TokenCreate = Static<typeof TokenCreate>;

export const TokenSecret = Type.Object(
  {
    token: ref(Token),
    secret: Type.String({ description: 'The token itself. It is shown only here.' }),
    door: nullable(
      Type.Object({
        listen: Type.String({ description: 'host:port' }),
        fingerprint: Type.String({
          description: 'SHA-256 of the certificate that is shown there.',
        }),
      }),
      { description: 'Where tokens are good for; null while the agent listens to no network.' },
    ),
  },
  { $id: 'TokenSecret' },
);
export type TokenSecret = Static<typeof TokenSecret>;

export const AuditEntry = Type.Object(
  {
    id: Type.String(),
    at: timestamp('When it was answered.'),
    requestor: Type.String({
      description: '`local`, `local-viewer`, `token:NAME`; `unknown` when nobody was let in.',
    }),
    from: nullable(Type.String(), { description: 'Address, or null for a unix socket.' }),
    method: Type.String(),
    path: Type.String({ description: 'Without its query.' }),
    operationId: nullable(Type.String(), { description: 'Of docs/reference/openapi.json.' }),
    dryRun: Type.Boolean(),
    status: Type.Integer({ description: 'HTTP status of the answer.' }),
    operation: nullable(Type.String(), { description: 'Id of the operation that it began.' }),
  },
  { $id: 'AuditEntry', description: 'A change, or a request that was refused.' },
);
export type AuditEntry = Static<typeof AuditEntry>;

export const AuditList = Type.Object(
  { entries: Type.Array(ref(AuditEntry)) },
  { $id: 'AuditList' },
);
