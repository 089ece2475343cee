/** The part of fs-native-extensions that dvce uses; the package brings no types. */
declare module 'fs-native-extensions' {
  /** Lock the whole file for this descriptor (open file description lock). @returns false when another one holds it */
  export function tryLock(fd: number): boolean;
}
