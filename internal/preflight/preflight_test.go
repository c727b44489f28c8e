package preflight

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/telemesh/telemesh/internal/cluster"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// api is an API server that knows the objects it was given. It answers as the real
// one does, as far as one who reads can tell.
type api struct {
	version string
	objects []*unstructured.Unstructured
	without []string           // API groups that it does not have
	denies  func(q query) bool // who asks may not know
}

// captured gives testdata/cluster.ndjson: what `kubectl get -o json` gave for
// testdata/mesh on a cluster of Kubernetes 1.36 with Knative v0.50.0, without
// managedFields, pod templates and the names of that place.
func captured(t *testing.T) *api {
	t.Helper()
	text, err := os.ReadFile("testdata/cluster.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	a := &api{version: "v1.36.3"}
	for line := range bytes.Lines(text) {
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(line); err != nil {
			t.Fatal(err)
		}
		a.objects = append(a.objects, u)
	}
	return a
}

func (a *api) find(t *testing.T, kind, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range a.objects {
		if o.GetKind() == kind && o.GetNamespace() == namespace && o.GetName() == name {
			return o
		}
	}
	t.Fatalf("no %s %s/%s", kind, namespace, name)
	return nil
}

func (a *api) remove(kind, namespace, name string) {
	a.objects = slices.DeleteFunc(a.objects, func(o *unstructured.Unstructured) bool {
		return o.GetKind() == kind && o.GetNamespace() == namespace && (name == "" || o.GetName() == name)
	})
}

func (a *api) add(t *testing.T, text string) {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	a.objects = append(a.objects, u)
}

// set changes a field of an object; its path has slashes.
func (a *api) set(t *testing.T, kind, namespace, name, path string, value any) {
	t.Helper()
	if err := unstructured.SetNestedField(a.find(t, kind, namespace, name).Object, value, strings.Split(path, "/")...); err != nil {
		t.Fatal(err)
	}
}

func (a *api) flag(t *testing.T, name, value string) {
	a.set(t, "ConfigMap", eventing, "config-features", "data/"+name, value)
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		http.Error(w, "read only", http.StatusMethodNotAllowed)
		return
	}
	write := func(status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(body)
	}
	fault := func(status int, reason, message string) {
		write(status, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason, "message": message})
	}
	groups := []string{"apps", "networking.k8s.io", "discovery.k8s.io", "eventing.knative.dev", "serving.knative.dev", "sources.knative.dev", "networking.internal.knative.dev"}
	groups = slices.DeleteFunc(groups, func(g string) bool { return slices.Contains(a.without, g) })
	switch r.URL.Path {
	case "/version":
		write(http.StatusOK, map[string]string{"gitVersion": a.version})
		return
	case "/apis":
		var all []map[string]string
		for _, g := range groups {
			all = append(all, map[string]string{"name": g})
		}
		write(http.StatusOK, map[string]any{"kind": "APIGroupList", "apiVersion": "v1", "groups": all})
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var gv schema.GroupVersion
	if parts[0] == "api" {
		gv.Version, parts = parts[1], parts[2:]
	} else {
		gv, parts = schema.GroupVersion{Group: parts[1], Version: parts[2]}, parts[3:]
	}
	q := query{}
	if parts[0] == "namespaces" && len(parts) > 2 {
		q.namespace, parts = parts[1], parts[2:]
	}
	if len(parts) > 1 {
		q.name = parts[1]
	}
	var found []*unstructured.Unstructured
	for _, o := range a.objects {
		gvr, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
		if gvr == gv.WithResource(parts[0]) && o.GetNamespace() == q.namespace && (q.name == "" || q.name == o.GetName()) {
			found = append(found, o)
		}
	}
	switch {
	case a.denies != nil && a.denies(query{gv.WithKind(parts[0]), q.namespace, q.name}):
		fault(http.StatusForbidden, "Forbidden", parts[0]+" is forbidden: User \"reader\" cannot read it")
	case gv.Group != "" && !slices.Contains(groups, gv.Group):
		http.Error(w, "404 page not found", http.StatusNotFound)
	case q.name != "" && found == nil:
		fault(http.StatusNotFound, "NotFound", parts[0]+" \""+q.name+"\" not found")
	case q.name != "":
		write(http.StatusOK, found[0])
	default:
		items := []any{}
		for _, o := range found {
			items = append(items, o.Object)
		}
		write(http.StatusOK, map[string]any{"kind": "List", "apiVersion": gv.String(), "metadata": map[string]any{}, "items": items})
	}
}

// open makes clients of a server.
func open(t *testing.T, handler http.Handler) *cluster.Cluster {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	config := &rest.Config{Host: server.URL, QPS: -1}
	k := &cluster.Cluster{Config: config}
	var err error
	if k.Kubernetes, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if k.Dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return k
}

