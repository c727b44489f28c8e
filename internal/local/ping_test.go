package local

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server/ats"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// inBubble runs a test that has a mesh on the clock of testing/synctest. NATS
// has one goroutine for all of its servers, which has to be outside.
func inBubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	ats.Register()
	defer ats.Unregister()
	synctest.Test(t, test)
}

// sourceManifests reads manifests of which the second part stands in config/sources.
func sourceManifests(t testing.TB, text, sources string) manifest.Set {
	t.Helper()
	set, err := manifest.Load(manifest.Folder{Name: "test", FS: fstest.MapFS{"mesh.yaml": {Data: []byte(text)}}},
		manifest.Folder{Name: "config/sources", FS: fstest.MapFS{"s.yaml": {Data: []byte(sources)}}})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func pingYAML(name, spec string) string {
	return `
---
apiVersion: sources.knative.dev/v1
kind: PingSource
metadata: {name: ` + name + `, namespace: iot}
spec:
  sink: {ref: {apiVersion: eventing.knative.dev/v1, kind: Broker, name: iot}}
` + spec
}

func tickTrigger(name string) string {
	return strings.Replace(triggerYAML(name, "dev.knative.sources.ping", toService(name), ""),
		"type: dev.knative.sources.ping", "type: dev.knative.sources.ping, source: /apis/v1/namespaces/iot/pingsources/"+name, 1)
}

var sheetRef = manifest.Ref{Namespace: "iot", Name: "sheet"}

// sheetYAML is a source that a ping source wakes, as a file of config/sources.
func sheetYAML(spec string) string {
	service := strings.Replace(serviceYAML("sheet"), "{name: TEST_NAME, value: sheet}",
		"{name: SHEET, valueFrom: {configMapKeyRef: {name: sheets, key: sheet, optional: true}}}", 1)
	return service + tickTrigger("sheet") + pingYAML("sheet", spec)
}

func TestPings(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var got inbox
		var at []string
		cfg := Config{
			Dir: t.TempDir(),
			Functions: handlers(map[string]function.Handler{"sheet": func(ctx context.Context, e event.Event) ([]event.Event, error) {
				at = append(at, time.Now().UTC().Format("15:04:05"))
				return got.handle(ctx, e)
			}}),
			Manifests: sourceManifests(t, brokerYAML, sheetYAML(`
  schedule: "0/20 * * * *"
  timezone: Asia/Kathmandu
  contentType: application/json
  data: '{"a": 1}'
  ceOverrides: {extensions: {sheet: placements}}
`)),
			Set: map[manifest.Ref]map[string]string{sheetRef: {"SHEET": "placements.csv"}},
		}
		m, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		// The bubble begins at midnight of UTC, in Kathmandu it is 5:45.
		time.Sleep(time.Hour) // no sources yet
		if err := m.StartSources(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		if err := m.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"01:15:00"}, at); diff != "" {
			t.Errorf("ticks (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]manifest.Ref{sheetRef}, m.Pings()); diff != "" {
			t.Errorf("Pings (-want +got):\n%s", diff)
		}
		// At once, and as often as asked: each is another event.
		for range 2 {
			if err := m.Tick(t.Context(), sheetRef); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for _, e := range got.events {
			ids[e.ID()] = true
			if e.Type() != "dev.knative.sources.ping" || e.Source() != "/apis/v1/namespaces/iot/pingsources/sheet" ||
				e.Extensions()["sheet"] != "placements" || string(e.Data()) != `{"a": 1}` || e.DataContentType() != "application/json" || e.Time().IsZero() {
				t.Errorf("tick %v", e)
			}
		}
		if len(ids) != 3 {
			t.Errorf("%d events of %d ids, want 3 of 3", len(got.events), len(ids))
		}

		// What was not ticked while the process is away is not made up for.
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		at = nil
		time.Sleep(5*time.Hour + 10*time.Minute) // 06:40
		if m, err = Open(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if err := m.StartSources(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"06:55:00"}, at); diff != "" {
			t.Errorf("ticks after the start (-want +got):\n%s", diff)
		}
	})
}

