package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// oddEvents have what is hard to keep.
func oddEvents() []event.Event {
	odd := func(id string, change func(*event.Event)) event.Event {
		e := event.New()
		e.SetID(id)
		e.SetSource("/elsewhere")
		e.SetType("com.example.odd")
		change(&e)
		return e
	}
	return []event.Event{
		odd("plain", func(e *event.Event) { e.DataEncoded = []byte(" {\"a\" : 1.0}\n") }),
		odd("nothing", func(e *event.Event) {}),
		odd("everything", func(e *event.Event) {
			e.SetSubject("d/1")
			e.SetTime(time.Date(2026, 3, 1, 9, 0, 0, 123456789, time.UTC))
			e.SetDataSchema("https://example.com/s?a=b")
			e.SetDataContentType("application/octet-stream")
			e.SetExtension("tenantid", "a b")
			e.SetExtension("count", 7)
			e.SetExtension("flag", true)
			e.SetExtension("until", time.Date(2026, 3, 1, 9, 0, 0, 1, time.UTC))
			e.DataEncoded = []byte{0xff, 0, '\n'}
		}),
		// What no header carries as it is.
		odd("spaces", func(e *event.Event) { e.SetExtension("tenantid", " a "); e.DataEncoded = []byte(`{"a":"ü"}`) }),
		odd("letters", func(e *event.Event) {
			e.SetSubject("dü\x01")
			e.SetDataContentType("text/plain")
			e.DataEncoded = []byte("ü\r\n")
		}),
		odd("bytes", func(e *event.Event) {
			e.SetSubject("日")
			e.SetDataContentType("application/x")
			e.DataEncoded = []byte{0xff, 0}
		}),
		odd("year 0", func(e *event.Event) { e.SetTime(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)) }),
	}
}

