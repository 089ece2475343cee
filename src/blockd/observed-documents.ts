/** Documents of which somebody wants to know every change, so that what is remembered of them can be forgotten. */
import type { Documents } from '../hlfs/index.ts';

/** Documents that tell of every change before its caller hears of it. */
export function observed(documents: Documents, changed: (key: string) => void): Documents {
  const told = async <T>(key: string, change: Promise<T>): Promise<T> => {
    try {
      return await change;
    } finally {
      changed(key);
    }
  };
  return {
    read: (key) => documents.read(key),
    names: (prefix) => documents.names(prefix),
    create: (scope, key, value) => told(key, documents.create(scope, key, value)),
    replace: (scope, key, version, value) =>
      told(key, documents.replace(scope, key, version, value)),
    delete: (scope, key, version) => told(key, documents.delete(scope, key, version)),
    purge: (key) => told(key, documents.purge(key)),
  };
}
