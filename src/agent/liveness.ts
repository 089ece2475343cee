/** Whether the agent answers: a request through the door that everybody uses, so that a stuck one does not call itself well. */
import { get } from 'node:http';
import { limits, type Timers } from '../base/index.ts';

export function answersItself(socketPath: string, timers: Timers): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const request = get({ socketPath, path: '/livez', agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    const timer = timers.after(limits.controlHelloMs, () =>
      request.destroy(new Error(`no answer within ${limits.controlHelloMs} ms`)),
    );
    request.on('error', reject);
    request.on('close', () => timer.cancel());
  });
}
