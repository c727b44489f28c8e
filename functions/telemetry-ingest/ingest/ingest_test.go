package ingest_test

import (
	"bytes"
	"context"
	"encoding/json"
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

	"github.com/telemesh/telemesh/functions/telemetry-flatten/flatten"
	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/batch"
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

// server takes what this machine sends, unless cfg says otherwise.
func server(t *testing.T, b *broker, cfg ingest.Config) *ingest.Server {
	t.Helper()
	if cfg.MaxMessages == 0 {
		cfg.MaxMessages = 500
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 18
	}
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = 1 << 20
	}
	if cfg.Linger == 0 {
		cfg.Linger = 50 * time.Millisecond
	}
	s, err := ingest.New(cfg, http.DefaultClient, b.post, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func post(s http.Handler, contentType, body string, headers ...string) *httptest.ResponseRecorder {
	return postTo(s, "/", contentType, body, headers...)
}

func postTo(s http.Handler, target, contentType, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
	r.RemoteAddr, r.Host = "127.0.0.1:12345", "localhost:8082"
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
		{"array cut off", "application/json", `[{"a":1},{"a":`, nil, []string{`{"a":1} {"a":`}},
		{"array without an end", "application/json", `[{"a":1}`, nil, []string{`{"a":1}`}},
		{"array with a broken element", "application/json", `[{"a":1},{"a":oops, "b":[1,2]},{"a":3}]`, nil, []string{`{"a":1} {"a":oops, "b":[1,2]} {"a":3}`}},
		{"array with a broken element, an element a line", "application/json", "[\n{\"a\":1},\n{\"a\": oops},\n{\"a\":3}\n]\n", nil, []string{`{"a":1} {"a": oops} {"a":3}`}},
		{"array of one after a broken one", "application/json", "[{\"a\":1},\noops,\n{\"a\":3}\n]", nil, []string{`{"a":1} oops {"a":3}`}},
		{"array with something behind it", "application/json", `[{"a":1}] oops`, nil, []string{`{"a":1} oops`}},
		{"arrays a line", "application/json", "[{\"a\":1},{\"a\":2}]\n[{\"a\":3}]", nil, []string{`{"a":1} {"a":2} {"a":3}`}},
		{"objects after each other", "application/json", `{"a":1}{"a":2} {"a":3}`, nil, []string{`{"a":1} {"a":2} {"a":3}`}},
		{"objects over lines after each other", "application/x-www-form-urlencoded", "{\n  \"a\": [\n    1,\n    {}\n  ]\n}\n{\n  \"a\": 2\n}\n", nil,
			[]string{"{\n  \"a\": [\n    1,\n    {}\n  ]\n} {\n  \"a\": 2\n}"}},
		{"broken object over lines before another", "application/json", "{\n  \"a\": oops\n}\n{\n  \"a\": [\n    {\"b\":2}\n  ]\n}", nil,
			[]string{"{\n  \"a\": oops\n} {\n  \"a\": [\n    {\"b\":2}\n  ]\n}"}},
		{"ndjson as curl sends it, first line broken", "application/x-www-form-urlencoded", "{\"a\":\n{\"a\":2}\n{\"a\":3}\n", nil, []string{`{"a": {"a":2} {"a":3}`}},
		{"ndjson as curl sends it, first of two lines broken", "application/x-www-form-urlencoded", "{\"a\":\"\n{\"a\":2}", nil, []string{`{"a":" {"a":2}`}},
		{"ndjson as curl sends it, first line a broken array", "application/x-www-form-urlencoded", "[{\"a\":1}, oops\n{\"a\":2}\n{\"a\":3}\n", nil, []string{`[{"a":1}, oops {"a":2} {"a":3}`}},
		{"ndjson as curl sends it, last line broken", "application/x-www-form-urlencoded", "{\"a\":1}\n\n{\"a\":2}\n{\"a\"", nil, []string{`{"a":1} {"a":2} {"a"`}},
		{"brackets alone", "application/json", "[,", nil, []string{"[,"}},
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
			w := post(server(t, b, ingest.Config{}), test.contentType, test.body, test.headers...)
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
	post(server(t, b, ingest.Config{}), "application/json", `{"a":1}`,
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
		{"messages", ingest.Config{Config: batch.Config{MaxMessages: 2}}, []string{"[1] [2]", "[3] [4]", "[5]"}},
		{"bytes", ingest.Config{Config: batch.Config{MaxBytes: 7}}, []string{"[1] [2]", "[3] [4]", "[5]"}},
		{"one a batch", ingest.Config{Config: batch.Config{MaxMessages: 1}}, []string{"[1]", "[2]", "[3]", "[4]", "[5]"}},
		{"larger than a batch", ingest.Config{Config: batch.Config{MaxBytes: 1}}, []string{"[1]", "[2]", "[3]", "[4]", "[5]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &broker{}
			if w := post(server(t, b, test.cfg), "application/x-ndjson", "[1]\n[2]\n[3]\n[4]\n[5]\n"); w.Code != http.StatusAccepted {
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
		s := server(t, b, ingest.Config{})
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
		w := post(server(t, &broker{err: err}, ingest.Config{}), "application/json", `{"a":1}`)
		if w.Code != want || !strings.Contains(w.Body.String(), err.Error()) {
			t.Errorf("broker error %v: answer %d %s, want %d with the cause", err, w.Code, w.Body, want)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	s := server(t, &broker{}, ingest.Config{MaxBodyBytes: 10})
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
	w := post(server(t, b, ingest.Config{}), "application/json", `{"a":1}`, "Ce-Specversion", "1.0", "Ce-Type", "t", "Authorization", "Bearer x", "Cookie", "x", "X-Api-Key", "x")
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
	want := map[string]string{"Ce-Specversion": "1.0", "Ce-Type": "t", "Content-Type": "application/json"}
	if diff := cmp.Diff(want, rejections[0].Attributes); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// The same request at the same instant is the same event; at another one it has
// the same messages, received at another time.
func TestIDsAreDeterministic(t *testing.T) {
	ids := func(body string, after time.Duration) (event, message string) {
		synctest.Test(t, func(t *testing.T) { // where the clock begins at the same instant each time
			time.Sleep(after)
			b := &broker{}
			post(server(t, b, ingest.Config{}), "application/json", body)
			messages, err := mesh.DecodeMessages(b.events[0].Data())
			if err != nil {
				t.Fatal(err)
			}
			event, message = b.events[0].ID(), messages[0].ID
		})
		return event, message
	}
	event, message := ids(`{"a":1}`, 0)
	for _, other := range []struct {
		body                   string
		after                  time.Duration
		sameEvent, sameMessage bool
	}{
		{`{"a":1}`, 0, true, true},
		{`{"a":1}`, time.Second, false, true},
		{`{"a":2}`, 0, false, false},
	} {
		e, m := ids(other.body, other.after)
		if (e == event) != other.sameEvent || (m == message) != other.sameMessage {
			t.Errorf("%s after %s: the same event %t, message %t, want %t, %t", other.body, other.after, e == event, m == message, other.sameEvent, other.sameMessage)
		}
	}
}

// Sent again, an event that tells its time gives the same readings, though its
// payload tells none.
func TestCloudEventSentAgain(t *testing.T) {
	formats, err := flatten.ReadFormats("")
	if err != nil {
		t.Fatal(err)
	}
	handle := flatten.New(formats, slog.New(slog.DiscardHandler))
	seen := map[string]bool{}
	for after := range 2 {
		synctest.Test(t, func(t *testing.T) { // it is the year 2000
			time.Sleep(time.Duration(after) * time.Hour)
			b := &broker{}
			post(server(t, b, ingest.Config{}), "application/json", `{"device_id":"d","co2":661}`,
				"Ce-Specversion", "1.0", "Ce-Id", "7", "Ce-Source", "/x", "Ce-Type", "t", "Ce-Time", "1999-01-02T03:04:05.5+01:00")
			out, err := handle(t.Context(), b.events[0])
			if err != nil || len(out) != 1 {
				t.Fatalf("%d events, %v, want 1", len(out), err)
			}
			readings, err := mesh.DecodeReadings(out[0].Data())
			if err != nil || len(readings) != 1 {
				t.Fatalf("%d readings, %v, want 1", len(readings), err)
			}
			if r := readings[0]; r.ObservedAt.String() != "1999-01-02T02:04:05.5Z" || r.Quality != mesh.QualityOK {
				t.Errorf("observed at %s, quality %q, want the event's time", r.ObservedAt, r.Quality)
			}
			seen[readings[0].ReadingID] = true
		})
	}
	if len(seen) != 1 {
		t.Errorf("%d reading ids, want 1", len(seen))
	}
}

// rejections gives what was kept.
func (b *broker) rejections(t *testing.T) []mesh.Rejection {
	t.Helper()
	var all []mesh.Rejection
	for _, e := range b.events {
		if e.Type() != mesh.TelemetryRejected {
			continue
		}
		some, err := mesh.DecodeRejections(e.Data())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	return all
}

func TestBatchWithBadEvents(t *testing.T) {
	good := func(id int) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":"%d","source":"/x","type":"t","data":{"a":%d}}`, id, id)
	}
	bad := []string{
		`{"specversion":"1.0","id":"1","type":"t","data":{}}`,
		`{"specversion":"1.0",oops}`,
		`7`,
		`{"specversion":"1.0","id":"` + strings.Repeat("i", 1025) + `","source":"/x","type":"t"}`,
		`{"specversion":"1.0","id":"1","source":"/` + strings.Repeat("s", 100_000) + `","type":"t"}`,
	}
	causes := []string{"source", "read CloudEvent", "read CloudEvent", "its id has 1025 bytes, at most 1024", "its source has 100001 bytes, at most 1024"}
	body := "[" + good(0)
	for i, e := range bad {
		body += ",\n" + e + "," + good(i+1)
	}
	b := &broker{}
	w := post(server(t, b, ingest.Config{Config: batch.Config{MaxMessages: 3}}), "application/cloudevents-batch+json", body+"]", "Cookie", "secret", "X-Api-Key", "secret")
	var answer struct {
		Accepted, Refused int
		Causes            []struct {
			Event int
			Cause string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusBadRequest {
		t.Fatalf("answer %d %s, %v, want 400 in JSON", w.Code, w.Body, err)
	}
	if answer.Accepted != 6 || answer.Refused != 5 || len(answer.Causes) != 5 {
		t.Errorf("answer %s, want 6 accepted and 5 refused with their causes", w.Body)
	}
	accepted := 0
	for _, e := range b.events {
		if bytes.Contains(e.Data(), []byte("secret")) {
			t.Error("a secret of the request is kept")
		}
		if e.Type() == mesh.TelemetryReceived {
			messages, err := mesh.DecodeMessages(e.Data())
			if err != nil {
				t.Fatal(err)
			}
			accepted += len(messages)
		}
	}
	if accepted != 6 {
		t.Errorf("%d messages handed over, want 6", accepted)
	}
	rejections := b.rejections(t)
	if len(rejections) != 5 {
		t.Fatalf("%d rejections, want 5", len(rejections))
	}
	for i, r := range rejections {
		if string(r.Payload) != bad[i] || !strings.Contains(r.Cause, causes[i]) {
			t.Errorf("rejection %d is %.100s: %s, want one with %q", i, r.Payload, r.Cause, causes[i])
		}
		if c := answer.Causes[i]; c.Event != 2*i+1 || c.Cause != r.Cause {
			t.Errorf("the answer says of event %d: %s, want event %d: %s", c.Event, c.Cause, 2*i+1, r.Cause)
		}
	}
}

func TestManyBadEventsAreAnsweredInBrief(t *testing.T) {
	b := &broker{}
	w := post(server(t, b, ingest.Config{}), "application/cloudevents-batch+json", "[{}"+strings.Repeat(",{}", 1999)+"]")
	if n := strings.Count(w.Body.String(), `"cause":`); n != 100 || !strings.HasPrefix(w.Body.String(), `{"accepted":0,"refused":2000,`) {
		t.Errorf("answer %.100s… with %d causes, want 2000 refused and 100 causes", w.Body, n)
	}
	if n := len(b.rejections(t)); n != 2000 {
		t.Errorf("%d rejections, want 2000", n)
	}
	if len(b.events) != 4 {
		t.Errorf("%d events, want 4 of 500 rejections", len(b.events))
	}
}

func TestBatchThatIsNoArray(t *testing.T) {
	for _, body := range []string{`{"specversion":"1.0"}`, `oops`} {
		b := &broker{}
		w := post(server(t, b, ingest.Config{}), "application/cloudevents-batch+json", body)
		if r := b.rejections(t); w.Code != http.StatusBadRequest || len(r) != 1 || string(r[0].Payload) != body {
			t.Errorf("%s: answer %d %s, rejections %v, want 400 and the body kept", body, w.Code, w.Body, r)
		}
	}
}

// What is not kept must come again.
func TestRejectionThatCannotBeKept(t *testing.T) {
	w := post(server(t, &broker{err: errors.New("away")}, ingest.Config{}), "application/json", `{"a":1}`, "Ce-Specversion", "1.0", "Ce-Type", "t")
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "away") {
		t.Errorf("answer %d %s, want 503 with the cause", w.Code, w.Body)
	}
}

// What a small body asks of memory is bounded, and so is what is told of it.
func TestBoundsOfARequest(t *testing.T) {
	many := "[" + strings.Repeat("1,", 100_000) + "1]"
	for _, contentType := range []string{"application/json", "application/cloudevents-batch+json", "application/x-ndjson"} {
		body := many
		if contentType == "application/x-ndjson" {
			body = strings.Repeat("1\n", 100_001)
		}
		if w := post(server(t, &broker{}, ingest.Config{}), contentType, body); w.Code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s of 100,001 messages: %d, want 413", contentType, w.Code)
		}
	}
	b := &broker{}
	long := `[{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"` + strings.Repeat("z", 100_000) + `"}]`
	w := post(server(t, b, ingest.Config{}), "application/cloudevents-batch+json", long)
	if w.Code != http.StatusBadRequest || w.Body.Len() > 2000 {
		t.Errorf("a long cause: %d with %d bytes, want 400 with few", w.Code, w.Body.Len())
	}
	// Refused events are kept in events that a broker takes.
	b = &broker{}
	refused := strings.Repeat(`{"x":"`+strings.Repeat("y", 1000)+`"},`, 100)
	post(server(t, b, ingest.Config{Config: batch.Config{MaxBytes: 10_000}}), "application/cloudevents-batch+json", "["+strings.TrimSuffix(refused, ",")+"]")
	for _, e := range b.events {
		if len(e.Data()) > 30_000 {
			t.Errorf("an event of %d bytes keeps what is refused", len(e.Data()))
		}
	}
	if len(b.events) < 5 {
		t.Errorf("%d events keep 100 kB of refused ones in 10 kB each", len(b.events))
	}
}
