/**
 * The API as typed calls. A path of a volume is one URL segment, percent-encoded (`/v1/volumes/prod%2Fshop%2Fdb`), so
 * that what follows it (`/snapshots`, `/check`) stays unambiguous.
 */
import type { Duplex } from 'node:stream';
import { type Clock, systemClock } from '../base/clock.ts';
import { DvceError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { HttpClient, type RequestOptions, type Transport } from './client.ts';
import type {
  AuditEntry,
  Capacity,
  CatalogueImage,
  Doctor,
  Export,
  ExportCreate,
  Image,
  ImageImport,
  ImageUpdate,
  Network,
  NetworkCreate,
  NicRequest,
  Operation,
  PointOpen,
  PointOpened,
  PointPage,
  Quota,
  QuotaSet,
  Schedule,
  ScheduleCreate,
  SchedulePreview,
  Scrub,
  Shutdown,
  Snapshot,
  SnapshotCreate,
  SnapshotDiff,
  SnapshotSetCreate,
  SnapshotUpdate,
  Status,
  Token,
  TokenCreate,
  TokenSecret,
  TrashedVolume,
  Usage,
  Vm,
  VmAttachDisk,
  VmClone,
  VmCreate,
  VmReboot,
  VmResize,
  VmSnapshot,
  VmSnapshotCreate,
  VmStart,
  VmStop,
  VmUpdate,
  VmVnc,
  VmWaited,
  Volume,
  VolumeClone,
  VolumeCreate,
  VolumeMap,
  VolumeRecovery,
  VolumeResize,
  VolumeUpdate,
} from './types.ts';

/** Protocol name of the console in the Upgrade header. */
export const consoleProtocol = 'dvce-console';

/** A path or name as one URL segment; the leading slash of a path is implied. */
export const segment = (text: string): string =>
  encodeURIComponent(text.startsWith('/') ? text.slice(1) : text);

export const urls = {
  volume: (path: string) => `/v1/volumes/${segment(path)}`,
  snapshots: (path: string) => `/v1/volumes/${segment(path)}/snapshots`,
  snapshot: (path: string, name: string) =>
    `/v1/volumes/${segment(path)}/snapshots/${segment(name)}`,
  network: (name: string) => `/v1/networks/${segment(name)}`,
  /** The folder as a whole, because `/` is one. */
  quota: (path: string) => `/v1/quotas/${encodeURIComponent(path)}`,
  schedule: (name: string) => `/v1/schedules/${segment(name)}`,
  image: (name: string) => `/v1/images/${segment(name)}`,
  vm: (name: string) => `/v1/vms/${segment(name)}`,
  vmSnapshot: (name: string, snapshot: string) =>
    `/v1/vms/${segment(name)}/snapshots/${segment(snapshot)}`,
  token: (name: string) => `/v1/tokens/${segment(name)}`,
  operation: (id: string) => `/v1/operations/${segment(id)}`,
} as const;

/** Calls that touch many objects of the store may take longer than the others. */
const long = { timeoutMs: limits.blockdLongCallMs } as const;

export type WaitOptions = {
  readonly signal?: AbortSignal;
  /** Total time; after it TIMED_OUT is thrown and the operation goes on. */
  readonly timeoutMs?: number;
  readonly onProgress?: (operation: Operation) => void;
};

export class ApiClient {
  readonly http: HttpClient;
  readonly #clock: Clock;

  constructor(socketPath: string, transport: Transport = {}) {
    this.http = new HttpClient(socketPath, transport);
    this.#clock = transport.clock ?? systemClock;
  }

  async #get<T>(path: string, options: RequestOptions = {}): Promise<T> {
    return (await this.http.request('GET', path, options)).body as T;
  }
  async #send<T>(
    method: 'POST' | 'PATCH' | 'PUT' | 'DELETE',
    path: string,
    body?: unknown,
    options: RequestOptions = {},
  ): Promise<T> {
    return (await this.http.request(method, path, { ...options, body })).body as T;
  }

  readonly volumes = {
    list: async (query: { prefix?: string | undefined; kind?: 'volume' | 'image' } = {}) =>
      (await this.#get<{ volumes: Volume[] }>('/v1/volumes', { query })).volumes,
    /** @param query.space also what it takes in the store */
    get: (path: string, query: { space?: boolean } = {}) =>
      this.#get<Volume>(urls.volume(path), { query }),
    create: (body: VolumeCreate) => this.#send<Volume>('POST', '/v1/volumes', body),
    update: (path: string, body: VolumeUpdate) =>
      this.#send<Volume>('PATCH', urls.volume(path), body),
    resize: (path: string, body: VolumeResize) =>
      this.#send<Volume>('POST', `${urls.volume(path)}/resize`, body),
    clone: (body: VolumeClone) => this.#send<Volume>('POST', '/v1/clones', body, long),
    /** Answers the volume as it is in the trash; nothing when it is gone for good. */
    delete: (path: string, query: { now?: boolean | undefined } = {}) =>
      this.#send<TrashedVolume | undefined>('DELETE', urls.volume(path), undefined, {
        ...long,
        query,
      }),
    map: (
      path: string,
      query: { snapshot?: string | undefined; offset?: number | undefined; limit?: number } = {},
    ) => this.#get<VolumeMap>(`${urls.volume(path)}/map`, { ...long, query }),
    /** The content as a file; `location` is the operation that sends it. */
    content: (
      path: string,
      query: { snapshot?: string | undefined; format?: string; framing?: string },
      signal?: AbortSignal,
    ) =>
      this.http.stream(`${urls.volume(path)}/content`, {
        ...long,
        query,
        ...(signal === undefined ? {} : { signal }),
      }),
    check: (path: string, body: { repair?: boolean } = {}) =>
      this.#send<Operation>('POST', `${urls.volume(path)}/check`, body),
    flatten: (path: string) => this.#send<Operation>('POST', `${urls.volume(path)}/flatten`, {}),
    promote: (path: string) => this.#send<Operation>('POST', `${urls.volume(path)}/promote`, {}),
    points: (
      path: string,
      query: {
        since?: string | undefined;
        until?: string | undefined;
        before?: number | undefined;
        limit?: number | undefined;
      } = {},
    ) => this.#get<PointPage>(`${urls.volume(path)}/points`, { ...long, query }),
    at: (path: string, body: PointOpen) =>
      this.#send<PointOpened>('POST', `${urls.volume(path)}/at`, body, long),
    recover: (path: string) =>
      this.#send<VolumeRecovery>(
        'POST',
        `${urls.volume(path)}/recover`,
        { acceptLoss: true },
        long,
      ),
  };

  readonly snapshots = {
    /** All of them. */
    list: async (path: string) => {
      const found: Snapshot[] = [];
      for (let cursor: string | undefined; ; ) {
        const { snapshots, next } = await this.snapshots.page(path, { cursor });
        found.push(...snapshots);
        if (next === undefined) return found;
        cursor = next;
      }
    },
    page: (
      path: string,
      query: { limit?: number | undefined; cursor?: string | undefined } = {},
    ): Promise<{ snapshots: Snapshot[]; next?: string }> =>
      this.#get(urls.snapshots(path), { ...long, query }),
    createSet: async (body: SnapshotSetCreate) =>
      (await this.#send<{ snapshots: Snapshot[] }>('POST', '/v1/snapshot-sets', body, long))
        .snapshots,
    create: (path: string, body: SnapshotCreate) =>
      this.#send<Snapshot>('POST', urls.snapshots(path), body),
    update: (path: string, name: string, body: SnapshotUpdate) =>
      this.#send<Snapshot>('PATCH', urls.snapshot(path, name), body),
    delete: (path: string, name: string) =>
      this.#send<void>('DELETE', urls.snapshot(path, name), undefined, long),
    rollback: (path: string, name: string) =>
      this.#send<Volume>('POST', `${urls.snapshot(path, name)}/rollback`, {}, long),
    diff: (
      path: string,
      from: string,
      query: { to?: string | undefined; limit?: number | undefined } = {},
    ) => this.#get<SnapshotDiff>(`${urls.snapshot(path, from)}/diff`, { ...long, query }),
  };

  readonly trash = {
    list: async () => (await this.#get<{ volumes: TrashedVolume[] }>('/v1/trash')).volumes,
    restore: (body: { what: string; to?: string }) =>
      this.#send<Volume>('POST', '/v1/trash/restore', body, long),
    empty: (body: { what?: string }) =>
      this.#send<{ discarded: TrashedVolume[] }>('POST', '/v1/trash/empty', body, long),
  };

  readonly scrub = {
    get: () => this.#get<Scrub>('/v1/scrub'),
    start: (path?: string) =>
      this.#send<Scrub>('POST', '/v1/scrub/start', path === undefined ? {} : { path }),
    pause: (paused: boolean) => this.#send<Scrub>('POST', '/v1/scrub/pause', { paused }),
  };

  readonly quotas = {
    list: async () => (await this.#get<{ quotas: Quota[] }>('/v1/quotas')).quotas,
    get: (path: string) => this.#get<Quota>(urls.quota(path), long),
    set: (path: string, body: QuotaSet) => this.#send<Quota>('PUT', urls.quota(path), body, long),
    delete: (path: string) => this.#send<void>('DELETE', urls.quota(path)),
  };
  readonly capacity = () => this.#get<Capacity>('/v1/capacity');

  readonly schedules = {
    list: () =>
      this.#get<{
        schedules: Schedule[];
        unreadable?: { name: string; reason: string }[];
      }>('/v1/schedules'),
    get: (name: string) => this.#get<Schedule>(urls.schedule(name)),
    create: (body: ScheduleCreate) => this.#send<Schedule>('POST', '/v1/schedules', body),
    delete: (name: string) => this.#send<void>('DELETE', urls.schedule(name)),
    pause: (name: string) => this.#send<Schedule>('POST', `${urls.schedule(name)}/pause`, {}),
    resume: (name: string) => this.#send<Schedule>('POST', `${urls.schedule(name)}/resume`, {}),
    run: (name: string) => this.#send<Operation>('POST', `${urls.schedule(name)}/run`, {}),
    preview: (name: string, count?: number) =>
      this.#get<SchedulePreview>(`${urls.schedule(name)}/preview`, { query: { count } }),
  };

  readonly exports = {
    list: async () => (await this.#get<{ exports: Export[] }>('/v1/exports')).exports,
    create: (body: ExportCreate) => this.#send<Export>('POST', '/v1/exports', body, long),
    delete: (id: string) =>
      this.#send<void>('DELETE', `/v1/exports/${segment(id)}`, undefined, long),
  };

  readonly images = {
    list: async () => (await this.#get<{ images: Image[] }>('/v1/images')).images,
    get: (name: string) => this.#get<Image>(urls.image(name)),
    import: (body: ImageImport) => this.#send<Operation>('POST', '/v1/images', body),
    update: (name: string, body: ImageUpdate) => this.#send<Image>('PATCH', urls.image(name), body),
    catalogue: async () =>
      (await this.#get<{ images: CatalogueImage[] }>('/v1/image-catalogue')).images,
    delete: (name: string) => this.#send<void>('DELETE', urls.image(name), undefined, long),
  };

  readonly vms = {
    list: async () => (await this.#get<{ vms: Vm[] }>('/v1/vms')).vms,
    get: (name: string) => this.#get<Vm>(urls.vm(name)),
    create: (body: VmCreate) => this.#send<Vm>('POST', '/v1/vms', body, long),
    start: (name: string, body: VmStart = {}) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/start`, body),
    stop: (name: string, body: VmStop = {}) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/stop`, body),
    delete: (name: string, query: { keepDisks?: boolean | undefined } = {}) =>
      this.#send<void>('DELETE', urls.vm(name), undefined, { ...long, query }),
    log: (name: string, query: { tail?: number | undefined } = {}) =>
      this.#get<string | undefined>(`${urls.vm(name)}/log`, { query }),
    update: (name: string, body: VmUpdate) => this.#send<Vm>('PATCH', urls.vm(name), body),
    act: (name: string, verb: 'pause' | 'resume' | 'reset') =>
      this.#send<Vm>('POST', `${urls.vm(name)}/${verb}`, {}),
    reboot: (name: string, body: VmReboot = {}) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/reboot`, body),
    resize: (name: string, body: VmResize) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/resize`, body),
    clone: (name: string, body: VmClone) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/clone`, body),
    snapshots: async (name: string) =>
      (await this.#get<{ snapshots: VmSnapshot[] }>(`${urls.vm(name)}/snapshots`)).snapshots,
    snapshot: (name: string, body: VmSnapshotCreate) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/snapshots`, body),
    deleteSnapshot: (name: string, snapshot: string) =>
      this.#send<void>('DELETE', urls.vmSnapshot(name, snapshot), undefined, long),
    rollback: (name: string, snapshot: string) =>
      this.#send<Operation>('POST', `${urls.vmSnapshot(name, snapshot)}/rollback`, {}),
    attachDisk: (name: string, body: VmAttachDisk) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/disks`, body),
    detachDisk: (name: string, disk: string) =>
      this.#send<Operation>('DELETE', `${urls.vm(name)}/disks/${segment(disk)}`),
    attachNic: (name: string, body: NicRequest) =>
      this.#send<Operation>('POST', `${urls.vm(name)}/nics`, body),
    detachNic: (name: string, nic: string) =>
      this.#send<Operation>('DELETE', `${urls.vm(name)}/nics/${segment(nic)}`),
    /** One request: answers when it is so, or after the time. */
    wait: (name: string, query: { for: VmWaited['condition']; wait: string }) =>
      this.#get<VmWaited>(`${urls.vm(name)}/wait`, {
        query,
        timeoutMs: limits.operationWaitMs + limits.apiRequestMs,
      }),
    vnc: (name: string) => this.#get<VmVnc>(`${urls.vm(name)}/vnc`),
    console: (name: string, signal?: AbortSignal): Promise<Duplex> =>
      this.http.upgrade(`${urls.vm(name)}/console`, consoleProtocol, signal),
  };

  readonly networks = {
    list: async () => (await this.#get<{ networks: Network[] }>('/v1/networks')).networks,
    get: (name: string) => this.#get<Network>(urls.network(name)),
    create: (body: NetworkCreate) => this.#send<Network>('POST', '/v1/networks', body),
    delete: (name: string) => this.#send<void>('DELETE', urls.network(name)),
  };

  readonly tokens = {
    list: async () => (await this.#get<{ tokens: Token[] }>('/v1/tokens')).tokens,
    get: (name: string) => this.#get<Token>(urls.token(name)),
    create: (body: TokenCreate) => this.#send<TokenSecret>('POST', '/v1/tokens', body),
    revoke: (name: string) => this.#send<void>('DELETE', urls.token(name)),
  };
  readonly audit = async () => (await this.#get<{ entries: AuditEntry[] }>('/v1/audit')).entries;

  readonly operations = {
    list: async (query: { status?: Operation['status']; kind?: string } = {}) =>
      (await this.#get<{ operations: Operation[] }>('/v1/operations', { query })).operations,
    log: (id: string) => this.#get<string | undefined>(`${urls.operation(id)}/log`),
    get: (id: string, wait?: string) =>
      this.#get<Operation>(urls.operation(id), { query: { wait } }),
    cancel: (id: string) => this.#send<Operation>('DELETE', urls.operation(id)),
    /** Wait until it has ended, by requests that the agent holds; answers the ended operation, failed or not. */
    wait: (id: string, options: WaitOptions = {}) => this.#wait(id, options),
  };

  readonly usage = () => this.#get<Usage>('/v1/usage');
  readonly status = () => this.#get<Status>('/v1/status');
  readonly doctor = () => this.#get<Doctor>('/v1/doctor');
  readonly shutdown = (body: Shutdown) =>
    this.#send<void>('POST', '/v1/shutdown', body, { timeoutMs: limits.vmStopMsMax });

  async #wait(id: string, { signal, timeoutMs, onProgress }: WaitOptions): Promise<Operation> {
    const end =
      timeoutMs === undefined ? Number.POSITIVE_INFINITY : this.#clock.monotonicMs() + timeoutMs;
    for (;;) {
      const left = end - this.#clock.monotonicMs();
      // Half a second while someone watches the progress, else as long as the agent holds a request.
      const waitMs = Math.min(onProgress === undefined ? limits.operationWaitMs : 500, left);
      const operation = await this.#get<Operation>(urls.operation(id), {
        query: { wait: `${Math.max(0, Math.ceil(waitMs))}ms` },
        timeoutMs: limits.operationWaitMs + limits.apiRequestMs,
        ...(signal === undefined ? {} : { signal }),
      });
      onProgress?.(operation);
      if (operation.status !== 'running') return operation;
      if (this.#clock.monotonicMs() >= end)
        throw new DvceError('TIMED_OUT', {
          what: `operation ${id} (${operation.kind})`,
          ms: timeoutMs ?? 0,
        });
    }
  }
}
