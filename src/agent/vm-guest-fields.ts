/**
 * The fields of a VM document for what a guest has beside processors, memory and disks.
 *
 * | field | meaning |
 * |---|---|
 * | nics | cards: name, MAC, `user` or `bridge`; network and address when they come from a network. **The lease of an address is this field and nothing else**: what no document names is free |
 * | network | only in documents of release 0.1.0, which had at most one card and no `nics` |
 */
import { createHash } from 'node:crypto';
import Type, { type Static } from 'typebox';

const NicDocument = Type.Object({
  name: Type.String({ minLength: 1 }),
  mac: Type.String({ pattern: '^[0-9a-f]{2}(:[0-9a-f]{2}){5}$' }),
  kind: Type.Union([Type.Literal('user'), Type.Literal('bridge')]),
  bridge: Type.Optional(Type.String()),
  network: Type.Optional(Type.String()),
  address: Type.Optional(Type.String()),
});
export type NicDocument = Static<typeof NicDocument>;

export const guestFields = {
  network: Type.Optional(Type.Union([Type.Literal('user'), Type.Literal('none')])),
  nics: Type.Optional(Type.Array(NicDocument)),
};

/** The fields above, as a part of any document that has them. */
export interface GuestFields {
  readonly id: string;
  readonly network?: 'user' | 'none';
  readonly nics?: readonly NicDocument[];
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
