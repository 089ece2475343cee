/**
 * The front sockets: exports by name for tools and remote clients, over a unix socket and, where configured, over TCP.
 *
 *   PATH              the volume, writable, opened on demand; refused while it is attached. An image: its content, read-only
 *   PATH@SNAPSHOT     a snapshot, read-only, at any time
 *   PATH?attach=ID    an attached volume, for its own guest (over TCP; local guests use the volume's own socket)
 *
 * A connection is relayed: the server here has as its backend an NBD client that is connected to the volume's own socket in
 * its worker. One relay per connection, so that a worker sees each client's death for itself (N6).
 *
 * Invariant 10: a TCP client needs TLS unless the operator said otherwise; a name is parsed by one function, has no meaning in
 * the file system, and what the peer may not open does not exist for it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  DvceError,
  type Logger,
  limits,
  parseSource,
  type Timers,
  toDvceError,
} from '../base/index.ts';
import { getVolume, type HlfsContext, listVolumes } from '../hlfs/index.ts';
import {
  connectNbd,
  type ExportInfo,
  type ExportProvider,
  NbdServer,
  type OpenedExport,
  type ServerTls,
} from '../nbd/index.ts';
import type { DataDirectory } from './data-directory.ts';
import type { Hosted } from './export-opener.ts';
import type { BlockdOptions } from './options.ts';
import { imageSnapshot } from './volume-methods.ts';
import type { Volumes } from './volumes.ts';

export interface FrontOptions {
  readonly hlfs: HlfsContext;
  readonly volumes: Volumes;
  readonly options: BlockdOptions;
  readonly directory: DataDirectory;
  readonly timers: Timers;
  readonly logger: Logger;
}

/** Split `NAME?attach=ID`. */
function splitAttach(name: string): { source: string; attachId: string | null } {
  const match = /^(.*)\?attach=([A-Za-z0-9._:-]{1,128})$/s.exec(name);
  return match === null
    ? { source: name, attachId: null }
    : { source: match[1] ?? '', attachId: match[2] ?? null };
}

export class Front implements ExportProvider {
  readonly #options: FrontOptions;
  readonly #unix: NbdServer;
  readonly #tcp: NbdServer | undefined;
  #tcpAddress: string | null = null;

  constructor(options: FrontOptions) {
    this.#options = options;
    const { timers, logger } = options;
    this.#unix = new NbdServer({ exports: this, timers, logger });
    const { nbdTcp, nbdTlsDirectory } = options.options;
    if (nbdTcp === null) return;
    const tls = nbdTlsDirectory === null ? {} : { tls: readTls(nbdTlsDirectory) };
    this.#tcp = new NbdServer({ exports: this, timers, logger, ...tls });
  }

  /** `host:port` as it is listened on, or null. */
  get tcpAddress(): string | null {
    return this.#tcpAddress;
  }

  async listen(): Promise<void> {
    const { directory, options } = this.#options;
    await this.#unix.listenUnix(directory.nbdSocket, { mode: 0o660 });
    if (options.nbdTcp === null) return;
    const { host, port } = options.nbdTcp;
    const actual = await this.#tcp?.listenTcp(host, port, { allowPlainText: options.nbdInsecure });
    this.#tcpAddress = `${host.includes(':') ? `[${host}]` : host}:${actual ?? port}`;
  }

  async open(name: string): Promise<OpenedExport | DvceError> {
    let hosted: Hosted | undefined;
    try {
      hosted = await this.#acquire(name);
      return await this.#relay(hosted);
    } catch (error) {
      if (hosted !== undefined) this.#options.volumes.release(hosted);
      const known = toDvceError(error);
      this.#options.logger.debug(
        { name: name.slice(0, 200), code: known.code },
        'an export was refused',
      );
      return known;
    }
  }

  async #acquire(name: string): Promise<Hosted> {
    const { hlfs, volumes } = this.#options;
    const { source, attachId } = splitAttach(name);
    const { path, snapshot } = parseSource(source);
    const { id, head } = await getVolume(hlfs, path);
    const content = snapshot ?? (head.kind === 'image' ? imageSnapshot : null);
    return volumes.acquire(id, path, content, attachId);
  }

  async #relay(hosted: Hosted): Promise<OpenedExport> {
    const { volumes, timers } = this.#options;
    const client = await connectNbd({
      address: { path: hosted.socketPath },
      exportName: hosted.exportName,
      timers,
    });
    return {
      backend: client,
      release: async () => {
        try {
          await client.close();
        } finally {
          volumes.release(hosted);
        }
      },
    };
  }

  async list(): Promise<readonly ExportInfo[]> {
    const records = await listVolumes(this.#options.hlfs);
    return records.slice(0, limits.exportListMax).map(({ path, head }) => ({
      name: path,
      description: head.kind,
    }));
  }

  /** No client sees an error: what was read is answered, then the connections end, and clients come back. */
  async close(): Promise<void> {
    await Promise.all([this.#unix, this.#tcp].map((server) => server?.close({ graceful: true })));
  }
}

function readTls(directory: string): ServerTls {
  const read = (name: string): Buffer => {
    try {
      return readFileSync(join(directory, name));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new DvceError(
        'INVALID_ARGUMENT',
        { what: '--nbd-tls-dir', reason, advice: 'It needs server-cert.pem and server-key.pem.' },
        error,
      );
    }
  };
  const settings = {
    mode: 'required' as const,
    certificate: read('server-cert.pem'),
    key: read('server-key.pem'),
  };
  if (!existsSync(join(directory, 'ca-cert.pem'))) return settings;
  return { ...settings, clientAuthority: read('ca-cert.pem') };
}
