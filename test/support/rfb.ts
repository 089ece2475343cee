/** The handshake of VNC (RFB 3.8, authentication by challenge), as a viewer does it. */
import { createCipheriv } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';

/** Bits of every byte in the opposite order, as VNC takes its key. */
const mirrored = (byte: number): number =>
  [0, 1, 2, 3, 4, 5, 6, 7].reduce((out, bit) => out | (((byte >> bit) & 1) << (7 - bit)), 0);

function answerTo(challenge: Buffer, password: string): Buffer {
  const key = Buffer.alloc(8);
  Buffer.from(password).copy(key, 0, 0, 8);
  for (const [at, byte] of key.entries()) key[at] = mirrored(byte);
  // Three times the same key is DES once, which by itself is not offered any more.
  const cipher = createCipheriv('des-ede3-ecb', Buffer.concat([key, key, key]), null);
  cipher.setAutoPadding(false);
  return Buffer.concat([cipher.update(challenge), cipher.final()]);
}

export interface Screen {
  readonly securityTypes: readonly number[];
  /** null: the password was refused. */
  readonly width: number | null;
}

export async function lookAtScreen(host: string, port: number, password: string): Promise<Screen> {
  const socket = connect(port, host);
  socket.setTimeout(20_000, () => socket.destroy(new Error('the display does not answer')));
  await once(socket, 'connect');
  let waiting: Buffer = Buffer.alloc(0);
  const read = async (length: number): Promise<Buffer> => {
    while (waiting.byteLength < length) {
      const [bytes] = (await once(socket, 'data')) as [Buffer];
      waiting = Buffer.concat([waiting, bytes]);
    }
    const taken = waiting.subarray(0, length);
    waiting = waiting.subarray(length);
    return taken;
  };
  try {
    const version = (await read(12)).toString();
    if (version !== 'RFB 003.008\n') throw new Error(`it speaks ${version}`);
    socket.write(version);
    const [count = 0] = await read(1);
    const securityTypes = [...(await read(count))];
    if (!securityTypes.includes(2)) return { securityTypes, width: null };
    socket.write(Buffer.from([2]));
    socket.write(answerTo(await read(16), password));
    if ((await read(4)).readUInt32BE() !== 0) return { securityTypes, width: null };
    socket.write(Buffer.from([1]));
    return { securityTypes, width: (await read(24)).readUInt16BE(0) };
  } finally {
    socket.destroy();
  }
}
