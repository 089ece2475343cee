/** What the agent needs of blockd: its calls. `BlockdClient` is one; tests put failures in between. */
import type { CallOptions, ControlMethod, ControlParams, ControlResult } from '../blockd/index.ts';

export interface DataProcess {
  call<M extends ControlMethod>(
    method: M,
    params: ControlParams<M>,
    options?: CallOptions,
  ): Promise<ControlResult<M>>;
}
