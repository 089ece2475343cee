/**
 * Scenario 11 [H], the documents' part: promote against deletion of what goes over, of either volume, clones, readers, rollback and
 * another promote (G4). Afterwards each snapshot belongs to one volume, and every pin is where it is needed.
 */
import t from 'tap';
import {
  cleanUp,
  clone,
  dropVolume,
  hold,
  promote,
  raceAll,
  removeSnapshot,
  rollback,
  trash,
} from '../support/catalog-race.ts';

raceAll(
  t,
  {
    'G4 clone of what goes over, promote': [clone('/a', 's', '/c'), promote('/m')],
    'G4 promote, deletion of a snapshot that goes over': [promote('/m'), removeSnapshot('/a', 'q')],
    'G4 promote, deletion of the parent': [promote('/m'), dropVolume('/a')],
    'G4 promote, deletion of the clone': [promote('/m'), dropVolume('/m')],
    'G4 promote, the parent into the trash': [promote('/m'), trash('/a')],
    'G4 promote, rollback of the parent': [promote('/m'), rollback('/a', 'q')],
    'G4 promote, reader': [promote('/m'), hold('/a', 's')],
    'G4 promote twice': [promote('/m'), promote('/m')],
    'G4 promote, reaper': [promote('/m'), cleanUp],
  },
  8,
);
