/**
 * Pins: who needs the segments of a log, and up to which position (G3). A pin is a document `logs/<log>/pins/<who>`.
 *
 * A *fork* pins every log of its range table; `who` is the id of the new log, so that a pin can be traced to what it
 * protects. A *reader* (an export of a snapshot, a backup) pins for the life of its process: `who` starts with the id of the
 * process's publishing scope, and once that scope is fenced the pin means nothing any more and is reaped. Names of pins are
 * never used twice, so they are purged without a tombstone.
 *
 * A cut names a position, not a number of bytes: segments that are not needed by the content at that position may go.
 */
import { DvceError, type LogId } from '../base/index.ts';
import { logDirectory, pinKey, pinsPrefix, readPin } from './catalog-documents.ts';
import type { HlfsContext } from './context.ts';
import type { LogRange, PinDocument } from './schema.ts';
import { storeFormatVersion } from './schema.ts';
import { lastPart, scopeIsAlive } from './scopes.ts';

/** Highest position of each log in a range table. */
export function cutsOf(ranges: readonly LogRange[]): Map<LogId, number> {
  const cuts = new Map<LogId, number>();
  for (const { log, last } of ranges) cuts.set(log, Math.max(last, cuts.get(log) ?? 0));
  return cuts;
}

/** Write a pin into every log of the range table. Repeatable. */
export async function writePins(
  context: HlfsContext,
  ranges: readonly LogRange[],
  pin: Pick<PinDocument, 'who' | 'kind' | 'volume' | 'snapshot'>,
): Promise<void> {
  for (const [log, cut] of cutsOf(ranges)) {
    const document: PinDocument = {
      format: storeFormatVersion,
      ...pin,
      cut,
      createdAtMs: context.clock.wallMs(),
    };
    if (await context.documents.create(context.scope, pinKey(log, pin.who), document)) continue;
    const present = await readPin(context, log, pin.who);
    if (present?.value.cut !== cut)
      throw new DvceError('INTERNAL', { reason: `pin ${pin.who} of log ${log} was used before` });
  }
}

/** Remove the pins of `who` from these logs. Repeatable. */
export async function releasePins(
  context: HlfsContext,
  logs: Iterable<LogId>,
  who: string,
): Promise<void> {
  for (const log of new Set(logs)) {
    await context.documents.purge(pinKey(log, who));
    // The log itself may have been removed while this pin was on its way; then nothing else is left in it.
    await context.store.deleteDirectory(pinsPrefix(log));
    await context.store.deleteDirectory(logDirectory(log));
  }
}

export async function listPins(context: HlfsContext, log: LogId): Promise<PinDocument[]> {
  const pins: PinDocument[] = [];
  for (const who of await context.documents.names(pinsPrefix(log))) {
    const pin = await readPin(context, log, who);
    if (pin !== undefined) pins.push(pin.value);
  }
  return pins;
}

/** `who` of a reader in this process. @param reader a random id */
export const readerName = (context: HlfsContext, reader: string): string =>
  `${lastPart(context.scope)}.${reader}`;

/** Remove the pins of readers whose process is gone. */
export async function reapReaderPins(context: HlfsContext, log: LogId): Promise<void> {
  for (const pin of await listPins(context, log)) {
    if (pin.kind !== 'reader') continue;
    const scope = `scopes/${pin.who.slice(0, pin.who.indexOf('.'))}`;
    if (await scopeIsAlive(context, scope)) continue;
    context.logger.info({ log, who: pin.who }, 'removing the pin of a reader that is gone');
    await releasePins(context, [log], pin.who);
  }
}
