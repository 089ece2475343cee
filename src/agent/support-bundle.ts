/**
 * A support bundle: what somebody needs who was not there to find out what is wrong with this host, and no secret.
 *
 *   the agent's answers (when it answers), metrics, recent events    api/, metrics.txt, events.txt
 *   the ends of the logs, without the consoles of guests             log/
 *   kernel, programs, disks, what lies in the data directory         host.json, files.txt
 *   what could not be had, and why                                   manifest.json
 *
 * Invariants
 * - everything goes through `maskSecrets` (base/redact.ts) once more, whatever promised to hold no secret before; passwords that lie
 *   in files of this host are looked up and taken out by their value too;
 * - guests' consoles, user data, keys and documents of the store are not read at all;
 * - bounded: limits.bundleFileBytes of each part, limits.bundleBytesMax of all; what did not fit is named in the manifest.
 */
import { spawn } from 'node:child_process';
import {
  chmod,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { get } from 'node:http';
import {
  arch,
  cpus,
  freemem,
  hostname,
  loadavg,
  release,
  tmpdir,
  totalmem,
  uptime,
  version,
} from 'node:os';
import { basename, dirname, join } from 'node:path';
import { ApiClient } from '../api/index.ts';
import {
  type Clock,
  DvceError,
  type FileSystem,
  limits,
  maskSecrets,
  systemCode,
  toDvceError,
  withoutSecrets,
} from '../base/index.ts';
import { agentLayout } from './layout.ts';

export interface BundleOptions {
  readonly dataDirectory: string;
  /** Where it is written; nothing is there yet. */
  readonly output: string;
  readonly release: string;
  readonly qemu: string;
  readonly files: FileSystem;
  readonly clock: Clock;
}

export interface BundleResult {
  readonly path: string;
  readonly sizeBytes: number;
  readonly parts: number;
  /** What is not in it, and why. */
  readonly missing: readonly string[];
}

/** Answers of the API that tell how things are. */
const questions: readonly (readonly [string, string])[] = [
  ['status', '/v1/status'],
  ['doctor', '/v1/doctor'],
  ['config', '/v1/config'],
  ['volumes', '/v1/volumes'],
  ['images', '/v1/images'],
  ['vms', '/v1/vms'],
  ['networks', '/v1/networks'],
  ['schedules', '/v1/schedules'],
  ['operations', '/v1/operations'],
];

export async function writeSupportBundle(options: BundleOptions): Promise<BundleResult> {
  const { output, clock } = options;
  if ((await found(output)) !== undefined)
    throw new DvceError('ALREADY_EXISTS', { kind: 'file', name: output });
  const folder = await mkdtemp(join(tmpdir(), 'dvce-bundle-'));
  try {
    const name = `dvce-support-${new Date(clock.wallMs()).toISOString().replace(/[-:]|\.\d+/g, '')}`;
    const collector = new Collector(join(folder, name), await secretsOf(options.dataDirectory));
    await collect(options, collector);
    await collector.finish({
      at: new Date(clock.wallMs()).toISOString(),
      release: options.release,
      runtime: process.version,
    });
    const written = `${output}.part`;
    await pack(folder, name, written);
    await chmod(written, 0o600);
    await rename(written, output);
    const { size } = await stat(output);
    return { path: output, sizeBytes: size, parts: collector.parts, missing: collector.missing };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The parts on their way into the bundle. */
class Collector {
  readonly missing: string[] = [];
  parts = 0;
  readonly #folder: string;
  readonly #secrets: readonly string[];
  #bytes = 0;

  constructor(folder: string, secrets: readonly string[]) {
    this.#folder = folder;
    this.#secrets = secrets;
  }

  /** Add a part, or write down why it is not there. The newest end of a long one is kept. */
  async add(name: string, content: () => Promise<string>): Promise<void> {
    try {
      await this.#write(name, await content());
    } catch (error) {
      const known = toDvceError(error);
      this.missing.push(`${name}: ${maskSecrets(known.message)}`);
    }
  }

  async #write(name: string, content: string): Promise<void> {
    const text = this.#clean(content).slice(-limits.bundleFileBytes);
    const bytes = Buffer.byteLength(text);
    if (this.#bytes + bytes > limits.bundleBytesMax)
      throw new DvceError('TOO_LARGE', {
        what: 'the bundle',
        reason: `it would have more than ${limits.bundleBytesMax} bytes`,
        advice: '',
      });
    this.#bytes += bytes;
    const path = join(this.#folder, name);
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeFile(path, text, { mode: 0o600 });
    this.parts += 1;
  }

  #clean(text: string): string {
    let clean = maskSecrets(text);
    for (const secret of this.#secrets) clean = clean.replaceAll(secret, '***');
    return clean;
  }

  async finish(facts: object): Promise<void> {
    const manifest = { ...facts, parts: this.parts, missing: this.missing };
    await this.#write('manifest.json', `${JSON.stringify(manifest, null, 2)}\n`);
  }
}

async function collect(options: BundleOptions, collector: Collector): Promise<void> {
  const { socket } = agentLayout(options.dataDirectory);
  const api = new ApiClient(socket);
  for (const [name, path] of questions)
    await collector.add(`api/${name}.json`, async () => {
      const { body } = await api.http.request('GET', path, { timeoutMs: limits.bundleAnswerMs });
      return `${JSON.stringify(withoutSecrets(body), null, 2)}\n`;
    });
  await collector.add('metrics.txt', async () =>
    String((await api.http.request('GET', '/metrics', { timeoutMs: limits.bundleAnswerMs })).body),
  );
  await collector.add('events.txt', () => recentEvents(socket));
  for (const path of await logsOf(join(options.dataDirectory, 'log')))
    await collector.add(path, () => endOf(join(options.dataDirectory, path)));
  await collector.add('host.json', () => aboutHost(options));
  await collector.add('files.txt', () => listFiles(options.dataDirectory));
  for (const path of [
    '/etc/os-release',
    '/proc/meminfo',
    '/proc/self/mounts',
    '/sys/fs/cgroup/cgroup.controllers',
  ])
    await collector.add(`host/${basename(path)}`, () => readFile(path, 'utf8'));
}

/** Passwords that lie in files here, so that they are found wherever they turn up. */
async function secretsOf(dataDirectory: string): Promise<string[]> {
  const { vmRun } = agentLayout(dataDirectory);
  const secrets: string[] = [];
  for (const id of await names(vmRun)) {
    const text = await readFile(join(vmRun, id, 'vnc-password'), 'utf8').catch(nothing);
    // Shorter ones would take words out of everything.
    if (text !== undefined && text.trim().length >= 6) secrets.push(text.trim());
  }
  return secrets;
}

/** Logs of our processes and of hypervisors; what guests say on their consoles is theirs. */
async function logsOf(folder: string): Promise<string[]> {
  const own = (await names(folder)).filter((name) => /\.log(\.\d+)?$/.test(name));
  const guests: string[] = [];
  for (const id of (await names(join(folder, 'vm'))).slice(0, limits.bundleGuestsMax))
    for (const name of await names(join(folder, 'vm', id)))
      if (!name.startsWith('console') && /\.log(\.\d+)?$/.test(name))
        guests.push(`log/vm/${id}/${name}`);
  return [...own.map((name) => `log/${name}`), ...guests];
}

async function endOf(path: string): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(Math.min(size, limits.bundleFileBytes));
    const { bytesRead } = await file.read(bytes, 0, bytes.length, size - bytes.length);
    return bytes.toString('utf8', 0, bytesRead);
  } finally {
    await file.close();
  }
}

/** What the stream has kept; it is left as soon as the answer says that it is at its end. */
function recentEvents(socketPath: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const request = get({ socketPath, path: '/v1/events?since=0' }, (answer) => {
      answer.setEncoding('utf8');
      answer.on('data', (part: string) => {
        text = (text + part).slice(-limits.bundleFileBytes);
        // The number without an event is what follows the last one that is kept.
        if (/(^|\n)id: \d+\n\n$/.test(text)) request.destroy();
      });
      answer.on('error', () => resolve(text));
      answer.on('close', () => resolve(text));
    });
    request.setTimeout(limits.bundleAnswerMs, () => request.destroy());
    request.on('error', (error) => (text === '' ? reject(error) : resolve(text)));
  });
}

