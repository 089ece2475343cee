/**
 * What is wrong with this host, out of what was seen: a pure function, so that every cause can be tested without making it
 * happen. Who looks, and since when it is so, is in health.ts.
 */

import type { HealthCause, Vm } from '../api/index.ts';
import { urls } from '../api/index.ts';
import { type CauseCode, causeTable } from '../api/schema/index.ts';
import { formatDuration, formatSize, limits } from '../base/index.ts';
import type { BlockdMetrics } from '../blockd/index.ts';

/** A cause as it is found; since when is added by who keeps it. */
export type FoundCause = Omit<HealthCause, 'since'>;

export interface ClockJump {
  readonly atMs: number;
  readonly byMs: number;
}

/** What was seen. A part that could not be looked at is missing. */
export interface Seen {
  readonly blockd: BlockdMetrics | { readonly failure: string };
  /** Where the store is, for words. */
  readonly store: string;
  /** Starts of blockd within limits.crashLoopWindowMs. */
  readonly blockdStarts: number;
  readonly vms: readonly Vm[] | undefined;
  /** Name of the hypervisor's program when it is not there. */
  readonly missingHypervisor: string | undefined;
  readonly clockJump: ClockJump | undefined;
  readonly certificates: readonly { readonly path: string; readonly leftMs: number }[];
}

export function cause(code: CauseCode, object: string, text: string, advice?: string): FoundCause {
  const row = causeTable[code];
  return { code, object, severity: row.severity, text, advice: advice ?? row.advice };
}

export function causesOf(seen: Seen): FoundCause[] {
  const { blockd } = seen;
  return [
    ...('failure' in blockd
      ? [cause('BLOCKD_DOWN', '', `blockd does not answer: ${blockd.failure}`)]
      : blockdCauses(blockd, seen.store)),
    ...restartCauses(seen.blockdStarts),
    ...(seen.vms ?? []).flatMap(vmCauses),
    ...hypervisorCauses(seen),
    ...clockCauses(seen.clockJump),
    ...seen.certificates.flatMap(certificateCauses),
  ];
}

function restartCauses(starts: number): FoundCause[] {
  if (starts < limits.crashLoopCount) return [];
  const text = `blockd was started ${starts} times within ${formatDuration(limits.crashLoopWindowMs)}`;
  return [cause('BLOCKD_RESTARTING', '', text)];
}

function blockdCauses(metrics: BlockdMetrics, where: string): FoundCause[] {
  return [
    ...spaceCauses(metrics, where),
    ...metrics.volumes.flatMap(volumeCauses),
    ...metrics.unopened.map(({ path, vm, reason }) =>
      cause('VOLUME_UNOPENED', urls.volume(path), `${path} of ${vm} cannot be opened: ${reason}`),
    ),
  ];
}

function spaceCauses({ store, volumes }: BlockdMetrics, where: string): FoundCause[] {
  const left = `the store ${where} has only ${formatSize(store.freeBytes)} left`;
  const isHeld = volumes.some(({ publishingWaits }) => publishingWaits === 'NO_SPACE');
  if (isHeld || store.freeBytes <= limits.storeReserveBytes)
    return [cause('STORE_FULL', '', `${left}, and guests may not use it`)];
  return store.freeBytes < 2 * limits.storeReserveBytes
    ? [cause('STORE_NEARLY_FULL', '', left)]
    : [];
}

function volumeCauses(volume: BlockdMetrics['volumes'][number]): FoundCause[] {
  const { path, readOnlyReason, flushLagMs, publishingWaits } = volume;
  const object = urls.volume(path);
  const found: FoundCause[] = [];
  if (readOnlyReason !== null)
    found.push(cause('VOLUME_READ_ONLY', object, `${path} takes no writes: ${readOnlyReason}`));
  // An older blockd does not say it.
  if ((volume.journalFailedFiles ?? 0) > 0)
    found.push(
      cause(
        'JOURNAL_FAILING',
        object,
        `${volume.journalFailedFiles} journal files of ${path} were given up after I/O errors`,
      ),
    );
  if (publishingWaits !== null && publishingWaits !== undefined && publishingWaits !== 'NO_SPACE')
    found.push(
      cause('STORE_UNAVAILABLE', object, `${path} cannot be published: ${publishingWaits}`),
    );
  if (flushLagMs > limits.flushLagHighMs)
    found.push(
      cause(
        'FLUSH_LAG_HIGH',
        object,
        // Not the exact time, which would be another text every time somebody looks.
        `flushed writes of ${path} are in the journal alone for more than ${formatDuration(limits.flushLagHighMs)}`,
      ),
    );
  return found;
}

const vmCodes: Readonly<Partial<Record<Vm['phase'] | 'held', { code: CauseCode; says: string }>>> =
  {
    crashed: { code: 'VM_CRASHED', says: 'crashed' },
    held: { code: 'VM_HELD', says: 'crashed and is held' },
    'io-error': { code: 'VM_IO_ERROR', says: 'waits for its disk' },
    unreadable: { code: 'VM_UNREADABLE', says: 'is unreadable' },
  };

function vmCauses({ name, phase, detail, held }: Vm): FoundCause[] {
  const known = vmCodes[phase === 'crashed' && held !== null ? 'held' : phase];
  if (known === undefined) return [];
  const because = detail === null || detail === '' ? '' : `: ${detail}`;
  const advice = causeTable[known.code].advice
    .replace('dvce vm log', `dvce vm log ${name}`)
    .replace('start or stop it', `dvce vm start ${name}, or dvce vm stop ${name}`)
    .replace('start it.', `dvce vm start ${name}`);
  return [cause(known.code, urls.vm(name), `VM ${name} ${known.says}${because}`, advice)];
}

/** Where no VM is defined nobody needs a hypervisor. */
function hypervisorCauses({ missingHypervisor, vms }: Seen): FoundCause[] {
  if (missingHypervisor === undefined || (vms ?? []).length === 0) return [];
  return [cause('HYPERVISOR_MISSING', '', `${missingHypervisor} was not found: no VM can start`)];
}

function clockCauses(jump: ClockJump | undefined): FoundCause[] {
  if (jump === undefined) return [];
  const how = `${jump.byMs > 0 ? 'forward' : 'back'} by ${formatDuration(Math.abs(jump.byMs))}`;
  return [cause('CLOCK_JUMPED', '', `the clock was set ${how}`)];
}

function certificateCauses({
  path,
  leftMs,
}: {
  readonly path: string;
  readonly leftMs: number;
}): FoundCause[] {
  if (leftMs <= 0) return [cause('CERTIFICATE_EXPIRED', '', `the certificate ${path} has expired`)];
  if (leftMs > limits.certificateWarnMs) return [];
  const left = formatDuration(Math.ceil(leftMs / 86_400_000) * 86_400_000);
  return [cause('CERTIFICATE_EXPIRING', '', `the certificate ${path} expires within ${left}`)];
}
