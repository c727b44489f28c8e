package ingest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/mesh"
)

// said is what a message says beside its payload.
type said struct {
	Format, DeviceID string
	Attributes       map[string]string
}

func TestQueryAndPathDescribeMessages(t *testing.T) {
	const ce = `{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"own","format":"senml-json"}`
	for _, test := range []struct {
		name, target, contentType, body string
		want                            []said
	}{
		{"nothing", "/", "application/json", `{}`, []said{{}}},
		{"attributes of every message", "/?site=north&floor=", "application/json", `[{},{}]`,
			[]said{{Attributes: map[string]string{"site": "north", "floor": ""}}, {Attributes: map[string]string{"site": "north", "floor": ""}}}},
		{"format and device", "/?format=zigbee2mqtt&device_id=caf%C3%A9+1", "application/x-ndjson", "{}\n", []said{{Format: "zigbee2mqtt", DeviceID: "café 1"}}},
		{"The Things Stack", "/v1/tts?site=north", "application/json", `{}`, []said{{Format: "ttn-v3", Attributes: map[string]string{"site": "north"}}}},
		{"The Things Stack, said twice", "/v1/tts?format=ttn-v3", "application/json", `{}`, []said{{Format: "ttn-v3"}}},
		{"ChirpStack", "/v1/chirpstack?event=up", "application/json", `{}`, []said{{Format: "chirpstack-v4", Attributes: map[string]string{"event": "up"}}}},
		{"a CloudEvent's own goes before", "/?subject=other&format=x&site=north", "application/cloudevents+json", ce,
			[]said{{Format: "senml-json", Attributes: map[string]string{"type": "t", "subject": "own", "site": "north"}}}},
		{"the path's format goes before a CloudEvent's", "/v1/tts", "application/cloudevents+json", ce,
			[]said{{Format: "ttn-v3", Attributes: map[string]string{"type": "t", "subject": "own"}}}},
		{"a CloudEvent's device", "/?device_id=other", "application/cloudevents+json", strings.Replace(ce, `"subject"`, `"deviceid":"own","subject"`, 1),
			[]said{{Format: "senml-json", DeviceID: "own", Attributes: map[string]string{"type": "t", "subject": "own"}}}},
		{"events of a batch", "/?site=north", "application/cloudevents-batch+json", "[" + ce + "," + ce + "]",
			[]said{{Format: "senml-json", Attributes: map[string]string{"type": "t", "subject": "own", "site": "north"}}, {Format: "senml-json", Attributes: map[string]string{"type": "t", "subject": "own", "site": "north"}}}},
	} {
		b := &broker{}
		w := postTo(server(t, b, quick), test.target, test.contentType, test.body)
		if w.Code != http.StatusAccepted {
			t.Errorf("%s: %d %s, want 202", test.name, w.Code, w.Body)
			continue
		}
		var got []said
		for _, m := range b.messages(t) {
			got = append(got, said{m.Format, m.DeviceID, m.Attributes})
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// The stations of sensor.community say in headers who they are.
func TestStationsAreNamedByHeaders(t *testing.T) {
	b := &broker{}
	r := httptest.NewRequest(http.MethodPost, "/?site=north", strings.NewReader(`{"sensordatavalues":[]}`))
	r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost:8082"
	r.Header.Set("X-Sensor", "esp8266-1")
	r.Header.Set("X-Pin", "11")
	r.Header.Set("X-Other", "no")
	w := httptest.NewRecorder()
	server(t, b, quick).ServeHTTP(w, r)
	messages := b.messages(t)
	want := map[string]string{"site": "north", "X-Sensor": "esp8266-1", "X-Pin": "11"}
	if w.Code != http.StatusAccepted || len(messages) != 1 || !cmp.Equal(messages[0].Attributes, want) {
		t.Errorf("%d %s: %+v, want the attributes %v", w.Code, w.Body, messages, want)
	}
}

// Two bodies of the largest size are taken at a time; the third waits, then it
// is to come again, and when the others are done it is taken.
func TestAllRequestsTogetherAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		cfg := ingest.Config{MaxBodyBytes: 100}
		cfg.Config = batch.Config{MaxMessages: 1, MaxBytes: 1 << 18}
		s, err := ingest.New(cfg, http.DefaultClient, func(context.Context, event.Event) error { <-release; return nil }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		body := `{"a":"` + strings.Repeat("x", 92) + `"}`
		var held sync.WaitGroup
		for range 2 {
			held.Go(func() {
				if w := post(s, "application/json", body); w.Code != http.StatusAccepted {
					t.Errorf("%d %s, want 202", w.Code, w.Body)
				}
			})
		}
		synctest.Wait()
		if w := post(s, "application/json", body); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%d %s with %v, want 503 and when to come again", w.Code, w.Body, w.Header())
		}
		close(release)
		held.Wait()
		if w := post(s, "application/json", body); w.Code != http.StatusAccepted {
			t.Errorf("%d %s, want 202", w.Code, w.Body)
		}
	})
}