// A file of config/sources is there once its user says what to fetch.
func TestASourceThatIsNotOptedIn(t *testing.T) {
	started := 0
	cfg := Config{
		Dir: t.TempDir(),
		Functions: map[string]function.Start{"sheet": func(function.Ports) (*function.Function, error) {
			started++
			return &function.Function{Handler: func(context.Context, event.Event) ([]event.Event, error) { return nil, nil }}, nil
		}},
		// Another reads everything: that alone makes no clock run.
		Manifests: sourceManifests(t, brokerYAML+serviceYAML("log")+strings.Replace(strings.Replace(triggerYAML("log", "a", toService("log"), ""),
			"filters: [{exact: {type: a}}]", "", 1), "namespace: iot}", "namespace: iot, annotations: {telemesh.dev/keeps: everything}}", 1), sheetYAML("")),
	}
	cfg.Functions["log"] = handlers(map[string]function.Handler{"log": new(inbox).handle})["log"]
	m := open(t, cfg)
	if err := m.StartSources(); err != nil {
		t.Fatal(err)
	}
	if err := m.Tick(t.Context(), sheetRef); started != 0 || len(m.Pings()) != 0 || err == nil || !strings.Contains(err.Error(), "nothing that runs here takes its ticks") {
		t.Errorf("without what it needs: %d started, ping sources %v, Tick = %v", started, m.Pings(), err)
	}
	if err := m.Tick(t.Context(), manifest.Ref{Namespace: "iot", Name: "none"}); err == nil || !strings.Contains(err.Error(), "there is no PingSource iot/none") {
		t.Errorf("Tick of none = %v", err)
	}
	if status := m.Status(); len(status.Triggers) != 1 {
		t.Errorf("triggers %+v, want the log's alone", status.Triggers)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.Set = map[manifest.Ref]map[string]string{sheetRef: {"SHEET": "placements.csv"}}
	m = open(t, cfg)
	if err := m.Tick(t.Context(), sheetRef); started != 1 || err != nil {
		t.Errorf("with what it needs: %d started, Tick = %v", started, err)
	}
	idle(t, m)
	if s := m.Status(); len(s.Triggers) != 2 || s.Triggers[1].Delivered != 1 {
		t.Errorf("status %+v, want a tick delivered", s)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Without it the next time, its Trigger is not gone; the log's is.
	var log bytes.Buffer
	cfg.Set, cfg.Log = nil, slog.New(slog.NewTextHandler(&log, nil))
	cfg.Manifests = sourceManifests(t, brokerYAML, sheetYAML(""))
	m, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Count(text, "gone from the manifests") != 1 || !strings.Contains(text, "trigger=iot_log") {
		t.Errorf("the log is\n%s\nwant that of Trigger iot/log alone said to be gone", text)
	}
}

// A tick that cannot be answered is no dead letter where its Trigger says so: the
// next one reads the same.
func TestATickThatFailedIsNotKept(t *testing.T) {
	cfg := Config{
		Dir: t.TempDir(),
		Functions: handlers(map[string]function.Handler{"sheet": func(context.Context, event.Event) ([]event.Event, error) {
			return nil, mesh.Permanentf("the sheet is away")
		}}),
		Manifests: sourceManifests(t, brokerYAML, strings.Replace(sheetYAML(""), "kind: Trigger\nmetadata: {name: sheet, namespace: iot}",
			"kind: Trigger\nmetadata: {name: sheet, namespace: iot, annotations: {"+manifest.Keeps+": nothing}}", 1)),
		Set: map[manifest.Ref]map[string]string{sheetRef: {"SHEET": "placements.csv"}},
	}
	m := open(t, cfg)
	if err := m.Tick(t.Context(), sheetRef); err != nil {
		t.Fatal(err)
	}
	idle(t, m)
	s := m.Status()
	if len(s.Triggers) != 1 || s.Triggers[0].Dropped != 1 || s.Triggers[0].DeadLettered != 0 || s.Triggers[0].Pending != 0 {
		t.Errorf("triggers %+v, want a tick dropped", s.Triggers)
	}
	if len(s.Failures) != 1 || s.Failures[0].Text != "the sheet is away" {
		t.Errorf("failures %+v", s.Failures)
	}
	if n, err := m.DeadLetters().Count(t.Context()); n != 0 || err != nil {
		t.Errorf("%d dead letters, %v", n, err)
	}
}

// A delivery that takes long is made once and is not ended before the Service's
// timeout, or the Trigger's where that is shorter.
func TestADeliveryMayTakeTenMinutes(t *testing.T) {
	const work = 10*time.Minute - time.Second
	for name, test := range map[string]struct {
		service string
		trigger string
		calls   int
		took    time.Duration
		letters int
	}{
		"the Service's timeout": {"timeoutSeconds: 600, responseStartTimeoutSeconds: 600, ", "", 1, work, 0},
		// Knative gives the answer 300 s to begin, however long it may take.
		"the Service's timeout alone": {"timeoutSeconds: 600, ", "", 3, 15*time.Minute + 100*time.Millisecond, 1},
		"none":                        {"", "", 3, 15*time.Minute + 100*time.Millisecond, 1},
		"the Trigger's timeout":       {"timeoutSeconds: 600, responseStartTimeoutSeconds: 600, ", "  delivery: {timeout: PT2M, retry: 1}\n", 2, 4 * time.Minute, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				calls := make(chan struct{}, 10)
				m, err := Open(t.Context(), Config{Dir: t.TempDir(),
					Manifests: manifests(t, brokerYAML+strings.Replace(serviceYAML("repair"), "spec: {containers", "spec: {"+test.service+"containers", 1)+
						triggerYAML("repair", "a", toService("repair"), test.trigger)),
					Functions: handlers(map[string]function.Handler{"repair": func(ctx context.Context, _ event.Event) ([]event.Event, error) {
						calls <- struct{}{}
						select {
						case <-ctx.Done():
							return nil, ctx.Err()
						case <-time.After(work):
							return nil, nil
						}
					}}),
				})
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				post(t, m.Client(), newEvent("1", "a", "x"))
				if err := m.Idle(t.Context()); err != nil {
					t.Fatal(err)
				}
				took := time.Since(began)
				if n := len(letters(t, m.DeadLetters())); took != test.took || len(calls) != test.calls || n != test.letters {
					t.Errorf("idle after %v, %d calls, %d dead letters, want %v, %d, %d", took, len(calls), n, test.took, test.calls, test.letters)
				}
				time.Sleep(time.Hour)
				if len(calls) != test.calls {
					t.Errorf("%d calls an hour later, want %d", len(calls), test.calls)
				}
				if err := m.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A function that posts what it makes itself, as a repair does in batches, has
// posted before its own delivery ends: the mesh is not idle in between.
func TestWhatAHandlerPostsIsDoneBeforeTheMeshIsIdle(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var got inbox
		m, err := Open(t.Context(), Config{Dir: t.TempDir(),
			Manifests: manifests(t, brokerYAML+serviceYAML("repair")+serviceYAML("sink")+
				triggerYAML("repair", "a", toService("repair"), "")+triggerYAML("sink", "b", toService("sink"), "")),
			Functions: map[string]function.Start{
				"repair": func(ports function.Ports) (*function.Function, error) {
					return &function.Function{Handler: func(ctx context.Context, e event.Event) ([]event.Event, error) {
						for i := range 10 {
							time.Sleep(10 * time.Second)
							if err := function.Post(ctx, ports.Client, ingressURL, newEvent(fmt.Sprint(e.ID(), i), "b", "x")); err != nil {
								return nil, err
							}
						}
						return nil, nil
					}}, nil
				},
				"sink": handlers(map[string]function.Handler{"sink": func(ctx context.Context, e event.Event) ([]event.Event, error) {
					time.Sleep(30 * time.Second)
					return got.handle(ctx, e)
				}})["sink"],
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		post(t, m.Client(), newEvent("1", "a", "x"))
		if err := m.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 130*time.Second || len(got.ids()) != 10 {
			t.Errorf("idle after %v with %d events delivered, want 2m10s and 10", took, len(got.ids()))
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
