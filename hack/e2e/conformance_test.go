package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/eventing/pkg/apis/eventing"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/eventing/pkg/apis/feature"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/local/conformance"
	"github.com/telemesh/telemesh/internal/manifest"
)

// TestBrokerConformance holds the cluster's Brokers to what the embedded one is
// held to: those that it makes where nothing is said. E2E_BROKER_CLASS and
// E2E_BROKER_CONFIG (NAMESPACE/NAME of a ConfigMap) choose others.
func TestBrokerConformance(t *testing.T) {
	needCluster(t)
	conformance.Test(t, newKnative(t))
}

// knative makes Brokers on the cluster, in a namespace of its own.
type knative struct {
	host, namespace, class string // the class where it is chosen
	config                 *duckv1.KReference
	inMemory               bool // the class, chosen or not, is of channels in memory
	except                 map[conformance.Claim]conformance.Exception

	mu   sync.Mutex
	last time.Time // that a Broker sent something
}

func newKnative(t *testing.T) *knative {
	k := &knative{host: os.Getenv("E2E_HOST"), class: os.Getenv("E2E_BROKER_CLASS")}
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
	k.look(t)
	return k
}

// look asks what Brokers are here, and what follows from it.
func (k *knative) look(t *testing.T) {
	made := eventingv1.Broker{TypeMeta: metav1.TypeMeta{APIVersion: "eventing.knative.dev/v1", Kind: "Broker"}, ObjectMeta: metav1.ObjectMeta{Name: "any"}}
	k.chosen(&made)
	unmarshal(t, kubectl(t, list(t, []any{made}), "create", "--dry-run=server", "-o", "json", "-f", "-"), &made)
	class, channel := made.Annotations[eventing.BrokerClassKey], ""
	if c := made.Spec.Config; c != nil && class == eventing.MTChannelBrokerClassValue {
		var config corev1.ConfigMap
		unmarshal(t, kubectl(t, "", "get", "configmap", "-n", c.Namespace, c.Name, "-o", "json"), &config)
		var template metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(config.Data["channel-template-spec"]), &template); err != nil {
			t.Fatalf("ConfigMap %s/%s: channel-template-spec: %v", c.Namespace, c.Name, err)
		}
		channel = template.Kind
	}
	// In-memory channels answer when an event is delivered, and have no store.
	k.inMemory = channel == "InMemoryChannel"
	var features corev1.ConfigMap
	unmarshal(t, kubectl(t, "", "get", "configmap", "-n", "knative-eventing", "config-features", "-o", "json"), &features)
	flags, err := feature.NewFlagsConfigFromConfigMap(&features)
	if err != nil {
		t.Fatal(err)
	}
	retryAfter := flags.IsEnabled(feature.DeliveryRetryAfter)

	// The webhooks are the same for Brokers of all classes.
	k.except = map[conformance.Claim]conformance.Exception{conformance.RefusesEmptyValues: conformance.Broken}
	if !retryAfter {
		k.except[conformance.HeedsRetryAfter] = conformance.Broken
	}
	for _, claim := range []conformance.Claim{conformance.AcceptsUndeliverable, conformance.TellsBrokenReply, conformance.TellsTimeout,
		conformance.TellsBadCESQL, conformance.CutsLongAnswers} {
		k.except[claim] = conformance.Broken
		if !k.inMemory {
			k.except[claim] = conformance.Open
		}
	}
	if retryAfter && !k.inMemory {
		k.except[conformance.HeedsRetryAfter] = conformance.Open
	}
	t.Logf("Brokers of class %s, on channels of kind %q; delivery-retryafter is on: %t", class, channel, retryAfter)
}

func unmarshal(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// chosen gives a Broker the class and the ConfigMap that were chosen.
func (k *knative) chosen(b *eventingv1.Broker) {
	b.Namespace = k.namespace
	if k.class != "" {
		b.Annotations = map[string]string{eventing.BrokerClassKey: k.class}
	}
	b.Spec.Config = k.config
}

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

func (k *knative) Exceptions() map[conformance.Claim]conformance.Exception { return k.except }

func (k *knative) Serve(t *testing.T, port int, h http.Handler) (address string, stop func()) {
	listener, err := net.Listen("tcp", net.JoinHostPort(listenAt(), strconv.Itoa(port)))
	if err != nil {
		t.Error(err)
		return "", func() {}
	}
	s := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		k.last = time.Now()
		k.mu.Unlock()
		h.ServeHTTP(w, r)
	})}}
	s.Start()
	t.Cleanup(s.Close)
	return "http://" + net.JoinHostPort(k.host, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)), s.Close
}

func (k *knative) Apply(t *testing.T, brokers []*eventingv1.Broker, triggers []*eventingv1.Trigger) conformance.Mesh {
	var objects []any
	var names []string
	for _, b := range brokers {
		k.chosen(b)
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

// refusal is what kubectl says when a webhook or the schema takes no such object,
// unlike of an API server that is busy or a webhook that does not answer.
var refusal = regexp.MustCompile(`admission webhook "[^"]+" denied the request|Error from server \((Invalid|BadRequest)\)|(?m)^The Trigger "[^"]*" is invalid`)

// Refused asks the cluster's webhooks, for each Trigger by itself.
func (k *knative) Refused(t *testing.T, triggers []*eventingv1.Trigger) []string {
	const atOnce = 4 // each is a process
	errs := make([]error, len(triggers))
	slots := make(chan struct{}, atOnce)
	var asking sync.WaitGroup
	for i, trigger := range triggers {
		trigger.Namespace = k.namespace
		object := list(t, []any{trigger})
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			_, errs[i] = runKubectl(object, "create", "--dry-run=server", "-f", "-")
		})
	}
	asking.Wait()
	causes := make([]string, len(triggers))
	for i, err := range errs {
		if err == nil {
			continue
		}
		if causes[i] = err.Error(); !refusal.MatchString(causes[i]) {
			t.Fatalf("whether Trigger %s is refused is not known: %v", triggers[i].Name, err)
		}
	}
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
		if m.inMemory && len(missing) == 0 {
			return behind(t, m.namespace)
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
	if m.inMemory {
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
