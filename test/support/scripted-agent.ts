/** A guest agent that answers as it is told to. */
import { createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

interface Question {
  readonly execute: string;
  readonly arguments?: Record<string, unknown>;
}

export class ScriptedAgent {
  /** Command -> what is answered; a command that is not here gets an error. */
  readonly answers = new Map<string, unknown>([['guest-ping', {}]]);
  readonly commands: string[] = [];
  /** Commands that it takes and never answers. */
  readonly silent = new Set<string>();
  onCommand: (command: string) => void = () => {};
  connections = 0;
  /** Sent before the first answer of a conversation: what an earlier one left. */
  leftovers = '';
  readonly #waiting: (() => void)[] = [];
  #listens = false;

  /** From now on it reads and answers. */
  begin(): void {
    this.#listens = true;
    for (const task of this.#waiting.splice(0)) task();
  }

  async asked(command: string): Promise<void> {
    while (!this.commands.includes(command)) await new Promise((turn) => setImmediate(turn));
  }

  serve(socket: Socket): void {
    this.connections += 1;
    socket.on('error', () => {}); // the other end hangs up
    socket.on('data', (bytes: Buffer) => {
      for (const line of bytes.toString().split('\n').filter(Boolean)) {
        const question = JSON.parse(line) as Question;
        this.commands.push(question.execute);
        this.onCommand(question.execute);
        if (this.silent.has(question.execute)) continue;
        const reply = (): void => void socket.write(this.#answer(question));
        if (this.#listens) reply();
        else this.#waiting.push(reply);
      }
    });
  }

  #answer({ execute, arguments: args }: Question): string {
    if (execute === 'guest-sync')
      return `${this.leftovers}${JSON.stringify({ return: args?.['id'] })}\n`;
    if (this.answers.has(execute))
      return `${JSON.stringify({ return: this.answers.get(execute) })}\n`;
    return `${JSON.stringify({ error: { class: 'CommandNotFound', desc: 'unknown' } })}\n`;
  }
}

export async function scriptedAgent(t: Test, path: string): Promise<ScriptedAgent> {
  const agent = new ScriptedAgent();
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    agent.serve(socket);
  });
  await new Promise<void>((listening) => server.listen(path, listening));
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return agent;
}