func mesh(t *testing.T) manifest.Set {
	t.Helper()
	set, err := manifest.Load(manifest.Dir("testdata/mesh")...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func judged(t *testing.T, a *api, set manifest.Set) []Finding {
	t.Helper()
	c, err := Read(t.Context(), open(t, a), set)
	if err != nil {
		t.Fatal(err)
	}
	return Judge(set, c)
}

// line is a finding without what to do.
func line(f Finding) string {
	f.Do = ""
	return f.Check + " " + strings.Join(strings.Fields(f.String()), " ")
}

func lines(findings []Finding) (all []string) {
	for _, f := range findings {
		all = append(all, line(f))
	}
	return all
}

// What a mesh as it was captured has to hear.
func TestJudgeCaptured(t *testing.T) {
	want := []string{
		"kubernetes ok Kubernetes v1.36.3",
		"knative-eventing ok Knative Eventing devel: 8 Deployments available; devel is no release's version: that it is at least 1.12 is not known",
		"authentication unsafe authentication-oidc is disabled: whoever reaches the ingress of the Brokers may send any event to each of them, as anybody",
		"encryption unsafe transport-encryption is disabled: events pass between functions, Brokers and channels in clear text, unless the network below encrypts, which cannot be seen from here",
		"knative-serving ok Knative Serving devel: 4 Deployments available; devel is no release's version: that it is at least 1.9 is not known",
		"ingress ok the ingress kourier.ingress.networking.knative.dev serves",
		"applied ok all is applied and ready: 2 Brokers, 3 Namespaces, 3 Services, 3 ServiceAccounts, 3 Triggers",
		"applied ok sources that are not applied: mqtt-source, sheet-source",
		"brokers unsafe Broker analytics/analytics, iot/iot: of class MTChannelBasedBroker on InMemoryChannel: events live in a process, and those it has are lost when it ends",
		"dead-letters unsafe Trigger iot/analytics, iot/iot-telemetry-sink, iot/telemetry-flatten: no dead letter sink: an event that its subscriber refuses, or does not take in time, is lost",
		"network unsafe namespace analytics, iot, platform: no NetworkPolicy is for all pods: every pod of the cluster may call the functions, which do not ask who calls",
		"network unsafe Service iot/telemetry-ingest: reached from outside by http: messages and the tokens of their senders pass in clear text, unless something before it speaks TLS",
		"senders ok Secret iot/ingest-tokens: 1 sender may send: gateway",
		"warehouse ok Service platform/bigquery: an emulator of BigQuery, with 1 endpoint",
	}
	slices.Sort(want)
	got := lines(judged(t, captured(t), mesh(t)))
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Judge() differs (-want +got):\n%s", diff)
	}
}

const (
	oidc   = "authentication-oidc"
	tls    = "transport-encryption"
	mode   = "default-authorization-mode"
	policy = `{"apiVersion": "eventing.knative.dev/v1alpha1", "kind": "EventPolicy", "metadata": {"name": "iot", "namespace": "iot"}, "spec": {},
		"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "OIDCAuthenticationDisabled"}]}}`
	isolation = `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": "iot"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}`
	admission = `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "allow", "namespace": "iot"}, "spec": {"podSelector": {}, "ingress": [{}]}}`
)

// Each change of what was captured is found, and brings nothing else up: want are
// the lines that are new, by how they begin.
func TestJudgeChanges(t *testing.T) {
	tests := []struct {
		name   string
		change func(*testing.T, *api)
		mesh   func(*manifest.Set)
		want   []string
		fails  bool // exit 1 without --strict
	}{
		{"nothing installed", func(t *testing.T, a *api) {
			a.objects, a.without = nil, []string{"eventing.knative.dev", "serving.knative.dev", "sources.knative.dev", "networking.internal.knative.dev"}
		}, nil, []string{
			"knative-eventing missing Knative Eventing is not there",
			"knative-serving missing Knative Serving is not there",
			"senders missing Secret iot/ingest-tokens: not there: telemetry-ingest refuses every sender",
			"warehouse missing Service platform/warehouse: not there, and no ConfigMap says that the warehouse is elsewhere: sinks and output ports find none",
		}, true},
		{"not applied", func(t *testing.T, a *api) {
			for _, n := range []string{"iot", "analytics", "platform"} {
				a.remove("Namespace", "", n)
			}
			a.objects = slices.DeleteFunc(a.objects, func(o *unstructured.Unstructured) bool {
				return o.GetNamespace() == "iot" || o.GetNamespace() == "analytics" || o.GetNamespace() == "platform"
			})
		}, nil, []string{
			"ingress missing the ingress is kourier.ingress.networking.knative.dev, and there is no Deployment knative-serving/net-kourier-controller",
			"applied missing Telemesh is not applied: none of its 14 objects is there",
			"senders missing Secret iot/ingest-tokens: not there",
			"warehouse missing Service platform/warehouse: not there, and no ConfigMap",
		}, true},
		{"old Eventing", func(t *testing.T, a *api) {
			for _, o := range a.objects {
				if o.GetKind() == "Deployment" && o.GetNamespace() == eventing {
					o.SetLabels(map[string]string{"app.kubernetes.io/name": eventing, "app.kubernetes.io/version": "1.11.3"})
				}
			}
		}, nil, []string{"knative-eventing failing Knative Eventing 1.11.3, and at least 1.12 is needed: Triggers would pass everything"}, true},
		{"new Eventing", func(t *testing.T, a *api) {
			for _, o := range a.objects {
				if o.GetKind() == "Deployment" && o.GetNamespace() == eventing {
					o.SetLabels(map[string]string{"app.kubernetes.io/name": eventing, "app.kubernetes.io/version": "v1.18.0"})
				}
			}
		}, nil, []string{"knative-eventing ok Knative Eventing v1.18.0: 8 Deployments available"}, false},
		{"webhook down", func(t *testing.T, a *api) {
			a.set(t, "Deployment", eventing, "eventing-webhook", "status/availableReplicas", int64(0))
			a.remove("Deployment", serving, "webhook")
		}, nil, []string{
			"knative-eventing failing Deployment knative-eventing/eventing-webhook: no pod of it is available",
			"knative-eventing ok Knative Eventing devel",
			"knative-serving missing Deployment knative-serving/webhook: not there",
			"knative-serving ok Knative Serving devel",
		}, true},
		{"no ingress", func(t *testing.T, a *api) { a.remove("Ingress", "iot", "") }, nil,
			[]string{"ingress missing the ingress is kourier.ingress.networking.knative.dev, and there is no Deployment knative-serving/net-kourier-controller"}, true},
		{"ingress of its own kind", func(t *testing.T, a *api) {
			a.set(t, "ConfigMap", serving, "config-network", "data/ingress-class", "other.ingress.networking.knative.dev")
		}, nil, []string{"ingress unknown the ingress is other.ingress.networking.knative.dev, whose controller is not known here"}, false},
		{"object away", func(t *testing.T, a *api) {
			a.remove("Trigger", "iot", "telemetry-flatten")
			a.remove("ServiceAccount", "iot", "telemetry-flatten")
		}, nil, []string{
			"applied missing ServiceAccount iot/telemetry-flatten, Trigger iot/telemetry-flatten: not there",
			"applied ok 7 objects of 5 kinds ready",
		}, true},
		{"not ready", func(t *testing.T, a *api) {
			a.set(t, "Service", "iot", "telemetry-flatten", "status/conditions", []any{map[string]any{
				"type": "Ready", "status": "False", "reason": "RevisionMissing", "message": "Configuration \"telemetry-flatten\" has no revision\nand more"}})
			a.set(t, "Broker", "analytics", "analytics", "metadata/generation", int64(7))
		}, nil, []string{
			"applied failing Broker analytics/analytics: its last change has not been taken up yet",
			"applied failing Service iot/telemetry-flatten: RevisionMissing: Configuration \"telemetry-flatten\" has no revision",
			"applied ok 6 objects of 5 kinds ready",
		}, true},
		{"being deleted", func(t *testing.T, a *api) {
			a.set(t, "Namespace", "", "analytics", "metadata/deletionTimestamp", "2026-11-21T14:31:56Z")
			a.set(t, "Trigger", "iot", "analytics", "metadata/deletionTimestamp", "2026-11-21T14:31:56Z")
		}, nil, []string{
			"applied failing Namespace analytics, Trigger iot/analytics: it is being deleted",
			"applied ok 7 objects of 5 kinds ready",
		}, true},
		{"dead letter sink of a Broker", func(t *testing.T, a *api) {
			a.set(t, "Broker", "iot", "iot", "spec/delivery/deadLetterSink", map[string]any{"uri": "http://dead.example"})
		}, nil, []string{"dead-letters ok 3 Triggers have a dead letter sink"}, false},
		{"a Trigger of somebody else", func(t *testing.T, a *api) {
			a.set(t, "Broker", "iot", "iot", "spec/delivery/deadLetterSink", map[string]any{"uri": "http://dead.example"})
			a.add(t, `{"apiVersion": "eventing.knative.dev/v1", "kind": "Trigger", "metadata": {"name": "mine", "namespace": "analytics"},
				"spec": {"broker": "analytics", "subscriber": {"uri": "http://elsewhere"}}}`)
		}, nil, []string{"dead-letters unsafe Trigger analytics/mine: no dead letter sink"}, false},

		{"policies without authentication", func(t *testing.T, a *api) { a.add(t, policy) }, nil,
			[]string{"authentication failing EventPolicy iot/iot: while authentication-oidc is disabled it is not ready, nor is the Broker that it is for"}, true},
		{"authentication", func(t *testing.T, a *api) { a.flag(t, oidc, "Enabled") }, nil, []string{
			"authentication unsafe Broker analytics/analytics, iot/iot: senders show who they are, and default-authorization-mode is allow-same-namespace",
			"authentication failing Broker analytics/analytics: refuses what comes from another namespace: Trigger iot/analytics",
			"authentication failing Service iot/telemetry-ingest: posts to a Broker without a token for it: it is refused",
			"encryption unsafe transport-encryption is disabled: events pass between functions, Brokers and channels in clear text, unless the network below encrypts, which cannot be seen from here. So do the tokens by which senders show who they are",
		}, true},
		{"all is denied", func(t *testing.T, a *api) {
			a.flag(t, oidc, "enabled")
			a.flag(t, mode, "deny-all")
			a.set(t, "Broker", "iot", "iot", "status/policies", []any{map[string]any{"apiVersion": "eventing.knative.dev/v1alpha1", "name": "iot"}})
		}, nil, []string{
			"authentication ok Broker iot/iot: takes events from those whom EventPolicies name",
			"authentication failing Broker analytics/analytics: no EventPolicy that is ready is for it, and default-authorization-mode is deny-all",
			"authentication failing Service iot/telemetry-ingest: posts to a Broker without a token",
			"encryption unsafe transport-encryption is disabled",
		}, true},
		{"all is allowed", func(t *testing.T, a *api) {
			a.flag(t, oidc, "enabled")
			a.flag(t, mode, "allow-all")
		}, nil, []string{
			"authentication unsafe Broker analytics/analytics, iot/iot: senders show who they are, and default-authorization-mode is allow-all",
			"authentication failing Service iot/telemetry-ingest: posts to a Broker without a token",
			"encryption unsafe transport-encryption is disabled",
		}, true},
		{"odd mode", func(t *testing.T, a *api) {
			a.flag(t, oidc, "enabled")
			a.flag(t, mode, "denyall")
		}, nil, []string{
			"flags unsafe ConfigMap knative-eventing/config-features: default-authorization-mode: denyall: no value that Knative knows: it counts as disabled, or as allow-all",
			"authentication unsafe Broker analytics/analytics, iot/iot: senders show who they are, and default-authorization-mode is allow-all",
			"authentication failing Service iot/telemetry-ingest: posts to a Broker without a token",
			"encryption unsafe transport-encryption is disabled",
		}, true},
		{"odd flag", func(t *testing.T, a *api) { a.flag(t, oidc, "true") }, nil,
			[]string{"flags unsafe ConfigMap knative-eventing/config-features: authentication-oidc: true: no value that Knative knows"}, false},
		{"TLS for who wants", func(t *testing.T, a *api) { a.flag(t, tls, "permissive") }, nil, []string{
			"encryption unsafe Service iot/telemetry-ingest: posts to a Broker by http, which transport-encryption permissive allows",
			"encryption unsafe transport-encryption is on for Brokers and channels, but Knative Serving has no TLS within the cluster",
		}, false},
		{"TLS for all", func(t *testing.T, a *api) {
			a.flag(t, tls, "strict")
			a.set(t, "ConfigMap", serving, "config-network", "data/cluster-local-domain-tls", "Enabled")
		}, nil, []string{
			"encryption failing Service iot/telemetry-ingest: posts to a Broker by http, which transport-encryption strict refuses",
			"encryption ok between the parts of Knative events pass by TLS",
		}, true},

		{"network closed", func(t *testing.T, a *api) { a.add(t, isolation) }, nil, []string{
			"network unsafe namespace analytics, platform: no NetworkPolicy is for all pods",
			"network failing namespace iot: NetworkPolicies let nobody in",
		}, true},
		{"network guarded", func(t *testing.T, a *api) { a.add(t, isolation); a.add(t, admission) }, nil, []string{
			"network unsafe namespace analytics, platform: no NetworkPolicy is for all pods",
			"network warning namespace iot: NetworkPolicies say who may call the functions. They count only where the network of the cluster enforces them, which cannot be seen from here",
		}, false},

		{"cluster of another domain", func(t *testing.T, a *api) {
			a.set(t, "Broker", "iot", "iot", "status/address/url", "http://broker-ingress.knative-eventing.svc.acme.internal/iot/iot")
		}, nil, []string{
			"brokers failing Broker iot/iot: has an address in the cluster domain acme.internal, and manifests and functions know Services as NAME.NAMESPACE.svc.cluster.local",
		}, true},
		{"Broker outside the cluster", func(t *testing.T, a *api) {
			a.set(t, "Broker", "iot", "iot", "status/address/url", "https://brokers.example.org/iot/iot")
		}, nil, []string{
			"brokers failing Service iot/telemetry-ingest: posts to broker-ingress.knative-eventing.svc.cluster.local, and its Broker is at brokers.example.org",
		}, true},

		{"Brokers of Kafka", func(t *testing.T, a *api) {
			for _, n := range []string{"iot", "analytics"} {
				b := a.find(t, "Broker", n, n)
				b.SetAnnotations(map[string]string{"eventing.knative.dev/broker.class": "Kafka"})
				a.set(t, "Broker", n, n, "status/annotations", map[string]any{})
				a.set(t, "Broker", n, n, "spec/config/name", "kafka-"+n)
				a.set(t, "Broker", n, n, "status/address/url", "http://"+manifest.KafkaIngressHost+"/"+n+"/"+n)
			}
			a.add(t, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kafka-iot", "namespace": "knative-eventing"}, "data": {"bootstrap.servers": "kafka:9092", "default.topic.replication.factor": "3"}}`)
			a.add(t, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kafka-analytics", "namespace": "knative-eventing"}, "data": {"bootstrap.servers": "kafka:9092", "default.topic.replication.factor": "1"}}`)
		}, nil, []string{
			"brokers unsafe Broker analytics/analytics: of class Kafka with one replica of each topic",
			"brokers ok Broker iot/iot: of class Kafka: events are kept in topics of 3 replicas",
			"brokers missing Deployment knative-eventing/kafka-controller, knative-eventing/kafka-broker-receiver: not there: no Broker of class Kafka works without",
			"brokers failing Service iot/telemetry-ingest: posts to broker-ingress.knative-eventing.svc.cluster.local, and its Broker is at kafka-broker-ingress.knative-eventing.svc.cluster.local",
		}, true},
		{"Brokers of a Kafka that is nowhere", func(t *testing.T, a *api) {
			for _, n := range []string{"iot", "analytics"} {
				a.find(t, "Broker", n, n).SetAnnotations(map[string]string{"eventing.knative.dev/broker.class": "Kafka"})
				a.set(t, "Broker", n, n, "status/annotations", map[string]any{})
				a.set(t, "Broker", n, n, "spec/config/name", "kafka-"+n)
			}
			a.add(t, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kafka-iot", "namespace": "knative-eventing"}, "data": {"default.topic.partitions": "10"}}`)
		}, nil, []string{
			"brokers missing Broker analytics/analytics: what it is made of stands in ConfigMap knative-eventing/kafka-analytics, which is not there",
			"brokers missing Broker iot/iot: ConfigMap knative-eventing/kafka-iot has no key bootstrap.servers: where Kafka is is not known",
			"brokers missing Deployment knative-eventing/kafka-controller, knative-eventing/kafka-broker-receiver: not there",
		}, true},
		{"Brokers that are not there yet, on another channel", func(t *testing.T, a *api) {
			a.remove("Broker", "iot", "iot")
			a.set(t, "ConfigMap", eventing, "config-br-default-channel", "data/channel-template-spec", "apiVersion: messaging.knative.dev/v1beta1\nkind: KafkaChannel\n")
		}, nil, []string{
			"applied missing Broker iot/iot: not there",
			"applied ok 7 objects of 5 kinds ready",
			"brokers unsafe Broker analytics/analytics: of class MTChannelBasedBroker on InMemoryChannel",
			"brokers ok Broker iot/iot: of class MTChannelBasedBroker on KafkaChannel",
		}, true},
		{"channel by default", func(t *testing.T, a *api) {
			a.set(t, "Broker", "iot", "iot", "status/annotations", map[string]any{})
			a.set(t, "ConfigMap", eventing, "config-br-default-channel", "data/channel-template-spec", "apiVersion: messaging.knative.dev/v1\nkind: Channel\n")
			a.set(t, "ConfigMap", eventing, "default-ch-webhook", "data/default-ch-config", "clusterDefault:\n  apiVersion: messaging.knative.dev/v1beta1\n  kind: NatsJetStreamChannel\n")
		}, nil, []string{
			"brokers unsafe Broker analytics/analytics: of class MTChannelBasedBroker on InMemoryChannel",
			"brokers ok Broker iot/iot: of class MTChannelBasedBroker on NatsJetStreamChannel",
		}, false},

		{"no senders", func(t *testing.T, a *api) { a.remove("Secret", "iot", "ingest-tokens") }, nil,
			[]string{"senders missing Secret iot/ingest-tokens: not there: telemetry-ingest refuses every sender"}, true},
		{"tokens in place of hashes", func(t *testing.T, a *api) {
			a.set(t, "Secret", "iot", "ingest-tokens", "data/tokens", base64.StdEncoding.EncodeToString([]byte("gateway:geheim")))
		}, nil, []string{"senders failing Secret iot/ingest-tokens: key tokens: INGEST_TOKENS: entry 1 of 1 has no hash"}, true},
		{"a token that was not set", func(t *testing.T, a *api) {
			const printed = "gateway:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // printf %s '' | sha256sum
			a.set(t, "Secret", "iot", "ingest-tokens", "data/tokens", base64.StdEncoding.EncodeToString([]byte(printed)))
		}, nil, []string{"senders failing Secret iot/ingest-tokens: key tokens: INGEST_TOKENS: entry 1 of 1 has the hash of an empty text, which is no token"}, true},
		{"a source without its Secret", func(t *testing.T, a *api) {
			a.remove("Secret", "iot", "ingest-tokens")
			a.add(t, `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "mqtt-source", "namespace": "iot"},
				"status": {"conditions": [{"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "Deployment does not have minimum availability."}]}}`)
		}, nil, []string{
			"applied failing Deployment iot/mqtt-source: MinimumReplicasUnavailable: Deployment does not have minimum availability.",
			"applied ok 8 objects of 6 kinds ready",
			"applied ok sources that are not applied: sheet-source",
			"settings missing Secret iot/mqtt: not there: Deployment iot/mqtt-source cannot start",
			"senders warning Secret iot/ingest-tokens: not there",
		}, true},
		{"a source whose Secret lacks a key", func(t *testing.T, a *api) {
			a.add(t, `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mqtt", "namespace": "iot"}, "data": {"uri": "eA=="}}`)
			a.add(t, `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "mqtt-source", "namespace": "iot"}, "status": {"conditions": [{"type": "Available", "status": "True"}]}}`)
		}, nil, []string{
			"applied ok all is applied and ready: 2 Brokers, 1 Deployment",
			"applied ok sources that are not applied: sheet-source",
			"settings missing Secret iot/mqtt: has no key url: Deployment iot/mqtt-source cannot start",
		}, true},
		{"a source that is told nothing", func(t *testing.T, a *api) {
			a.add(t, `{"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "sheet-source", "namespace": "iot", "labels": {"networking.knative.dev/visibility": "cluster-local"}},
				"status": {"conditions": [{"type": "Ready", "status": "True"}]}}`)
		}, nil, []string{
			"applied ok all is applied and ready: 2 Brokers, 3 Namespaces, 4 Services",
			"applied ok sources that are not applied: mqtt-source",
			"settings missing Service iot/sheet-source: is told by nothing what to fetch, as by ConfigMap iot/sheets: it fetches nothing",
		}, true},
		{"a source that is told", func(t *testing.T, a *api) {
			a.add(t, `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sheets", "namespace": "iot"}, "data": {"placements": "x"}}`)
			a.add(t, `{"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "sheet-source", "namespace": "iot", "labels": {"networking.knative.dev/visibility": "cluster-local"}},
				"status": {"conditions": [{"type": "Ready", "status": "True"}]}}`)
		}, nil, []string{
			"applied ok all is applied and ready: 2 Brokers, 3 Namespaces, 4 Services",
			"applied ok sources that are not applied: mqtt-source",
		}, false},

		{"warehouse away", func(t *testing.T, a *api) { a.remove("EndpointSlice", "platform", "") }, nil,
			[]string{"warehouse missing Service platform/bigquery: has no endpoint that is ready"}, true},
		{"warehouse that is none", func(t *testing.T, a *api) {
			a.set(t, "ConfigMap", "iot", "warehouse", "data/url", "bigquery://")
		}, nil, []string{`warehouse failing ConfigMap iot/warehouse: its URL "bigquery://" is none`}, true},
		{"warehouse outside", func(t *testing.T, a *api) {
			a.set(t, "ConfigMap", "iot", "warehouse", "data/url", "https://warehouse.example.org")
		}, nil, []string{"warehouse unknown ConfigMap iot/warehouse: the warehouse is at https://warehouse.example.org, outside of the cluster"}, false},
		{"warehouses that differ", func(t *testing.T, a *api) {}, func(s *manifest.Set) {
			another := *s.Services[0]
			if another.Name != "iot-telemetry-sink" {
				panic(another.Name)
			}
			w := *s.Services[0].DeepCopy()
			w.Spec.Template.Spec.Containers[0].Env[0].ValueFrom.ConfigMapKeyRef.Name = "other"
			another.Service = w
			s.Services = append(s.Services, &another)
		}, []string{
			"applied ok all is applied and ready: 2 Brokers, 3 Namespaces, 4 Services",
			"warehouse failing the namespaces look for the warehouse in different places: iot at bigquery://",
			"warehouse missing Service platform/warehouse: not there, and no ConfigMap",
		}, true},
	}
	before := map[string]bool{}
	for _, l := range lines(judged(t, captured(t), mesh(t))) {
		before[l] = true
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, set := captured(t), mesh(t)
			test.change(t, a)
			if test.mesh != nil {
				test.mesh(&set)
			}
			findings := judged(t, a, set)
			var got []string
			for _, l := range lines(findings) {
				if !before[l] {
					got = append(got, l)
				}
			}
			slices.Sort(got)
			slices.Sort(test.want)
			short := slices.Clone(got)
			for i := range short {
				if i < len(test.want) && strings.HasPrefix(short[i], test.want[i]) {
					short[i] = test.want[i]
				}
			}
			if diff := cmp.Diff(test.want, short); diff != "" {
				t.Errorf("new findings differ (-want +got):\n%s", diff)
			}
			if got := Passes(findings, false); got == test.fails {
				t.Errorf("Passes() = %t, want %t", got, !test.fails)
			}
			if Passes(findings, true) {
				t.Error("Passes(strict) = true: an InMemoryChannel, or no Knative at all, was passed over")
			}
		})
	}
}

// What one may not see is not missing.
func TestNotShownIsNotMissing(t *testing.T) {
	a := captured(t)
	a.denies = func(query) bool { return true }
	findings := judged(t, a, mesh(t))
	for _, f := range findings {
		if f.Level != OK && f.Level != Unknown {
			t.Errorf("%s", f)
		}
	}
	if !Passes(findings, false) || Passes(findings, true) {
		t.Errorf("Passes() = %t, strict %t, want true and false", Passes(findings, false), Passes(findings, true))
	}
	said := strings.Join(lines(findings), "\n")
	for _, want := range []string{
		"reading unknown you may not get secrets (iot/ingest-tokens, iot/mqtt): nothing is said of them",
		"reading unknown you may not list brokers.eventing.knative.dev, eventpolicies.eventing.knative.dev, ingresses.networking.internal.knative.dev, networkpolicies.networking.k8s.io, services, services.serving.knative.dev, triggers.eventing.knative.dev (analytics, iot, platform): nothing is said of them",
		"knative-eventing ok Knative Eventing is there; its version and whether it runs were not shown",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("findings lack %q:\n%s", want, said)
		}
	}
}

// What hides one kind hides what is said of it, and nothing else.
func TestNotShownInPart(t *testing.T) {
	a := captured(t)
	a.remove("Secret", "iot", "ingest-tokens")
	a.denies = func(q query) bool { return q.gvk.Kind == "secrets" }
	all := lines(judged(t, a, mesh(t)))
	if i := slices.IndexFunc(all, func(l string) bool { return strings.HasPrefix(l, "senders") }); i >= 0 {
		t.Errorf("said of a Secret that was not shown: %s", all[i])
	}
	if !slices.ContainsFunc(all, func(l string) bool { return strings.HasPrefix(l, "applied ok all is applied") }) {
		t.Errorf("no word of what was shown: %q", all)
	}
}

func TestReadNoCluster(t *testing.T) {
	k := open(t, http.NotFoundHandler())
	k.Config.Host = "http://127.0.0.1:1"
	var err error
	if k.Kubernetes, err = kubernetes.NewForConfig(k.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), k, mesh(t)); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("Read() = %v, want an error that names the address", err)
	}
	unauthorized := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Unauthorized", http.StatusUnauthorized) })
	if _, err := Read(t.Context(), open(t, unauthorized), mesh(t)); err == nil {
		t.Error("Read() of a cluster that knows nobody gave no error")
	}
}

