/** The snapshot tree of a volume as text, oldest first, with the place where the volume stands now. */
import type { Snapshot } from '../api/index.ts';
import { time } from './format.ts';

interface Node {
  readonly text: string;
  readonly children: Node[];
}

export function drawTree(path: string, snapshots: readonly Snapshot[]): string {
  const root: Node = { text: path, children: [] };
  const nodes = new Map(
    snapshots.map((one) => [one.name, { text: titleOf(one), children: [] } as Node]),
  );
  const byAge = [...snapshots].sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1));
  for (const { name, parent } of byAge) {
    const node = nodes.get(name);
    // A parent that is not listed (deleted) leaves its children at the root.
    if (node !== undefined) (nodes.get(parent ?? '') ?? root).children.push(node);
  }
  const here = byAge.findLast(({ current }) => current)?.name;
  (nodes.get(here ?? '') ?? root).children.push({ text: '* now', children: [] });
  const lines = [root.text];
  drawChildren(root, '', lines);
  return `${lines.join('\n')}\n`;
}

function titleOf(snapshot: Snapshot): string {
  const notes = [
    time(snapshot.createdAt),
    ...(snapshot.protected ? ['protected'] : []),
    ...(snapshot.clones === 1
      ? ['1 clone']
      : snapshot.clones > 1
        ? [`${snapshot.clones} clones`]
        : []),
  ];
  return `${snapshot.name}  ${notes.join(', ')}`;
}

function drawChildren(node: Node, indent: string, lines: string[]): void {
  node.children.forEach((child, at) => {
    const last = at === node.children.length - 1;
    lines.push(`${indent}${last ? '└─ ' : '├─ '}${child.text}`);
    drawChildren(child, `${indent}${last ? '   ' : '│  '}`, lines);
  });
}
