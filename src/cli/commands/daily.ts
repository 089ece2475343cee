/** `dvce launch`: `vm create --image --start` in the order in which one says it. */
import { Given, type Run } from '../spec.ts';
import { create } from './vm.ts';

export const launch: Run = async (context, given) => {
  const more = { image: given.argument('image'), start: true };
  await create(context, new Given(['name'], [given.argument('name')], given.options(more)));
};
