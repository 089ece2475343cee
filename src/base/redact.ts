/**
 * Taking secrets out of texts and objects that leave the place where they were given: log lines, stored errors, support bundles.
 *
 * This is the second door. The first is that secrets are not put there; what comes here is what a message of somebody else
 * (a program, a library, a URL in an error) carried along. It rather takes out too much than too little.
 */

const shown = '***';

/** `scheme://user:password@host`: also where the password has an `@` in it. */
const userInformation = /\b([a-z][a-z0-9+.-]*:\/\/)[^\s/"'<>\\]*@/gi;
/** The host goes too when it is not clear where the password ends. */
const slashedUserInformation = /\b([a-z][a-z0-9+.-]*:\/\/)[^\s/"'<>\\:@]*:[^\s"'<>\\@?#]*@/gi;
/** An address that was taken for a path and lost a slash, as path functions do it. */
const pathLikeUserInformation = /\b((?:https?|ftps?|nbds?(?:\+\w+)?):\/)(?!\/)[^\s"'<>\\]*@/gi;
const secretWord =
  '(?:pass(?:word|wd|phrase)?|secret|token|credentials?|authorization|cookie|signature|sig|api[_-]?key|access[_-]?key|private[_-]?key)';
const queryValue = new RegExp(`([?&][^=&\\s"]*${secretWord}[^=&\\s"]*=)[^&\\s"'<>\\\\]+`, 'gi');
const bearer = /\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}/gi;
/** Tokens of the API: `dvce_ID_SECRET`. The id is no secret. */
const apiToken = /\bdvce_([A-Za-z0-9]{1,32})_[A-Za-z0-9_-]{16,}/g;
/** Up to its end, or to the end of a text that was cut. */
const privateKey =
  /-----BEGIN ([A-Z ]*)PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g;
const secretMember = new RegExp(
  `("(?:[a-z0-9_-]*${secretWord}|user-?_?data|network-?_?config)"\\s*:\\s*)"(?:[^"\\\\]|\\\\.)*"?`,
  'gi',
);

/** The text with `***` for what is, or looks like, a secret. */
export function maskSecrets(text: string): string {
  return text
    .replace(privateKey, `-----BEGIN $1PRIVATE KEY----- ${shown}`)
    .replace(userInformation, `$1${shown}@`)
    .replace(slashedUserInformation, `$1${shown}@`)
    .replace(pathLikeUserInformation, `$1${shown}@`)
    .replace(queryValue, `$1${shown}`)
    .replace(bearer, `$1 ${shown}`)
    .replace(apiToken, `dvce_$1_${shown}`)
    .replace(secretMember, `$1"${shown}"`);
}

const secretName = new RegExp(
  `^(?:[a-z0-9_-]*${secretWord}|user-?_?data|network-?_?config|hash|vendor-?_?data)$`,
  'i',
);

/** A copy of plain JSON values in which members with the name of a secret have none. */
export function withoutSecrets(value: unknown): unknown {
  if (typeof value === 'string') return maskSecrets(value);
  if (Array.isArray(value)) return value.map(withoutSecrets);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      name,
      secretName.test(name) && inner !== null && typeof inner !== 'boolean'
        ? shown
        : withoutSecrets(inner),
    ]),
  );
}
