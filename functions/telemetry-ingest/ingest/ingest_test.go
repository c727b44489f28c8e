package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// broker accepts events, or fails with err.
type broker struct {
	mu     sync.Mutex
	events []event.Event
	err    error
}

func (b *broker) post(_ context.Context, e event.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if err := e.Validate(); err != nil {
		return err
	}
	b.events = append(b.events, e)
	return nil
}

// payloads gives what the accepted events hold, an event a line.
func (b *broker) payloads(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, e := range b.events {
		messages, err := mesh.DecodeMessages(e.Data())
		if err != nil {
			t.Fatal(err)
		}
		var event []string
		for _, m := range messages {
			event = append(event, string(m.Payload))
		}
		all = append(all, strings.Join(event, " "))
	}
	return all
}

func server(b *broker, cfg ingest.Config) *ingest.Server {
	if cfg.BatchMaxMessages == 0 {
		cfg.BatchMaxMessages = 500
	}
	if cfg.BatchMaxBytes == 0 {
		cfg.BatchMaxBytes = 1 << 18
	}
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = 1 << 20
	}
	cfg.BatchLinger = 50 * time.Millisecond
	return ingest.New(cfg, b.post, slog.New(slog.DiscardHandler))
}

func post(s http.Handler, contentType, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestBodyBecomesMessages(t *testing.T) {
	for _, test := range []struct {
		name, contentType, body string
		headers                 []string
		want                    []string
	}{
		{"object", "application/json", `{"a":1}`, nil, []string{`{"a":1}`}},
		{"object over lines", "application/json", "{\"a\":\n1}", nil, []string{"{\"a\":\n1}"}},
		{"no content type", "", `{"a":1}`, nil, []string{`{"a":1}`}},
		{"array", "application/json; charset=utf-8", ` [ {"a":1}, {"a":[2]} ,3]`, nil, []string{`{"a":1} {"a":[2]} 3`}},
		{"array with a duplicate name", "application/json", `[{"a":1,"a":2}]`, nil, []string{`{"a":1,"a":2}`}},
		{"ndjson", "application/x-ndjson", "{\"a\":1}\n\n{\"a\":2}\r\n", nil, []string{`{"a":1} {"a":2}`}},
		{"ndjson called json", "application/json", "{\"a\":1}\n{broken\n{\"a\":3}\n", nil, []string{`{"a":1} {broken {"a":3}`}},
		{"broken object", "application/json", `{"a":`, nil, []string{`{"a":`}},
		{"broken array", "application/json", `[{"a":1},`, nil, []string{`[{"a":1},`}},
		{"other format", "application/octet-stream", "\x00\xff", nil, []string{"\x00\xff"}},
		{"binary CloudEvent", "application/json", `{"a":1}`,
			[]string{"Ce-Specversion", "1.0", "Ce-Id", "7", "Ce-Source", "/x", "Ce-Type", "t"}, []string{`{"a":1}`}},
		{"structured CloudEvent", "application/cloudevents+json",
			`{"specversion":"1.0","id":"7","source":"/x","type":"t","data":{"a":1}}`, nil, []string{`{"a":1}`}},
		{"batched CloudEvents", "application/cloudevents-batch+json",
			`[{"specversion":"1.0","id":"7","source":"/x","type":"t","data":{"a":1}},{"specversion":"1.0","id":"8","source":"/x","type":"t","data":{"a":2}}]`,
			nil, []string{`{"a":1} {"a":2}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &broker{}
			w := post(server(b, ingest.Config{}), test.contentType, test.body, test.headers...)
			if w.Code != http.StatusAccepted {
				t.Fatalf("status = %d %s, want 202", w.Code, w.Body)
			}
			if diff := cmp.Diff(test.want, b.payloads(t)); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCloudEventKeepsItsIdentity(t *testing.T) {
	b := &broker{}
	post(server(b, ingest.Config{}), "application/json", `{"a":1}`,
		"Ce-Specversion", "1.0", "Ce-Id", "7", "Ce-Source", "/x", "Ce-Type", "t", "Ce-Subject", "s",
		"Ce-Time", "2026-01-02T03:04:05.123456789Z", "Ce-Site", "north")
	messages, err := mesh.DecodeMessages(b.events[0].Data())
	if err != nil {
		t.Fatal(err)
	}
	m := messages[0]
	want := map[string]string{"type": "t", "subject": "s", "time": "2026-01-02T03:04:05.123456789Z", "site": "north"}
	if diff := cmp.Diff(want, m.Attributes); diff != "" || m.ID != "7" || m.Source != "/x" {
		t.Errorf("message id %q source %q, want 7 /x; attributes (-want +got):\n%s", m.ID, m.Source, diff)
	}
}

func TestBatchLimits(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  ingest.Config
		want []string
	}{
		{"messages", ingest.Config{BatchMaxMessages: 2}, []string{"[1] [2]", "[3] [4]", "[5]"}},
		{"bytes", ingest.Config{BatchMaxBytes: 7}, []string{"[1] [2]", "[3] [4]", "[5]"}},
		{"one a batch", ingest.Config{BatchMaxMessages: 1}, []string{"[1]", "[2]", "[3]", "[4]", "[5]"}},
		{"larger than a batch", ingest.Config{BatchMaxBytes: 1}, []string{"[1]", "[2]", "[3]", "[4]", "[5]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &broker{}
			if w := post(server(b, test.cfg), "application/x-ndjson", "[1]\n[2]\n[3]\n[4]\n[5]\n"); w.Code != http.StatusAccepted {
				t.Fatalf("status = %d, want 202", w.Code)
			}
			got := map[string]bool{} // batches are handed over side by side
			for _, p := range b.payloads(t) {
				got[p] = true
			}
			want := map[string]bool{}
			for _, p := range test.want {
				want[p] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("batches (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestsShareABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{}
		s := server(b, ingest.Config{})
		began := time.Now()
		var requests sync.WaitGroup
		for i := range 3 {
			requests.Go(func() {
				if w := post(s, "application/json", fmt.Sprintf("[%d]", i)); w.Code != http.StatusAccepted {
					t.Errorf("status = %d, want 202", w.Code)
				}
			})
		}
		requests.Wait()
		if len(b.events) != 1 {
			t.Errorf("%d events, want 1", len(b.events))
		}
		if waited := time.Since(began); waited != 50*time.Millisecond {
			t.Errorf("lingered %s, want 50ms", waited)
		}
	})
}

func TestRefusedByBroker(t *testing.T) {
	for err, want := range map[error]int{
		errors.New("away"): http.StatusServiceUnavailable,
		mesh.Permanent(errors.New("event too large")): http.StatusBadGateway,
	} {
		w := post(server(&broker{err: err}, ingest.Config{}), "application/json", `{"a":1}`)
		if w.Code != want || !strings.Contains(w.Body.String(), err.Error()) {
			t.Errorf("broker error %v: answer %d %s, want %d with the cause", err, w.Code, w.Body, want)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	s := server(&broker{}, ingest.Config{MaxBodyBytes: 10})
	if w := post(s, "application/json", `{"a":1234567}`); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("large body: %d, want 413", w.Code)
	}
	if w := post(s, "application/json", " \n"); w.Code != http.StatusBadRequest {
		t.Errorf("empty body: %d, want 400", w.Code)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET: %d, want 405", w.Code)
	}
}

func TestBrokenCloudEventIsKept(t *testing.T) {
	b := &broker{}
	w := post(server(b, ingest.Config{}), "application/json", `{"a":1}`, "Ce-Specversion", "1.0", "Ce-Type", "t", "Authorization", "Bearer x")
	if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "source") {
		t.Errorf("answer %d %s, want 400 that names the missing source", w.Code, w.Body)
	}
	if len(b.events) != 1 || b.events[0].Type() != mesh.TelemetryRejected {
		t.Fatalf("events = %v, want one telemetry.rejected", b.events)
	}
	rejections, err := mesh.DecodeRejections(b.events[0].Data())
	if err != nil {
		t.Fatal(err)
	}
	if r := rejections[0]; string(r.Payload) != `{"a":1}` || !strings.Contains(r.Cause, "source") || r.Attributes["Ce-Type"] != "t" {
		t.Errorf("rejection = %+v, want the bytes, the headers and the cause", r)
	}
	if bytes.Contains(b.events[0].Data(), []byte("Bearer")) {
		t.Error("the rejection holds the secret of the request")
	}
}

func TestIDsAreDeterministic(t *testing.T) {
	ids := func(body string) (event, message string) {
		b := &broker{}
		messages, err := ingest.Split(http.Header{}, []byte(body), 1)
		if err != nil {
			t.Fatal(err)
		}
		post(server(b, ingest.Config{}), "application/json", body)
		return b.events[0].ID(), messages[0].ID
	}
	_, m1 := ids(`{"a":1}`)
	_, m2 := ids(`{"a":1}`)
	_, m3 := ids(`{"a":2}`)
	if m1 != m2 || m1 == m3 {
		t.Errorf("message ids %s %s %s, want the first two alike and the third another", m1, m2, m3)
	}
}