func TestQueryLimits(t *testing.T) {
	many := func(n int) string {
		values := url.Values{}
		for i := range n {
			values.Set(fmt.Sprint("p", i), "x")
		}
		return values.Encode()
	}
	for _, test := range []struct {
		query string
		want  int
		says  string
	}{
		{many(32), http.StatusAccepted, ""},
		{many(33), http.StatusBadRequest, "33 parameters, at most 32"},
		{"a=" + strings.Repeat("x", 256), http.StatusAccepted, ""},
		{"a=" + strings.Repeat("x", 257), http.StatusBadRequest, "value of a has 257 bytes, at most 256"},
		{strings.Repeat("x", 256) + "=1", http.StatusAccepted, ""},
		{strings.Repeat("x", 257) + "=1", http.StatusBadRequest, "name has 257 bytes, at most 256"},
		{"a=1&a=2", http.StatusBadRequest, "a is given 2 times"},
		{"=1", http.StatusBadRequest, "no name"},
		{"a=%ff", http.StatusBadRequest, "not UTF-8"},
		{"%ff=1", http.StatusBadRequest, "no name"},
		{"a=%zz", http.StatusBadRequest, "query"},
		{"access_token=s3cret", http.StatusBadRequest, "Authorization"},
	} {
		b := &broker{}
		w := postTo(server(t, b, quick), "/?"+test.query, "application/json", `{}`)
		if w.Code != test.want || !strings.Contains(w.Body.String(), test.says) || strings.Contains(w.Body.String(), "s3cret") || len(b.events) != map[int]int{http.StatusAccepted: 1}[test.want] {
			t.Errorf("%.40s: %d %s and %d events, want %d that says %q", test.query, w.Code, w.Body, len(b.events), test.want, test.says)
		}
	}
	if w := postTo(server(t, &broker{}, quick), "/v1/tts?format=senml-json", "application/json", `{}`); w.Code != http.StatusBadRequest {
		t.Errorf("another format at /v1/tts: %d, want 400", w.Code)
	}
}

func TestEndpoints(t *testing.T) {
	for _, test := range []struct {
		method, target string
		want           int
	}{
		{"POST", "/v2", http.StatusNotFound}, {"POST", "/v1/tts/", http.StatusNotFound}, {"POST", "//", http.StatusNotFound},
		{"GET", "/v1/pubsub", http.StatusMethodNotAllowed}, {"PUT", "/", http.StatusMethodNotAllowed}, {"DELETE", "/v1/tts", http.StatusMethodNotAllowed},
		{"OPTIONS", "/v2", http.StatusNotFound},
	} {
		w := httptest.NewRecorder()
		server(t, &broker{}, quick).ServeHTTP(w, httptest.NewRequest(test.method, "http://localhost"+test.target, unread{t}))
		if w.Code != test.want || (w.Header().Get("Allow") != "") != (test.want == http.StatusMethodNotAllowed) {
			t.Errorf("%s %s: %d, Allow %q, want %d", test.method, test.target, w.Code, w.Header().Get("Allow"), test.want)
		}
	}
}

