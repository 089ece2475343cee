/** The question after the first Ctrl-C at a terminal. */
import { createInterface } from 'node:readline';
import type { Operation } from '../api/index.ts';

export type InterruptAnswer = 'cancel' | 'detach' | 'wait' | 'quit';

/** `quit`: Ctrl-C again. An operation that ends meanwhile takes the question back. */
export function askInterrupt(
  input: NodeJS.ReadStream,
  { id, kind, mayCancel }: Operation,
  ended: AbortSignal,
): Promise<InterruptAnswer> {
  const lines = createInterface({ input, output: process.stderr, terminal: true });
  const { promise, resolve } = Promise.withResolvers<InterruptAnswer>();
  const choices = mayCancel
    ? '[c]ancel it, [d]etach and let it go on'
    : '[d]etach and let it go on';
  lines.question(
    `\nOperation ${id} (${kind}) is under way: ${choices}, or Enter to keep waiting? `,
    (text) => {
      const letter = text.trim().toLowerCase()[0];
      if (letter === 'c' && mayCancel) resolve('cancel');
      else resolve(letter === 'd' ? 'detach' : 'wait');
    },
  );
  lines.once('SIGINT', () => resolve('quit'));
  // Ctrl-D: nobody is there to wait any more.
  lines.once('close', () => resolve('detach'));
  ended.addEventListener('abort', () => resolve('wait'), { once: true });
  return promise.finally(() => lines.close());
}
