// limit: 90 s
/**
 * G5 against a real blockd: a client writes number n to one volume, then to the next, then to the third, each after the
 * answer of the one before. A set that was cut at one instant has numbers that differ by at most one, in that order.
 */
import t from 'tap';
import { MiB } from '../../src/base/index.ts';
import { isAlive, type TestNode, testNode, until } from '../support/blockd-process.ts';
import { Lost, RawNbd, Refused } from '../support/nbd-raw.ts';
import { blockBytes, readStamp, stamp } from '../support/stamped-load.ts';

const paths = ['/a', '/b', '/c'] as const;

class ChainedWriter {
  readonly #sockets: readonly { readonly path: string; readonly exportName: string }[];
  #open: (RawNbd | undefined)[] = [];
  #isStopping = false;
  #running: Promise<void> = Promise.resolve();
  number = 0;

  constructor(sockets: readonly { readonly path: string; readonly exportName: string }[]) {
    this.#sockets = sockets;
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#running;
    for (const connection of this.#open) connection?.destroy();
  }

  async #run(): Promise<void> {
    while (!this.#isStopping) {
      this.number += 1;
      for (const at of paths.keys()) await this.#write(at, this.number);
    }
  }

  async #write(at: number, number: number): Promise<void> {
    const deadline = Date.now() + 30_000;
    for (;;)
      try {
        const { path = '', exportName = '' } = this.#sockets[at] ?? {};
        this.#open[at] ??= await RawNbd.connect({ path }, exportName);
        return await this.#open[at].write(0, stamp(0, number));
      } catch (error) {
        this.#open[at] = undefined;
        const comesBack = error instanceof Lost || error instanceof Refused;
        if (!comesBack || Date.now() > deadline) throw error;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
  }
}

async function numbersIn(node: TestNode, name: string): Promise<number[]> {
  const numbers: number[] = [];
  for (const path of paths) {
    const nbd = await RawNbd.connect({ path: node.directory.nbdSocket }, `${path}@${name}`);
    numbers.push(readStamp(await nbd.read(0, blockBytes), 0));
    await nbd.disconnect();
  }
  return numbers;
}

const isOneInstant = ([a = 0, b = 0, c = 0]: readonly number[]): boolean =>
  a >= b && b >= c && c >= a - 1;

t.test(
  'G5 a set is one instant of all volumes, and survives the death of blockd whole or not at all',
  async (t) => {
    const node = testNode(t, ['--workers', '2', '--journal-bytes', '64MiB']);
    await node.ensure();
    const { client } = node;
    const sockets: { path: string; exportName: string }[] = [];
    for (const path of paths) {
      await client.call('volume.create', { path, sizeBytes: 16 * MiB });
      const attached = await client.call('volume.attach', { path, attachId: 'guest', vm: 'guest' });
      sockets.push({ path: attached.socketPath, exportName: attached.exportName });
    }
    const writer = new ChainedWriter(sockets);
    writer.start();
    t.teardown(() => writer.stop());
    await until('the first round', () => writer.number > 1);

    const names: string[] = [];
    for (let round = 1; round <= 5; round += 1) {
      const name = `s${round}`;
      const { snapshots } = await client.call('snapshot.create-set', { paths: [...paths], name });
      t.strictSame(
        snapshots.map(({ volume }) => volume),
        [...paths],
      );
      t.equal(new Set(snapshots.map(({ set }) => set)).size, 1);
      names.push(name);
      const from = writer.number;
      await until('the writer to go on', () => writer.number > from);
    }
    await t.rejects(client.call('snapshot.create-set', { paths: ['/a', '/none'], name: 'x' }), {
      code: 'NOT_FOUND',
    });
    await t.rejects(client.call('snapshot.create-set', { paths: ['/a', '/a'], name: 'x' }), {
      code: 'INVALID_ARGUMENT',
    });
    await t.rejects(client.call('snapshot.create-set', { paths: ['/c', '/a'], name: 's1' }), {
      code: 'ALREADY_EXISTS',
      message: /\/[ac]@s1 exists/,
    });
    t.strictSame(
      (await client.call('snapshot.list', { path: '/a' })).snapshots.map(({ name }) => name),
      names,
      'a set that is refused leaves nothing',
    );

    // kill -9 at different moments of the making of a set
    for (const delayMs of [2, 8, 20, 45]) {
      const name = `k${delayMs}`;
      const making = client.call('snapshot.create-set', { paths: [...paths], name }).then(
        () => true,
        () => false,
      );
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      const killed = await node.kill();
      const wasMade = await making;
      await until('another blockd', async () => {
        const pid = await node.answers();
        return pid !== killed && isAlive(pid);
      });
      const seen: string[] = [];
      for (const path of paths) {
        const { snapshots } = await client.call('snapshot.list', { path });
        seen.push(snapshots.some((snapshot) => snapshot.name === name) ? 'there' : 'not');
      }
      t.equal(new Set(seen).size, 1, `killed after ${delayMs} ms: ${seen.join(' ')}`);
      if (wasMade) t.equal(seen[0], 'there', 'what was reported as done is there');
      if (seen[0] === 'there') names.push(name);
      const from = writer.number;
      await until('the writer to go on', () => writer.number > from + 1);
    }
    await writer.stop();
    for (const name of names) {
      const numbers = await numbersIn(node, name);
      t.ok(isOneInstant(numbers), `${name} has ${numbers.join(', ')}`);
    }
    await node.stop();
  },
);
