/** Routes of the settings. */

import Type from 'typebox';
import { ConfigReload, ref, SettingList } from '../../api/schema/index.ts';
import { DvceError } from '../../base/index.ts';
import type { Agent } from '../agent.ts';
import type { Settings } from '../settings.ts';
import { answers, dryRunQuery, planAnswer, planned, type Server } from './types.ts';

export function configRoutes(server: Server, agent: Agent): void {
  server.get(
    '/v1/config',
    {
      schema: {
        operationId: 'listSettings',
        tags: ['host'],
        summary: 'List the settings that the agent runs with, and where each comes from',
        response: answers({ 200: ref(SettingList) }),
      },
    },
    async () => ({
      settings: settingsOf(agent).all.map(({ name, value, spec, origin }) => ({
        name,
        value: value ?? null,
        reload: spec.reload === true,
        origin: { ...origin },
      })),
    }),
  );

  server.post(
    '/v1/config/reload',
    {
      config: { role: 'admin' },
      schema: {
        operationId: 'reloadConfig',
        tags: ['host'],
        summary: 'Read the configuration again',
        querystring: Type.Object({ ...dryRunQuery }),
        response: answers({ ...planAnswer, 201: ref(ConfigReload) }),
      },
    },
    async ({ query }, reply) => {
      const settings = settingsOf(agent);
      if (query.dryRun === true) {
        const { applied, waiting } = await settings.compare();
        const resource = '/v1/config';
        return planned(reply, [
          ...applied.map((detail) => ({ action: 'change' as const, resource, detail })),
          ...waiting.map((name) => ({
            action: 'keep' as const,
            resource,
            detail: `${name}, until the next start`,
          })),
        ]);
      }
      const { applied, waiting } = await settings.reload();
      return reply.code(201).send({ applied: [...applied], waiting: [...waiting] });
    },
  );
}

/** An agent inside of a test or generator has no files to read. */
function settingsOf({ settings }: Agent): Settings {
  if (settings !== undefined) return settings;
  throw new DvceError('UNSUPPORTED', {
    what: 'the configuration',
    reason: 'this agent was started without one',
    advice: '',
  });
}
