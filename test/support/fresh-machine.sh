#!/bin/bash
# A Debian without Node in a directory, and in it a clean clone of this project that is used as its README says.
#
#   fresh-machine.sh DIRECTORY
#
# Says `@ ok NAME` or `@ not ok NAME: WHY` for each step and `@ end` as the last line; everything else is for reading. Needs root,
# mmdebstrap, the package sources of this machine and the npm registry. What is started in there ends with this program: it is
# the first process of a namespace of its own.
set -uo pipefail
if [ "${FRESH_MACHINE_INSIDE:-}" = '' ]; then
  exec env FRESH_MACHINE_INSIDE=yes unshare --mount --pid --fork --kill-child --propagation private -- "$0" "$@"
fi
project=$(cd "$(dirname "$0")/../.." && pwd)
directory=$1
root=$directory/root
log=$directory/log
export LC_ALL=C PATH=$PATH:/usr/sbin:/sbin
registry=$(npm config get registry 2>/dev/null)

step() { # NAME COMMAND...: the command must work
  local name=$1 from=$SECONDS; shift
  if "$@" >"$log" 2>&1; then
    echo "@ ok $name"
  else
    echo "@ not ok $name: exit $?"
    grep -A 12 '^ *FAIL' "$log" | head -n 60 | cut -c1-300
    tail -n 40 "$log" | cut -c1-300
  fi
  echo "$((SECONDS - from)) s, last words: $(tail -n 1 "$log" | cut -c1-400)"
}

debian() {
  local settings=() sources=() line file
  . /etc/os-release
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    if [ -s "$file" ]; then sources+=("$file"); fi
  done
  while read -r line; do settings+=(--aptopt="$line"); done \
    < <(apt-config dump | grep -E '^Acquire::(http|https|Check)[^ ]* "..*";$' || true)
  mmdebstrap --quiet --mode=root --variant=minbase "${settings[@]}" --include=ca-certificates \
    "$VERSION_CODENAME" "$root" "${sources[@]}" &&
    cp -L /etc/resolv.conf "$root/etc/resolv.conf" &&
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt" &&
    mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --rbind -o ro /sys "$root/sys"
}

# Nothing of this machine's environment but the way to its registry.
inside() {
  local variables=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TMPDIR=/tmp)
  variables+=("npm_config_registry=$registry" NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt)
  variables+=(npm_config_cafile=/etc/ssl/certs/ca-certificates.crt)
  local name
  for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    if [ -n "${!name:-}" ]; then variables+=("$name=${!name}"); fi
  done
  env -i "${variables[@]}" chroot "$root" /bin/sh -c "cd /src/dvce && $1"
}

no_node() { inside '! command -v node && ! command -v npm && ! command -v qemu-system-x86_64'; }
clone() { git clone --quiet --no-hardlinks --no-local "$project" "$root/src/dvce" && [ ! -e "$root/src/dvce/node_modules" ]; }
quickstart() { inside 'scripts/quickstart.sh --json' && tail -n 1 "$log" | grep '"ok":true'; }
suites() { inside 'scripts/test.sh --only checks --only unit'; }
is_clean() { inside 'git status --porcelain' && [ ! -s "$log" ]; }

step 'a Debian is built' debian
step 'the project is cloned' clone
step 'it has neither Node nor QEMU' no_node
step 'quickstart: from nothing to a virtual machine whose lost data is back' quickstart
step 'the checks and the unit tests pass' suites
step 'nothing in the clone has changed' is_clean
echo '@ end'
