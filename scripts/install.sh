#!/bin/sh
# Install the locked npm packages, among them the Node that runs dvce; does nothing when they are there.
#
#   scripts/install.sh
#
# Any npm will do: where it is missing it is installed as root on Debian and Ubuntu. npm leaves out optional packages that
# do not fit the Node that it runs on, silently, so with an older Node the locked one is fetched first and npm runs on that.
set -u
cd -- "$(dirname -- "$0")/.." || exit 70

# npm writes node_modules/.package-lock.json last, so an older one means another lock or an installation cut short.
[ ! node_modules/.package-lock.json -nt package-lock.json ] || exit 0

if ! command -v npm >/dev/null 2>&1; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "npm was not found; install Node.js with npm" >&2
    exit 69
  fi
  echo "installing npm"
  apt-get update -q >/dev/null 2>&1
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends npm ca-certificates >/dev/null || exit 1
fi

oldest=22
major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null)
if [ "${major:-0}" -lt $oldest ]; then
  case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) arch= ;; esac
  [ -n "$arch" ] || { echo "this machine needs Node $oldest or newer; it has ${major:-none}" >&2; exit 69; }
  version=$(npm pkg get "optionalDependencies.node-linux-$arch" | tr -d '"')
  first=$(mktemp -d) || exit 70
  trap 'rm -rf "$first"' EXIT
  trap 'exit 130' INT TERM
  echo "fetching Node $version"
  npm install --prefix "$first" --no-save --no-audit --no-fund --loglevel=error "node-linux-$arch@$version" >/dev/null || exit 1
  PATH=$first/node_modules/node-linux-$arch/bin:$PATH
  NODE_OPTIONS=--no-deprecation     # those of an old npm
  export PATH NODE_OPTIONS
fi

echo "npm ci"
npm ci --no-audit --no-fund --loglevel=error || exit 1
touch node_modules/.package-lock.json
