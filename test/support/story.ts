/** Stories told by a program elsewhere, as in an emulated machine: each line `@ ok NAME` or `@ not ok NAME: WHY` is a test. */
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import type { Test } from 'tap';

export interface Story {
  /** What was said before `@ end`; a story that breaks off has failed, whatever it said. */
  readonly steps: readonly string[];
  readonly ended: boolean;
}

/** Reads to the end of the stream; every other line is a comment. */
export async function readStory(t: Test, stream: Readable): Promise<Story> {
  const steps: string[] = [];
  let ended = false;
  for await (const raw of createInterface({ input: stream })) {
    const line = raw.trimEnd();
    const [, not, name] = /^@ (not )?ok (.*)/.exec(line) ?? [];
    if (name !== undefined) {
      steps.push(name);
      t.ok(not === undefined, name);
    } else if (line === '@ end') ended = true;
    else t.comment(line);
  }
  return { steps, ended };
}
