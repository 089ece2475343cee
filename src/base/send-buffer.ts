/**
 * How much of what was written to a socket may wait in the kernel for the other side: SO_SNDBUF of setsockopt(2), through koffi, because
 * Node has no call for it. The usual 208 KiB of a unix socket cut an answer of 1 MiB into six writes, each with a turn of the event
 * loop and a change of processes. The system may allow less (net.core.wmem_max); without koffi it stays as it is.
 */
import { fromLibc } from './libc.ts';

/** From <asm-generic/socket.h>. */
const SOL_SOCKET = 1;
const SO_SNDBUF = 7;

type SetSocketOption = (...args: unknown[]) => number;
let setsockopt: SetSocketOption | null | undefined;

/** Best effort: a smaller buffer costs speed only. */
export function growSendBuffer(fd: number, bytes: number): void {
  if (setsockopt === undefined)
    setsockopt = fromLibc((func) =>
      func('int setsockopt(int fd, int level, int name, const void *value, uint32_t length)'),
    );
  setsockopt?.(fd, SOL_SOCKET, SO_SNDBUF, Uint32Array.of(bytes), 4);
}
