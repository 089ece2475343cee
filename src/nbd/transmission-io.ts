/** What the transmission phase of a connection needs of the connection around it. */
import type { Writable } from 'node:stream';
import type { Timers } from '../base/index.ts';
import type { ReplyMode } from './constants.ts';
import type { RequestMeter } from './request-meter.ts';
import type { Throttle } from './throttle.ts';
import type { TurnShare } from './turns.ts';

export interface TransmissionIo {
  readonly socket: Writable;
  readonly timers: Timers;
  readonly inFlightMax: number;
  readonly bytesInFlightMax: number;
  /** Bytes in flight of all connections of the server. */
  readonly budget: { bytes: number; readonly bytesMax: number };
  readonly meter: RequestMeter | null;
  readonly throttle: Throttle | null;
  /** Of the thread's time; null: no other volumes are there. */
  readonly share: TurnShare | null;
  pause(): void;
  resume(): void;
  /** Everything asked for is answered: close the connection in order. */
  end(): void;
  /** The stream is lost: drop the connection. */
  destroy(reason: string): void;
  /** Dead, and nothing is left in the backend. */
  idle(): void;
}

export interface Negotiated {
  readonly mode: ReplyMode;
  readonly blockStatus: boolean;
}
