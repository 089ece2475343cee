/** The configuration file as JSON Schema, for editors and for whoever writes one by a program. */
import Type, { type TSchema } from 'typebox';
import { type SettingSpec, settings, variableOf } from './settings.ts';

function schemaOf(name: string, spec: SettingSpec): TSchema {
  const notes = [
    spec.text,
    ...(spec.otherwise === undefined ? [] : [`Without it: ${spec.otherwise}.`]),
    spec.reload === true ? 'Taken over by "dvce config reload".' : 'Needs a restart.',
    `Environment: ${variableOf(name)}.`,
  ];
  const about = {
    description: notes.join(' '),
    ...(spec.default === undefined ? {} : { default: spec.default }),
  };
  switch (spec.kind) {
    case 'count':
      return Type.Integer({ minimum: spec.min ?? 0, maximum: spec.max ?? 1e9, ...about });
    case 'switch':
      return Type.Boolean(about);
    case 'choice':
      return Type.Unsafe<string>({ type: 'string', enum: [...(spec.choices ?? [])], ...about });
    case 'size':
      return Type.String({
        pattern: '^\\d+(\\.\\d+)?\\s*([KMGTkmgt]?([iI][bB])?|[bB])$',
        ...about,
      });
    case 'duration':
      return Type.String({ pattern: '^\\d+(\\.\\d+)?\\s*(ms|s|m|min|h|d)$', ...about });
    case 'address':
      return Type.String({ pattern: ':\\d{1,5}$', ...about });
    case 'path':
      return Type.String({ pattern: '^/', ...about });
    default:
      return Type.String({ minLength: 1, ...about });
  }
}

export function configurationSchema(): object {
  const sections = Object.entries(settings).map(([section, keys]) => {
    const fields = Object.entries(keys as Readonly<Record<string, SettingSpec>>).map(
      ([key, spec]) => [key, Type.Optional(schemaOf(`${section}.${key}`, spec))] as const,
    );
    const group = Type.Object(Object.fromEntries(fields), { additionalProperties: false });
    return [section, Type.Optional(group)] as const;
  });
  return {
    $schema: 'https://json-schema.org/draft/2020-12/schema',
    $id: 'urn:dvce:schema:config',
    title: 'dvce.yaml',
    ...Type.Object(Object.fromEntries(sections), { additionalProperties: false }),
  };
}
