/**
 * What the import process and its parent say to each other: one JSON object a line, requests on standard input, answers on
 * standard output.
 *
 *   -> {"version":1,"source":"/srv/debian.qcow2","format":"auto","sha256":null,"temporaryDirectory":"/var/lib/dvce/tmp"}
 *   <- {"progress":{"stage":"read","done":1048576,"total":4194304}}                 any number, at any time
 *   <- {"described":{"format":"qcow2","virtualBytes":...,"volumeBytes":...,"sourceBytes":...}}
 *   -> {"target":{"socketPath":"/run/dvce/v1.sock","exportName":"/images/debian"}}  a new volume of volumeBytes, all zeros
 *   <- {"result":{"format":"qcow2",...,"digest":"sha256:..."}}  or  {"error":{"code":"BAD_IMAGE","context":{...}}}
 *
 * The end of standard input, or SIGTERM, cancels. The process ends with the exit code of the error table.
 */
import { Ajv } from 'ajv';
import Type from 'typebox';
import { DvceError, type ErrorCode, type ErrorContext, errorTable } from '../base/index.ts';

export type ImageFormat = 'raw' | 'qcow2';

export interface ImportRequest {
  readonly version: 1;
  /** Absolute path of a file, or an http or https URL. */
  readonly source: string;
  readonly format: ImageFormat | 'auto';
  /** 64 hex digits that the source's bytes must have, or null. */
  readonly sha256: string | null;
  readonly temporaryDirectory: string;
}

export interface ImageTarget {
  readonly socketPath: string;
  readonly exportName: string;
}

export interface ImageDescription {
  readonly format: ImageFormat;
  /** Size of the disk in the image. */
  readonly virtualBytes: number;
  /** Size for the volume: the same, at least the smallest volume, in whole sectors. */
  readonly volumeBytes: number;
  /** Size of the file as it was read. */
  readonly sourceBytes: number;
}

export interface ImportResult extends ImageDescription {
  /** `sha256:<64 hex>` of the source's bytes. */
  readonly digest: string;
}

export interface ImportProgress {
  /** read: fetching, checking and hashing the source; copy: filling the volume. */
  readonly stage: 'read' | 'copy';
  readonly done: number;
  /** null: not known. Both in bytes. */
  readonly total: number | null;
}

export interface ImportFailure {
  readonly code: ErrorCode;
  readonly context: ErrorContext;
}

export type ImportMessage =
  | { readonly progress: ImportProgress }
  | { readonly described: ImageDescription }
  | { readonly result: ImportResult }
  | { readonly error: ImportFailure };

const ajv = new Ajv({ strict: false });
const bytes = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const format = Type.Union([Type.Literal('raw'), Type.Literal('qcow2')]);
const description = {
  format,
  virtualBytes: bytes,
  volumeBytes: bytes,
  sourceBytes: bytes,
};
const closed = { additionalProperties: false };

export const isImportRequest = ajv.compile<ImportRequest>(
  Type.Object(
    {
      version: Type.Literal(1),
      source: Type.String({ minLength: 1, maxLength: 4096 }),
      format: Type.Union([format, Type.Literal('auto')]),
      sha256: Type.Union([Type.String({ pattern: '^[0-9a-f]{64}$' }), Type.Null()]),
      temporaryDirectory: Type.String({ minLength: 1, maxLength: 4096 }),
    },
    closed,
  ),
);

export const isTargetMessage = ajv.compile<{ target: ImageTarget }>(
  Type.Object(
    {
      target: Type.Object(
        {
          socketPath: Type.String({ minLength: 1, maxLength: 107 }),
          exportName: Type.String({ maxLength: 4096 }),
        },
        closed,
      ),
    },
    closed,
  ),
);

export const isImportMessage = ajv.compile<ImportMessage>(
  Type.Union([
    Type.Object({
      progress: Type.Object({
        stage: Type.Union([Type.Literal('read'), Type.Literal('copy')]),
        done: bytes,
        total: Type.Union([bytes, Type.Null()]),
      }),
    }),
    Type.Object({ described: Type.Object(description) }),
    Type.Object({
      result: Type.Object({
        ...description,
        digest: Type.String({ pattern: '^sha256:[0-9a-f]{64}$' }),
      }),
    }),
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
