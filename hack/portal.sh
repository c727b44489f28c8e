#!/usr/bin/env bash
# Builds the scripts of the portal, if they changed, to where ko and the telemesh
# command take them from. Without them its pages have no charts.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/need.sh
need_node

source=internal/portal/web
built=functions/portal/kodata/assets
made=$(cat hack/portal.sh "$source"/{package.json,package-lock.json,tsconfig.json} "$source"/src/* | sha256sum | cut -d ' ' -f 1)
mkdir -p .cache
[ "$made" != "$(cat .cache/portal 2>/dev/null)" ] || [ ! -d "$built" ] || exit 0
echo "building the portal" >&2
rm -rf "$built"
(
  cd "$source"
  npm ci --no-audit --no-fund --loglevel=error
  npm run --silent check
  npm run --silent build -- --log-level=warning
)
echo "$made" >.cache/portal
