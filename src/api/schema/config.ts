/** Settings of the agent. */
import Type, { type Static } from 'typebox';
import { nullable, ref, word } from './common.ts';

export const Setting = Type.Object(
  {
    name: Type.String({ description: 'Section and key: vm.memory.' }),
    value: nullable(
      Type.Unsafe<string | number | boolean>({ type: ['string', 'number', 'boolean'] }),
      { description: 'Sizes in bytes, durations in milliseconds; null: none.' },
    ),
    reload: Type.Boolean({ description: 'Can be changed while the agent runs.' }),
    origin: Type.Object({
      kind: word(['default', 'file', 'environment', 'flag'], 'What said so.'),
      where: Type.String({ description: 'FILE:LINE:COLUMN, variable or flag.' }),
    }),
  },
  { $id: 'Setting', description: 'A setting that a running agent has; never a secret.' },
);
export type Setting = Static<typeof Setting>;

export const SettingList = Type.Object(
  { settings: Type.Array(ref(Setting)) },
  { $id: 'SettingList' },
);

export const ConfigReload = Type.Object(
  {
    applied: Type.Array(Type.String(), { description: 'Settings that hold from now on.' }),
    waiting: Type.Array(Type.String(), {
      description: 'Changed ones that wait for the next start.',
    }),
  },
  { $id: 'ConfigReload', description: 'What reading the configuration again changed.' },
);
export type ConfigReload = Static<typeof ConfigReload>;
