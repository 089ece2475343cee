/** The files of the project, as the checks see them: what git tracks or would track. */
import { execFileSync } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';

export interface TextFile {
  readonly path: string;
  readonly text: string;
}

/** Paths below `root` that are not ignored; without git (an unpacked archive) everything but dependencies and output. */
export function projectFiles(root: string): string[] {
  try {
    const listed = execFileSync(
      'git',
      ['ls-files', '-z', '--cached', '--others', '--exclude-standard'],
      { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
    );
    const paths = listed.split('\0').filter((path) => path !== '');
    return [...new Set(paths)].sort();
  } catch {
    return globSync('**/*', {
      cwd: root,
      exclude: ['node_modules/**', 'dist/**', '.tap/**', 'coverage/**'],
    }).sort();
  }
}

const binary = /\.(png|gz|zst|bin|qcow2|raw|seg|img|tgz|pem|der|webp)$/;

/** Text files among `paths`; a file deleted but still tracked is left out, and so is anything with a NUL byte. */
export function readTexts(root: string, paths: readonly string[]): TextFile[] {
  const files: TextFile[] = [];
  for (const path of paths) {
    if (binary.test(path)) continue;
    let text: string;
    try {
      text = readFileSync(`${root}/${path}`, 'utf8');
    } catch {
      continue;
    }
    if (!text.includes('\0')) files.push({ path, text });
  }
  return files;
}

/** TypeScript without comments and without the content of plain strings; line numbers stay. */
export function codeOf(text: string): string {
  const keepLines = (match: string): string => match.replace(/[^\n]/g, ' ');
  const token =
    /\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\[\s\S])*`/g;
  return text.replace(token, (match) => {
    if (match.startsWith('/')) return keepLines(match);
    // The code inside of a template's ${} stays.
    if (match.startsWith('`'))
      return match.replace(/(\$\{[^}]*\})|[^\n`]/g, (_, code: string | undefined) => code ?? ' ');
    return `'${keepLines(match.slice(1, -1))}'`;
  });
}

/** Position of `index` as a line number, from 1. */
export function lineAt(text: string, index: number): number {
  return text.slice(0, index).split('\n').length;
}
