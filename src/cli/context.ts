/** What a command gets: the API, the terminal, and the options that every command takes. */
import type { ApiClient } from '../api/index.ts';
import type { Output } from './output.ts';

export interface Context {
  readonly dataDirectory: string;
  readonly socketPath: string;
  /** Made at first use: some commands need no agent. */
  readonly api: ApiClient;
  readonly output: Output;
  /** Nothing may be changed: the API client asks the agent what it would do (plan.ts prints it). */
  readonly dryRun: boolean;
  readonly input: NodeJS.ReadStream;
  readonly environment: NodeJS.ProcessEnv;
  /** Root of the installed program, to start its other processes. */
  readonly programRoot: string;
  /** Exit code of a command that worked and still has bad news. */
  setExitCode(code: number): void;
}

/** Makes the context out of the global options. */
export type MakeContext = (
  globals: Readonly<Record<string, unknown>>,
  dryRun?: boolean,
  /** Say what is wrong with the configuration. */
  warn?: boolean,
) => Promise<Context>;