// CloudEvents HTTP WebHooks 1.0.2, section 4. Azure Event Grid, for one,
// delivers nothing before it is answered.
func TestValidationRequest(t *testing.T) {
	for _, test := range []struct {
		request, want map[string]string
	}{
		{map[string]string{"WebHook-Request-Origin": "eventgrid.azure.net", "WebHook-Request-Rate": "120"}, map[string]string{"WebHook-Allowed-Origin": "eventgrid.azure.net", "WebHook-Allowed-Rate": "*", "Allow": "OPTIONS, POST"}},
		{map[string]string{"WebHook-Request-Origin": "a.example"}, map[string]string{"WebHook-Allowed-Origin": "a.example", "WebHook-Allowed-Rate": "", "Allow": "OPTIONS, POST"}},
		{nil, map[string]string{"WebHook-Allowed-Origin": "", "WebHook-Allowed-Rate": "", "Allow": "OPTIONS, POST"}},
	} {
		b := &broker{}
		r := httptest.NewRequest(http.MethodOptions, "/", unread{t})
		for name, value := range test.request {
			r.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		server(t, b, withTokens("a:"+hashOf("x"))).ServeHTTP(w, r)
		for name, want := range test.want {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%v: %s %q, want %q", test.request, name, got, want)
			}
		}
		if w.Code != http.StatusOK || len(b.events) != 0 {
			t.Errorf("%v: %d, %d events, want 200 and none", test.request, w.Code, len(b.events))
		}
	}
}

func packed(t *testing.T, body []byte) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestContentEncoding(t *testing.T) {
	const limit = 10_000
	message := func(n int) []byte { return []byte(`"` + strings.Repeat("x", n-2) + `"`) }
	random := make([]byte, limit)
	rand.NewChaCha8([32]byte{}).Read(random)
	whole := packed(t, message(limit))
	for _, test := range []struct {
		name, encoding, body string
		want                 int
	}{
		{"none", "", string(message(limit)), http.StatusAccepted},
		{"identity", "identity", string(message(limit)), http.StatusAccepted},
		{"gzip", "gzip", whole, http.StatusAccepted},
		{"gzip in other words", "X-GZip", whole, http.StatusAccepted},
		{"gzip in two members", "gzip", packed(t, message(limit)[:50]) + packed(t, message(limit)[50:]), http.StatusAccepted},
		{"what does not shrink", "gzip", packed(t, random), http.StatusAccepted},
		{"a byte too many", "", string(message(limit + 1)), http.StatusRequestEntityTooLarge},
		{"a byte too many out of gzip", "gzip", packed(t, message(limit+1)), http.StatusRequestEntityTooLarge},
		{"a byte too many out of the second member", "gzip", whole + packed(t, []byte(" ")), http.StatusRequestEntityTooLarge},
		{"nothing, at length", "gzip", strings.Repeat(packed(t, nil), 1000), http.StatusRequestEntityTooLarge},
		{"no gzip", "gzip", string(message(100)), http.StatusBadRequest},
		{"cut off", "gzip", whole[:len(whole)-1], http.StatusBadRequest},
		{"empty", "gzip", "", http.StatusBadRequest},
		{"nothing in gzip", "gzip", packed(t, nil), http.StatusBadRequest},
		{"another", "br", "x", http.StatusUnsupportedMediaType},
		{"twice", "gzip, gzip", whole, http.StatusUnsupportedMediaType},
	} {
		b := &broker{}
		cfg := quick
		cfg.MaxBodyBytes = limit
		w := post(server(t, b, cfg), "application/octet-stream", test.body, "Content-Encoding", test.encoding)
		if w.Code != test.want {
			t.Errorf("%s: %d %s, want %d", test.name, w.Code, w.Body, test.want)
		}
		if m := b.messages(t); test.want == http.StatusAccepted && (len(m) != 1 || len(m[0].Payload) != limit) || test.want != http.StatusAccepted && len(m) != 0 {
			t.Errorf("%s: %d messages", test.name, len(m))
		}
		if (w.Header().Get("Accept-Encoding") == "gzip") != (test.want == http.StatusUnsupportedMediaType) {
			t.Errorf("%s: Accept-Encoding %q", test.name, w.Header().Get("Accept-Encoding"))
		}
	}
}

