package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	duckv1 "knative.dev/pkg/apis/duck/v1"

	"github.com/telemesh/telemesh/internal/local/conformance"
	"github.com/telemesh/telemesh/internal/manifest"
)

// TestBrokerConformance holds the cluster's Brokers to what the embedded one is
// held to. E2E_BROKER_CLASS and E2E_BROKER_CONFIG (NAMESPACE/NAME of a
// ConfigMap) choose others than the cluster's default.
func TestBrokerConformance(t *testing.T) {
	needCluster(t)
	conformance.Test(t, newKnative(t))
}

const channelBased = "MTChannelBasedBroker"

// knative makes Brokers on the cluster, in a namespace of its own.
type knative struct {
	host, namespace, class string
	config                 *duckv1.KReference

	mu   sync.Mutex
	last time.Time // that a Broker sent something
}

func newKnative(t *testing.T) *knative {
	k := &knative{host: os.Getenv("E2E_HOST"), class: channelBased}
	if class := os.Getenv("E2E_BROKER_CLASS"); class != "" {
		k.class = class
	}
	if config := os.Getenv("E2E_BROKER_CONFIG"); config != "" {
		namespace, name, ok := strings.Cut(config, "/")
		if !ok {
			t.Fatalf("E2E_BROKER_CONFIG is %q, want NAMESPACE/NAME of a ConfigMap", config)
		}
		k.config = &duckv1.KReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: namespace, Name: name}
	}
	deleteLeft(t)
	k.namespace = kubectl(t, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Namespace",
		"metadata": {"generateName": "conformance-", "labels": {%q: "conformance"}}}`, mine), "create", "-o", "jsonpath={.metadata.name}", "-f", "-")
	t.Cleanup(func() { kubectl(t, "", "delete", "namespace", "--wait=false", k.namespace) })
	return k
}

// inMemory says that the Brokers are on in-memory channels, which are what a
// cluster has unless it is told otherwise. They answer when an event is
// delivered, and have no store.
func (k *knative) inMemory() bool { return k.class == channelBased && k.config == nil }

// deleteLeft takes away what killed runs have left. A younger namespace may be of
// one that runs beside this.
func deleteLeft(t *testing.T) {
	const oldest = 15 * time.Minute
	out := kubectl(t, "", "get", "namespaces", "-l", mine+"=conformance", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.metadata.creationTimestamp}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		name, made, _ := strings.Cut(strings.TrimSpace(line), " ")
		at, err := time.Parse(time.RFC3339, made)
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(at) > oldest {
			kubectl(t, "", "delete", "namespace", "--wait=false", name)
		}
	}
}

func (k *knative) Exceptions() []conformance.Claim {
	except := []conformance.Claim{conformance.RefusesEmptyValues, conformance.HeedsRetryAfter}
	if k.inMemory() {
		except = append(except, conformance.AcceptsUndeliverable,
			conformance.TellsBrokenReply, conformance.TellsTimeout, conformance.TellsBadCESQL, conformance.CutsLongAnswers)
	}
	return except
}

func (k *knative) Serve(t *testing.T, h http.Handler) string {
	port := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		k.last = time.Now()
		k.mu.Unlock()
		h.ServeHTTP(w, r)
	}))
	return "http://" + net.JoinHostPort(k.host, strconv.Itoa(port))
}

func (k *knative) Apply(t *testing.T, brokers []*eventingv1.Broker, triggers []*eventingv1.Trigger) conformance.Mesh {
	var objects []any
	var names []string
	for _, b := range brokers {
		b.Namespace = k.namespace
		b.Annotations = map[string]string{eventingv1.BrokerClassAnnotationKey: k.class}
		b.Spec.Config = k.config
		objects, names = append(objects, b), append(names, "Broker "+b.Name)
	}
	for _, t := range triggers {
		t.Namespace = k.namespace
		objects, names = append(objects, t), append(names, "Trigger "+t.Name)
	}
	kubectl(t, list(t, objects), "create", "-f", "-")
	return &onKnative{knative: k, names: names}
}

func list(t *testing.T, objects []any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Refused asks the cluster's webhooks, for each Trigger by itself.
func (k *knative) Refused(t *testing.T, triggers []*eventingv1.Trigger) []string {
	causes := make([]string, len(triggers))
	var asking sync.WaitGroup
	for i, trigger := range triggers {
		trigger.Namespace = k.namespace
		object := list(t, []any{trigger})
		asking.Go(func() {
			if _, err := runKubectl(object, "create", "--dry-run=server", "-f", "-"); err != nil {
				causes[i] = err.Error()
			}
		})
	}
	asking.Wait()
	return causes
}

// onKnative are Brokers and Triggers of one Apply.
type onKnative struct {
	*knative
	names []string // KIND NAME
}

func (m *onKnative) Ready(t *testing.T) {
	took := until(t, 3*time.Minute, "Brokers and Triggers ready", func() string {
		out := kubectl(t, "", "get", "brokers,triggers", "-n", m.namespace, "-o",
			`jsonpath={range .items[*]}{.kind} {.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		ready := map[string]bool{}
		for line := range strings.Lines(out) {
			name, status, _ := strings.Cut(strings.TrimSpace(line), "=")
			ready[name] = status == "True"
		}
		var missing []string
		for _, name := range m.names {
			if !ready[name] {
				missing = append(missing, name)
			}
		}
		return strings.Join(missing, ", ")
	})
	t.Logf("%d Brokers and Triggers ready after %v", len(m.names), took.Round(time.Millisecond))
}

func (m *onKnative) Ingress(broker string) string {
	return "http://" + manifest.IngressHost + "/" + m.namespace + "/" + broker
}

// quiet is how long nothing comes when a Broker has nothing left to deliver:
// longer than any wait between attempts of the suite.
const quiet = 3 * time.Second

// Settle has nothing to wait for with in-memory channels: the ingress answers
// when the last event that came of an event is delivered. Of others it waits
// until nothing comes any more.
func (m *onKnative) Settle(t *testing.T) {
	if m.inMemory() {
		return
	}
	start := time.Now()
	until(t, time.Minute, "the Broker comes to rest", func() string {
		m.mu.Lock()
		defer m.mu.Unlock()
		if since := time.Since(m.last); since < quiet || time.Since(start) < quiet {
			return fmt.Sprintf("a request came %v ago", since.Round(time.Millisecond))
		}
		return ""
	})
}
