/** The life of a VM: what happens at a crash or at the start of the host, changes while it runs, waiting. */
import Type, { type Static } from 'typebox';
import { limits } from '../../base/limits.ts';
import { closed, labels, nameText, nullable, pathText, sizeBytes, word } from './common.ts';

const cpus = Type.Integer({ minimum: 1, maximum: limits.vmCpusMax });
const startOrder = Type.Integer({
  minimum: 0,
  maximum: limits.vmStartOrderMax,
  description: 'Lower numbers start first and stop last.',
});
const onCrash = word(
  ['restart', 'hold'],
  `\`restart\`: up to ${limits.vmRestartsMax} times in 24 hours, then it is held. \`hold\`: not at all.`,
);
export const cpuModelWord = word(
  ['host', 'x86-64-v2', 'x86-64-v3'],
  'Processor: all that this host has, or a baseline that is the same on every host.',
);

/** Fields of a VM. */
export const lifeView = {
  cpuModel: Type.String({ description: 'Processor: `host`, or a baseline.' }),
  protected: Type.Boolean({ description: 'It cannot be deleted.' }),
  autostart: Type.Boolean({ description: 'Started when the host has started.' }),
  startOrder,
  onCrash,
  crashes: Type.Array(Type.String(), { description: 'When it crashed, in the last 24 hours.' }),
  held: nullable(Type.String(), { description: 'Why it is not started again by itself.' }),
  pending: nullable(
    Type.Object({ cpus: nullable(Type.Integer()), memoryBytes: nullable(Type.Integer()) }),
    { description: 'Hardware that it gets at its next start.' },
  ),
  revision: Type.Integer({ description: 'Raised by every change of what is wanted.' }),
};

/** Fields of a request for a new VM. */
export const lifeRequest = {
  cpuModel: Type.Optional(cpuModelWord),
  protected: Type.Optional(Type.Boolean()),
  autostart: Type.Optional(Type.Boolean()),
  startOrder: Type.Optional(startOrder),
  onCrash: Type.Optional(onCrash),
};

export const VmUpdate = Type.Object(
  {
    ...lifeRequest,
    labels: Type.Optional(labels),
    readyPattern: Type.Optional(nullable(Type.String({ minLength: 1, maxLength: 256 }))),
  },
  closed,
);
export type VmUpdate = Static<typeof VmUpdate>;

export const VmResize = Type.Object(
  {
    cpus: Type.Optional(cpus),
    memoryBytes: Type.Optional(sizeBytes('Memory of the guest.')),
    atNextStart: Type.Optional(
      Type.Boolean({ description: 'Leave a running guest as it is; it gets this when it starts.' }),
    ),
  },
  closed,
);
export type VmResize = Static<typeof VmResize>;

export const VmAttachDisk = Type.Object(
  {
    path: pathText('Path of the volume.'),
    sizeBytes: Type.Optional(sizeBytes('Makes a new volume of this size.')),
    readOnly: Type.Optional(Type.Boolean()),
  },
  closed,
);
export type VmAttachDisk = Static<typeof VmAttachDisk>;

export const VmReboot = Type.Object(
  {
    timeoutMs: Type.Optional(
      Type.Integer({
        minimum: 0,
        maximum: limits.vmStopMsMax,
        description: 'Time for the guest to restart by itself before it is reset; 60 s.',
      }),
    ),
  },
  closed,
);
export type VmReboot = Static<typeof VmReboot>;

export const VmClone = Type.Object(
  { name: nameText('Name of the new VM.'), labels: Type.Optional(labels) },
  closed,
);
export type VmClone = Static<typeof VmClone>;

export const vmConditions = ['running', 'ready', 'agent', 'ip', 'stopped'] as const;