// 1 GiB of zeros out of 1 MiB takes what MAX_BODY_BYTES takes.
func TestBombTakesBoundedMemory(t *testing.T) {
	bomb := strings.Repeat(packed(t, make([]byte, 1<<20)), 1<<10)
	cfg := quick
	cfg.MaxBodyBytes = 2 << 20
	s := server(t, &broker{}, cfg)
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(bomb))
	r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost:8082"
	r.Header.Set("Content-Encoding", "gzip")
	answer := httptest.NewRecorder()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s.ServeHTTP(answer, r)
	runtime.ReadMemStats(&after)
	if answer.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s, want 413", answer.Code, answer.Body)
	}
	// Growing, a slice takes several times what it holds in the end.
	if took := after.TotalAlloc - before.TotalAlloc; took > 8*uint64(cfg.MaxBodyBytes) {
		t.Errorf("%d bytes allocated for a body of at most %d", took, cfg.MaxBodyBytes)
	}
}

// A pack says in one record what holds for the others: taken apart it would say
// something else, or nothing.
func TestPacksStayWhole(t *testing.T) {
	for _, test := range []struct {
		name, body string
		want       []string
	}{
		{"base name", `[{"bn":"urn:dev:1:","bt":1},{"n":"t","v":1}]`, []string{`[{"bn":"urn:dev:1:","bt":1},{"n":"t","v":1}]`}},
		{"name and value", ` [{"n":"a","v":1},{"n":"b","vs":"x"}] `, []string{`[{"n":"a","v":1},{"n":"b","vs":"x"}]`}},
		{"string", `[{"n":"a","vs":"1"}]`, []string{`[{"n":"a","vs":"1"}]`}},
		{"boolean", `[{"vb":false,"n":"a"}]`, []string{`[{"vb":false,"n":"a"}]`}},
		{"data", `[{"n":"a","vd":"AA"}]`, []string{`[{"n":"a","vd":"AA"}]`}},
		{"sum", `[{"n":"a","s":1}]`, []string{`[{"n":"a","s":1}]`}},
		{"broken further on", `[{"bn":"a"},{"n":oops}]`, []string{`[{"bn":"a"},{"n":oops}]`}},
		{"cut off", `[{"bn":"a"},{"n":"b","v":1}`, []string{`[{"bn":"a"},{"n":"b","v":1}`}},
		{"packs a line", "[{\"bn\":\"a\"}]\n[{\"bn\":\"b\"},{\"n\":\"c\",\"v\":1}]\n", []string{`[{"bn":"a"}]`, `[{"bn":"b"},{"n":"c","v":1}]`}},
		{"packs a line, the last broken", "[{\"bn\":\"a\"}]\n[{\"bn\":", []string{"[{\"bn\":\"a\"}]\n[{\"bn\":"}},
		{"packs in an array", `[[{"bn":"a"}],[{"bn":"b"}]]`, []string{`[{"bn":"a"}]`, `[{"bn":"b"}]`}},
		{"pack and messages", `[{"bn":"a"}] [{"x":1},{"x":2}] {"x":3}`, []string{`[{"bn":"a"}]`, `{"x":1}`, `{"x":2}`, `{"x":3}`}},
		{"no pack: base name that is no string", `[{"bn":1},{"bn":2}]`, []string{`{"bn":1}`, `{"bn":2}`}},
		{"no pack: a name alone", `[{"n":"a"},{"v":2}]`, []string{`{"n":"a"}`, `{"v":2}`}},
		{"no pack: a value alone", `[{"v":1},{"n":"a","v":2}]`, []string{`{"v":1}`, `{"n":"a","v":2}`}},
		{"no pack: other names", `[{"BN":"a"},{"N":"a","V":1}]`, []string{`{"BN":"a"}`, `{"N":"a","V":1}`}},
		{"an object", `{"bn":"a","n":"b","v":1}`, []string{`{"bn":"a","n":"b","v":1}`}},
	} {
		for _, contentType := range []string{"application/json", "application/x-www-form-urlencoded", ""} {
			b := &broker{}
			w := post(server(t, b, quick), contentType, test.body)
			var got []string
			for _, m := range b.messages(t) {
				got = append(got, string(m.Payload))
			}
			if diff := cmp.Diff(test.want, got); diff != "" || w.Code != http.StatusAccepted {
				t.Errorf("%s as %q: %d (-want +got):\n%s", test.name, contentType, w.Code, diff)
			}
		}
	}
	b := &broker{}
	post(server(t, b, quick), "application/senml+json", `[{"x":1},{"x":2}]`)
	if m := b.messages(t); len(m) != 1 || m[0].ContentType != "application/senml+json" {
		t.Errorf("application/senml+json: messages %v, want the body", m)
	}
}

