package local

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/fstest"

	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/local/conformance"
	"github.com/telemesh/telemesh/internal/manifest"
)

// embedded runs the Brokers of the suite in a mesh, behind TCP.
type embedded struct{}

func (embedded) Serve(t *testing.T, port int, h http.Handler) (address string, stop func()) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Error(err)
		return "", func() {}
	}
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, s.Close
}

func (embedded) Exceptions() map[conformance.Claim]conformance.Exception { return nil }

const conformanceNamespace = "conformance"

func (embedded) Apply(t *testing.T, brokers []*eventingv1.Broker, triggers []*eventingv1.Trigger) conformance.Mesh {
	set, err := suite(brokers, triggers)
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, Config{Manifests: set})
	server := httptest.NewServer(m.Handler())
	t.Cleanup(server.Close)
	return running{m, server.URL}
}

func suite(brokers []*eventingv1.Broker, triggers []*eventingv1.Trigger) (manifest.Set, error) {
	files := fstest.MapFS{"features.yaml": &fstest.MapFile{Data: []byte(`apiVersion: v1
kind: ConfigMap
metadata: {name: config-features, namespace: knative-eventing}
data: {delivery-retryafter: enabled}
`)}}
	add := func(name string, object any) error {
		data, err := yaml.Marshal(object)
		files[name+".yaml"] = &fstest.MapFile{Data: data}
		return err
	}
	for _, b := range brokers {
		b.Namespace = conformanceNamespace
		if err := add("broker-"+b.Name, b); err != nil {
			return manifest.Set{}, err
		}
	}
	for _, t := range triggers {
		t.Namespace = conformanceNamespace
		if err := add("trigger-"+t.Name, t); err != nil {
			return manifest.Set{}, err
		}
	}
	return manifest.Load(manifest.Folder{Name: "suite", FS: files})
}

func (embedded) Refused(t *testing.T, triggers []*eventingv1.Trigger) []string {
	causes := make([]string, len(triggers))
	for i, trigger := range triggers {
		broker := &eventingv1.Broker{}
		broker.APIVersion, broker.Kind, broker.Name = "eventing.knative.dev/v1", "Broker", trigger.Spec.Broker
		if broker.Name == "" {
			broker.Name = "default"
		}
		set, err := suite([]*eventingv1.Broker{broker}, []*eventingv1.Trigger{trigger})
		if err == nil {
			var m *Mesh
			if m, err = Open(t.Context(), Config{Dir: t.TempDir(), Manifests: set}); err == nil {
				err = m.Close(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
		}
		causes[i] = err.Error()
	}
	return causes
}

// running is a mesh and where its ingress is.
type running struct {
	mesh    *Mesh
	address string
}

func (running) Ready(*testing.T) {}

func (r running) Ingress(broker string) string {
	return r.address + "/" + conformanceNamespace + "/" + broker
}

func (r running) Settle(t *testing.T) { idle(t, r.mesh) }

func TestConformance(t *testing.T) { conformance.Test(t, embedded{}) }
