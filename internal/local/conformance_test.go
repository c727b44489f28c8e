package local

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/fstest"

	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/local/conformance"
	"github.com/telemesh/telemesh/internal/manifest"
)

// embedded runs each Broker of the suite in a mesh of its own, behind TCP.
type embedded struct{}

func (embedded) Serve(t testing.TB, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func (embedded) Apply(t testing.TB, broker *eventingv1.Broker, triggers ...*eventingv1.Trigger) conformance.Broker {
	files := fstest.MapFS{}
	add := func(name string, object any) {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		files[name+".yaml"] = &fstest.MapFile{Data: data}
	}
	add("broker", broker)
	for _, trigger := range triggers {
		add("trigger-"+trigger.Name, trigger)
	}
	set, err := manifest.Load(manifest.Folder{Name: "suite", FS: files})
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, Config{Manifests: set})
	server := httptest.NewServer(m.Handler())
	t.Cleanup(server.Close)
	return conformance.Broker{
		Ingress: server.URL + "/" + broker.Namespace + "/" + broker.Name,
		Settle:  func(t testing.TB) { idle(t, m) },
	}
}

func TestConformance(t *testing.T) { conformance.Test(t, embedded{}) }

// The tables of Knative's own tests of its filters.
func TestConformanceToKnativeFilters(t *testing.T) {
	data, err := os.ReadFile(dataset.Path(t, "cloudevents/knative-trigger-filters/cases.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Dialects map[string][]struct {
			Name   string
			Filter struct {
				eventingv1.SubscriptionsAPIFilter
				Attributes eventingv1.TriggerFilterAttributes `json:"attributes"`
			}
			Event map[string]any
			Want  string
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var cases []conformance.FilterCase
	for dialect, list := range file.Dialects {
		for _, c := range list {
			one := conformance.FilterCase{Name: dialect + ": " + c.Name, Event: map[string]string{}, Passes: c.Want != "fail"}
			if c.Filter.Attributes != nil {
				one.Filter = &eventingv1.TriggerFilter{Attributes: c.Filter.Attributes}
			} else {
				one.Filters = []eventingv1.SubscriptionsAPIFilter{c.Filter.SubscriptionsAPIFilter}
			}
			for name, value := range c.Event {
				if s, ok := value.(string); ok { // the TTL is the ingress' own matter
					one.Event[name] = s
				}
			}
			cases = append(cases, one)
		}
	}
	if len(cases) < 20 {
		t.Fatalf("%d cases, want 20 or more", len(cases))
	}
	conformance.TestFilters(t, embedded{}, cases)
}
