/**
 * Events: what changed on this host, in one order, for whoever listens and for whoever comes back after a while.
 *
 *   emit --> ring (the newest limits.eventsKept) --> every listener, at once
 *   follow(since) --> what the ring has after `since`, then what comes; or GONE: list the objects again
 *
 * Invariants
 * - sequence numbers grow by one; a listener sees each event that its patterns match once and in order, or is ended: nothing is
 *   left out silently;
 * - the numbers of one run of the agent lie above those of all earlier runs, because they begin at the wall clock in microseconds
 *   and no agent emits a million events in each second of its life. So a number of an earlier run is `too far behind` by itself,
 *   and one from a run under a clock that was ahead lies above the newest and is refused as well;
 * - an event is a hint to look, never the truth: the objects are.
 */
import type { Event, EventType } from '../api/index.ts';
import { type Clock, DvceError, type Logger, limits } from '../base/index.ts';

export type EventListener = (event: Event) => void;

export interface EventsOptions {
  readonly clock: Clock;
  readonly logger: Logger;
}

/** `vm.*`, `operation.ended`, `*`: what a listener wants to hear. */
export type EventPatterns = readonly string[];

interface Listener {
  readonly patterns: EventPatterns;
  readonly hear: EventListener;
  readonly end: () => void;
}

export class Events {
  readonly #clock: Clock;
  readonly #logger: Logger;
  /** Newest last, numbered without gaps. */
  readonly #ring: Event[] = [];
  readonly #listeners = new Set<Listener>();
  #newest: number;
  #closed = false;

  constructor({ clock, logger }: EventsOptions) {
    this.#clock = clock;
    this.#logger = logger;
    this.#newest = Math.floor(clock.wallMs()) * 1000;
  }

  /** Number of the newest event: what comes after it is what a listener that begins now hears. */
  get newest(): number {
    return this.#newest;
  }
  get listeners(): number {
    return this.#listeners.size;
  }

  /** Tell everybody. `resource` is the URL path of the object; `data` must hold no secret. */
  emit(type: EventType, resource: string, data: Readonly<Record<string, unknown>> = {}): void {
    if (this.#closed) return;
    this.#newest += 1;
    const at = new Date(this.#clock.wallMs()).toISOString();
    const event: Event = { seq: this.#newest, type, resource, at, data: { ...data } };
    this.#ring.push(event);
    if (this.#ring.length > limits.eventsKept) this.#ring.shift();
    for (const listener of this.#listeners)
      if (matches(listener.patterns, type)) this.#hand(listener, event);
  }

  #hand(listener: Listener, event: Event): void {
    try {
      listener.hear(event);
    } catch (error) {
      this.#logger.error({ err: error, type: event.type }, 'a listener of events failed');
      this.#listeners.delete(listener);
      listener.end();
    }
  }

  /**
   * Hear everything after `since` (undefined: from now on; 0: all that is kept), first what is kept, in this turn.
   * @param end is called when the listening ends from this side
   * @returns stops it
   * @throws GONE when events after `since` are no longer kept; BUSY when too many listen
   */
  follow(
    since: number | undefined,
    patterns: EventPatterns,
    hear: EventListener,
    end: () => void,
  ): () => void {
    if (this.#closed) throw new DvceError('CANCELLED', { what: 'listening to a stopping agent' });
    const missed = since === undefined ? [] : this.after(since);
    if (this.#listeners.size >= limits.eventListenersMax)
      throw new DvceError('BUSY', {
        what: 'the event stream',
        reason: `it has ${limits.eventListenersMax} listeners already`,
      });
    const listener: Listener = { patterns, hear, end };
    this.#listeners.add(listener);
    for (const event of missed)
      if (matches(patterns, event.type) && this.#listeners.has(listener))
        this.#hand(listener, event);
    return () => this.#listeners.delete(listener);
  }

  /** What is kept after `since`, oldest first. @throws GONE when it is not all of it */
  after(since: number): readonly Event[] {
    const oldest = this.#newest - this.#ring.length + 1;
    if (since === 0) return [...this.#ring];
    if (since >= oldest - 1 && since <= this.#newest) return this.#ring.slice(since - oldest + 1);
    throw new DvceError('GONE', {
      what: `the events after ${since}`,
      reason:
        since > this.#newest
          ? 'the number is of another run of the agent'
          : `the oldest one that is kept is ${oldest}`,
      advice: 'List the objects again, then listen without a number.',
    });
  }

  close(): void {
    this.#closed = true;
    for (const { end } of this.#listeners) end();
    this.#listeners.clear();
  }
}

/** Whether one of the patterns means this type. */
export const matches = (patterns: EventPatterns, type: string): boolean =>
  patterns.length === 0 ||
  patterns.some((pattern) =>
    pattern.endsWith('*') ? type.startsWith(pattern.slice(0, -1)) : pattern === type,
  );

/** `vm.*,operation.ended` as patterns; unknown words are refused, because they would never match. */
export function parsePatterns(text: string): EventPatterns {
  const patterns = text.split(',').map((word) => word.trim());
  if (patterns.length > limits.eventPatternsMax)
    throw wrong(text.slice(0, 80), `it has more than ${limits.eventPatternsMax} parts`);
  for (const pattern of patterns)
    if (
      !/^(?:\*|(?:vm|volume|snapshot|image|network|operation|node)\.(?:\*|[a-z-]+))$/.test(pattern)
    )
      throw wrong(pattern.slice(0, 80), 'it is neither a type nor a family such as vm.*');
  return patterns;
}

const wrong = (text: string, reason: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', {
    what: `the event type ${JSON.stringify(text)}`,
    reason,
    advice: 'Families: vm.*, volume.*, snapshot.*, image.*, network.*, operation.*, node.*.',
  });