func TestPublishedPacks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(dataset.Path(t, "envelopes/senml"), "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no packs: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b := &broker{}
		post(server(t, b, quick), "application/json", string(text))
		if m := b.messages(t); len(m) != 1 || string(m[0].Payload) != strings.TrimSpace(string(text)) {
			t.Errorf("%s: %d messages, want the pack", filepath.Base(file), len(m))
		}
	}
}

const partBytes = 16 << 10

// parts gives the messages that a body is split into, in order: the events that
// hold them have none.
func parts(t *testing.T, target, contentType, body string) []mesh.Message {
	t.Helper()
	b := &broker{}
	cfg := quick
	cfg.MaxBodyBytes = 1 << 24
	if w := postTo(server(t, b, cfg), target, contentType, body); w.Code != http.StatusAccepted {
		t.Fatalf("%d %s, want 202", w.Code, w.Body)
	}
	messages := b.messages(t)
	slices.SortFunc(messages, func(a, b mesh.Message) int { return int(a.ReceivedAt - b.ReceivedAt) })
	return messages
}

func TestCSVIsSplitBetweenRows(t *testing.T) {
	for _, test := range []struct {
		name, header, row string
		rows              int
	}{
		{"plain", "time,device,co2\n", "2026-01-02T03:04:05Z,d1,%d\n", 5000},
		{"line ends of Windows", "time,device,co2\r\n", "2026-01-02T03:04:05Z,d1,%d\r\n", 5000},
		{"lines in cells", "time,\"de\nvice\",note\n", "t%d,\"d \"\"1\"\"\n\nof\r\n two\",x\n", 20_000},
		{"other separator", "time;device;note\n", "t%d;\"d\n1\";x\n", 20_000},
		{"tabs, and quotes that are none", "time\tdevice\tnote\n", "t%d\t5\" pipe\tx\n", 20_000},
		{"with a byte order mark", "\ufefftime,device\n", "t%d,\"a\nb\"\n", 20_000},
		{"long rows", "a,b\n", "%d," + strings.Repeat("x", 20_000) + "\n", 5},
	} {
		var body strings.Builder
		body.WriteString(test.header)
		var rows []string
		for i := range test.rows {
			rows = append(rows, fmt.Sprintf(test.row, i))
			body.WriteString(rows[i])
		}
		all := ""
		messages := parts(t, "/", "text/csv; charset=utf-8", body.String())
		for i, m := range messages {
			rest, ok := strings.CutPrefix(string(m.Payload), test.header)
			if !ok || m.ContentType != "text/csv" {
				t.Fatalf("%s: message %d is %.60q, want one that begins with the header", test.name, i, m.Payload)
			}
			first := strings.Index(body.String(), rest) // whole rows of the body, in order
			if len(m.Payload) > partBytes && strings.Count(rest, test.row[len(test.row)-2:]) > 1 || first < 0 {
				t.Errorf("%s: message %d has %d bytes", test.name, i, len(m.Payload))
			}
			all += rest
			if i > 0 && m.ReceivedAt != messages[i-1].ReceivedAt+1 {
				t.Errorf("%s: message %d is not received behind the one before", test.name, i)
			}
		}
		if all != strings.Join(rows, "") {
			t.Errorf("%s: the messages do not hold the rows of the body, each once", test.name)
		}
		if most := body.Len()/(partBytes/2) + 1; len(messages) < 2 || len(messages) > most {
			t.Errorf("%s: %d messages, want 2 to %d", test.name, len(messages), most)
		}
		for _, m := range messages {
			rest := strings.TrimPrefix(string(m.Payload), test.header)
			for len(rest) > 0 {
				if len(rows) == 0 || !strings.HasPrefix(rest, rows[0]) {
					t.Fatalf("%s: a message is cut within a row: %.60q", test.name, rest)
				}
				rest, rows = rest[len(rows[0]):], rows[1:]
			}
		}
	}
	if m := parts(t, "/?format=csv", "application/x-www-form-urlencoded", "a,b\n"+strings.Repeat("1,2\n", 10_000)); len(m) != 3 || m[2].Format != "csv" {
		t.Errorf("a body that the query calls CSV: %d messages, want 3", len(m))
	}
	// One message where there is nothing to split, or nothing gained by it.
	long := strings.Repeat("column,", 1000) + "\n"
	for name, body := range map[string]string{
		"small": "a,b\n1,2\n", "header alone": "a,b\n", "a header of its own length": long + strings.Repeat("1,2\n", 10_000),
		"a long header alone": strings.Repeat("c,", 10_000) + "\n", "no line end": "a,b\n1," + strings.Repeat("x", 20_000),
		"a quote without an end": "a,b\n\"" + strings.Repeat("x,y\n", 10_000),
	} {
		if m := parts(t, "/", "text/csv", body); len(m) != 1 || string(m[0].Payload) != body {
			t.Errorf("%s: %d messages, want the body", name, len(m))
		}
	}
}

