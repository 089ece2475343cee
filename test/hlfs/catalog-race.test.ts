/**
 * Scenario 11 [H], the documents' part: clone against snapshot delete, against rollback, against a reader. Either the clone
 * exists and its pins protect it, or it does not exist and left nothing.
 */
import t from 'tap';
import {
  cleanUp,
  clone,
  hold,
  raceAll,
  removeSnapshot,
  rollback,
} from '../support/catalog-race.ts';

raceAll(
  t,
  {
    'clone of the middle, deletion of its snapshot': [
      clone('/m', 'm', '/c'),
      removeSnapshot('/m', 'm'),
    ],
    'clone of the origin, deletion of its snapshot': [
      clone('/a', 'q', '/c'),
      removeSnapshot('/a', 'q'),
    ],
    'rollback, deletion of the snapshot': [rollback('/m', 'm'), removeSnapshot('/m', 'm')],
    'reader, deletion of the snapshot': [hold('/m', 'm'), removeSnapshot('/m', 'm')],
    'deletion of a snapshot, reaper': [removeSnapshot('/m', 'm'), cleanUp],
  },
  100,
);
