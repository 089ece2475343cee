/**
 * Examples in Markdown: fenced blocks marked `sh test` (a script) or `console test` (a transcript, whose commands are the
 * lines that start with `$ `), with what they need and how long they may take.
 *
 *     ```sh test needs=qemu-io,nbdinfo limit=120
 */
export interface Example {
  readonly page: string;
  readonly line: number;
  readonly script: string;
  readonly needs: readonly string[];
  readonly limitMs: number;
}

const limitMsDefault = 60_000;

const commandsIn = (transcript: string): string =>
  [...transcript.matchAll(/^\$ (.+)$/gm)].map((match) => match[1]).join('\n');

export function examplesIn(page: string, markdown: string): Example[] {
  return [...markdown.matchAll(/^```(sh|console) test([^\n]*)\n([\s\S]*?)^```$/gm)].map((match) => {
    const words = new Map(
      (match[2] ?? '')
        .trim()
        .split(/\s+/)
        .filter((word) => word !== '')
        .map((word) => word.split('=') as [string, string]),
    );
    for (const word of words.keys())
      if (word !== 'needs' && word !== 'limit') throw new Error(`${page}: unknown word ${word}`);
    const limit = words.get('limit');
    return {
      page,
      line: markdown.slice(0, match.index).split('\n').length,
      script: match[1] === 'sh' ? (match[3] ?? '') : commandsIn(match[3] ?? ''),
      needs: words.get('needs')?.split(',') ?? [],
      limitMs: limit === undefined ? limitMsDefault : Number(limit) * 1000,
    };
  });
}
