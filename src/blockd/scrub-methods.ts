/** Control methods on the background scrub. */
import { asVolumeId } from '../base/index.ts';
import { getVolume } from '../hlfs/index.ts';
import type { ControlHandlers } from './control-server.ts';
import type { NodeContext } from './node-context.ts';

export function scrubMethods({
  hlfs,
  view,
  scrubber,
}: NodeContext): Pick<ControlHandlers, 'scrub.status' | 'scrub.start' | 'scrub.pause'> {
  return {
    'scrub.status': () => scrubber.status(),
    'scrub.start': async ({ path }) => {
      const all = async () => (await view.list('/')).map(({ info }) => asVolumeId(info.id));
      scrubber.want(path === undefined ? await all() : [(await getVolume(hlfs, path)).id]);
      return scrubber.status();
    },
    'scrub.pause': async ({ paused }) => {
      await scrubber.setPaused(paused);
      return scrubber.status();
    },
  };
}
