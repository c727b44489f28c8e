package manifests_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"knative.dev/eventing/pkg/eventfilter"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/cesql"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/topology/manifests"
	"github.com/telemesh/telemesh/triggers"
)

func shipped(t *testing.T) (topology.Mesh, manifest.Set) {
	t.Helper()
	m, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS},
		manifests.Folder{FS: config.Sources, Optional: true})
	if err != nil {
		t.Fatal(err)
	}
	set, err := manifest.Load(manifest.Folder{Name: "brokers", FS: brokers.FS}, manifest.Folder{Name: "triggers", FS: triggers.FS},
		manifest.Folder{Name: "config", FS: config.FS}, manifest.Folder{Name: "config/sources", FS: config.Sources})
	if err != nil {
		t.Fatal(err)
	}
	return m, set
}

// What is read here is what is there with Knative's types, defaults and rules.
func TestReadsAsKnativeDoes(t *testing.T) {
	m, set := shipped(t)
	of, err := set.Topology()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(of, m); diff != "" {
		t.Errorf("(-by Knative's types +by YAML)\n%s", diff)
	}
	if len(m.Brokers) != len(set.Brokers) || len(m.Triggers) != len(set.Triggers) || len(m.Functions) != len(set.Workloads()) || len(m.Ticks) != len(set.PingSources) {
		t.Fatalf("%d Brokers, %d Triggers, %d functions, %d ticks", len(m.Brokers), len(m.Triggers), len(m.Functions), len(m.Ticks))
	}
	for i, trigger := range set.Triggers {
		got := m.Triggers[i]
		if got.Ref != topology.Ref(trigger.Ref()) || got.Broker != topology.Ref(trigger.BrokerOf()) || !slices.Equal(got.Types(), trigger.Types()) {
			t.Errorf("Trigger %s of Broker %s takes %v", got.Ref, got.Broker, got.Types())
		}
		target, err := manifest.Resolve(trigger.Spec.Subscriber, trigger.Namespace)
		if err != nil || topology.Ref(target.Service) != got.Service || topology.Ref(target.Broker) != got.To {
			t.Errorf("Trigger %s leads to %s %s, want %v, %v", got.Ref, got.Service, got.To, target, err)
		}
	}
	for _, w := range set.Workloads() {
		got := m.Function(topology.Ref(w.Ref()))
		product := set.Account(w.Account()).Labels[manifest.Product]
		if got == nil || got.Image != w.Function() || got.Product != product || got.Optional != w.OptIn() {
			t.Errorf("%s: %+v", w.Object(), got)
		}
	}
}

// Each filter says of each event what Knative's code says.
func TestFiltersAsKnative(t *testing.T) {
	m, set := shipped(t)
	expression := func(text string, attributes map[string]string) bool {
		x, err := cesql.Parse(text)
		return err == nil && x.Matches(eventOf(attributes))
	}
	types := []string{"dev.telemesh.nothing.v1", "dev.knative.sources.ping"}
	for i := range m.Triggers {
		types = append(types, m.Triggers[i].Types()...)
	}
	sources := []string{"/telemesh/tenancy-repair", "/telemesh/x", "/apis/v1/namespaces/crm/pingsources/customer-source"}
	taken, refused := 0, 0
	for i, trigger := range set.Triggers {
		filter, err := manifest.NewFilter(trigger.Spec)
		if err != nil {
			t.Fatal(err)
		}
		for _, eventType := range types {
			for _, source := range sources {
				for _, withdrawn := range []string{"", "true"} {
					attributes := map[string]string{"type": eventType, "source": source}
					if withdrawn != "" {
						attributes["withdrawn"] = withdrawn
					}
					want := filter.Filter(t.Context(), eventOf(attributes)) != eventfilter.FailFilter
					got := m.Triggers[i].Takes(topology.Event{Attributes: attributes, All: true}, expression)
					if got == topology.Maybe || (got == topology.Yes) != want {
						t.Errorf("Trigger %s and %v: %v, want %v", trigger.Ref(), attributes, got, want)
					}
					// Who knows less never contradicts.
					less := m.Triggers[i].Takes(topology.Event{Attributes: map[string]string{"type": eventType}}, nil)
					if less == topology.No && want || less == topology.Yes && !want {
						t.Errorf("Trigger %s and type %s: %v, but of %v it is %v", trigger.Ref(), eventType, less, attributes, want)
					}
					if want {
						taken++
					} else {
						refused++
					}
				}
			}
		}
	}
	if taken == 0 || refused == 0 {
		t.Errorf("%d events are taken, %d refused", taken, refused)
	}
}

