/** What parts of the agent have to say about the health of the host. Each is asked every time somebody looks. */
import { urls } from '../api/index.ts';
import { DvceError } from '../base/index.ts';
import type { DataProcess } from './data-process.ts';
import type { Health } from './health.ts';
import { cause, type FoundCause } from './health-causes.ts';
import type { Networks } from './networks.ts';
import type { Schedules } from './schedules.ts';

export interface HealthParts {
  readonly blockd: DataProcess;
  readonly schedules: Pick<Schedules, 'list'>;
  readonly networks: Pick<Networks, 'unreadable'>;
}

export function addHealthSources(health: Health, parts: HealthParts): void {
  const { blockd, schedules, networks } = parts;
  health.addSource('capacity', () => promised(blockd));
  health.addSource('scrub', () => scrubbed(blockd));
  health.addSource('schedules', () => failing(schedules));
  health.addSource('networks', async () =>
    (await networks.unreadable()).map(({ name, reason }) => damaged('network', name, reason)),
  );
}

const damaged = (kind: 'network' | 'schedule', name: string, reason: string): FoundCause =>
  cause(
    'DOCUMENT_DAMAGED',
    `/v1/${kind}s/${encodeURIComponent(name)}`,
    `the document of ${kind} ${name} cannot be read: ${reason}`,
  );

/** What the background scrub found that cannot be read. */
async function scrubbed(blockd: DataProcess): Promise<FoundCause[]> {
  try {
    const { damaged } = await blockd.call('scrub.status', {});
    return damaged.flatMap(({ path, findings }) => {
      const errors = findings.filter(({ severity }) => severity === 'error');
      if (errors.length === 0) return [];
      const codes = [...new Set(errors.map(({ code }) => code))].join(', ');
      return [
        cause('VOLUME_DAMAGED', urls.volume(path), `the scrub found damage in ${path}: ${codes}`),
      ];
    });
  } catch (error) {
    // A blockd of an earlier release does not know the question.
    if (error instanceof DvceError && error.code === 'UNSUPPORTED') return [];
    throw error;
  }
}

/** Low space is seen by what blockd counts; here is what is promised beyond it. */
async function promised(blockd: DataProcess): Promise<FoundCause[]> {
  try {
    const { warnings } = await blockd.call('capacity', {});
    return warnings
      .filter(({ code }) => code === 'OVERCOMMIT' || code === 'QUOTA_NEARLY_USED')
      .map(({ code, object, detail, advice }) =>
        cause(
          'OVERCOMMITTED',
          code === 'OVERCOMMIT' ? '' : `/v1/quotas/${encodeURIComponent(object)}`,
          `${object}: ${detail}`,
          advice,
        ),
      );
  } catch (error) {
    // A blockd of an earlier release does not know the question.
    if (error instanceof DvceError && error.code === 'UNSUPPORTED') return [];
    throw error;
  }
}

async function failing(schedules: HealthParts['schedules']): Promise<FoundCause[]> {
  const listed = await schedules.list();
  return [
    ...listed.unreadable.map(({ name, reason }) => damaged('schedule', name, reason)),
    ...listed.schedules.flatMap(({ name, lastRun }) => {
      if (lastRun === null || (lastRun.failed === 0 && lastRun.error === null)) return [];
      const why = lastRun.error ?? `${lastRun.failed} volumes got no snapshot`;
      return [
        cause(
          'SCHEDULE_FAILING',
          `/v1/schedules/${encodeURIComponent(name)}`,
          `the last run of schedule ${name} failed: ${why}`,
          `See: dvce schedule show ${name}`,
        ),
      ];
    }),
  ];
}
