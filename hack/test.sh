#!/usr/bin/env bash
# The whole gate: format, vet, staticcheck, tidy, tests with the race detector,
# long ones without it, and the tests against the BigQuery emulator. Arguments go
# to `go test -race` in place of all of these tests.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/need.sh
need_build
need_node
need_postgres
need_chromium
need_dbus
need curl curl "the tutorials send events with it"
export CGO_ENABLED=1

step() { printf '\n== %s\n' "$1"; }

# Every Go module of the repository; benchmarks and the cluster tests have
# dependencies that nobody else needs.
modules=(. hack/bench hack/e2e)

# Bundled and type-checked; the command embeds what comes of it.
step "the portal's scripts"
hack/portal.sh

step gofmt
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
  echo "not formatted:"; echo "$unformatted"
  echo "hint: gofmt -w $(echo $unformatted)"
  exit 1
fi

step "go mod tidy"
for module in "${modules[@]}"; do
  (cd "$module" && go mod tidy -diff)
done

# The emulator takes minutes and gigabytes to compile. CI does so, others when they
# want it: then nothing of it is left to compile.
emulator=yes
[ -n "${CI:-}" ] || ! (cd hack/e2e && go build -n github.com/goccy/bigquery-emulator/server 2>&1) | grep '/compile ' >/dev/null || emulator=
without="./analyse ./killer" # the packages of hack/e2e that need no emulator

step "go vet, staticcheck"
for module in "${modules[@]}"; do
  packages=./...
  [ "$module" != hack/e2e ] || [ -n "$emulator" ] || packages="$without"
  (cd "$module" && go vet $packages && go run honnef.co/go/tools/cmd/staticcheck@v0.7.0 $packages)
done

step "telemesh-microbit for a Raspberry Pi"
for arch in arm arm64; do
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=6 go build -o /dev/null ./cmd/microbit-gateway
done

# Some tests start the command some hundred times, and the race detector would
# hold each of them back for a second at its exit.
export GORACE=atexit_sleep_ms=0
if [ $# != 0 ]; then
  step "go test -race $*"
  go test -race -timeout 20m "$@"
  exit
fi

# Beside the others, since most of it is one request after the other. Without the
# race detector, under which the emulator would have to be compiled anew. The
# tests on a cluster are hack/e2e.sh's; here they skip.
if [ -n "$emulator" ]; then
  emulated=$(mktemp)
  (
    cd hack/e2e
    export E2E_HOST=
    # The emulator's analyser has 2 GiB in a process, gives none of it back, and ends
    # with slices out of range, or never: what asks most of it has a process of its own.
    much='^Test(Portal|Project|Transactions|Quality|Query|Statements|Dashboards|Conformance|PortsAnd|Windesheim|WhoSees)'
    failed=0
    go test -timeout 20m $(go list ./... | grep -v '/bigquery$') || failed=1
    go test -timeout 20m -skip "$much" ./bigquery || failed=1
    go test -timeout 20m -run "$much" ./bigquery || failed=1
    exit "$failed"
  ) >"$emulated" 2>&1 &
  beside=$!
  trap 'kill "$beside" 2>/dev/null || true; rm -f "$emulated"' EXIT
fi

step "go test -race"
go test -race -short -timeout 30m ./...

step "go test of what takes long"
# Killed processes, random histories one step after the other, weeks of a fleet, what
# the pages say to type, and other programs' work: there the race detector would see nothing, and take four
# times as long.
go test -timeout 20m ./internal/disorder ./internal/scaffold ./functions/telemetry-judge/...
go test -timeout 20m -run 'Killed|Demo|Readme|Tutorials' ./cmd/telemesh

step "go test against the BigQuery emulator"
if [ -n "$emulator" ]; then
  status=0
  wait "$beside" || status=$?
  cat "$emulated"
  exit "$status"
else
  (cd hack/e2e && go test $without)
  echo "the others are skipped: the emulator is not compiled, which takes about 5 minutes once"
  echo "hint: (cd hack/e2e && go test -run '^$' ./...), then hack/test.sh runs them, too; so it does with CI=1"
fi
