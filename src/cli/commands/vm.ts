/** `dvce vm ...` */
import type { Vm, VmCreate } from '../../api/index.ts';
import { DvceError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { parseSize } from '../../base/units.ts';
import { confirm, dryRun, unlessExists, unlessMissing } from '../confirm.ts';
import type { Context } from '../context.ts';
import { follow } from '../follow.ts';
import { labels, orDash, size, time, yesNo } from '../format.ts';
import { guestFacts, guestRequest } from '../guest.ts';
import { usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';
import { lifeOf } from './vm-life.ts';

const facts = (vm: Vm): readonly (readonly [string, string])[] => [
  ['name', vm.name],
  ['id', vm.id],
  ['phase', vm.phase],
  ['wanted', orDash(vm.desired)],
  ['ready', vm.ready === null ? 'no' : `yes (${readyReasons[vm.ready]})`],
  ['detail', orDash(vm.detail)],
  ['process', orDash(vm.pid)],
  ['cpus', `${vm.cpus}`],
  ['memory', size(vm.memoryBytes)],
  ['machine', `${vm.machine}, ${vm.firmware}`],
  ['processor', vm.cpuModel],
  ...pendingFacts(vm),
  ['protected', yesNo(vm.protected)],
  ['autostart', vm.autostart ? `yes, order ${vm.startOrder}` : 'no'],
  ['at a crash', vm.onCrash === 'hold' ? 'it is held' : 'restarted, 3 times in 24 hours'],
  ...(vm.crashes.length === 0 ? [] : [['crashes', `${vm.crashes.length} in 24 hours`] as const]),
  ...(vm.held === null ? [] : [['held', vm.held] as const]),
  ...guestFacts(vm),
  [
    'ready when',
    vm.readyPattern === null ? 'guest agent, or 60 s' : `console shows ${vm.readyPattern}`,
  ],
  ...vm.disks.map((disk): readonly [string, string] => [
    disk.name,
    [
      disk.path,
      ...(disk.readOnly ? ['read-only'] : []),
      ...(disk.bootOrder === null ? [] : [`boots ${disk.bootOrder}.`]),
      ...(disk.owned ? ['made with the VM'] : []),
      ...(disk.state === 'attached' ? [] : [disk.state]),
    ].join(', '),
  ]),
  ['labels', labels(vm.labels)],
  ['created', time(vm.createdAt)],
  ['started', time(vm.startedAt)],
];

function pendingFacts({ pending }: Vm): readonly (readonly [string, string])[] {
  if (pending === null) return [];
  const parts = [
    ...(pending.cpus === null ? [] : [`${pending.cpus} CPUs`]),
    ...(pending.memoryBytes === null ? [] : [size(pending.memoryBytes)]),
  ];
  return [['at next start', parts.join(', ')]];
}

const readyReasons: Readonly<Record<NonNullable<Vm['ready']>, string>> = {
  agent: 'the guest agent answered',
  pattern: 'the console showed the pattern',
  timeout: 'it has run for 60 s',
};

/** `PATH` or `PATH,SIZE`. */
function diskOf(text: string): { path: string; sizeBytes?: number } {
  const at = text.lastIndexOf(',');
  return at < 0
    ? { path: text }
    : { path: text.slice(0, at), sizeBytes: parseSize(text.slice(at + 1)) };
}

/** The fields that were given; what was not is the agent's choice. */
function request(given: Given): Partial<VmCreate> {
  const values = {
    cpus: given.number('cpus'),
    memoryBytes: given.number('memory'),
    image: given.text('image'),
    imageDiskBytes: given.number('imageSize'),
    network: given.text('network'),
    firmware: given.text('firmware'),
    machine: given.text('machine'),
    readyPattern: given.text('readyPattern'),
    labels: given.labels('label'),
    disks: given.texts('disk').length === 0 ? undefined : given.texts('disk').map(diskOf),
  };
  const set = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(set) as Partial<VmCreate>;
}

/** From the file, if there is one, with what the command line says on top. */
async function wanted(
  { input }: Context,
  given: Given,
): Promise<{ body: VmCreate; explain: (error: unknown) => unknown }> {
  const path = given.text('file');
  const name = given.optionalArgument('name');
  const fields = { ...request(given), ...(await guestRequest(given)), ...lifeOf(given) };
  if (path !== undefined) {
    const { readVmFile } = await import('../vm-file.ts');
    const { body, explain } = await readVmFile(path, name, input);
    return { body: { ...body, ...fields }, explain };
  }
  if (name === undefined)
    throw usageError('the command', 'the VM has no name', 'Give NAME, or --file.');
  return { body: { ...fields, name }, explain: (error) => error };
}

export const create: Run = async (context, given) => {
  const { api, output } = context;
  const { body, explain } = await wanted(context, given);
  let vm = await unlessExists(
    context,
    given,
    () =>
      api.vms.create(body).catch((error: unknown) => {
        throw explain(error);
      }),
    () => api.vms.get(body.name),
  );
  if (given.flag('start') && vm.desired !== 'running') {
    const begun = await api.vms.start(vm.name);
    await follow(context, given, begun, { cancelOnInterrupt: true });
    vm = await api.vms.get(vm.name);
  }
  output.changed(
    vm,
    vm.name,
    `VM ${vm.name} (${vm.cpus === 1 ? '1 CPU' : `${vm.cpus} CPUs`}, ${size(vm.memoryBytes)}), ${vm.phase}.`,
  );
};

export const list: Run = async ({ api, output }) => {
  await output.list(await api.vms.list(), ({ name }) => name, [
    { title: 'name', value: ({ name }) => name },
    { title: 'phase', value: ({ phase }) => phase },
    { title: 'ready', value: ({ ready }) => ready ?? 'no' },
    { title: 'cpus', value: ({ cpus }) => `${cpus}`, right: true },
    { title: 'memory', value: ({ memoryBytes }) => size(memoryBytes), right: true },
    { title: 'disks', value: ({ disks }) => orDash(disks.map(({ path }) => path).join(',')) },
    { title: 'labels', value: (vm) => labels(vm.labels) },
  ]);
};

export const show: Run = async ({ api, output }, given) => {
  const vm = await api.vms.get(given.argument('name'));
  output.show(vm, facts(vm));
};

export const start: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  const begun = await api.vms.start(name, { ready: given.flag('ready') });
  if ((await follow(context, given, begun, { cancelOnInterrupt: true })) === undefined) return;
  const vm = await api.vms.get(name);
  const ready = vm.ready === null ? '' : `, ready: ${readyReasons[vm.ready]}`;
  output.changed(vm, vm.name, `VM ${vm.name} is ${vm.phase}${ready}.`);
};

export const stop: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  const timeoutMs = given.number('timeout');
  const begun = await api.vms.stop(name, {
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(given.flag('force') ? { force: true } : {}),
  });
  // `--timeout` is the guest's time here: the wait itself must outlast it.
  const ended = await follow(context, given, begun, {
    cancelOnInterrupt: false,
    waitMs: (timeoutMs ?? limits.vmStopMs) + limits.vmStartOperationMs,
  });
  if (ended === undefined) return;
  const vm = await api.vms.get(name);
  output.changed(vm, vm.name, `VM ${vm.name} is ${vm.phase}${how(ended.result)}.`);
};

