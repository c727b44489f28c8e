#!/usr/bin/env bash
# e2e.sh: the mesh on a Kubernetes cluster with Knative Serving and Eventing: applies it as the README says, with the
# BigQuery emulator as its warehouse, and runs the tests of hack/e2e against it. Arguments are the names of tests; without
# any all are run, that of the broker's conformance beside the others.
#
#   KUBECONFIG           the cluster
#   KO_DOCKER_REPO       where images go
#   KO_DEFAULTBASEIMAGE  the base image, unless that of ko.yaml can be pulled
#   E2E_HOST             the address where pods reach the tests
#   E2E_RUN              a command that runs its arguments, the tests, inside the cluster's network; not needed on a node.
#                        There names of Services resolve, their addresses (ClusterIPs) can be reached, pods reach what
#                        listens at E2E_HOST, and the files are those of this machine. Of a node that is a container, as
#                        kind's are, this takes the network alone, not the files
#   E2E_TOKEN            a token of the Secret ingest-tokens, where namespace iot has one; else one is made up
#   E2E_KEEP             not empty: leave the mesh on the cluster, for the next run to find it built and applied;
#                        a run without it takes it away
#   E2E_SECURE           not empty: switch on what docs/security.md says, which is the whole cluster's, and off again
#   E2E_FIGURES          measure, too, with so many rounds of a cold start: five take about ten minutes
#
# What the script and its tests make on the cluster has a label, by which it is taken away at the end, or by the next run if
# this one is killed. A mesh that was there before stays there.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

