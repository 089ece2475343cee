/**
 * The fields of a VM document for what a guest has beside processors, memory and disks.
 *
 * | field | meaning |
 * |---|---|
 * | nics | cards: name, MAC, `user` or `bridge`; network and address when they come from a network. **The lease of an address is this field and nothing else**: what no document names is free |
 * | network | only in documents of release 0.1.0, which had at most one card and no `nics` |
 * | cloudInit | what cloud-init is told; user data may hold secrets, so it goes to the seed disk and nowhere else |
 * | vnc | whether it has a graphical display; the password is made at each start and never stored here |
 * | resources | its share of the host |
 */
import { createHash } from 'node:crypto';
import Type, { type Static } from 'typebox';
import { VmResources } from '../api/schema/index.ts';
import { transit } from './vm-life-fields.ts';

const NicDocument = Type.Object({
  name: Type.String({ minLength: 1 }),
  mac: Type.String({ pattern: '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$' }),
  kind: Type.Union([Type.Literal('user'), Type.Literal('bridge')]),
  bridge: Type.Optional(Type.String()),
  network: Type.Optional(Type.String()),
  address: Type.Optional(Type.String()),
  transit,
  /** As they were when the address was leased: a guest that is told its address needs them. */
  prefix: Type.Optional(Type.Integer({ minimum: 1, maximum: 32 })),
  gateway: Type.Optional(Type.String()),
  nameservers: Type.Optional(Type.Array(Type.String())),
});
export type NicDocument = Static<typeof NicDocument>;

const CloudInitDocument = Type.Object({
  hostname: Type.Optional(Type.String()),
  sshKeys: Type.Optional(Type.Array(Type.String())),
  userData: Type.Optional(Type.String()),
  networkConfig: Type.Optional(Type.String()),
});

export const guestFields = {
  network: Type.Optional(Type.Union([Type.Literal('user'), Type.Literal('none')])),
  nics: Type.Optional(Type.Array(NicDocument)),
  cloudInit: Type.Optional(CloudInitDocument),
  vnc: Type.Optional(Type.Boolean()),
  // Fields of newer releases are kept, so the schema is not the closed one of a request.
  resources: Type.Optional(Type.Object(VmResources.properties)),
};

/** The fields above, as a part of any document that has them. */
export interface GuestFields {
  readonly id: string;
  readonly name: string;
  readonly network?: 'user' | 'none';
  readonly nics?: readonly NicDocument[];
  readonly cloudInit?: Static<typeof CloudInitDocument>;
  readonly vnc?: boolean;
  readonly resources?: VmResources;
}

/** The cards of a VM, also of a document that is older than they are. */
export function nicsOf(document: GuestFields): readonly NicDocument[] {
  if (document.nics !== undefined) return document.nics;
  if (document.network !== 'user') return [];
  return [{ name: 'card0', mac: macOf(document.id), kind: 'user' }];
}

/**
 * A MAC address from a text. The prefix is QEMU's own and has the bit "locally administered"; the rest follows from the text,
 * so that it is the same on every host.
 */
export function macOf(text: string): string {
  const digest = createHash('sha256').update(text).digest('hex').slice(0, 6);
  return `52:54:00:${digest.replace(/(..)(?=.)/g, '$1:')}`;
}
