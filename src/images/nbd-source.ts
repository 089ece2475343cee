/** Disks of NBD servers as sources: `nbd://host:port/export` and `nbd+unix:///export?socket=PATH`, without TLS. */
import { DvceError } from '../base/index.ts';
import type { NbdPlace } from './steady-client.ts';

const portDefault = 10_809;

export const isNbdUri = (source: string): boolean => /^nbds?(\+\w+)?:/i.test(source);

/** By the URI specification of the NBD project. */
export function parseNbdUri(text: string): NbdPlace {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw invalid(text, 'it is no address');
  }
  if (url.username !== '' || url.password !== '')
    throw invalid(`${url.protocol}//${url.host}`, 'it contains a user name or password');
  const exportName = decode(text, url.pathname.replace(/^\//, ''));
  if (Buffer.byteLength(exportName) > 4096)
    throw invalid(text.slice(0, 80), 'its export is too long');
  switch (url.protocol) {
    case 'nbd:':
      if (url.hostname === '') throw invalid(text, 'it names no host');
      return { address: hostOf(url, text), exportName };
    case 'nbd+unix:':
      return { address: { path: socketOf(url, text) }, exportName };
    case 'nbds:':
    case 'nbds+unix:':
      throw new DvceError('UNSUPPORTED', {
        what: 'TLS to an NBD source',
        reason: 'certificates for it cannot be given',
        advice: 'Use nbd:// on a trusted network, or a tunnel.',
      });
    default:
      throw invalid(text, `the scheme ${url.protocol} is not supported`);
  }
}

function hostOf(url: URL, text: string): { host: string; port: number } {
  const port = url.port === '' ? portDefault : Number(url.port);
  if (port === 0 || url.search !== '') throw invalid(text, 'it has a part that has no meaning');
  return { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port };
}

function socketOf(url: URL, text: string): string {
  const path = url.searchParams.get('socket') ?? '';
  if (url.host !== '' || [...url.searchParams.keys()].join() !== 'socket')
    throw invalid(text, 'it is not nbd+unix:///EXPORT?socket=PATH');
  if (!path.startsWith('/') || path.includes('\0') || Buffer.byteLength(path) > 107)
    throw invalid(text, 'its socket is no absolute path of at most 107 bytes');
  return path;
}

function decode(text: string, part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw invalid(text, 'its export is not well encoded');
  }
}

const invalid = (text: string, reason: string): DvceError =>
  new DvceError('INVALID_ARGUMENT', {
    what: `the source ${JSON.stringify(text.slice(0, 200))}`,
    reason,
    advice: 'For example nbd://host:10809/disk or nbd+unix:///disk?socket=/run/nbd.sock.',
  });