die() { printf 'e2e: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }
now() { date +%s%3N; }
lap() { printf '%6.1f s  %s\n' "$(($(now) - start))e-3" "$1"; start=$(now); }

if [ -z "${E2E_HOST:-}" ]; then
	[ -z "${KUBECONFIG:-}" ] || die "E2E_HOST is not set" "it is the address where pods reach this machine; without KUBECONFIG all is skipped"
	echo "e2e: skipped: no cluster; KUBECONFIG, KO_DOCKER_REPO and E2E_HOST name one"
	exit 0
fi
for tool in go ko kubectl; do
	command -v "$tool" >/dev/null || die "no $tool on the PATH" "install $tool"
done
: "${KO_DOCKER_REPO:?names the registry that the cluster pulls from}"
kubectl get crd services.serving.knative.dev triggers.eventing.knative.dev >/dev/null ||
	die "no cluster with Knative Serving and Eventing answers" "KUBECONFIG names it: ${KUBECONFIG:-it is not set}"
ingress=broker-ingress.knative-eventing.svc.cluster.local
${E2E_RUN:-} getent hosts "$ingress" >/dev/null ||
	die "$ingress does not resolve where the tests are to run" "E2E_RUN is a command that runs them inside the cluster's network; $0 says what it has to give"

all=$(now)
start=$all
label=telemesh.dev/made-by
namespaces=$(kubectl create --dry-run=client -o name -f config/000-namespaces.yaml | sed 's|.*/||')
for n in $namespaces; do # that an earlier run took away, and that still end
	[ "$(kubectl get namespace "$n" --ignore-not-found -o jsonpath='{.status.phase}')" != Terminating ] ||
		kubectl wait --for=delete "namespace/$n" --timeout=360s
done
# What is another's is looked at before anything is made or deleted.
token=${E2E_TOKEN:-}
secret=$(kubectl get secret -n iot -l "$label!=e2e.sh" --field-selector metadata.name=ingest-tokens -o name)
[ -z "$secret" ] || [ -n "$token" ] ||
	die "namespace iot has a Secret ingest-tokens" "set E2E_TOKEN to a token whose hash it holds, or delete it"
# The test gives the emulator this name.
url='bigquery://example-project?location=EU&endpoint=http://bigquery.platform.svc.cluster.local&storage=bigquery.platform.svc.cluster.local:9060'
for n in $namespaces; do
	there=$(kubectl get -n "$n" configmap warehouse --ignore-not-found -o jsonpath='{.data.url}')
	[ -z "$there" ] || [ "$there" = "$url" ] ||
		die "the mesh on the cluster stores in $there" "ConfigMap $n/warehouse says so: the tests would write into it"
done

# make makes an object that is there until sweep.
make() { kubectl create "$@" --dry-run=client -o yaml | kubectl label --local -f - -o yaml "$label=e2e.sh" | kubectl create -f -; }

# sweep deletes what has the label: ,$label!=e2e.sh leaves what make made.
sweep() {
	kubectl delete -A --ignore-not-found -l "$label$1" "${@:2}" namespaces,services,endpointslices,configmaps,secrets,serviceaccounts,networkpolicies,services.serving.knative.dev,triggers.eventing.knative.dev,pingsources.sources.knative.dev
}

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
	kill $(jobs -p) 2>/dev/null || true
	wait
	[ "$status" = 0 ] || diagnose || true
	sweep "${E2E_KEEP:+,$label!=e2e.sh}" --wait=false || true
	rm -rf "$work"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

sweep ",$label!=e2e.sh"
kubectl delete secret -n iot -l "$label=e2e.sh" # what E2E_KEEP left: nobody knows its token any more
for n in $namespaces; do
	[ -n "$(kubectl get namespace "$n" --ignore-not-found -o name)" ] || make namespace "$n"
	[ -n "$(kubectl get configmap warehouse -n "$n" --ignore-not-found -o name)" ] || make configmap warehouse -n "$n" --from-literal="url=$url"
done
if [ -z "$secret" ]; then
	: "${token:=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')}"
	make secret generic ingest-tokens -n iot --from-literal="tokens=e2e:$(printf %s "$token" | sha256sum | cut -d ' ' -f 1)"
fi
# Its users are those of one pod, and go with it.
[ -n "$(kubectl get secret portal -n platform --ignore-not-found -o name)" ] ||
	make secret generic portal -n platform --from-literal=database-url=sqlite:/dev/shm/portal.db --from-literal=url=http://portal.platform.svc.cluster.local
# A pod that runs already has read its environment, and remembers what it stored.
kubectl create --dry-run=client -f config -o jsonpath='{.kind} {.metadata.namespace} {.metadata.name}{"\n"}' |
	awk '$1 == "Service" { of[$2] = of[$2] "," $3 } END { for (n in of) print n, substr(of[n], 2) }' |
	while read -r n names; do
		kubectl delete pod -n "$n" -l "serving.knative.dev/service in ($names)" --ignore-not-found --wait=false
	done
hack/portal.sh
# not -R: what stands in folders of config is for who wants it
ko apply --base-import-paths -f config -f brokers -f triggers 2>"$work/ko" || { cat "$work/ko" >&2; exit 1; }
lap "built and applied"

# Compiled outside: there may be no way to the modules, or to the registry, inside. Pods start meanwhile.
(cd hack/e2e && go test -c -ldflags='-s -w' -o "$work/e2e.test" .)
go build -ldflags='-s -w' -o "$work/telemesh" ./cmd/telemesh
{
	ko resolve --base-import-paths -f config/sources/sheet-source.yaml >"$work/sheet-source.yaml" &&
		ko resolve --base-import-paths -R -f examples/transactions >"$work/transactions.yaml" &&
		killer=$(cd hack/e2e && KO_CONFIG_PATH=../.. ko build --base-import-paths ./killer)
} 2>"$work/ko" || { cat "$work/ko" >&2; exit 1; }
lap "tests compiled"

# tests becomes the tests. They run in the background: a signal interrupts wait, and nothing else.
tests() {
	cd hack/e2e
	exec ${E2E_RUN:-} env TMPDIR="$work" E2E_HOST="$E2E_HOST" E2E_TOKEN="$token" \
		E2E_TOKENS="$(kubectl get -n iot secret ingest-tokens -o jsonpath='{.data.tokens}' | base64 -d)" \
		E2E_SHEET_SOURCE="$work/sheet-source.yaml" E2E_TRANSACTIONS="$work/transactions.yaml" E2E_TELEMESH="$work/telemesh" E2E_KILLER="$killer" E2E_ALONE="$work/alone" \
		"$work/e2e.test" -test.v -test.timeout=20m "$@"
}
status=0
if [ $# -gt 0 ]; then
	touch "$work/alone"
	tests -test.run "^($(IFS='|' && echo "$*"))\$" &
	wait $! || status=1
else
	# That of the broker has namespaces of its own, and little to do while the others wait for zero.
	tests -test.run '^TestBrokerConformance$' >"$work/conformance" 2>&1 &
	beside=$!
	tests -test.skip '^TestBrokerConformance$' &
	others=$!
	wait "$beside" || status=1
	touch "$work/alone" # some of the others wait for it
	wait "$others" || status=1
	cat "$work/conformance"
fi
lap "tests"
start=$all lap "in all"
exit "$status"