async function aboutHost(options: BundleOptions): Promise<string> {
  const { qemu, files, dataDirectory } = options;
  const facts = {
    host: hostname(),
    kernel: `${release()} ${version()}`,
    arch: arch(),
    uptimeSeconds: Math.round(uptime()),
    loadAverage: loadavg(),
    processors: cpus().length,
    processor: cpus()[0]?.model ?? null,
    memoryBytes: totalmem(),
    freeMemoryBytes: freemem(),
    user: process.getuid?.() ?? null,
    space: await files.space(dataDirectory).catch(nothing),
    qemu: await versionOf(qemu),
    qemuImg: await versionOf('qemu-img'),
  };
  return `${JSON.stringify(facts, null, 2)}\n`;
}

/** First line of `PROGRAM --version`, or why there is none. */
async function versionOf(program: string): Promise<string> {
  const { code, output } = await run(program, ['--version']);
  return code === 0 ? (output.split('\n')[0] ?? '') : `not known: ${output}`;
}

/** Names and sizes, never contents; two levels, which shows what is there without naming every segment. */
async function listFiles(root: string): Promise<string> {
  const lines: string[] = [];
  const walk = async (path: string, depth: number): Promise<void> => {
    for (const name of (await names(path)).sort()) {
      if (lines.length >= limits.bundleFilesListed) return;
      const at = join(path, name);
      const facts = await found(at);
      if (facts === undefined) continue;
      const mode = (facts.mode & 0o7777).toString(8);
      lines.push(`${mode} ${facts.size} ${facts.mtime.toISOString()} ${at.slice(root.length + 1)}`);
      if (facts.isDirectory() && depth > 1) await walk(at, depth - 1);
    }
  };
  await walk(root, 3);
  return `${lines.join('\n')}\n`;
}

/** GNU tar is on every system that this runs on, and reads what it wrote everywhere else. */
async function pack(folder: string, name: string, target: string): Promise<void> {
  const { code, output } = await run('tar', [
    '--create',
    '--gzip',
    '--owner=0',
    '--group=0',
    `--file=${target}`,
    `--directory=${folder}`,
    '--',
    name,
  ]);
  if (code === 0) return;
  await rm(target, { force: true });
  throw new DvceError('IO_FAILED', { what: 'writing', where: target, reason: output });
}

function run(
  program: string,
  words: readonly string[],
): Promise<{ readonly code: number | null; readonly output: string }> {
  const child = spawn(program, words, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { LC_ALL: 'C', PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' },
    timeout: limits.bundleProgramMs,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (bytes: Buffer) => {
      output = (output + bytes.toString('utf8')).slice(0, 4096);
    });
  return new Promise((resolve) => {
    child.on('error', (error) => resolve({ code: null, output: error.message }));
    child.on('close', (code) => resolve({ code, output: output.trim() }));
  });
}

const nothing = (): undefined => undefined;

async function names(path: string): Promise<string[]> {
  return await readdir(path).catch(() => []);
}

async function found(
  path: string,
): Promise<
  (Awaited<ReturnType<typeof stat>> & { size: number; mode: number; mtime: Date }) | undefined
> {
  try {
    return await stat(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
