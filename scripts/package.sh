#!/bin/sh
# Make the Debian package and the npm tarball:
#
#   scripts/package.sh --out DIRECTORY [--version VERSION] [--only deb|npm]
#
# The same sources, locked packages and SOURCE_DATE_EPOCH (the time of the last commit unless given) make the same bytes. Prints
# a line with name, size and SHA-256 for each file. Needs dpkg-deb and, for what is missing in node_modules, npm.
set -u
root=$(cd -- "$(dirname -- "$0")/.." && pwd) || exit 70
"$root/scripts/install.sh" >&2 || exit # the lines on standard output are the files
case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) arch=unknown ;; esac
PATH=$root/node_modules/node-linux-$arch/bin:$root/node_modules/.bin:$PATH
export PATH
exec node --disable-warning=ExperimentalWarning "$root/scripts/package.ts" "$@"
