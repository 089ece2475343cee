/** Links of the documentation: a relative link leads to a file that exists, and its `#part` to a heading in it. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { lineAt, type TextFile } from './text.ts';
import type { Finding } from './tidy.ts';

/** The anchor that a heading gets: lower case, spaces to dashes, punctuation gone. */
export function anchorOf(heading: string): string {
  return heading
    .trim()
    .toLowerCase()
    .replace(/`/g, '')
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replace(/\s/g, '-');
}

function anchorsIn(markdown: string): Set<string> {
  const outsideCode = markdown.replace(/^```[\s\S]*?^```/gm, '');
  return new Set(
    [...outsideCode.matchAll(/^#{1,6} (.+)$/gm)].map((match) => anchorOf(match[1] ?? '')),
  );
}

/** @returns the links of a Markdown file that lead nowhere */
export function brokenLinks(root: string, file: TextFile): Finding[] {
  if (!file.path.endsWith('.md')) return [];
  const blank = (match: string): string => match.replace(/[^\n]/g, ' ');
  const prose = file.text.replace(/^```[\s\S]*?^```/gm, blank).replace(/`[^`\n]*`/g, blank);
  const findings: Finding[] = [];
  for (const match of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
    const target = match[1] ?? '';
    if (/^[a-z]+:/.test(target)) continue;
    const [path = '', anchor] = target.split('#');
    const place = path === '' ? file.path : normalize(join(dirname(file.path), path));
    const found = existsSync(join(root, place));
    const reached =
      found &&
      (anchor === undefined ||
        !place.endsWith('.md') ||
        anchorsIn(readFileSync(join(root, place), 'utf8')).has(anchor));
    if (!reached)
      findings.push({
        rule: 'link',
        path: file.path,
        line: lineAt(file.text, match.index),
        detail: `${target} leads nowhere`,
      });
  }
  return findings;
}
