/**
 * The configuration of a host: `/etc/dvce/dvce.yaml` (DVCE_CONFIG names another) and `conf.d/*.yaml` beside it, environment
 * variables, flags. Agent, blockd and the command line read the same.
 *
 * Shape: settings.ts is the table, source.ts reads files with positions, configuration.ts decides which value holds and from
 * where, blockd.ts hands blockd its part. schema.ts is for editors and loaded by whoever asks for it alone.
 *
 * Invariant: whatever is not understood (unknown key, wrong unit, bad YAML) is an error with file, line and column.
 */
/** The JSON Schema of the file. */
export const configurationSchema = async (): Promise<object> =>
  (await import('./schema.ts')).configurationSchema();

export { blockdOptions } from './blockd.ts';
export {
  Configuration,
  type ConfigurationSources,
  dataDirectoryOf,
  loadConfiguration,
  type Origin,
  readConfiguration,
  type Setting,
  secretFile,
  strayVariables,
} from './configuration.ts';
export { type SettingName, settingList } from './settings.ts';
export type { Problem } from './source.ts';
export { type SettingValue, writeValue } from './values.ts';
