/** What VMs and volumes have used so far; whoever wants rates looks twice. */
import Type, { type Static } from 'typebox';
import { nullable, ref } from './common.ts';

const counter = (description: string) => Type.Number({ minimum: 0, description });

export const Usage = Type.Object(
  {
    atMs: counter('When, on a clock that only runs forward.'),
    vms: Type.Array(
      Type.Object({
        name: Type.String(),
        phase: Type.String(),
        cpus: Type.Integer(),
        memoryBytes: counter('Memory that the guest was given.'),
        pid: nullable(Type.Integer()),
        cpuMs: nullable(Type.Number(), {
          description: 'Processor time of its hypervisor; null: does not run.',
        }),
        residentBytes: nullable(Type.Number(), { description: 'Memory of its hypervisor in use.' }),
        volumes: Type.Array(Type.String(), { description: 'Paths of its disks.' }),
      }),
    ),
    volumes: Type.Array(
      Type.Object({
        path: Type.String(),
        vm: nullable(Type.String(), { description: 'VM that has it as a disk.' }),
        reads: counter('Requests since opened.'),
        writes: counter('Requests since opened.'),
        flushes: counter('Requests since opened.'),
        readBytes: counter('Since opened.'),
        writtenBytes: counter('Since opened.'),
        throttledMs: Type.Optional(
          counter('Time since opened in which requests waited for a limit.'),
        ),
        flushLagMs: counter('Age of the oldest flushed write that is not in the store yet.'),
      }),
      { description: 'The open ones.' },
    ),
  },
  { $id: 'Usage', description: 'Counters of everything that runs.' },
);
export type Usage = Static<typeof Usage>;

export const usageAnswer = { 200: ref(Usage) } as const;