// curl calls anything a form.
func TestWhatIsNoJSON(t *testing.T) {
	for body, want := range map[string][]string{
		"device,co2\nd1,1\nd2,2\n":      {"device,co2\nd1,1\nd2,2"},
		"air,room=1 co2=1i 1\n":         {"air,room=1 co2=1i 1"},
		"oops\n{\"a\":1}\n{\"a\":2}\n":  {"oops", `{"a":1}`, `{"a":2}`},
		"1\n2\n":                        {"1", "2"},
		"\"a,b\"\n\"d1\",2\n\"d2\",3\n": {"\"a,b\"\n\"d1\",2\n\"d2\",3"},
	} {
		for _, contentType := range []string{"application/x-www-form-urlencoded", ""} {
			b := &broker{}
			post(server(t, b, quick), contentType, body)
			var got []string
			for _, m := range b.messages(t) {
				got = append(got, string(m.Payload))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%q as %q (-want +got):\n%s", body, contentType, diff)
			}
		}
	}
}

func TestLineProtocolIsSplitBetweenLines(t *testing.T) {
	var body strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&body, "air,room=%d co2=%di %d\n", i%7, i, 1_700_000_000+i)
	}
	for _, contentType := range []string{"text/plain; charset=utf-8", "application/x-www-form-urlencoded", ""} {
		all := ""
		messages := parts(t, "/?format=line-protocol", contentType, body.String())
		for _, m := range messages {
			if len(m.Payload) > partBytes || m.Payload[len(m.Payload)-1] != '\n' || m.Format != "line-protocol" {
				t.Errorf("%q: a message of %d bytes in the format %q", contentType, len(m.Payload), m.Format)
			}
			all += string(m.Payload)
		}
		if all != body.String() || len(messages) < 10 || len(messages) > 20 {
			t.Errorf("%q: %d messages, want all lines in some 12", contentType, len(messages))
		}
	}
	// Text is line protocol only where it is said to be.
	if m := parts(t, "/", "text/plain", body.String()); len(m) != 1 || m[0].ContentType != "text/plain" {
		t.Errorf("text/plain: %d messages, want 1", len(m))
	}
	if m := parts(t, "/?format=sparkplug-b", "application/x-www-form-urlencoded", "\x08\n\x12\n{}\n"); len(m) != 1 || string(m[0].Payload) != "\x08\n\x12\n{}\n" {
		t.Errorf("a named format that is no JSON: messages %q, want the body as it is", m)
	}
}

