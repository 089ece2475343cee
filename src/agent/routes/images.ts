/** Routes of images. */
import {
  Catalogue,
  Image,
  ImageImport,
  ImageList,
  ImageUpdate,
  ref,
} from '../../api/schema/index.ts';
import type { Agent } from '../agent.ts';
import { operationAnswer, startedOperation } from './operations.ts';
import { answers, nameParams, none, type Server } from './types.ts';

export function imageRoutes(server: Server, { images }: Agent): void {
  server.get(
    '/v1/images',
    {
      schema: {
        operationId: 'listImages',
        tags: ['images'],
        summary: 'List images',
        response: answers({ 200: ref(ImageList) }),
      },
    },
    async () => ({ images: await images.list() }),
  );

  server.post(
    '/v1/images',
    {
      schema: {
        operationId: 'importImage',
        tags: ['images'],
        summary: 'Import an image from a file of this host, an address or the catalogue',
        body: ImageImport,
        response: answers(operationAnswer),
      },
    },
    async ({ body }, reply) => startedOperation(reply, await images.import(body)),
  );

  server.get(
    '/v1/image-catalogue',
    {
      schema: {
        operationId: 'listCatalogue',
        tags: ['images'],
        summary: 'List the images that can be imported by name',
        response: answers({ 200: ref(Catalogue) }),
      },
    },
    async () => ({ images: await images.catalogue() }),
  );

  server.patch(
    '/v1/images/:name',
    {
      schema: {
        operationId: 'updateImage',
        tags: ['images'],
        summary: 'Change labels and protection of an image',
        params: nameParams,
        body: ImageUpdate,
        response: answers({ 200: ref(Image) }),
      },
    },
    async ({ params, body }) => images.update(params.name, body),
  );

  server.get(
    '/v1/images/:name',
    {
      schema: {
        operationId: 'getImage',
        tags: ['images'],
        summary: 'Show an image',
        params: nameParams,
        response: answers({ 200: ref(Image) }),
      },
    },
    async ({ params }) => images.get(params.name),
  );

  server.delete(
    '/v1/images/:name',
    {
      schema: {
        operationId: 'deleteImage',
        tags: ['images'],
        summary: 'Delete an image; volumes cloned from it stay whole',
        params: nameParams,
        response: answers({ 204: none }),
      },
    },
    async ({ params }, reply) => {
      await images.delete(params.name);
      return reply.code(204).send(null);
    },
  );
}
