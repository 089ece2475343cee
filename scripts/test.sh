#!/bin/sh
# The test command: install what is missing, then run the suites of scripts/test/suites.ts in order.
#
#   scripts/test.sh [--all] [--only SUITE] [--list] [--no-install] [test files]
#
# It works on a bare machine with Node 20 and npm: the Node that runs dvce comes with `npm ci`. As root on Debian or Ubuntu
# it installs the tools that the system tests need; elsewhere those tests are skipped by name and counted.
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

# npm writes node_modules/.package-lock.json last, so an older one means another lock or an installation cut short.
if [ "$install" = yes ] && [ ! node_modules/.package-lock.json -nt package-lock.json ]; then
  if ! command -v npm >/dev/null 2>&1; then
    echo "npm was not found; install Node 20 or newer with npm" >&2
    exit 69
  fi
  echo "npm ci"
  npm ci --no-audit --no-fund --loglevel=error || exit 1
  touch node_modules/.package-lock.json
fi

PATH=$PWD/node_modules/.bin:$PATH
export PATH
exec node --disable-warning=ExperimentalWarning scripts/test.ts "$@"
