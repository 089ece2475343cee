/** What the server asks of whoever wires it: which exports exist, and who may open them. */
import type { DvceError } from '../base/index.ts';
import type { BlockBackend } from './backend.ts';
import type { Throttle } from './throttle.ts';

/** What is known about the client when it asks for an export. */
export interface PeerFacts {
  readonly transport: 'unix' | 'tcp';
  /** `address:port` of a TCP client; empty for a unix socket. */
  readonly address: string;
  readonly tls: boolean;
  /** SHA-256 fingerprint of a verified client certificate, or null. */
  readonly certificate: { readonly subject: string; readonly fingerprint256: string } | null;
}

export interface OpenedExport {
  readonly backend: BlockBackend;
  /** The real name when the client used an alias. */
  readonly name?: string;
  readonly description?: string;
  /** With TLS mode `optional`: this export is only for clients that speak TLS. */
  readonly tlsRequired?: boolean;
  /** Limits of rate that all connections of the export share. */
  readonly throttle?: Throttle;
  /** Called once, after the last request of the connection has completed. */
  release(): void | Promise<void>;
}

export interface ExportInfo {
  readonly name: string;
  readonly description?: string;
  readonly tlsRequired?: boolean;
}

export interface ExportProvider {
  /** Open for one connection. A refusal is a returned error; its text reaches the client. */
  open(name: string, peer: PeerFacts): Promise<OpenedExport | DvceError>;
  /** The exports that this peer may open, at most a few thousand. */
  list(peer: PeerFacts): Promise<readonly ExportInfo[]>;
}

/** Serve one backend under any name; the volume's own socket. The backend is not closed by the server. */
export function fixedExport(
  backend: BlockBackend,
  facts: { readonly name?: string; readonly description?: string } = {},
): ExportProvider {
  const name = facts.name ?? '';
  const described = facts.description === undefined ? {} : { description: facts.description };
  return {
    open: async () => ({ backend, ...described, release: () => {} }),
    list: async () => [{ name, ...described }],
  };
}
