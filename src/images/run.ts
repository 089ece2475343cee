/** Imports and exports, each in a process of its own. */
import type { Readable } from 'node:stream';
import { DvceError } from '../base/index.ts';
import { type ChildOptions, withChild } from './child.ts';
import type {
  ExportFormat,
  ExportResult,
  ImageDescription,
  ImageFormat,
  ImageTarget,
  ImportResult,
} from './protocol.ts';

export interface RunImportOptions extends ChildOptions {
  /** Absolute path, http(s) address or NBD URI. */
  readonly source: string;
  readonly format?: ImageFormat | 'auto' | undefined;
  /** 64 or 128 hex digits, with or without `sha256:` or `sha512:` before them. */
  readonly digest?: string | null | undefined;
  /** A file of checksums that names the source. */
  readonly checksumUrl?: string | null | undefined;
  /** A directory on a disk with room for the image's file; made when missing. */
  readonly temporaryDirectory: string;
  /**
   * Make an empty volume of `description.volumeBytes`, export it, and say where. When the import fails afterwards the
   * caller deletes it, which returns the space.
   */
  prepareVolume(description: ImageDescription): Promise<ImageTarget>;
}

/** Import an image; rejects with the table error of what went wrong. */
export async function runImport(options: RunImportOptions): Promise<ImportResult> {
  const request = {
    version: 1,
    task: 'import',
    source: options.source,
    format: options.format ?? 'auto',
    digest: digestOf(options.digest ?? null),
    checksumUrl: options.checksumUrl ?? null,
    temporaryDirectory: options.temporaryDirectory,
  } as const;
  return withChild(request, options, async (child) => {
    for await (const answer of child.answers()) {
      if ('result' in answer) return answer.result;
      if ('described' in answer)
        child.tell({ target: await options.prepareVolume(answer.described) });
    }
    throw unanswered();
  });
}

function digestOf(text: string | null): string | null {
  if (text === null) return null;
  const hex = text.replace(/^sha(256|512):/, '').toLowerCase();
  if (/^[0-9a-f]{64}$/.test(hex)) return `sha256:${hex}`;
  if (/^[0-9a-f]{128}$/.test(hex)) return `sha512:${hex}`;
  throw new DvceError('INVALID_ARGUMENT', {
    what: 'the digest',
    reason: 'it has neither the 64 hexadecimal digits of a sha256 nor the 128 of a sha512',
    advice: 'Give what sha256sum or sha512sum prints.',
  });
}

export interface RunExportOptions extends ChildOptions {
  /** For messages. */
  readonly name: string;
  readonly from: ImageTarget;
  readonly format: ExportFormat;
  readonly framing: 'plain' | 'sparse';
  readonly temporaryDirectory: string;
  /** Takes the content; the export waits for whoever reads it. */
  readonly onContent: (content: Readable) => void;
}

/** Export a disk; the promise settles when the process has sent everything, which may be before all of it was read. */
export async function runExport(options: RunExportOptions): Promise<ExportResult> {
  const { name, from, format, framing, temporaryDirectory } = options;
  const request = {
    version: 1,
    task: 'export',
    ...{ name, from, format, framing, temporaryDirectory },
  } as const;
  return withChild(request, options, async (child) => {
    options.onContent(child.content);
    for await (const answer of child.answers()) if ('exported' in answer) return answer.exported;
    throw unanswered();
  });
}

const unanswered = (): DvceError =>
  new DvceError('INTERNAL', { reason: 'the image process gave no answer' });
