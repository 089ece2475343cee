/** What the volumes promise against what the store has, and what to say about it. */
import { formatSize, limits } from '../base/index.ts';
import type { NodeContext } from './node-context.ts';
import type { CapacityInfo, CapacityWarning, QuotaInfo } from './protocol.ts';

export async function capacityOf({
  hlfs,
  view,
  trash,
  quotas,
}: Pick<NodeContext, 'hlfs' | 'view' | 'trash' | 'quotas'>): Promise<CapacityInfo> {
  const [viewed, trashed, known] = await Promise.all([view.list(), trash.list(), quotas.list()]);
  const { freeBytes, totalBytes } = await hlfs.store.space();
  const virtualBytes = viewed.reduce((sum, { info }) => sum + info.sizeBytes, 0);
  const overcommitPercent = totalBytes === 0 ? 0 : Math.round((virtualBytes / totalBytes) * 100);
  const place = hlfs.store.location;
  return {
    volumes: viewed.length,
    virtualBytes,
    trashedVolumes: trashed.length,
    storeFreeBytes: freeBytes,
    storeTotalBytes: totalBytes,
    overcommitPercent,
    warnings: [
      ...spaceWarnings(place, freeBytes, totalBytes, trashed.length),
      ...(overcommitPercent > limits.overcommitWarnPercent
        ? [
            {
              code: 'OVERCOMMIT' as const,
              object: place,
              detail: `its ${viewed.length} volumes promise ${formatSize(virtualBytes)}, which is ${overcommitPercent} % of the ${formatSize(totalBytes)} that it has`,
              advice:
                'Watch the free space; let guests trim; limit folders with: dvce quota set PATH --size SIZE',
            },
          ]
        : []),
      ...known.flatMap(quotaWarnings),
    ],
  };
}

function spaceWarnings(
  object: string,
  freeBytes: number,
  totalBytes: number,
  trashed: number,
): CapacityWarning[] {
  const percent = totalBytes === 0 ? 100 : (freeBytes / totalBytes) * 100;
  const isLow = percent < limits.storeFreeLowPercent || freeBytes < 2 * limits.storeReserveBytes;
  if (!isLow && percent >= limits.storeFreeWarnPercent) return [];
  const advice =
    trashed > 0
      ? `Delete what is not needed, or empty the trash (${trashed} volumes): dvce trash empty`
      : 'Delete snapshots or volumes that are not needed, or enlarge the disk.';
  return [
    {
      code: isLow ? 'STORE_LOW' : 'STORE_FILLING',
      object,
      detail: `${formatSize(freeBytes)} of ${formatSize(totalBytes)} are free (${percent.toFixed(1)} %)`,
      advice,
    },
  ];
}

function quotaWarnings(quota: QuotaInfo): CapacityWarning[] {
  const parts = [
    nearly(quota.usedBytes, quota.sizeBytes, formatSize, ''),
    nearly(quota.usedVolumes, quota.volumes, String, ' volumes'),
    nearly(quota.usedStoredBytes ?? 0, quota.storedBytes, formatSize, ' stored'),
  ].filter((part) => part !== undefined);
  if (parts.length === 0) return [];
  return [
    {
      code: 'QUOTA_NEARLY_USED',
      object: quota.path,
      detail: parts.join('; '),
      advice: `Delete what is not needed below it, or raise it: dvce quota set ${quota.path}`,
    },
  ];
}

const nearly = (
  used: number,
  limit: number | null,
  text: (value: number) => string,
  unit: string,
): string | undefined =>
  limit === null || used * 100 < limit * limits.quotaWarnPercent
    ? undefined
    : `${text(used)}${unit} of ${text(limit)}${unit} are used`;

/** What concerns a volume that was just made or enlarged. */
export async function warningsFor(
  node: Pick<NodeContext, 'hlfs' | 'view' | 'trash' | 'quotas'>,
  path: string,
): Promise<CapacityWarning[]> {
  const { warnings } = await capacityOf(node);
  return warnings.filter(
    ({ code, object }) =>
      code !== 'QUOTA_NEARLY_USED' || object === '/' || path.startsWith(`${object}/`),
  );
}
