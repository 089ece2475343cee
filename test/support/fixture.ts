/**
 * A fixture: a store and a journal directory as one file, with the digests of all that can be read from them. One file,
 * because empty directories (scopes) are part of a store and journal files are mostly zeros.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import type { NodeId } from '../../src/base/index.ts';
import type { BlockReader } from '../../src/hlfs/index.ts';
import { Reader } from './engine-rig.ts';

interface Archive {
  readonly directories: readonly string[];
  /** Path to base64. */
  readonly files: Readonly<Record<string, string>>;
}

export interface Expected {
  readonly nodes: readonly NodeId[];
  /** `PATH` and `PATH@SNAPSHOT` to what a reader of it finds. */
  readonly contents: Readonly<Record<string, Content>>;
}

export interface Content {
  readonly sizeBytes: number;
  /** Ranges that hold data, from block status; everything else is zeros. */
  readonly sha256: string;
}

export function pack(directory: string): Buffer {
  const entries = readdirSync(directory, { recursive: true, withFileTypes: true });
  const pathOf = (entry: { parentPath: string; name: string }): string =>
    join(entry.parentPath, entry.name).slice(directory.length + 1);
  const archive: Archive = {
    directories: entries
      .filter((entry) => entry.isDirectory())
      .map(pathOf)
      .sort(),
    files: Object.fromEntries(
      entries
        .filter((entry) => entry.isFile())
        .map((entry) => pathOf(entry))
        .sort()
        .map((path) => [path, readFileSync(join(directory, path)).toString('base64')]),
    ),
  };
  return gzipSync(JSON.stringify(archive), { level: 9 });
}

/** @returns a new directory with the content of the archive */
export function unpack(archivePath: string): string {
  const archive: Archive = JSON.parse(gunzipSync(readFileSync(archivePath)).toString());
  const directory = mkdtempSync(join(tmpdir(), 'dvce-fixture-'));
  for (const path of archive.directories) mkdirSync(join(directory, path), { recursive: true });
  for (const [path, base64] of Object.entries(archive.files)) {
    mkdirSync(dirname(join(directory, path)), { recursive: true });
    writeFileSync(join(directory, path), Buffer.from(base64, 'base64'));
  }
  return directory;
}

const stepBytes = 1 << 20;
const zeros = Buffer.alloc(stepBytes);

/** Digest of the MiBs that are not all zeros, with their places: the same for any layout of the same bytes. */
export async function contentOf(volume: BlockReader): Promise<Content> {
  const reader = new Reader(volume);
  const hash = createHash('sha256');
  for (let at = 0; at < volume.sizeBytes; at += stepBytes) {
    const length = Math.min(stepBytes, volume.sizeBytes - at);
    const bytes = await reader.read(at, length);
    if (!bytes.equals(zeros.subarray(0, length))) hash.update(`${at}\n`).update(bytes);
  }
  return { sizeBytes: volume.sizeBytes, sha256: hash.digest('hex') };
}