func eventOf(attributes map[string]string) event.Event {
	e := event.New()
	e.SetID("1")
	for name, value := range attributes {
		switch name {
		case "type":
			e.SetType(value)
		case "source":
			e.SetSource(value)
		default:
			e.SetExtension(name, value)
		}
	}
	return e
}

func TestFlows(t *testing.T) {
	m, _ := shipped(t)
	flows := map[string]*topology.Flow{}
	for _, f := range m.Flows() {
		flows[f.Broker.Name+" "+f.Type] = f
	}
	for name, want := range map[string]string{
		"iot dev.telemesh.telemetry.received.v1":       "[iot/mqtt-source iot/pubsub-source iot/telemetry-ingest platform/portal] [] [iot/telemetry-flatten] false",
		"iot dev.telemesh.telemetry.enriched.v1":       "[iot/tenancy-repair iot/tenant-enrich] [] [iot/analytics iot/iot-telemetry-sink] true",
		"analytics dev.telemesh.telemetry.enriched.v1": "[] [iot/analytics] [analytics/analytics-join] false",
		"analytics dev.telemesh.analytics.joined.v1":   "[analytics/analytics-join analytics/analytics-repair] [] [analytics/co2-level analytics/iot-analytics-sink] true",
		"crm dev.knative.sources.ping":                 "[] [] [crm/customer-source] false",
	} {
		f := flows[name]
		if f == nil {
			t.Errorf("no flow %s", name)
			continue
		}
		names := func(all []*topology.Trigger) (refs []topology.Ref) {
			for _, one := range all {
				refs = append(refs, one.Ref)
			}
			return refs
		}
		if got := fmt.Sprint(f.Makers, names(f.Bring), names(f.Read), f.Output); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if f := flows["crm dev.knative.sources.ping"]; f != nil && len(f.Ticks) != 1 {
		t.Errorf("ticks of crm: %v", f.Ticks)
	}
}

func TestDecode(t *testing.T) {
	m, err := manifests.Read(manifests.Folder{FS: fstest.MapFS{"a.yaml": {Data: []byte(`
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: b, namespace: ns}
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: old, namespace: ns}
spec:
  broker: b
  filter: {attributes: {type: x, tenantid: ''}}
  subscriber: {uri: http://f.ns.svc.cluster.local/path}
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: away, namespace: ns}
spec:
  brokerRef: {kind: Broker, name: b, namespace: other}
  subscriber: {uri: https://example.com/events}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: f, namespace: ns, annotations: {telemesh.dev/emits: "x, y"}}
spec:
  template:
    spec:
      containers:
        - {image: example.com/side}
        - image: ko://github.com/telemesh/telemesh/functions/fn
          ports: [{containerPort: 8080}]
          env:
            - {name: K_SINK, value: http://broker-ingress.platform.svc.cluster.local/ns/b}
            - {name: OTHER, value: http://g.ns.svc.cluster.local/rows}
            - {name: NOBODY, value: http://h.ns.svc.cluster.local/rows}
            - {name: WAKE, value: http://g.ns.svc.cluster.local}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: g, namespace: ns}
`)}}})
	if err != nil {
		t.Fatal(err)
	}
	ref := func(name string) topology.Ref { return topology.Ref{Namespace: "ns", Name: name} }
	want := topology.Mesh{
		Brokers: []topology.Broker{{Ref: ref("b")}},
		Triggers: []topology.Trigger{
			{Ref: ref("away"), Broker: topology.Ref{Namespace: "other", Name: "b"}, URL: "https://example.com/events", Address: "https://example.com/events"},
			{Ref: ref("old"), Broker: ref("b"), Service: ref("f"), Address: "http://f.ns.svc.cluster.local/path", Filters: []topology.Filter{{CESQL: "EXISTS tenantid"}, {Exact: map[string]string{"type": "x"}}}},
		},
		Functions: []topology.Function{
			{Ref: ref("f"), Image: "fn", Emits: []string{"x", "y"}, Posts: ref("b"), Asks: []topology.Ref{ref("g")}},
			{Ref: ref("g")},
		},
	}
	if diff := cmp.Diff(want, m, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := m.Triggers[1].Attributes(); !slices.Equal(got, []string{"tenantid", "type"}) {
		t.Errorf("attributes %v", got)
	}
	if got := m.Triggers[1].FilterText(); got != "EXISTS tenantid and type = x" {
		t.Errorf("filters as text: %s", got)
	}
	if _, err := manifests.Read(manifests.Folder{FS: fstest.MapFS{"a.yaml": {Data: []byte("kind: [")}}}); err == nil {
		t.Error("YAML that is none gives no error")
	}
}
