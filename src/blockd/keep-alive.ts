/** Injected timers keep no process alive; where nothing else does, this does. */
import { MessageChannel } from 'node:worker_threads';

/** @returns a function that lets go */
export function keepAlive(): () => void {
  const { port1 } = new MessageChannel();
  port1.on('message', () => {});
  return () => port1.close();
}
