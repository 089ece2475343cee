/**
 * What the log of a hypervisor that has ended says about its end, for an agent that was not there. QEMU is told to trace one
 * thing: why it was asked to end. A process that was killed, or whose host lost power, says nothing.
 *
 *   1234@1699999999.123456:qemu_system_shutdown_request reason=6
 *
 * Who ends a guest on purpose notes that below before, since one that has to be killed cannot say it; who finds it alive
 * afterwards notes that.
 *
 *   dvce: it is ended
 *   dvce: it was found running
 */
import { appendFile } from 'node:fs/promises';
import { tail } from './console-log.ts';
import type { VmObservation } from './driver.ts';

const bytesMax = 4096;
const request = /qemu_system_shutdown_request reason=(\d+)/;

/** QEMU's ShutdownCause, those that end it on purpose. */
const purposes: Readonly<Record<string, string>> = {
  2: 'host-qmp-quit',
  4: 'host-signal',
  5: 'host-ui',
  6: 'guest-shutdown',
};

const ended = 'dvce: it is ended';
const running = 'dvce: it was found running';
const notes: readonly string[] = [ended, running];

export const noteEnd = (path: string): Promise<void> => appendFile(path, `${ended}\n`);

/** Only where an end was noted that did not come. */
export async function noteRunning(path: string): Promise<void> {
  if (lastNote(await linesOf(path)) === ended) await appendFile(path, `${running}\n`);
}

const linesOf = async (path: string): Promise<string[]> =>
  (await tail(path, bytesMax)).split('\n').map((line) => line.trim());

const lastNote = (lines: readonly string[]): string | undefined =>
  lines.findLast((line) => notes.includes(line));

/** How the last run ended; undefined when there was none. */
export async function endFromLog(
  path: string,
  wasStarted: boolean,
): Promise<VmObservation | undefined> {
  const lines = await linesOf(path);
  const reason = lines.map((line) => request.exec(line)?.[1]).findLast((one) => one !== undefined);
  const purpose = reason === undefined ? undefined : purposes[reason];
  if (purpose !== undefined) return { phase: 'stopped', pid: null, ready: null, detail: purpose };
  if (lastNote(lines) === ended)
    return { phase: 'stopped', pid: null, ready: null, detail: 'killed' };
  if (!wasStarted) return undefined;
  const detail = lastWords(lines) ?? 'its process is gone';
  return { phase: 'crashed', pid: null, ready: null, detail };
}

/** The last line that is a complaint. */
export const lastWords = (lines: readonly string[]): string | undefined =>
  lines
    .map((line) => line.trim())
    .findLast((line) => line !== '' && !request.test(line) && !notes.includes(line));
