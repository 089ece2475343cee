/**
 * Serial consoles: one connection to the hypervisor per VM, shared by all who look at it. The hypervisor serves one client
 * at a time; a second one would wait without a word.
 *
 * Invariants: what the guest says goes to everyone; what anyone types goes to the guest; a viewer that does not read is
 * disconnected (limits.consoleBacklogBytes) instead of filling the agent; with the last viewer the connection ends.
 */
import { createConnection, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { DvceError, type Logger, limits } from '../base/index.ts';

interface Line {
  readonly socket: Socket;
  readonly viewers: Set<Duplex>;
}

export class Consoles {
  readonly #logger: Logger;
  /** By path of the hypervisor's socket. */
  readonly #lines = new Map<string, Line>();

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** Connect to a console; resolves when the hypervisor accepted. */
  async open(path: string, name: string): Promise<(viewer: Duplex) => void> {
    const line = this.#lines.get(path) ?? (await this.#connect(path, name));
    if (line.viewers.size >= limits.apiConsolesPerVm)
      throw new DvceError('IN_USE', {
        kind: 'the console of VM',
        name,
        reason: `${limits.apiConsolesPerVm} are connected already`,
        advice: 'Close one of them.',
      });
    return (viewer) => this.#join(line, viewer);
  }

  async #connect(path: string, name: string): Promise<Line> {
    const socket = createConnection(path);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (error) =>
        reject(
          new DvceError(
            'HYPERVISOR_FAILED',
            { name, reason: `its console: ${error.message}` },
            error,
          ),
        ),
      );
    });
    const other = this.#lines.get(path);
    if (other !== undefined) {
      // Somebody else connected meanwhile; theirs is the one that the hypervisor serves.
      socket.destroy();
      return other;
    }
    const line: Line = { socket, viewers: new Set() };
    this.#lines.set(path, line);
    socket.on('error', (error) => this.#logger.warn({ err: error, name }, 'a console broke'));
    socket.on('close', () => {
      if (this.#lines.get(path) === line) this.#lines.delete(path);
      for (const viewer of line.viewers) viewer.end();
    });
    socket.on('data', (bytes: Buffer) => {
      for (const viewer of line.viewers) {
        viewer.write(bytes);
        if (viewer.writableLength > limits.consoleBacklogBytes) viewer.destroy();
      }
    });
    return line;
  }

  #join(line: Line, viewer: Duplex): void {
    const { socket, viewers } = line;
    viewers.add(viewer);
    const leave = (): void => {
      if (!viewers.delete(viewer)) return;
      if (viewers.size === 0) socket.destroy();
    };
    viewer.on('data', (bytes: Buffer) => {
      // A guest that does not read: wait with the typist, not with memory.
      if (socket.write(bytes)) return;
      viewer.pause();
      socket.once('drain', () => viewer.resume());
    });
    viewer.on('end', () => viewer.end());
    viewer.on('error', leave);
    viewer.on('close', leave);
    if (socket.destroyed) viewer.end();
  }

  close(): void {
    for (const { socket, viewers } of this.#lines.values()) {
      for (const viewer of viewers) viewer.destroy();
      socket.destroy();
    }
  }
}
