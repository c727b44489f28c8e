#!/usr/bin/env bash
# Builds Telemesh and starts the whole mesh on this machine. With no arguments
# a simulated fleet sends to it, and whoever uses this machine may enter its portal;
# with arguments they are those of `telemesh up`.
# Ctrl-C stops it, the next start goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/need.sh
need_build

hack/portal.sh
mkdir -p .cache
echo "building telemesh (the first time takes some minutes)" >&2
CGO_ENABLED=1 go build -trimpath -o .cache/telemesh ./cmd/telemesh
if [ $# = 0 ]; then
  set -- --simulate --demo
fi
exec .cache/telemesh up "$@"
