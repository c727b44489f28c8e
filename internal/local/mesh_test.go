package local

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

func load(text string) (manifest.Set, error) {
	return manifest.Load(manifest.Folder{Name: "test", FS: fstest.MapFS{"mesh.yaml": {Data: []byte(text)}}})
}

func manifests(t testing.TB, text string) manifest.Set {
	t.Helper()
	set, err := load(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const brokerYAML = `
---
apiVersion: eventing.knative.dev/v1
kind: Broker
metadata: {name: iot, namespace: iot}
spec: {delivery: {retry: 2, backoffPolicy: linear, backoffDelay: PT0.1S}}
`

func triggerYAML(name, eventType, subscriber, more string) string {
	return `
---
apiVersion: eventing.knative.dev/v1
kind: Trigger
metadata: {name: ` + name + `, namespace: iot}
spec:
  broker: iot
  filters: [{exact: {type: ` + eventType + `}}]
  subscriber: ` + subscriber + `
` + more
}

func serviceYAML(name string) string {
	return `
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: ` + name + `, namespace: iot}
spec: {template: {spec: {containers: [{image: "ko://github.com/telemesh/telemesh/functions/` + name + `", env: [{name: TEST_NAME, value: ` + name + `}]}]}}}
`
}

func toService(name string) string {
	return "{ref: {apiVersion: serving.knative.dev/v1, kind: Service, name: " + name + "}}"
}

// handlers makes functions of handlers.
func handlers(h map[string]function.Handler) map[string]function.Start {
	out := map[string]function.Start{}
	for name, handler := range h {
		out[name] = func(function.Ports) (*function.Function, error) { return &function.Function{Handler: handler}, nil }
	}
	return out
}

func testLog(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func open(t testing.TB, cfg Config) *Mesh {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.Log = testLog(t)
	m, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

const ingressURL = "http://" + manifest.IngressHost + "/iot/iot"

func newEvent(id, eventType string, data string) event.Event {
	e := mesh.NewEvent(eventType, "/test", []byte(data), id)
	e.SetID(id)
	return e
}

// post brings an event to the broker iot/iot and gives the status.
func post(t testing.TB, client *http.Client, e event.Event) int {
	t.Helper()
	req, err := cehttp.NewHTTPRequestFromEvent(context.Background(), ingressURL, e)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func idle(t testing.TB, m *Mesh) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := m.Idle(ctx); err != nil {
		t.Fatalf("the mesh does not come to rest: %v; %+v", err, m.Status())
	}
}

// inbox remembers the events that a handler was given.
type inbox struct {
	mu     sync.Mutex
	events []event.Event
}

func (b *inbox) handle(_ context.Context, e event.Event) ([]event.Event, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, e)
	return nil, nil
}

func (b *inbox) ids() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for _, e := range b.events {
		ids = append(ids, e.ID())
	}
	return ids
}

func TestChain(t *testing.T) {
	var got inbox
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("first")+serviceYAML("last")+
			triggerYAML("first", "a", toService("first"), "")+triggerYAML("last", "b", toService("last"), "")),
		Functions: handlers(map[string]function.Handler{
			"first": func(_ context.Context, in event.Event) ([]event.Event, error) {
				out := mesh.Derive(in, "first", "b", "", in.Data())
				other := mesh.Derive(in, "first", "b", "other", []byte(strings.Repeat("x", 100_000)))
				return []event.Event{out, other}, nil
			},
			"last": got.handle,
		}),
	})
	if status := post(t, m.Client(), newEvent("1", "a", `{"n":1}`)); status != http.StatusAccepted {
		t.Fatalf("ingress answers %d, want 202", status)
	}
	idle(t, m)
	if len(got.events) != 2 {
		t.Fatalf("last got %d events, want 2: %+v", len(got.events), m.Status())
	}
	var sizes int
	for _, e := range got.events {
		sizes += len(e.Data())
		if e.Extensions()[extTTL] != nil {
			t.Errorf("the subscriber sees the TTL: %v", e)
		}
	}
	if sizes != len(`{"n":1}`)+100_000 {
		t.Errorf("%d bytes arrived", sizes)
	}
	if entries, _ := os.ReadDir(m.store.server.JetStreamConfig().StoreDir); len(entries) == 0 {
		t.Error("nothing on disk")
	}
}

// A Trigger says by a path what no event says of itself. A function that serves
// more than events is given them at its root alone, as over HTTP.
func TestPathOfSubscriber(t *testing.T) {
	var mu sync.Mutex
	got := map[string]int{}
	record := func(path string) {
		mu.Lock()
		defer mu.Unlock()
		got[path]++
	}
	handle := func(ctx context.Context, _ event.Event) ([]event.Event, error) {
		record("event at " + function.Path(ctx))
		return nil, nil
	}
	at := func(service, uri string) string {
		return strings.TrimSuffix(toService(service), "}") + ", uri: " + uri + "}"
	}
	m := open(t, Config{
		Manifests: manifests(t, brokerYAML+serviceYAML("sink")+serviceYAML("port")+
			triggerYAML("root", "a", toService("sink"), "")+triggerYAML("path", "a", at("sink", "/iot/iot"), "")+
			triggerYAML("port", "a", toService("port"), "")+triggerYAML("page", "a", at("port", "/page"), "")),
		Functions: map[string]function.Start{
			"sink": func(function.Ports) (*function.Function, error) { return &function.Function{Handler: handle}, nil },
			"port": func(function.Ports) (*function.Function, error) {
				return &function.Function{Handler: handle, HTTP: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					record("request of " + r.URL.Path)
				})}, nil
			},
		},
	})
	post(t, m.Client(), newEvent("1", "a", `{}`))
	idle(t, m)
	if diff := cmp.Diff(map[string]int{"event at /": 2, "event at /iot/iot": 1, "request of /page": 1}, got); diff != "" {
		t.Errorf("what came (-want +got):\n%s", diff)
	}
}
