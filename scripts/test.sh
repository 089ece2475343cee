#!/bin/sh
# The test command: install what is missing, then run the suites of scripts/test/suites.ts in order.
#
#   scripts/test.sh [--all] [--only SUITE] [--list] [--no-install] [test files]
#
# It works on a bare machine. The Node that runs dvce comes with `npm ci`, so any npm will do. As root on Debian or Ubuntu it
# installs npm and the tools that the system tests need; elsewhere npm has to be there, and the tests whose tools are missing
# are skipped by name and counted.
# The last line is `N passed, N failed[, N skipped]`; the exit status is 0 only when something passed and nothing failed.
set -u
cd -- "$(dirname -- "$0")/.." || exit 70

install=yes
tools=yes
for argument in "$@"; do
  case $argument in
    --no-install) install=no tools=no ;;
    --list) tools=no ;;
  esac
done

# A tool and the Debian package that has it. Libraries and files of packages are looked for by their path.
needed='
npm npm
git git
qemu-system-x86_64 qemu-system-x86
qemu-img qemu-utils
nbdinfo libnbd-bin
nbdcopy libnbd-bin
nbdkit nbdkit
fio fio
strace strace
/bin/busybox busybox-static
cpio cpio
depmod kmod
mke2fs e2fsprogs
openssl openssl
socat socat
'

missing_packages() {
  echo "$needed" | while read -r tool package; do
    [ -n "$tool" ] || continue
    PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null 2>&1 || echo "$package"
  done | sort -u | tr '\n' ' '
}

missing=$(missing_packages)
if [ -n "$missing" ] && [ "$tools" = yes ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing: $missing"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  # shellcheck disable=SC2086 -- a list of package names
  if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    echo "the installation failed; its last lines:" >&2
    tail -n 5 "$log" >&2
  fi
  rm -f "$log"
  missing=$(missing_packages)
fi
if [ -n "$missing" ]; then
  echo "not installed: $missing(tests that need them are skipped by name)"
fi

if [ "$install" = yes ]; then scripts/install.sh || exit; fi

# The Node of package node-linux-*, by its own path: npm 9 makes no link to it in .bin.
case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) arch=unknown ;; esac
PATH=$PWD/node_modules/node-linux-$arch/bin:$PWD/node_modules/.bin:$PATH
export PATH
exec node --disable-warning=ExperimentalWarning scripts/test.ts "$@"
