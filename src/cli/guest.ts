/** The options of `vm create` for what a guest has beside processors, memory and disks, as fields of the request. */
import { readFile } from 'node:fs/promises';
import type { CloudInitRequest, Vm, VmCreate, VmResources } from '../api/index.ts';
import { systemCode } from '../base/errors.ts';
import { size } from './format.ts';
import { nicsOf } from './nics.ts';
import { usageError } from './output.ts';
import type { Given } from './spec.ts';

/** Drops what was not given; undefined when nothing was. */
function given<T extends object>(
  values: { readonly [K in keyof T]: T[K] | undefined },
): T | undefined {
  const set = Object.entries(values).filter(([, value]) => value !== undefined);
  return set.length === 0 ? undefined : (Object.fromEntries(set) as T);
}

export async function guestRequest(options: Given): Promise<Partial<VmCreate>> {
  const networkConfig = options.text('networkConfig');
  const userData = options.text('userData');
  return (
    given<Partial<VmCreate>>({
      nics: nicsOf(options.texts('net')),
      cloudInit: given<CloudInitRequest>({
        hostname: options.text('hostname'),
        sshKeys: await sshKeys(options.texts('sshKey')),
        userData: userData === undefined ? undefined : await fileText(userData),
        networkConfig: networkConfig === undefined ? undefined : await fileText(networkConfig),
      }),
      vnc: options.flag('vnc') || undefined,
      resources: given<VmResources>({
        cpuMinPercent: percentOf(options.text('cpuMin'), '--cpu-min'),
        cpuMaxPercent: percentOf(options.text('cpuMax'), '--cpu-max'),
        cpuWeight: options.number('cpuWeight'),
        memoryMinBytes: options.number('memoryMin'),
        memoryMaxBytes: options.number('memoryMax'),
        ioMaxBytesPerSecond: options.number('ioMax'),
        ioMaxRequestsPerSecond: options.number('iopsMax'),
      }),
    }) ?? {}
  );
}

/** `1.5` CPUs as hundredths. */
function percentOf(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  const percent = /^\d{1,4}(\.\d{1,2})?$/.test(text) ? Math.round(Number(text) * 100) : 0;
  if (percent > 0) return percent;
  throw usageError(
    `the option ${option} ${JSON.stringify(text)}`,
    'it is no number of CPUs',
    'For example 0.5, 1 or 1.25.',
  );
}

/** What starts like a key is one; anything else names a file with one key a line. */
async function sshKeys(texts: readonly string[]): Promise<string[] | undefined> {
  if (texts.length === 0) return undefined;
  const keys: string[] = [];
  for (const text of texts) {
    if (/^(ssh-|ecdsa-|sk-)\S+ /.test(text)) {
      keys.push(text.trim());
      continue;
    }
    const content = await fileText(text);
    // A private key is one matter, not many lines; the agent says what is wrong with it.
    if (content.includes('PRIVATE KEY')) keys.push('PRIVATE KEY');
    else
      keys.push(
        ...content
          .split('\n')
          .map((line) => line.trim())
          .filter((line) => line !== '' && !line.startsWith('#')),
      );
  }
  return keys;
}

async function fileText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw usageError(
      `the file ${JSON.stringify(path)}`,
      systemCode(error) === 'ENOENT' ? 'it does not exist' : String(systemCode(error) ?? error),
      'Name a file that can be read.',
    );
  }
}

type Fact = readonly [string, string];

/** The same fields of a VM, for reading. */
export function guestFacts(vm: Vm): readonly Fact[] {
  const { cloudInit } = vm;
  return [
    ...vm.nics.map(
      (nic): Fact => [
        nic.name,
        [
          nic.kind === 'user' ? 'outgoing by NAT' : `bridge ${nic.bridge}`,
          ...(nic.network === null ? [] : [`network ${nic.network}, address ${nic.address}`]),
          nic.mac,
        ].join(', '),
      ],
    ),
    ...(cloudInit === null
      ? []
      : [
          [
            'cloud-init',
            `host name ${cloudInit.hostname}, ${cloudInit.sshKeys.length} keys, ${size(cloudInit.userDataBytes)} user data, network configuration ${cloudInit.networkConfig}`,
          ] as const,
        ]),
    ...(vm.vnc ? [['display', `by VNC: dvce vm vnc ${vm.name}`] as const] : []),
    ...shareFacts(vm.resources),
  ];
}

function shareFacts(share: VmResources): readonly Fact[] {
  const { cpuMinPercent, cpuMaxPercent, cpuWeight, memoryMinBytes, memoryMaxBytes } = share;
  const { ioMaxBytesPerSecond, ioMaxRequestsPerSecond } = share;
  const parts = [
    ['processors', bounds(cpuMinPercent, cpuMaxPercent, (percent) => `${percent / 100}`)],
    ['weight', cpuWeight === undefined ? '' : `${cpuWeight}`],
    ['memory', bounds(memoryMinBytes, memoryMaxBytes, size)],
    [
      'disks',
      [
        ...(ioMaxBytesPerSecond === undefined ? [] : [`${size(ioMaxBytesPerSecond)}/s`]),
        ...(ioMaxRequestsPerSecond === undefined ? [] : [`${ioMaxRequestsPerSecond} requests/s`]),
      ].join(', '),
    ],
  ] as const;
  const text = parts.filter(([, value]) => value !== '').map((part) => part.join(' '));
  return text.length === 0 ? [] : [['share', text.join('; ')]];
}

const bounds = (
  least: number | undefined,
  most: number | undefined,
  show: (value: number) => string,
): string =>
  [
    ...(least === undefined ? [] : [`at least ${show(least)}`]),
    ...(most === undefined ? [] : [`at most ${show(most)}`]),
  ].join(', ');
