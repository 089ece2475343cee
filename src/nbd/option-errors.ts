/** Which option error tells a client what the error table means. */
import { DvceError } from '../base/index.ts';
import { optionErrors } from './constants.ts';

const openingInPlainText = 'opening this export without TLS';

/** The refusal that is answered as ERR_TLS_REQD. */
export const tlsNeeded = (): DvceError =>
  new DvceError('NOT_ALLOWED', {
    what: openingInPlainText,
    reason: 'this export is served over TLS only',
    advice: 'Connect with TLS.',
  });

export function optionErrorFor(error: DvceError): number {
  if (error.context['what'] === openingInPlainText) return optionErrors.tlsRequired;
  if (error.code === 'NOT_FOUND') return optionErrors.unknown;
  if (error.code === 'VOLUME_CLOSED' || error.code === 'BLOCKD_UNAVAILABLE')
    return optionErrors.shutdown;
  if (error.httpStatus === 400) return optionErrors.invalid;
  return error.httpStatus < 500 ? optionErrors.policy : optionErrors.platform;
}
