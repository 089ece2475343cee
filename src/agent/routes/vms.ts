/** Routes of VMs. The console is not here: it changes the protocol of its connection (console-upgrade.ts). */
import Type from 'typebox';
import { consoleProtocol, urls } from '../../api/index.ts';
import { ref, Vm, VmCreate, VmList, VmStart, VmStop, VmVnc } from '../../api/schema/index.ts';
import { DvceError } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import { operationAnswer, startedOperation } from './operations.ts';
import { answers, nameParams, none, type Server } from './types.ts';

export function vmRoutes(server: Server, { vms }: Agent): void {
  server.get(
    '/v1/vms',
    {
      schema: {
        operationId: 'listVms',
        tags: ['vms'],
        summary: 'List VMs',
        response: answers({ 200: ref(VmList) }),
      },
    },
    async () => ({ vms: await vms.list() }),
  );

  server.post(
    '/v1/vms',
    {
      schema: {
        operationId: 'createVm',
        tags: ['vms'],
        summary: 'Define a VM and make its disks',
        body: VmCreate,
        response: answers({ 201: ref(Vm) }),
      },
    },
    async ({ body }, reply) => {
      const vm = await vms.create(body);
      return reply.code(201).header('location', urls.vm(vm.name)).send(vm);
    },
  );

  server.get(
    '/v1/vms/:name',
    {
      schema: {
        operationId: 'getVm',
        tags: ['vms'],
        summary: 'Show a VM',
        params: nameParams,
        response: answers({ 200: ref(Vm) }),
      },
    },
    async ({ params }) => vms.get(params.name),
  );

  server.post(
    '/v1/vms/:name/start',
    {
      schema: {
        operationId: 'startVm',
        tags: ['vms'],
        summary: 'Start a VM',
        params: nameParams,
        body: VmStart,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) =>
      startedOperation(reply, await vms.start(params.name, body.ready ?? false)),
  );

  server.post(
    '/v1/vms/:name/stop',
    {
      schema: {
        operationId: 'stopVm',
        tags: ['vms'],
        summary: 'Shut a VM down: power button, then hard',
        params: nameParams,
        body: VmStop,
        response: answers(operationAnswer),
      },
    },
    async ({ params, body }, reply) => startedOperation(reply, await vms.stop(params.name, body)),
  );

  server.delete(
    '/v1/vms/:name',
    {
      schema: {
        operationId: 'deleteVm',
        tags: ['vms'],
        summary: 'Delete a VM and the disks made with it',
        params: nameParams,
        querystring: Type.Object({
          keepDisks: Type.Optional(Type.Boolean({ description: 'Leave all its volumes.' })),
        }),
        response: answers({ 204: none }),
      },
    },
    async ({ params, query }, reply) => {
      await vms.delete(params.name, query.keepDisks ?? false);
      return reply.code(204).send(null);
    },
  );

  server.get(
    '/v1/vms/:name/vnc',
    {
      // The answer opens the guest's screen and keyboard: more than looking.
      config: { role: 'operator' },
      schema: {
        operationId: 'getVmVnc',
        tags: ['vms'],
        summary: 'Address and password of the graphical display of a running VM',
        params: nameParams,
        response: answers({ 200: ref(VmVnc) }),
      },
    },
    async ({ params }) => vms.display(params.name),
  );

  server.get(
    '/v1/vms/:name/console',
    {
      schema: {
        operationId: 'openVmConsole',
        tags: ['vms'],
        summary: `The serial console: raw bytes after an upgrade to ${consoleProtocol}`,
        params: nameParams,
        response: answers({ 101: Type.Null({ description: 'The connection is the console.' }) }),
      },
    },
    async ({ params }) => {
      // A request with the right Upgrade header never comes here (console-upgrade.ts).
      throw new DvceError('INVALID_ARGUMENT', {
        what: `the request for the console of ${params.name}`,
        reason: `it has no header Upgrade: ${consoleProtocol}`,
        advice: `Use: dvce console ${params.name}`,
      });
    },
  );

  server.get(
    '/v1/vms/:name/log',
    {
      schema: {
        operationId: 'getVmLog',
        tags: ['vms'],
        summary: 'The log of the serial console',
        params: nameParams,
        querystring: Type.Object({
          tail: Type.Optional(Type.Integer({ minimum: 1, description: 'Only the last lines.' })),
        }),
        response: answers({
          200: { content: { 'text/plain': { schema: Type.String() } } },
        }),
      },
    },
    async ({ params, query }, reply) =>
      reply.type('text/plain; charset=utf-8').send(await vms.log(params.name, query.tail)),
  );
}
