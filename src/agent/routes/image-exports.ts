/** The content of a volume as a stream. */
import Type from 'typebox';
import { urls } from '../../api/index.ts';
import { nameText, word } from '../../api/schema/index.ts';
import type { Agent } from '../agent.ts';
import { answers, pathParams, type Server } from './types.ts';

const sparseType = 'application/vnd.dvce.sparse';
const binary = Type.String({ format: 'binary' });

export function imageExportRoutes(server: Server, { imageExports }: Agent): void {
  server.get(
    '/v1/volumes/:path/content',
    {
      // Reading everything is more than looking.
      config: { role: 'operator' },
      schema: {
        operationId: 'exportVolume',
        tags: ['volumes'],
        summary:
          'The content of a volume, snapshot or image as a file; the header Location names the operation, whose result has the digest',
        params: pathParams,
        querystring: Type.Object({
          snapshot: Type.Optional(nameText('This snapshot; else the content now.')),
          format: Type.Optional(word(['raw', 'qcow2'], 'raw when not given.')),
          framing: Type.Optional(
            word(['plain', 'sparse'], 'sparse: frames that leave out zeros; plain when not given.'),
          ),
        }),
        response: answers({
          200: {
            description: 'The file.',
            content: { 'application/octet-stream': { schema: binary } },
          },
        }),
      },
    },
    async ({ params: { path }, query }, reply) => {
      const { snapshot, format = 'raw', framing = 'plain' } = query;
      const { operation, content } = await imageExports.begin({ path, snapshot, format, framing });
      return reply
        .header('location', urls.operation(operation.id))
        .type(framing === 'sparse' ? sparseType : 'application/octet-stream')
        .send(content);
    },
  );
}
