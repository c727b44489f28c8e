#!/usr/bin/env bash
# e2e.sh: the mesh on a Kubernetes cluster with Knative Serving and Eventing: applies it as the README says, with the
# BigQuery emulator as its warehouse, and runs the tests of hack/e2e against it. Arguments are the names of tests; without
# any all are run, that of the broker's conformance beside the others.
#
#   KUBECONFIG           the cluster
#   KO_DOCKER_REPO       where images go
#   KO_DEFAULTBASEIMAGE  the base image, unless that of ko.yaml can be pulled
#   E2E_HOST             the address where pods reach this machine
#   E2E_RUN              a command that runs its arguments inside the cluster's network; not needed on a node
#   E2E_TOKEN            a token of the Secret ingest-tokens, where namespace iot has one; else one is made up
#   E2E_KEEP             not empty: leave the mesh on the cluster, for the next run to find it built and applied; then
#                        kubectl delete -f config/000-namespaces.yaml takes it away
#   E2E_SECURE           not empty: switch on what docs/security.md says, which is the whole cluster's, and off again
#   E2E_FIGURES          measure, too, with so many rounds of a cold start: five take about ten minutes
#
# What the script made on the cluster it takes away, a mesh that was there before it leaves there.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

[ -n "${E2E_HOST:-}" ] || { echo "e2e: skipped: no cluster; E2E_HOST, KO_DOCKER_REPO and KUBECONFIG name one"; exit 0; }

die() { printf 'e2e: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }
now() { date +%s%3N; }
lap() { printf '%6.1f s  %s\n' "$(($(now) - start))e-3" "$1"; start=$(now); }

for tool in go ko kubectl; do
	command -v "$tool" >/dev/null || die "no $tool on the PATH" "install $tool"
done
: "${KO_DOCKER_REPO:?names the registry that the cluster pulls from}"
kubectl get crd services.serving.knative.dev triggers.eventing.knative.dev >/dev/null ||
	die "no cluster with Knative Serving and Eventing answers" "KUBECONFIG names it: ${KUBECONFIG:-it is not set}"

namespaces=$(kubectl create --dry-run=client -o name -f config/000-namespaces.yaml | sed 's|.*/||')

# diagnose: what one would look at next
diagnose() {
	local n
	for n in $namespaces; do
		printf '\n== namespace %s\n' "$n"
		kubectl get -n "$n" ksvc,broker,trigger,pods
		kubectl get -n "$n" events --field-selector type!=Normal,reason!=Unhealthy --sort-by=.lastTimestamp | tail -n 20
		kubectl logs -n "$n" --prefix --tail=30 -c user-container -l serving.knative.dev/service
	done
} >&2

work=$(mktemp -d)
finish() {
	local status=$? n
	[ "$status" = 0 ] || diagnose || true
	[ -z "${beside:-}" ] || kill "$beside" 2>/dev/null || true
	if [ -n "${made:-}" ] && [ -z "${E2E_KEEP:-}" ]; then
		kubectl delete -f config/000-namespaces.yaml --ignore-not-found --wait=false
	elif [ -z "${E2E_KEEP:-}" ]; then
		[ -z "${secret:-}" ] || kubectl delete -n iot secret ingest-tokens --ignore-not-found
		for n in ${mapped:-}; do kubectl delete -n "$n" configmap warehouse --ignore-not-found; done
	fi
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

all=$(now)
start=$all
for n in $namespaces; do # that an earlier run took away, and that still end
	[ "$(kubectl get namespace "$n" --ignore-not-found -o jsonpath='{.status.phase}')" != Terminating ] ||
		kubectl wait --for=delete "namespace/$n" --timeout=360s
done
[ -n "$(kubectl get -f config/000-namespaces.yaml --ignore-not-found -o name)" ] || made=yes
kubectl apply -f config/000-namespaces.yaml
kubectl delete secret -n iot -l telemesh.dev/made-by=e2e.sh # what E2E_KEEP left: nobody knows its token any more
token=${E2E_TOKEN:-}
if [ -n "$(kubectl get -n iot secret ingest-tokens --ignore-not-found -o name)" ]; then
	[ -n "$token" ] || die "namespace iot has a Secret ingest-tokens" "set E2E_TOKEN to a token whose hash it holds, or delete it"
else
	: "${token:=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')}"
	secret=yes
	kubectl create secret generic -n iot ingest-tokens --from-literal="tokens=e2e:$(printf %s "$token" | sha256sum | cut -d ' ' -f 1)"
	kubectl label secret -n iot ingest-tokens telemesh.dev/made-by=e2e.sh
fi
# The test gives the emulator this name.
url='bigquery://example-project?location=EU&endpoint=http://bigquery.platform.svc.cluster.local&storage=bigquery.platform.svc.cluster.local:9060'
for n in $namespaces; do
	there=$(kubectl get -n "$n" configmap warehouse --ignore-not-found -o jsonpath='{.data.url}')
	case "$there" in
	"$url") ;;
	"")
		kubectl create configmap warehouse -n "$n" --from-literal="url=$url"
		mapped="${mapped:-} $n"
		;;
	*) die "the mesh on the cluster stores in $there" "ConfigMap $n/warehouse says so: the tests would write into it" ;;
	esac
	# A pod that runs already has read its environment, and remembers what it stored.
	[ -n "${made:-}" ] || kubectl delete pod -n "$n" -l serving.knative.dev/service --ignore-not-found --wait=false
done
# not -R: what stands in folders of config is for who wants it
ko apply --base-import-paths -f config -f brokers -f triggers 2>"$work/ko" || { cat "$work/ko" >&2; exit 1; }
lap "built and applied"

# Compiled outside: there may be no way to the modules, or to the registry, inside. Pods start meanwhile.
(cd hack/e2e && go test -c -ldflags='-s -w' -o "$work/e2e.test" .)
go build -ldflags='-s -w' -o "$work/telemesh" ./cmd/telemesh
{
	ko resolve --base-import-paths -f config/sources/sheet-source.yaml >"$work/sheet-source.yaml" &&
		killer=$(cd hack/e2e && KO_CONFIG_PATH=../.. ko build --base-import-paths ./killer)
} 2>"$work/ko" || { cat "$work/ko" >&2; exit 1; }
lap "tests compiled"

# tests becomes the tests.
tests() {
	cd hack/e2e
	exec ${E2E_RUN:-} env E2E_HOST="$E2E_HOST" E2E_TOKEN="$token" \
		E2E_TOKENS="$(kubectl get -n iot secret ingest-tokens -o jsonpath='{.data.tokens}' | base64 -d)" \
		E2E_SHEET_SOURCE="$work/sheet-source.yaml" E2E_TELEMESH="$work/telemesh" E2E_KILLER="$killer" E2E_BESIDE="${beside:-}" \
		"$work/e2e.test" -test.v -test.timeout=20m "$@"
}
if [ $# -gt 0 ]; then
	(tests -test.run "^($(IFS='|' && echo "$*"))\$")
	lap "tests"
else
	# That of the broker has namespaces of its own, and little to do while the others wait for zero.
	(tests -test.run '^TestBrokerConformance$') >"$work/conformance" 2>&1 &
	beside=$!
	failed=
	(tests -test.skip '^TestBrokerConformance$') || failed=yes
	lap "tests"
	wait "$beside" || failed=yes
	beside=
	cat "$work/conformance"
	lap "what the broker's conformance took longer"
	[ -z "$failed" ] || exit 1
fi
start=$all lap "in all"
