#!/usr/bin/env bash
# The whole gate: format, vet, staticcheck, tidy, tests with the race detector.
# Arguments go to `go test` in place of ./...
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/need.sh
need_build
export CGO_ENABLED=1

step() { printf '\n== %s\n' "$1"; }

# Every Go module of the repository; benchmarks and the cluster tests have
# dependencies that nobody else needs.
modules=(. hack/bench hack/e2e)

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

step "go vet, staticcheck"
for module in "${modules[@]}"; do
  (cd "$module" && go vet ./... && go run honnef.co/go/tools/cmd/staticcheck@v0.7.0 ./...)
done

step "go test -race"
# Some tests start the command some hundred times, and the race detector would
# hold each of them back for a second at its exit.
export GORACE=atexit_sleep_ms=0
go test -race -timeout 20m "${@:-./...}"
