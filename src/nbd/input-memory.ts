/**
 * Reading a socket into memory of our own: payloads of large writes come from the kernel to where they stay, everything else
 * into one buffer of the thread. Otherwise each read of 64 KiB is a new buffer that is copied from and collected.
 *
 * Node offers this (`onread`) for sockets that connect, not for accepted ones, so the handle of an accepted socket is given to a
 * socket that is made with it. That is not in Node's documentation; dvce brings its own Node (DD-0002), and where a handle looks
 * different everything stays as it was.
 */
import { Socket, type SocketConstructorOpts } from 'node:net';
import { KiB } from '../base/index.ts';

export interface InputMemory {
  /** Where the next input may go, or null for the buffer of the thread. */
  room(): Buffer | null;
  /** Input has come; `bytes` are only valid during the call. */
  received(bytes: Buffer): void;
}

/** Larger than what a unix socket holds. */
const sharedBytes = 256 * KiB;
let shared: Buffer | undefined;

function sharedBuffer(): Buffer {
  shared ??= Buffer.allocUnsafeSlow(sharedBytes);
  return shared;
}

interface AcceptedSocket {
  _handle?: { readonly useUserBuffer?: unknown } | null;
}

/** @returns the socket to be used from now on: another one when its input goes to `memory`, `accepted` when it has `data` events */
export function intoMemory(accepted: Socket, memory: InputMemory): Socket {
  const handle = (accepted as unknown as AcceptedSocket)._handle; // looked at below
  if (typeof handle?.useUserBuffer !== 'function') return accepted;
  (accepted as unknown as AcceptedSocket)._handle = null; // it has one owner
  const options = {
    handle,
    allowHalfOpen: true,
    onread: {
      buffer: () => memory.room() ?? sharedBuffer(),
      callback: (count: number, bytes: Buffer) => {
        memory.received(bytes.subarray(0, count));
        return true;
      },
    },
  };
  return new Socket(options as unknown as SocketConstructorOpts); // the handle of an accepted socket is no other
}