// A cluster that hangs is left when the time is over.
func TestReadEnds(t *testing.T) {
	a := captured(t)
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "triggers") {
			<-r.Context().Done()
			return
		}
		a.ServeHTTP(w, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	set := mesh(t)
	c, err := Read(ctx, open(t, slow), set)
	if err != nil {
		t.Fatal(err)
	}
	all := lines(Judge(set, c))
	if !slices.ContainsFunc(all, func(l string) bool {
		return strings.HasPrefix(l, "reading unknown could not list triggers.eventing.knative.dev (analytics, iot, platform): no answer in time")
	}) {
		t.Errorf("findings do not say what did not answer: %q", all)
	}
	if slices.ContainsFunc(all, func(l string) bool { return strings.Contains(l, "missing") }) {
		t.Errorf("what did not answer is called missing: %q", all)
	}
}

// What functions fall back on is said in their package, and here.
func TestDefaultWarehouse(t *testing.T) {
	var asked string
	client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = "http://" + r.URL.Host
		return nil, errors.New("none")
	})}
	config, err := function.Config[connect.Config]()
	if err != nil {
		t.Fatal(err)
	}
	w, err := config.Open(nil, client)
	if err != nil {
		t.Fatal(err)
	}
	w.Query(t.Context(), "SELECT 1")
	if asked != defaultWarehouse {
		t.Errorf("functions ask %q by default, want %q", asked, defaultWarehouse)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

var twoProducts = []contract.Product{{Name: "iot-telemetry", Schema: "iot_telemetry"}, {Name: "customers", Schema: "customers"}}

// google answers as the REST API of BigQuery does.
func google(status map[string]int, location string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if code := status[name]; code != 0 {
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"error": {"code": %d, "message": "no", "errors": [{"reason": "no", "message": "no"}]}}`, code)
			return
		}
		if name == "jobs" {
			fmt.Fprint(w, `{"configuration": {"dryRun": true, "query": {}}, "status": {"state": "DONE"}, "jobReference": {"projectId": "acme-air", "jobId": ""}}`)
			return
		}
		fmt.Fprintf(w, `{"datasetReference": {"projectId": "acme-air", "datasetId": %q}, "location": %q}`, name, location)
	})
}

func TestBigQuery(t *testing.T) {
	tests := []struct {
		name     string
		status   map[string]int
		location string
		version  string // of Kubernetes
		account  string // of Google, that the ServiceAccount names
		want     []string
	}{
		{"all there", nil, "EU", "v1.36.3", "", []string{
			"bigquery ok project acme-air has all 4 datasets; this is what you reach from this machine, and says nothing of the pods",
			"bigquery warning ServiceAccount iot/iot-telemetry-sink: stands for no account of Google, as it has to on GKE",
		}},
		{"annotated", nil, "EU", "v1.33.4-gke.1350000", "iot-telemetry@acme-air.iam.gserviceaccount.com", []string{
			"bigquery ok 1 ServiceAccount annotated with accounts of Google; whether Google lets them be these (roles/iam.workloadIdentityUser) cannot be seen from here",
			"bigquery ok project acme-air has all 4 datasets",
		}},
		{"on GKE", nil, "EU", "v1.33.4-gke.1350000", "", []string{
			"bigquery missing ServiceAccount iot/iot-telemetry-sink: stands for no account of Google: its pods are nobody to BigQuery",
			"bigquery ok project acme-air has all 4 datasets",
		}},
		{"datasets away", map[string]int{"customers": 404, "customers_internal": 404}, "EU", "", "", []string{
			"bigquery missing project acme-air has no dataset customers, customers_internal",
			"bigquery warning ServiceAccount",
		}},
		{"datasets hidden", map[string]int{"iot_telemetry": 403}, "EU", "", "", []string{
			"bigquery unknown you may not see dataset iot_telemetry of project acme-air",
			"bigquery warning ServiceAccount",
		}},
		{"elsewhere", nil, "US", "", "", []string{
			"bigquery failing WAREHOUSE_URL says location EU, and there is iot_telemetry in US",
			"bigquery warning ServiceAccount",
		}},
		{"no queries", map[string]int{"jobs": 403}, "EU", "", "", []string{
			"bigquery unknown a dry run of a query in project acme-air is refused",
			"bigquery warning ServiceAccount",
		}},
		{"refused", map[string]int{"iot_telemetry": 401}, "EU", "", "", []string{
			"bigquery unknown BigQuery of project acme-air gave no answer",
			"bigquery warning ServiceAccount",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(google(test.status, test.location))
			defer server.Close()
			a, set := captured(t), mesh(t)
			a.version = test.version
			a.set(t, "ConfigMap", "iot", "warehouse", "data/url", "bigquery://acme-air?location=EU")
			account := a.find(t, "ServiceAccount", "iot", "iot-telemetry-sink")
			account.SetLabels(map[string]string{manifest.Product: "iot-telemetry"})
			account.SetAnnotations(map[string]string{googleAccount: test.account})
			// Google itself is not asked.
			c, err := Read(t.Context(), open(t, a), set)
			if err != nil {
				t.Fatal(err)
			}
			c.Warehouse = askBigQuery(t.Context(), bigquery.Config{Project: "acme-air", Location: "EU", Endpoint: server.URL, Storage: "127.0.0.1:1"}, twoProducts)
			var got []string
			for _, l := range lines(Judge(set, c)) {
				if strings.HasPrefix(l, "bigquery") {
					got = append(got, l)
				}
			}
			slices.Sort(got)
			for i := range got {
				if i < len(test.want) && strings.HasPrefix(got[i], test.want[i]) {
					got[i] = test.want[i]
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}
