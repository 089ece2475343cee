/**
 * What an image process and its parent say to each other: one JSON object a line, requests on standard input, answers on
 * standard output. Each process does one task.
 *
 * An import:
 *   -> {"version":1,"task":"import","source":"/srv/debian.qcow2","format":"auto","digest":null,"checksumUrl":null,
 *       "temporaryDirectory":"/var/lib/dvce/tmp"}
 *   <- {"progress":{"stage":"read","done":1048576,"total":4194304}}                 any number, at any time
 *   <- {"described":{"format":"qcow2","virtualBytes":...,"volumeBytes":...,"sourceBytes":...}}
 *   -> {"target":{"socketPath":"/run/dvce/v1.sock","exportName":"/images/debian"}}  a new volume of volumeBytes, all zeros
 *   <- {"result":{"format":"qcow2",...,"digest":"sha256:...","contentDigest":"sha256:..."}}
 *
 * An export, whose content goes to descriptor 3:
 *   -> {"version":1,"task":"export","name":"/prod/db@s","from":{"socketPath":...,"exportName":...},"format":"qcow2",
 *       "framing":"sparse","temporaryDirectory":"/var/lib/dvce/tmp"}
 *   <- {"exported":{"sizeBytes":...,"fileBytes":...,"digest":"sha256:..."}}
 *
 * Both: <- {"error":{"code":"BAD_IMAGE","context":{...}}}
 *
 * SIGTERM cancels; the end of standard input is the end of the parent, and ends the task too, but keeps what has been
 * downloaded. The process ends with the exit code of the error table.
 */
import { Ajv } from 'ajv';
import Type, { type Static } from 'typebox';
import { DvceError, type ErrorCode, type ErrorContext, errorTable } from '../base/index.ts';

const bytes = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const closed = { additionalProperties: false };
const imageFormat = Type.Unsafe<ImageFormat>({ enum: ['raw', 'qcow2', 'vmdk', 'ova'] });
const sha256 = Type.String({ pattern: '^sha256:[0-9a-f]{64}$' });
const text = Type.String({ minLength: 1, maxLength: 4096 });

/** What a disk image can be given as. */
export type ImageFormat = 'raw' | 'qcow2' | 'vmdk' | 'ova';
/** What a disk can be written as. */
export type ExportFormat = 'raw' | 'qcow2';

const place = Type.Object(
  { socketPath: Type.String({ minLength: 1, maxLength: 107 }), exportName: Type.String() },
  closed,
);
export type ImageTarget = Static<typeof place>;

const importRequest = Type.Object(
  {
    version: Type.Literal(1),
    task: Type.Literal('import'),
    /** Absolute path of a file, an http or https URL, or an nbd or nbd+unix URI. */
    source: text,
    format: Type.Union([imageFormat, Type.Literal('auto')]),
    /** What the source's bytes must have, `sha256:` or `sha512:` and hex digits, or null. */
    digest: Type.Union([
      Type.String({ pattern: '^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$' }),
      Type.Null(),
    ]),
    /** A file of checksums that names the source, or null. */
    checksumUrl: Type.Union([text, Type.Null()]),
    temporaryDirectory: text,
  },
  closed,
);
export type ImportRequest = Static<typeof importRequest>;

const exportRequest = Type.Object(
  {
    version: Type.Literal(1),
    task: Type.Literal('export'),
    /** For messages. */
    name: text,
    from: place,
    format: Type.Unsafe<ExportFormat>({ enum: ['raw', 'qcow2'] }),
    /** plain: the bytes of the file; sparse: frames, so that zeros are not sent (sparse-frames.ts). */
    framing: Type.Unsafe<'plain' | 'sparse'>({ enum: ['plain', 'sparse'] }),
    temporaryDirectory: text,
  },
  closed,
);
export type ExportRequest = Static<typeof exportRequest>;

const description = Type.Object({
  format: imageFormat,
  /** Size of the disk in the image. */
  virtualBytes: bytes,
  /** Size for the volume: the same, at least the smallest volume, in whole sectors. */
  volumeBytes: bytes,
  /** Size of the source: of the file as it was read, of the disk of an NBD server. */
  sourceBytes: bytes,
});
export type ImageDescription = Static<typeof description>;

const importResult = Type.Object({
  ...description.properties,
  /** Of the source's bytes. */
  digest: sha256,
  /** Of the volume's bytes, read back from it. */
  contentDigest: sha256,
});
export type ImportResult = Static<typeof importResult>;

const exportResult = Type.Object({
  /** Size of the disk. */
  sizeBytes: bytes,
  /** Length of the file, holes included. */
  fileBytes: bytes,
  /** Of the file's bytes. */
  digest: sha256,
});
export type ExportResult = Static<typeof exportResult>;

const progress = Type.Object({
  /** read: fetching, checking and hashing the source; copy: filling volume or file; verify: reading it back. */
  stage: Type.Unsafe<'read' | 'copy' | 'verify'>({ enum: ['read', 'copy', 'verify'] }),
  done: bytes,
  /** null: not known. Both in bytes. */
  total: Type.Unsafe<number | null>(Type.Union([bytes, Type.Null()])),
});
export type ImageProgress = Static<typeof progress>;

export interface TaskFailure {
  readonly code: ErrorCode;
  readonly context: ErrorContext;
}

export type TaskMessage =
  | { readonly progress: ImageProgress }
  | { readonly described: ImageDescription }
  | { readonly result: ImportResult }
  | { readonly exported: ExportResult }
  | { readonly error: TaskFailure };

const ajv = new Ajv({ strict: false });

export const isImportRequest = ajv.compile<ImportRequest>(importRequest);
export const isExportRequest = ajv.compile<ExportRequest>(exportRequest);
export const isTargetMessage = ajv.compile<{ target: ImageTarget }>(
  Type.Object({ target: place }, closed),
);
export const isTaskMessage = ajv.compile<TaskMessage>(
  Type.Union([
    Type.Object({ progress }),
    Type.Object({ described: description }),
    Type.Object({ result: importResult }),
    Type.Object({ exported: exportResult }),
    Type.Object({
      error: Type.Object({
        code: Type.Enum(Object.keys(errorTable)),
        context: Type.Record(
          Type.String(),
          Type.Union([Type.String(), Type.Number(), Type.Boolean()]),
        ),
      }),
    }),
  ]),
);

export const badImage = (name: string, reason: string, advice = ''): DvceError =>
  new DvceError('BAD_IMAGE', { name, reason, advice });