function how(result: unknown): string {
  if (typeof result !== 'object' || result === null || !('hard' in result)) return '';
  if ('wasRunning' in result && result.wasRunning === false) return ' (it did not run)';
  return result.hard === true ? ' (ended hard)' : ' (shut down by itself)';
}

export const log: Run = async ({ api, output }, given) => {
  const text = await api.vms.log(given.argument('name'), { tail: given.number('tail') });
  if (text !== undefined) output.raw(text.endsWith('\n') ? text : `${text}\n`);
};

async function plan({ api }: Context, given: Given) {
  const vm = await api.vms.get(given.argument('name'));
  const running = vm.phase !== 'stopped' && vm.phase !== 'crashed';
  return [
    {
      action: 'delete VM',
      object: vm.name,
      note: running ? `refused: ${vm.phase}` : vm.protected ? 'refused: protected' : '',
    },
    ...vm.disks.map(({ path, owned }) => {
      const goes = owned && !given.flag('keepDisks');
      return {
        action: goes ? 'delete volume' : 'keep volume',
        object: path,
        note: owned ? 'made with the VM' : 'existed before',
      };
    }),
  ];
}

export const remove: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('name');
  await unlessMissing(context, given, async () => {
    const change = () => api.vms.delete(name, { keepDisks: given.flag('keepDisks') || undefined });
    if (await dryRun(context, given, () => plan(context, given), change)) return;
    const vm = await api.vms.get(name);
    if (vm.phase !== 'stopped' && vm.phase !== 'crashed' && vm.phase !== 'unreadable')
      throw new DvceError('VM_STATE', {
        name,
        state: vm.phase,
        reason: 'only a stopped VM can be deleted',
        advice: `Stop it first: dvce vm stop ${name}`,
      });
    await confirm(context, given, `deleting VM ${name}`, name);
    await change();
    output.note(`VM ${name} deleted.`);
  });
};

export const vnc: Run = async ({ api, output }, given) => {
  const name = given.argument('name');
  const display = await api.vms.vnc(name);
  output.show(display, [
    ['address', `${display.host}:${display.port}`],
    ['password', display.password],
  ]);
};