func TestPush(t *testing.T) {
	wrapped := func(message string) string {
		return `{"message":` + message + `,"subscription":"projects/p/subscriptions/s"}`
	}
	data := base64.StdEncoding.EncodeToString([]byte(`[{"a":1},{"a":2}]`))
	const source = "//pubsub.googleapis.com/projects/p/subscriptions/s"
	for _, test := range []struct {
		name, body string
		headers    []string
		want       mesh.Message
	}{
		{"wrapped", wrapped(`{"attributes":{"deviceId":"d","site":"own"},"data":"` + data + `","messageId":"7","publishTime":"2026-01-02T03:04:05Z"}`), nil,
			mesh.Message{ID: "7", Source: source, Attributes: map[string]string{"deviceId": "d", "site": "own", "time": "2026-01-02T03:04:05Z"}, Payload: []byte(`[{"a":1},{"a":2}]`)}},
		{"wrapped CloudEvent", wrapped(`{"attributes":{"ce-specversion":"1.0","ce-id":"1","ce-source":"/s","ce-type":"t"},"data":"` + data + `","messageId":"7"}`), nil,
			mesh.Message{ID: "1", Source: "/s", Attributes: map[string]string{"type": "t", "site": "query"}, Payload: []byte(`[{"a":1},{"a":2}]`)}},
		{"unwrapped with metadata", `{"a":1}`, []string{"X-Goog-Pubsub-Message-Id", "7", "X-Goog-Pubsub-Subscription-Name", "projects/p/subscriptions/s", "Deviceid", "d", "Cookie", "secret"},
			mesh.Message{ID: "7", Source: source, Attributes: map[string]string{"deviceId": "d", "site": "query", "content-type": "application/json"}, Payload: []byte(`{"a":1}`)}},
		{"unwrapped with metadata, though it looks wrapped", wrapped(`{"data":"e30="}`), []string{"X-Goog-Pubsub-Message-Id", "7", "X-Goog-Pubsub-Subscription-Name", "projects/p/subscriptions/s"},
			mesh.Message{ID: "7", Source: source, Attributes: map[string]string{"site": "query", "content-type": "application/json"}, Payload: []byte(wrapped(`{"data":"e30="}`))}},
		{"unwrapped", `co2=1`, []string{"Deviceid", "d", "Content-Type", "text/plain"},
			mesh.Message{ID: mesh.Hash("//pubsub.googleapis.com/", "co2=1"), Source: "//pubsub.googleapis.com/", ContentType: "text/plain", Attributes: map[string]string{"site": "query", "content-type": "text/plain"}, Payload: []byte(`co2=1`)}},
		{"attributes alone", wrapped(`{"attributes":{"event":"ping"},"messageId":"7"}`), nil,
			mesh.Message{ID: "7", Source: source, Attributes: map[string]string{"event": "ping", "site": "query"}, Payload: []byte{}}},
	} {
		b := &broker{}
		w := postTo(server(t, b, quick), "/v1/pubsub?site=query", "application/json", test.body, test.headers...)
		messages := b.messages(t)
		if w.Code != http.StatusAccepted || len(messages) != 1 {
			t.Errorf("%s: %d %s and %d messages, want 202 and 1", test.name, w.Code, w.Body, len(messages))
			continue
		}
		test.want.ReceivedAt = messages[0].ReceivedAt
		if diff := cmp.Diff(test.want, messages[0]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// What can never be read is kept and acknowledged: Pub/Sub would push it again
// and again. What cannot be kept comes again.
func TestPushThatIsRefused(t *testing.T) {
	for _, test := range []struct{ name, body, says, kept string }{
		{"nothing in it", `{"message":{"messageId":"7"},"subscription":"s"}`, "neither data nor attributes", `{"message":{"messageId":"7"},"subscription":"s"}`},
		{"no base64", `{"message":{"data":"?"},"subscription":"s"}`, "base64", `{"message":{"data":"?"},"subscription":"s"}`},
		{"broken CloudEvent", `{"message":{"attributes":{"ce-specversion":"1.0"},"data":"e30="},"subscription":"s"}`, "source", `{}`},
	} {
		b := &broker{}
		w := postTo(server(t, b, quick), "/v1/pubsub", "application/json", test.body, "X-Api-Key", "secret")
		rejections := b.rejections(t)
		if w.Code != http.StatusAccepted || !strings.HasPrefix(w.Body.String(), `{"accepted":0,"refused":1,`) || len(rejections) != 1 {
			t.Errorf("%s: %d %s, %d rejections, want 202 that says 1 is refused", test.name, w.Code, w.Body, len(rejections))
			continue
		}
		if r := rejections[0]; !strings.Contains(r.Cause, test.says) || string(r.Payload) != test.kept || strings.Contains(fmt.Sprint(r), "secret") {
			t.Errorf("%s: rejection %+v, want the bytes and a cause with %q", test.name, r, test.says)
		}
		if w := postTo(server(t, &broker{err: io.ErrUnexpectedEOF}, quick), "/v1/pubsub", "application/json", test.body); w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s, the broker away: %d, want 503", test.name, w.Code)
		}
	}
	if w := postTo(server(t, &broker{}, ingest.Config{MaxBodyBytes: 10}), "/v1/pubsub", "application/json", `{"message":{}}`); w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a push over MAX_BODY_BYTES: %d, want 413", w.Code)
	}
}
