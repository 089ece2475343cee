#!/bin/bash
# From nothing to a virtual machine whose lost data is back: the whole of dvce in one command.
#
#   scripts/quickstart.sh [--keep] [--dir DIRECTORY] [--json]
#
#   --keep   leave everything running and say how to go on
#   --dir    work there and leave the files (otherwise in a temporary directory that is removed)
#   --json   nothing but the last line on standard output, the rest on standard error
#
# It starts an agent on a store of its own, builds a small Linux image, imports it, clones it, boots the clone over NBD, lets the
# guest write and sync a file, takes a snapshot, wipes the guest's disk, rolls back, boots again and compares the file's
# checksum. Each step is printed with its time; the last line is JSON: {"ok":true,"steps":{"boot":4.1,...},...}. The exit
# status is 0 only when every step worked. What was started is stopped, however it ends.
#
# The steps after the image are plain `dvce` commands and work with any cloud image that boots through BIOS and has a shell on
# its serial console: import it instead and set `ready` to what its console shows when it is up, such as 'login:'.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd) || exit 70
keep=
given=
json=
while [ $# -gt 0 ]; do
  case $1 in
    --keep) keep=1; shift ;;
    --dir) given=${2:-}; [ -n "$given" ] || { echo "quickstart.sh: --dir needs a directory" >&2; exit 64; }; shift 2 ;;
    --json) json=1; shift ;;
    -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart.sh: unknown argument $1; see --help" >&2; exit 64 ;;
  esac
done
exec 3>&1                       # the JSON line
[ -z "$json" ] || exec 1>&2

vm=web1
disk=/vms/$vm/disk0
ready='demo guest ready'
file=/root/kept
steps=
current=start
failure=
checksum=
agent=                          # an agent may run and must be stopped
begun=$EPOCHREALTIME

# Waiting for a background job, unlike running a command, is interrupted by a signal.
dvce() { "$root/bin/dvce" --quiet "$@" >/dev/null & wait $!; }
case $(uname -m) in aarch64) arch=arm64 ;; *) arch=x64 ;; esac
node=$root/node_modules/node-linux-$arch/bin/node     # npm 9 makes no link to it in .bin
guest() { "$node" "$root/scripts/guest-shell.ts" --timeout "$1" "$vm" "$2"; }
since() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.2f", to - from }'; }
fail() { failure=$*; return 1; }
quoted() { printf '%s' "$1" | tr '\n\t' '  ' | sed 's/[\\"]/\\&/g'; }

sum_in() { grep -oE '^[0-9a-f]{64}' <<<"$1" | head -n 1; }

# step NAME TEXT FUNCTION: runs the function; the first failure ends the script.
step() {
  current=$1
  local from=$EPOCHREALTIME seconds
  printf '%-10s %s\n' "$1" "$2"
  "$3" || { failure=${failure:-step $1 failed, see above}; exit 1; }
  seconds=$(since "$from")
  steps+="${steps:+,}\"$1\":$seconds"
  printf '%10s %s s\n' '' "$seconds"
}

# Runs at every end: stops what was started, then prints the JSON line.
finish() {
  local status=$?
  trap '' INT TERM
  if [ "$status" = 0 ] && [ -n "$keep" ]; then
    explain
  elif [ -n "$agent" ]; then
    if [ "$status" != 0 ]; then "$root/bin/dvce" vm log "$vm" --tail 20 >&2 2>/dev/null; fi
    dvce vm stop "$vm" --force 2>/dev/null
    dvce down --force --timeout 30s
    if sweep; then
      [ -n "$given" ] || rm -rf "$directory"
    else
      failure="${failure:+$failure; }processes had to be killed; look at $directory"
      [ "$status" != 0 ] || status=1
    fi
  elif [ -z "$given" ] && [ -n "${directory:-}" ]; then
    rm -rf "$directory"
  fi
  local seconds; seconds=$(since "$begun")
  if [ "$status" = 0 ]; then
    echo "done in $seconds s"
    printf '{"ok":true,"steps":{%s},"seconds":%s,"sha256":"%s","kept":%s}\n' \
      "$steps" "$seconds" "$checksum" "$([ -n "$keep" ] && printf '"%s"' "$(quoted "$directory")" || echo null)" >&3
  else
    printf '{"ok":false,"failed":"%s","error":"%s","steps":{%s},"seconds":%s}\n' \
      "$current" "$(quoted "${failure:-interrupted}")" "$steps" "$seconds" >&3
  fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Every process of this run has the data directory among its arguments. None should be left; false when one was. Other
# programs that look at a file there (an editor, tail) are not touched.
sweep() {
  local process clean=0 tries
  for process in /proc/[0-9]*; do
    tries=0
    while ours "$process" && [ $tries -lt 30 ]; do tries=$((tries + 1)); sleep 0.1; done
    [ $tries -lt 30 ] || { kill -9 "${process#/proc/}" 2>/dev/null; clean=1; }
  done
  return $clean
}

ours() {
  grep -qs -- "$directory/data" "$1/cmdline" || return 1
  case $(readlink "$1/exe" 2>/dev/null) in */node|*/qemu-*) return 0 ;; *) return 1 ;; esac
}

