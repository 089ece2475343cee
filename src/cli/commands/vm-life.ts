/** `dvce vm pause|resume|reset|reboot|wait|update|resize|attach-*|detach-*|clone` */

import type { Operation, Vm, VmUpdate, VmWaited } from '../../api/index.ts';
import { systemClock } from '../../base/clock.ts';
import { DvceError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import type { Context } from '../context.ts';
import { follow } from '../follow.ts';
import { size } from '../format.ts';
import { nicsOf } from '../nics.ts';
import { usageError } from '../output.ts';
import type { Given, Run } from '../spec.ts';

const act =
  (verb: 'pause' | 'resume' | 'reset', done: string): Run =>
  async ({ api, output }, given) => {
    const vm = await api.vms.act(given.argument('name'), verb);
    output.changed(vm, vm.name, `VM ${vm.name} ${done}; it is ${vm.phase}.`);
  };

export const pause = act('pause', 'was paused');
export const resume = act('resume', 'goes on');
export const reset = act('reset', 'was reset');

/** Follow the operation, then show the VM that it changed. */
async function changed(
  context: Context,
  given: Given,
  begun: Operation,
  sentence: (vm: Vm, result: unknown) => string,
  waitMs?: number,
): Promise<void> {
  const { api, output } = context;
  const ended = await follow(context, given, begun, {
    cancelOnInterrupt: begun.mayCancel,
    ...(waitMs === undefined ? {} : { waitMs }),
  });
  if (ended === undefined) return;
  const vm = await api.vms.get(given.argument('name'));
  output.changed(vm, vm.name, sentence(vm, ended.result));
}

const field = (result: unknown, name: string): unknown =>
  typeof result === 'object' && result !== null && name in result
    ? (result as Record<string, unknown>)[name]
    : undefined;

export const reboot: Run = async (context, given) => {
  const timeoutMs = given.number('timeout');
  const begun = await context.api.vms.reboot(
    given.argument('name'),
    timeoutMs === undefined ? {} : { timeoutMs },
  );
  // `--timeout` is the guest's time: the wait must outlast it.
  const waitMs = (timeoutMs ?? limits.vmStopMs) + limits.vmStartOperationMs;
  await changed(
    context,
    given,
    begun,
    (vm, result) =>
      `VM ${vm.name} restarts${field(result, 'hard') === true ? ' (it was reset)' : ''}.`,
    waitMs,
  );
};

const waitMsDefault = 300_000;

export const wait: Run = async ({ api, output }, given) => {
  const name = given.argument('name');
  const condition = (given.text('for') ?? 'ready') as VmWaited['condition'];
  const timeoutMs = given.number('timeout') ?? waitMsDefault;
  const endMs = systemClock.monotonicMs() + timeoutMs;
  for (;;) {
    const leftMs = Math.max(0, Math.ceil(endMs - systemClock.monotonicMs()));
    const asked = Math.min(leftMs, limits.operationWaitMs);
    const seen = await api.vms.wait(name, { for: condition, wait: `${asked}ms` });
    if (seen.met) {
      const where = seen.addresses.length === 0 ? '' : ` at ${seen.addresses.join(', ')}`;
      output.changed(seen, name, `VM ${name}: ${words[condition]}${where}.`);
      return;
    }
    if (systemClock.monotonicMs() >= endMs)
      throw new DvceError('TIMED_OUT', {
        what: `VM ${name}, which is ${seen.vm.phase}, getting ${condition}`,
        ms: timeoutMs,
      });
  }
};

const words: Readonly<Record<VmWaited['condition'], string>> = {
  running: 'it runs',
  ready: 'it is ready',
  agent: 'its guest agent answers',
  ip: 'it has an address',
  stopped: 'it does not run',
};

/** The fields that were given, for `create` and `update`. */
export function lifeOf(given: Given): Omit<VmUpdate, 'readyPattern' | 'labels'> {
  const values = {
    protected: given.choice('protect'),
    autostart: given.choice('autostart'),
    startOrder: given.number('startOrder'),
    onCrash: given.text('onCrash'),
    cpuModel: given.text('cpuModel'),
  };
  const set = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(set) as Omit<VmUpdate, 'readyPattern' | 'labels'>;
}

export const update: Run = async ({ api, output }, given) => {
  const labels = given.labels('label');
  const body = { ...lifeOf(given), ...(labels === undefined ? {} : { labels: { ...labels } }) };
  if (Object.keys(body).length === 0)
    throw usageError('the update', 'nothing is to be changed', 'Give one of its options.');
  const vm = await api.vms.update(given.argument('name'), body);
  output.changed(vm, vm.name, `VM ${vm.name} updated.`);
};

export const resize: Run = async (context, given) => {
  const cpus = given.number('cpus');
  const memoryBytes = given.number('memory');
  if (cpus === undefined && memoryBytes === undefined)
    throw usageError('the new size', 'there is none', 'Give --cpus, --memory, or both.');
  const begun = await context.api.vms.resize(given.argument('name'), {
    ...(cpus === undefined ? {} : { cpus }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    ...(given.flag('atNextStart') ? { atNextStart: true } : {}),
  });
  await changed(context, given, begun, (vm) => {
    const what = (count: number, bytes: number): string =>
      `${count === 1 ? '1 CPU' : `${count} CPUs`}, ${size(bytes)}`;
    const now = `VM ${vm.name} has ${what(vm.cpus, vm.memoryBytes)}`;
    if (vm.pending === null) return `${now}.`;
    const { cpus: count, memoryBytes: bytes } = vm.pending;
    return `${now}; from its next start: ${what(count ?? vm.cpus, bytes ?? vm.memoryBytes)}.`;
  });
};

export const attachDisk: Run = async (context, given) => {
  const sizeBytes = given.number('size');
  const path = given.argument('path');
  const begun = await context.api.vms.attachDisk(given.argument('name'), {
    path,
    ...(sizeBytes === undefined ? {} : { sizeBytes }),
    ...(given.flag('readOnly') ? { readOnly: true } : {}),
  });
  await changed(
    context,
    given,
    begun,
    (vm, result) => `VM ${vm.name} has ${path} as ${String(field(result, 'disk'))}.`,
  );
};

export const detachDisk: Run = async (context, given) => {
  const disk = given.argument('disk');
  const begun = await context.api.vms.detachDisk(given.argument('name'), disk);
  await changed(
    context,
    given,
    begun,
    (vm) => `VM ${vm.name} has ${disk} no more; the volume stays.`,
  );
};

export const attachNic: Run = async (context, given) => {
  const [nic] = nicsOf([given.argument('kind')]) ?? [];
  if (nic === undefined) throw usageError('the card', 'none is no card', 'For example user.');
  const begun = await context.api.vms.attachNic(given.argument('name'), nic);
  await changed(
    context,
    given,
    begun,
    (vm, result) => `VM ${vm.name} has the card ${String(field(result, 'nic'))}.`,
  );
};

export const detachNic: Run = async (context, given) => {
  const card = given.argument('card');
  const begun = await context.api.vms.detachNic(given.argument('name'), card);
  await changed(context, given, begun, (vm) => `VM ${vm.name} has ${card} no more.`);
};

export const clone: Run = async (context, given) => {
  const { api, output } = context;
  const name = given.argument('new');
  const labels = given.labels('label');
  const begun = await api.vms.clone(given.argument('name'), {
    name,
    ...(labels === undefined ? {} : { labels: { ...labels } }),
  });
  const ended = await follow(context, given, begun, { cancelOnInterrupt: false });
  if (ended === undefined) return;
  const vm = await api.vms.get(name);
  output.changed(vm, vm.name, `VM ${vm.name}, a clone of ${given.argument('name')}.`);
};
