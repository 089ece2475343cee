/** `dvce status`, `doctor`, `api`, `version`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Doctor, HealthCause, Method, Status } from '../../api/index.ts';
import { DvceError, exitCodes, systemCode } from '../../base/errors.ts';
import type { Context } from '../context.ts';
import { orDash, size, time } from '../format.ts';
import { usageError } from '../output.ts';
import type { Run } from '../spec.ts';

/** What is wrong, since when, what to do. */
const causeFacts = ({ severity, text, since, advice }: HealthCause): [string, string][] => [
  [severity, `${text} (since ${time(since)})`],
  ['', advice],
];

const statusFacts = (status: Status): readonly (readonly [string, string])[] => [
  ['health', status.health],
  ...status.causes.flatMap(causeFacts),
  ['agent', `${status.version}, process ${status.pid}, since ${time(status.startedAt)}`],
  ['data directory', status.dataDirectory],
  ...(status.blockd === null
    ? ([['blockd', 'does not answer']] as const)
    : blockdFacts(status.blockd)),
  ['VMs', `${status.vms.total}, ${status.vms.running} running, ${status.vms.crashed} crashed`],
  ['operations', `${status.operations.running} running`],
];

const blockdFacts = (
  blockd: NonNullable<Status['blockd']>,
): readonly (readonly [string, string])[] => [
  ['blockd', `${blockd.version}, process ${blockd.pid}, since ${time(blockd.startedAt)}`],
  ['node', blockd.node],
  [
    'store',
    `${blockd.store}, ${size(blockd.storeFreeBytes)} free of ${size(blockd.storeTotalBytes)}`,
  ],
  ['NBD socket', blockd.nbdSocket],
  ['NBD TCP', orDash(blockd.nbdTcp)],
  ['open volumes', `${blockd.openVolumes}, ${blockd.workers} workers`],
];

export const status: Run = async (context) => {
  const { api, output } = context;
  const now = await api.status();
  output.show(now, statusFacts(now));
  if (now.health !== 'ok') context.setExitCode(exitCodes.unhealthy);
};

/** Ask the agent; when there is none, run the same checks in a process of its own. */
async function examine(context: Context): Promise<Doctor> {
  try {
    return await context.api.doctor();
  } catch (error) {
    if (!(error instanceof DvceError && error.code === 'AGENT_UNAVAILABLE')) throw error;
    const { runDoctor } = await import('../processes.ts');
    return runDoctor(context);
  }
}

export const doctor: Run = async (context) => {
  const { output } = context;
  const result = await examine(context);
  if (!result.ok) context.setExitCode(exitCodes.unhealthy);
  if (output.json) return output.object(result);
  await output.list(result.findings, ({ name, result: found }) => `${name} ${found}`, [
    { title: 'check', value: ({ name }) => name },
    { title: 'result', value: ({ result: found }) => found },
    { title: 'detail', value: ({ detail }) => detail },
  ]);
  for (const { name, advice } of result.findings)
    if (advice !== null) output.note(`${name}: ${advice}`);
};

/** `TEXT`, `@FILE`, or `-` and `@-` for standard input. */
async function bodyOf(text: string, input: NodeJS.ReadStream): Promise<unknown> {
  let json = text;
  if (text === '-' || text === '@-') {
    const parts: Buffer[] = [];
    for await (const part of input as AsyncIterable<Buffer>) parts.push(part);
    json = Buffer.concat(parts).toString('utf8');
  } else if (text.startsWith('@')) json = readBody(text.slice(1));
  try {
    return JSON.parse(json);
  } catch (error) {
    throw usageError('the body', 'it is not JSON', `For example --data '{"name":"x"}'.`, error);
  }
}

function readBody(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw new DvceError('NOT_FOUND', { kind: 'file', name: path }, error);
  }
}

export const api: Run = async ({ api: client, output, input }, given) => {
  const body = given.text('data') ?? given.text('body');
  const path = given.argument('path');
  if (!path.startsWith('/') || /\p{Cc}|\s/u.test(path))
    throw usageError('the path', 'it is no path of the API', 'For example /v1/volumes.');
  const answer = await client.http.request(
    given.argument('method') as Method,
    path,
    body === undefined ? {} : { body: await bodyOf(body, input) },
  );
  if (answer.location !== undefined) output.note(`Location: ${answer.location}`);
  if (typeof answer.body === 'string') output.raw(answer.body);
  else if (answer.body !== undefined) output.object(answer.body);
};

export const version: Run = async ({ api: client, output, programRoot }) => {
  const own = JSON.parse(readFileSync(join(programRoot, 'package.json'), 'utf8')) as {
    version: string;
  };
  const agent = await client.status().catch((error: unknown) => {
    if (error instanceof DvceError && error.code === 'AGENT_UNAVAILABLE') return null;
    throw error;
  });
  const value = {
    dvce: own.version,
    node: process.versions.node,
    agent: agent?.version ?? null,
    blockd: agent?.blockd?.version ?? null,
  };
  output.show(value, [
    ['dvce', value.dvce],
    ['node', value.node],
    ['agent', value.agent ?? 'does not run'],
    ['blockd', value.blockd ?? 'does not run'],
  ]);
};
