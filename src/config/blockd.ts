/** The settings of blockd as its options; what stands behind them on its command line wins. */
import type { Configuration } from './configuration.ts';
import type { SettingName } from './settings.ts';

const options: readonly (readonly [SettingName, string])[] = [
  ['data.store', '--store'],
  ['nbd.listen', '--nbd-tcp'],
  ['nbd.tls_dir', '--nbd-tls-dir'],
  ['blockd.workers', '--workers'],
  ['blockd.read_cache', '--read-cache'],
  ['blockd.journal_size', '--journal-bytes'],
  ['blockd.export_idle', '--export-idle'],
  ['blockd.trash_window', '--trash-window'],
  ['blockd.trash_free_min', '--trash-free-min'],
  ['blockd.scrub_rate', '--scrub-rate'],
  ['blockd.scrub_period', '--scrub-period'],
  ['log.level', '--log-level'],
];

/** Only what somebody set: the defaults are blockd's own. */
export function blockdOptions(configuration: Configuration): string[] {
  const found = options.flatMap(([name, option]) => {
    const { value, origin, spec } = configuration.setting(name);
    if (value === undefined || origin.kind === 'default') return [];
    return [option, spec.kind === 'duration' ? `${value}ms` : String(value)];
  });
  return [...found, ...(configuration.flag('nbd.insecure') ? ['--nbd-insecure'] : [])];
}
