/** Routes of what is done to a VM that exists: power, size, disks, cards, waiting, cloning. */
import Type from 'typebox';
import {
  NicRequest,
  nameText,
  ref,
  Vm,
  VmAttachDisk,
  VmClone,
  VmReboot,
  VmResize,
  VmUpdate,
  VmWaited,
  vmConditions,
  word,
} from '../../api/schema/index.ts';
import { limits, parseDuration } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { operationAnswer, startedOperation } from './operations.ts';
import { answers, nameParams, type Server } from './types.ts';

const nothing = Type.Optional(Type.Object({}, { additionalProperties: false }));

export function vmLifeRoutes(server: Server, { vms }: Agent): void {
  const { control, changes } = vms;

  const acts = {
    pause: { id: 'pauseVm', summary: 'Pause a VM: its processors stop', run: control.pause },
    resume: { id: 'resumeVm', summary: 'Continue a paused VM', run: control.resume },
    reset: { id: 'resetVm', summary: 'Reset a VM: its guest is not asked', run: control.reset },
  } as const;
  for (const [verb, { id, summary, run }] of Object.entries(acts))
    server.post(
      `/v1/vms/:name/${verb}`,
      {
        schema: {
          operationId: id,
          tags: ['vms'],
          summary,
          params: nameParams,
          body: nothing,
          response: answers({ 200: ref(Vm) }),
        },
      },
      async ({ params }) => run.call(control, params.name),
    );

  server.post(
    '/v1/vms/:name/reboot',
    {
      schema: {
        operationId: 'rebootVm',
        tags: ['vms'],
        summary: 'Restart a guest: by its agent or the power button, then by a reset',
        params: nameParams,
        body: VmReboot,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) =>
      startedOperation(reply, await control.reboot(params.name, body)),
  );

  server.get(
    '/v1/vms/:name/wait',
    {
      schema: {
        operationId: 'waitForVm',
        tags: ['vms'],
        summary: 'Answers when it is so, or after the time',
        params: nameParams,
        querystring: Type.Object({
          for: word(vmConditions, 'What to wait for.'),
          wait: Type.Optional(
            Type.String({ description: `At most ${limits.operationWaitMs / 1000}s.` }),
          ),
        }),
        response: answers({ 200: ref(VmWaited) }),
      },
    },
    async ({ params, query, raw }) => {
      const gone = new AbortController();
      raw.socket.once('close', () => gone.abort());
      const waitMs = query.wait === undefined ? 0 : parseDuration(query.wait);
      return control.wait(
        params.name,
        query.for,
        Math.min(waitMs, limits.operationWaitMs),
        gone.signal,
      );
    },
  );

  server.patch(
    '/v1/vms/:name',
    {
      schema: {
        operationId: 'updateVm',
        tags: ['vms'],
        summary: 'Change labels, protection, and what happens at a crash or a start of the host',
        params: nameParams,
        body: VmUpdate,
        response: answers({ 200: ref(Vm) }),
      },
    },
    async ({ params, body }) => changes.update(params.name, body),
  );

  server.post(
    '/v1/vms/:name/resize',
    {
      schema: {
        operationId: 'resizeVm',
        tags: ['vms'],
        summary: 'Change processors and memory, of a running guest as far as it can',
        params: nameParams,
        body: VmResize,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) =>
      startedOperation(reply, await changes.resize(params.name, body)),
  );

  server.post(
    '/v1/vms/:name/disks',
    {
      schema: {
        operationId: 'attachVmDisk',
        tags: ['vms'],
        summary: 'Give a VM another disk, also while it runs',
        params: nameParams,
        body: VmAttachDisk,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) =>
      startedOperation(reply, await changes.attachDisk(params.name, body)),
  );

  server.delete(
    '/v1/vms/:name/disks/:disk',
    {
      schema: {
        operationId: 'detachVmDisk',
        tags: ['vms'],
        summary: 'Take a disk out of a VM; the volume stays',
        params: Type.Object({ ...nameParams.properties, disk: nameText('Name of the disk.') }),
        response: answers(operationAnswer),
      },
    },
    async ({ params }, reply) =>
      startedOperation(reply, await changes.detachDisk(params.name, params.disk)),
  );

  server.post(
    '/v1/vms/:name/nics',
    {
      schema: {
        operationId: 'attachVmNic',
        tags: ['vms'],
        summary: 'Give a VM another card, also while it runs',
        params: nameParams,
        body: NicRequest,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) =>
      startedOperation(reply, await changes.attachNic(params.name, body)),
  );

  server.delete(
    '/v1/vms/:name/nics/:nic',
    {
      schema: {
        operationId: 'detachVmNic',
        tags: ['vms'],
        summary: 'Take a card out of a VM',
        params: Type.Object({ ...nameParams.properties, nic: nameText('Name of the card.') }),
        response: answers(operationAnswer),
      },
    },
    async ({ params }, reply) =>
      startedOperation(reply, await changes.detachNic(params.name, params.nic)),
  );

  server.post(
    '/v1/vms/:name/clone',
    {
      schema: {
        operationId: 'cloneVm',
        tags: ['vms'],
        summary: 'Make a VM like this one, with clones of its disks as they are at one instant',
        params: nameParams,
        body: VmClone,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) =>
      startedOperation(reply, await vms.clones.clone(params.name, body)),
  );
}