// An event of the log is sent with all it had; at two Brokers, to the first.
func TestFromLogKeepsEvents(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	in := openFolder(t, first)
	var want []string
	for i, e := range oddEvents() {
		for _, broker := range []string{"crm", "analytics"} {
			if err := function.Post(safely(t.Context(), &e), in.mesh.Client(), ingress(broker), e); err != nil {
				t.Fatal(err)
			}
			if err := in.mesh.Idle(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, fmt.Sprint(i))
	}
	const logged = `SELECT * EXCLUDE (received_at, recorded_at) FROM event_log.events WHERE source = '/elsewhere'`
	all := cellsOf(t, in, logged+" AND broker = 'crm/crm' ORDER BY event_id")
	if len(all) != len(want) {
		t.Fatalf("%d events in the log, want %d", len(all), len(want))
	}

	again := fromLog{expression: "source = '/elsewhere'", warehouse: first}
	for range 2 {
		if err := again.replay(t.Context(), &options{data: second}, sheets{}, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	other := openFolder(t, second)
	if diff := cmp.Diff(all, cellsOf(t, other, logged+" ORDER BY event_id")); diff != "" {
		t.Errorf("events after they were sent again (-first +second):\n%s", diff)
	}
	again = fromLog{expression: "id = 'plain'", broker: "analytics/analytics", warehouse: first, to: "iot/iot"}
	if err := again.replay(t.Context(), &options{data: second}, sheets{}, io.Discard); err != nil {
		t.Fatal(err)
	}
	if got := cellsOf(t, other, "SELECT event_id FROM event_log.events WHERE broker = 'iot/iot'"); !slices.Equal(got, []string{"plain"}) {
		t.Errorf("sent to iot/iot: %v, want the event that was named", got)
	}
}

// broker is an ingress that accepts events until it has had enough.
type broker struct {
	*httptest.Server
	mu     sync.Mutex
	events []event.Event
	enough int // 0: it never has
	then   func(http.ResponseWriter)
}

func newBroker(t *testing.T) *broker {
	b := &broker{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := cehttp.NewEventFromHTTPRequest(r)
		if err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.enough > 0 && len(b.events) >= b.enough {
			b.then(w)
			return
		}
		b.events = append(b.events, *e)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(b.Close)
	return b
}

// stop has the Broker take so many events in all, and then answer otherwise.
func (b *broker) stop(enough int, then func(http.ResponseWriter)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enough, b.then = enough, then
}

func (b *broker) ids() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []string
	for _, e := range b.events {
		ids = append(ids, e.ID())
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// logOf gives the address of a warehouse whose log has n events, a minute after
// each other, and their ids.
func logOf(t *testing.T, n int) (url string, ids []string) {
	db := duckdbtest.Open(t)
	handle := sink.NewLog(db, []string{"com.example.unkept"})
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		e := mesh.NewEvent("com.example.kept", "/s", []byte(`{}`), fmt.Sprint(i))
		e.SetID(fmt.Sprintf("%06d", i))
		if i%10 == 9 {
			e.SetType("com.example.unkept")
		} else {
			ids = append(ids, e.ID())
		}
		e.SetExtension("knativearrivaltime", begin.Add(time.Duration(i)*time.Minute))
		if _, err := handle(function.WithPath(t.Context(), "/iot/iot"), e); err != nil {
			t.Fatal(err)
		}
	}
	served := httptest.NewServer(remote.Handler(db, ""))
	t.Cleanup(served.Close)
	return served.URL, ids
}

// A replay that ends early says where, and one that begins there sends the rest.
func TestFromLogGoesOn(t *testing.T) {
	url, ids := logOf(t, 2000) // more than a day
	for _, test := range []struct {
		name, says string
		then       func(cancel context.CancelFunc) func(http.ResponseWriter)
	}{
		{"interrupted", "interrupted", func(cancel context.CancelFunc) func(http.ResponseWriter) {
			return func(http.ResponseWriter) { cancel() }
		}},
		{"refused", "400 Bad Request: enough", func(context.CancelFunc) func(http.ResponseWriter) {
			return func(w http.ResponseWriter) { http.Error(w, "enough", http.StatusBadRequest) }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBroker(t)
			var out strings.Builder
			f := fromLog{warehouse: url, to: b.URL, until: "2026-03-03"}
			for enough := 700; ; enough += 700 {
				ctx, cancel := context.WithCancel(t.Context())
				b.stop(enough, test.then(cancel))
				err := f.replay(ctx, &options{}, sheets{}, &out)
				cancel()
				if err == nil {
					break
				}
				h, ok := errors.AsType[hinted](err)
				if !ok || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("replay = %v, want an error that says %q, with a hint", err, test.says)
				}
				_, since, _ := strings.Cut(h.hint, "--since ")
				if f.since, _, _ = strings.Cut(since, " "); f.since == "" {
					t.Fatalf("hint: %s; want one with the time to go on from", h.hint)
				}
			}
			if diff := cmp.Diff(ids, b.ids()); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
			if len(b.events) > len(ids)+3*refeedEvents {
				t.Errorf("%d events sent in 3 parts, of %d: it goes on from far behind", len(b.events), len(ids))
			}
			if !strings.Contains(out.String(), "com.example.unkept: the log keeps no data") {
				t.Errorf("report %q does not name what was not sent", &out)
			}
		})
	}
}

// What was received first is sent first, but for those that are sent at once.
func TestFromLogKeepsOrder(t *testing.T) {
	url, ids := logOf(t, 2000)
	b := newBroker(t)
	f := fromLog{warehouse: url, to: b.URL}
	if err := f.replay(t.Context(), &options{}, sheets{}, io.Discard); err != nil {
		t.Fatal(err)
	}
	place := map[string]int{}
	for i, id := range ids {
		place[id] = i
	}
	for i, e := range b.events {
		if off := place[e.ID()] - i; off > refeedEvents || off < -refeedEvents {
			t.Fatalf("event %s came as number %d, it was received as number %d", e.ID(), i, place[e.ID()])
		}
	}
}

// A mesh that runs takes events of its own log.
func TestFromLogIntoRunningMesh(t *testing.T) {
	data := t.TempDir()
	in := openFolder(t, data)
	deliver(t, in, mesh.TelemetryReceived, "/devices", mesh.EncodeMessages([]mesh.Message{{
		ID: "m1", Source: "/devices", ReceivedAt: 1_772_359_200_000_000, Payload: []byte(`{"device_id":"d1","time":"2026-03-01T09:00:00Z","co2":812}`),
	}}), "m1")
	const stored = "SELECT * FROM iot_telemetry_internal.readings"
	before := cellsOf(t, in, stored)
	out := telemesh(t, "replay", "--data", data, "--from-log", "type = '"+mesh.TelemetryReceived+"'")
	if !strings.Contains(out, "events                 1 sent, 0 do not match") || !strings.Contains(out, "readings               0 new") {
		t.Errorf("replay says\n%s", out)
	}
	if diff := cmp.Diff(before, cellsOf(t, in, stored)); diff != "" || len(before) != 1 {
		t.Errorf("rows (-before +after):\n%s", diff)
	}
	if err := (&fromLog{}).replay(t.Context(), &options{data: data}, sheets{placements: "p.csv"}, io.Discard); err == nil || !strings.Contains(err.Error(), "its own sheets") {
		t.Errorf("replay with sheets into a mesh that runs = %v, want an error", err)
	}
}

func TestSeenIsBounded(t *testing.T) {
	var s seen
	for i := range 3 * seenEvents {
		id := fmt.Sprint(i)
		if s.before("/s", id) {
			t.Fatalf("event %d was never there", i)
		}
		if i%100 == 0 && !s.before("/s", id) || i >= seenEvents && i%100 == 0 && !s.before("/s", fmt.Sprint(i-seenEvents+1)) {
			t.Fatalf("forgotten at event %d", i)
		}
	}
	if n := len(s.now) + len(s.earlier); n > 2*seenEvents {
		t.Errorf("%d events are kept", n)
	}
}
