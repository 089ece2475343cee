/** `dvce console`: raw bytes between this terminal and the serial console of a VM. */
import type { Duplex } from 'node:stream';
import { DvceError } from '../../base/errors.ts';
import type { Context } from '../context.ts';
import type { Run } from '../spec.ts';

/** Ctrl-], as telnet and virsh use it. */
const detachKey = 0x1d;

export const console: Run = async (context, given) => {
  const name = given.argument('name');
  const socket = await context.api.vms.console(name);
  context.output.note(`Connected to the console of ${name}; leave with Ctrl-].`);
  const reason = await bridge(context, socket);
  context.output.note(reason);
};

/** Until the detach key, the end of the input, or the end of the console. */
function bridge({ input, output }: Context, socket: Duplex): Promise<string> {
  const raw = input.isTTY === true;
  return new Promise<string>((resolve, reject) => {
    const end = (reason: string): void => {
      input.off('data', onInput);
      input.pause();
      if (raw) input.setRawMode(false);
      socket.destroy();
      resolve(reason);
    };
    const onInput = (bytes: Buffer): void => {
      const at = bytes.indexOf(detachKey);
      if (at < 0) {
        // A guest that does not read its console must not fill this process.
        if (!socket.write(bytes)) {
          input.pause();
          socket.once('drain', () => input.resume());
        }
        return;
      }
      if (at > 0) socket.write(bytes.subarray(0, at));
      end('\r\nDetached.');
    };
    socket.on('data', (bytes: Buffer) => output.bytes(bytes));
    socket.on('end', () => end('\r\nThe console was closed.'));
    socket.on('error', (error) => {
      if (raw) input.setRawMode(false);
      reject(
        new DvceError(
          'IO_FAILED',
          { what: 'reading', where: 'the console', reason: error.message },
          error,
        ),
      );
    });
    if (raw) input.setRawMode(true);
    input.on('data', onInput);
    // From a pipe: what was piped is sent, then the answer so far is shown and the console left.
    input.on('end', () => socket.end(() => end('Detached: the input has ended.')));
    input.resume();
  });
}