explain() {
  cat <<TEXT

The agent and the guest keep running. Go on with:

  export DVCE_DATA_DIR=$(printf '%q' "$directory/data")
  $root/bin/dvce status
  $root/bin/dvce console $vm          # leave with Ctrl-]
  $root/bin/dvce snapshot tree $disk
  $root/bin/dvce down --stop-vms      # stops everything; then remove $directory
TEXT
}

prepare() {
  if [ ! -x "$node" ]; then
    "$root/scripts/install.sh" || { fail 'the npm packages could not be installed'; return 1; }
  fi
  local missing=()
  command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
  command -v qemu-img >/dev/null || missing+=(qemu-utils)
  if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
      fail "missing: ${missing[*]}; install as root: apt-get install --no-install-recommends ${missing[*]}"
      return 1
    fi
    echo "installing ${missing[*]}"
    apt-get update -q >/dev/null 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
      { fail "apt-get could not install ${missing[*]}"; return 1; }
  fi
  if [ -z "$given" ]; then
    directory=$(mktemp -d "${TMPDIR:-/tmp}/dvce-quickstart.XXXXXX") || return 1
  else
    mkdir -p "$given" && directory=$(cd "$given" && pwd) || return 1
    [ ! -e "$directory/data" ] || { fail "$directory/data exists; give another directory, or remove it"; return 1; }
  fi
  export DVCE_DATA_DIR=$directory/data
}

build_image() { image=$("$root/scripts/demo-image.sh") || fail "the image could not be built"; }

start_agent() {
  agent=1
  dvce up --timeout 30s
}

import_image() { dvce image import "$image" demo --timeout 120s; }

clone_image() {
  dvce vm create "$vm" --image demo --memory 192MiB --network none --ready-pattern "$ready"
}

boot() { dvce vm start "$vm" --ready --timeout 120s; }

write_file() {
  local answer
  answer=$(guest 60 "dd if=/dev/urandom of=$file bs=64k count=128 2>/dev/null && sync && sha256sum $file") ||
    { fail "the guest could not write: $answer"; return 1; }
  checksum=$(sum_in "$answer")
  [ -n "$checksum" ] || { fail "the guest printed no checksum: $answer"; return 1; }
  echo "           $checksum  $file"
}

snapshot() { dvce snapshot create "$disk@good"; }

# The disk under the running guest becomes zeros, boot loader and file systems included.
destroy() {
  guest 60 'dd if=/dev/zero of=/dev/vda bs=1M count=190 conv=fsync 2>/dev/null' >/dev/null ||
    { fail "the guest could not wipe its disk"; return 1; }
  dvce vm stop "$vm" --force
}

rollback() { dvce snapshot rollback "$disk@good" --yes; }

verify() {
  local answer found
  answer=$(guest 60 "sha256sum $file") || { fail "the guest could not read $file: $answer"; return 1; }
  found=$(sum_in "$answer")
  [ "$found" = "$checksum" ] || { fail "the file has checksum ${found:-none}, expected $checksum"; return 1; }
  echo "           $found  $file"
}

stop_guest() { [ -n "$keep" ] || dvce vm stop "$vm" --timeout 30s; }

step prepare 'look for what is needed' prepare
step image 'build a small Linux image from Debian packages' build_image
step agent 'start an agent with a store of its own' start_agent
step import 'import the image' import_image
step clone 'define a VM whose disk is a clone of it' clone_image
step boot 'boot the VM from its volume' boot
step write 'let the guest write and sync 8 MiB' write_file
step snapshot 'take a snapshot while it runs' snapshot
step destroy "wipe the guest's disk" destroy
step rollback 'roll back to the snapshot' rollback
step reboot 'boot again' boot
step verify 'compare the checksum' verify
step stop 'shut the guest down' stop_guest
