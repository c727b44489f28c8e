#!/usr/bin/env bash
# e2e.sh: the mesh on a Kubernetes cluster with Knative Serving and Eventing: applies it, waits until it is ready, and
# runs the tests of hack/e2e against it.
#
#   KUBECONFIG           the cluster
#   KO_DOCKER_REPO       where images go
#   KO_DEFAULTBASEIMAGE  the base image, unless that of ko.yaml can be pulled
#   E2E_HOST             the address where pods reach this machine
#   E2E_RUN              a command that runs its arguments inside the cluster's network; not needed on a node
#   E2E_TOKEN            a token of the Secret ingest-tokens, where namespace iot has one; else one is made up
#   E2E_KEEP             not empty: leave the mesh on the cluster
#
# What the script made on the cluster it takes away, a mesh that was there before it leaves there.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

die() { printf 'e2e: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }
now() { date +%s%3N; }
lap() { printf '%6.1f s  %s\n' "$(($(now) - start))e-3" "$1"; start=$(now); }

for tool in go ko kubectl; do
	command -v "$tool" >/dev/null || die "no $tool on the PATH" "install $tool"
done
: "${KO_DOCKER_REPO:?names the registry that the cluster pulls from}" "${E2E_HOST:?is the address where pods reach this machine}"
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
	local status=$?
	[ "$status" = 0 ] || diagnose || true
	if [ -n "${made:-}" ] && [ -z "${E2E_KEEP:-}" ]; then
		kubectl delete -f config/000-namespaces.yaml --ignore-not-found --wait=false
	elif [ -n "${secret:-}" ] && [ -z "${E2E_KEEP:-}" ]; then
		kubectl delete -n iot secret ingest-tokens --ignore-not-found
	fi
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

start=$(now)
for n in $namespaces; do # that an earlier run took away, and that still end
	[ "$(kubectl get namespace "$n" --ignore-not-found -o jsonpath='{.status.phase}')" != Terminating ] ||
		kubectl wait --for=delete "namespace/$n" --timeout=360s
done
[ -n "$(kubectl get -f config/000-namespaces.yaml --ignore-not-found -o name)" ] || made=yes
kubectl apply -f config/000-namespaces.yaml
token=${E2E_TOKEN:-}
if [ -n "$(kubectl get -n iot secret ingest-tokens --ignore-not-found -o name)" ]; then
	[ -n "$token" ] || die "namespace iot has a Secret ingest-tokens" "set E2E_TOKEN to a token whose hash it holds, or delete it"
else
	: "${token:=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')}"
	secret=yes
	kubectl create secret generic -n iot ingest-tokens --from-literal="tokens=e2e:$(printf %s "$token" | sha256sum | cut -d ' ' -f 1)"
	# A pod that runs already has read its environment.
	kubectl delete pod -n iot -l serving.knative.dev/service=telemetry-ingest --ignore-not-found
fi
# not -R: what stands in folders of config is for who wants it
ko apply --base-import-paths -f config -f brokers -f triggers 2>"$work/ko" || { cat "$work/ko" >&2; exit 1; }
lap "built and applied"
for n in $namespaces; do
	# By kind: a file of config has an account, too, which is never ready.
	kubectl wait -n "$n" --for=condition=Ready --timeout=180s --all ksvc,broker,trigger >/dev/null 2>&1 && continue
	# Not what kubectl wait says: out of time, it names what it had not come to yet.
	kubectl get -n "$n" ksvc,broker,trigger -o go-template='{{range .items}}{{$o := .}}{{range .status.conditions}}{{if and (eq .type "Ready") (ne .status "True")}}{{$o.kind}} {{$o.metadata.namespace}}/{{$o.metadata.name}} is not ready{{with .reason}}: {{.}}{{end}}{{with .message}}: {{.}}{{end}}{{"\n"}}{{end}}{{end}}{{end}}' >&2
	die "not everything is ready after 3 minutes" "the lines above say what, those below what one would look at next"
done
lap "Services, Brokers and Triggers ready"

# Compiled outside: there may be no way to the modules, or to the registry, inside.
(cd hack/e2e && go test -c -o "$work/e2e.test" .)
ko resolve --base-import-paths -f config/sources/sheet-source.yaml >"$work/sheet-source.yaml" 2>"$work/ko" || { cat "$work/ko" >&2; exit 1; }
lap "test compiled"
(cd hack/e2e && ${E2E_RUN:-} env E2E_HOST="$E2E_HOST" E2E_TOKEN="$token" E2E_SHEET_SOURCE="$work/sheet-source.yaml" "$work/e2e.test" -test.v -test.timeout=10m)
lap "test"
