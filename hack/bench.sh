#!/usr/bin/env bash
# Measures what docs/performance.md tells: the whole mesh on one machine, each
# function, the warehouse, and the same flattening by others in the same run.
# It reports; nothing here fails because a machine is slow.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/need.sh
need_build
export CGO_ENABLED=1

count=${COUNT:-5}
step() { printf '\n== %s\n' "$1"; }

step "the whole mesh"
go test ./cmd/telemesh -run '^$' -bench Replay -benchtime 3x -count "$count"

step "tenancy: a million readings, 5,000 relocations, 500 corrections"
go test ./cmd/telemesh -run '^$' -bench Tenancy -benchtime 1x -count "$count" -timeout 30m

step "the index of assignments"
go test ./internal/tenancy -run '^$' -bench . -count "$count"

step "functions and codecs"
go test ./functions/*/... ./internal/mesh -run '^$' -bench . -skip Feed -count "$count" | grep -v '^?'

step "a WebSocket feed of 5,000 frames a second for a minute, beside reading alone"
go test ./functions/websocket-source/source -run '^$' -bench Feed -benchtime 300000x -timeout 30m

step "from exec to the first reply, beside net/http alone"
go test ./functions -run '^$' -bench Start -benchtime 25x -count "$count"

step "warehouse"
go test ./internal/warehouse/duckdb -run '^$' -bench . -benchtime 200000x -count "$count"

step "a year of one room, of 100 million readings"
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
(cd hack/bench && go run ./hours -folder "$data")

step "when Chromium paints the page of that year"
if command -v chromium >/dev/null; then
  hack/portal.sh
  go build -o .cache/telemesh ./cmd/telemesh
  (cd hack/bench && go run ./paint -telemesh ../../.cache/telemesh -data "$data")
else
  echo "no Chromium on this machine"
fi
rm -rf "$data"

step "BigQuery's client, beside DuckDB and with the emulator"
go test ./internal/warehouse/bigquery -run '^$' -bench . -count "$count"
(cd hack/e2e && go test ./bigquery -run '^$' -bench . -benchtime 150x -count "$count" -timeout 30m)

step "broker"
go test ./internal/local -run '^$' -bench . -count "$count"

step "flatten beside Benthos and encoding/json"
(cd hack/bench && go run .)

step "what the rules of readings find, beside a z-score, of faults put into measured data"
datasets=$(realpath -m "${TELEMESH_DATASETS:-../shared/data}")
if [ -d "$datasets" ]; then
	(cd hack/bench && go run ./outliers -data "$datasets" -seeds 10)
else
	echo "not done: $datasets is not here"
fi
