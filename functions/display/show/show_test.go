package show

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// stuck is for how long nothing happens that has to, on a machine however busy.
const stuck = 5 * time.Minute

var silent = slog.New(slog.DiscardHandler)

func seen(id string, data string) event.Event {
	e := mesh.NewEvent("com.example.seen.v1", "/here", []byte(data))
	e.SetID(id)
	return e
}

// display serves a display, as a process would, and gives what it prints.
func display(t *testing.T, cfg Config) (d *Display, url string, out *bytes.Buffer) {
	t.Helper()
	out = &bytes.Buffer{}
	d, err := New(cfg, out, silent)
	if err != nil {
		t.Fatal(err)
	}
	fn := function.Function{Handler: d.Handle, HTTP: d.pages()}
	server := httptest.NewServer(fn.Serve(silent, "", http.DefaultClient))
	t.Cleanup(server.Close)
	t.Cleanup(d.feed.end)
	return d, server.URL, out
}

var usual = Config{Events: 500, Bytes: 8 << 20}

func handle(t testing.TB, d *Display, events ...event.Event) {
	t.Helper()
	for _, e := range events {
		if out, err := d.Handle(t.Context(), e); err != nil || len(out) != 0 {
			t.Fatalf("Handle(%s) = %v, %v, want nothing", e.ID(), out, err)
		}
	}
}

// told is a server-sent event.
type told struct {
	id, name, data string
}

func (m told) shown(t *testing.T) (s shown) {
	t.Helper()
	if err := json.Unmarshal([]byte(m.data), &s); err != nil || m.name != "" {
		t.Fatalf("told %q: %v", m, err)
	}
	return s
}

func (s shown) attribute(name string) string {
	for _, a := range s.Attributes {
		if a[0] == name {
			return a[1]
		}
	}
	return ""
}

// watch reads a stream until the test ends, or stop is called.
func watch(t *testing.T, url, after string) (next func() told, stop func()) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), stuck)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(); resp.Body.Close() })
	if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("GET /events: %s, %s", resp.Status, got)
	}
	lines := bufio.NewReader(resp.Body)
	return func() (m told) {
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Errorf("stream ended: %v", err)
				return told{}
			}
			field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch field {
			case "id":
				m.id = value
			case "event":
				m.name = value
			case "data":
				m.data = value
			case "":
				if m.data != "" {
					return m
				}
			}
		}
	}, stop
}

// As Knative delivers it: the answer has no body, for any 2xx with one becomes a
// failure.
func TestDisplayPrintsAndRepliesNothing(t *testing.T) {
	d, url, out := display(t, usual)
	e := seen("1", `{"value":28}`)
	e.SetExtension("label", "XL")
	for _, path := range []string{"", "/iot/dead-letters"} {
		req, err := cehttp.NewHTTPRequestFromEvent(t.Context(), url+path, e)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent || len(body) != 0 {
			t.Errorf("POST %s: %s %q, want 204", path, resp.Status, body)
		}
	}
	want := e.String() + e.String()
	if got := out.String(); got != want || !strings.Contains(got, "label: XL") || !strings.Contains(got, `"value": 28`) {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
	out.Reset()
	handle(t, d, seen("2", "\x1b[2J"))
	if got := out.String(); !strings.HasSuffix(got, "Data,\n  \\x1b[2J\n") {
		t.Errorf("printed %q, want what moves no cursor", got)
	}
}

func TestCarriersAreUnpacked(t *testing.T) {
	d, url, out := display(t, usual)
	one, two := seen("1", `{"a":1}`), seen("2", `{"a":2}`)
	carrier, err := mesh.Carry(one.Type(), "/feed", []event.Event{one, two})
	if err != nil {
		t.Fatal(err)
	}
	broken := seen("broken", `[7]`)
	broken.SetDataContentType(mesh.ContentCarrier)
	handle(t, d, carrier, broken)
	if want := one.String() + two.String() + broken.String(); out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	next, _ := watch(t, url, "")
	for _, want := range []string{"1", "2", "broken"} {
		if got := next().shown(t).attribute("id"); got != want {
			t.Errorf("told of %s, want %s", got, want)
		}
	}
}

func TestDataAsTheyCame(t *testing.T) {
	long := strings.Repeat("é", dataShown)
	for _, test := range []struct{ name, data, kind, text string }{
		{"JSON", `{ "a":1.0 ,"a":"<b>é" }`, "text", `{ "a":1.0 ,"a":"<b>é" }`},
		{"lines", "a\r\n\tb\n", "text", "a\r\n\tb\n"},
		{"none", "", "none", ""},
		{"no UTF-8", "a\xffb", "hex", "61 ff 62"},
		{"a control", "a\x1b[2J", "hex", "61 1b 5b 32 4a"},
		{"long", "x" + long, "text", "x" + long[:dataShown-2]}, // in no character's middle
		{"long and binary", strings.Repeat("\x00", dataShown+1), "hex", strings.TrimSuffix(strings.Repeat("00 ", dataShown), " ")},
		{"binary at its end", long + "\x00", "hex", strings.TrimSuffix(strings.Repeat("c3 a9 ", dataShown/2), " ")},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := message("x-1", 1, time.Now(), seen("1", test.data))
			lines := strings.Split(string(m), "\n")
			if len(lines) != 4 || lines[2] != "" || lines[3] != "" {
				t.Fatalf("not one server-sent event: %.200q", m)
			}
			s := told{data: strings.TrimPrefix(lines[1], "data: ")}.shown(t)
			if s.Kind != test.kind || s.Data != test.text || s.Size != len(test.data) {
				t.Errorf("%s of %d bytes, %.80q, want %s of %d, %.80q", s.Kind, s.Size, s.Data, test.kind, len(test.data), test.text)
			}
		})
	}
}

func TestAttributesInOrder(t *testing.T) {
	e := seen("1", `{}`)
	e.SetTime(time.Date(2026, 3, 2, 9, 0, 0, 5000, time.UTC))
	e.SetSubject("s")
	e.SetDataSchema("https://example.com/s")
	e.SetExtension("severitynumber", 17)
	e.SetExtension("label", "bad")
	want := [][2]string{
		{"type", "com.example.seen.v1"}, {"source", "/here"}, {"id", "1"}, {"time", "2026-03-02T09:00:00.000005Z"}, {"subject", "s"},
		{"datacontenttype", "application/json"}, {"dataschema", "https://example.com/s"}, {"label", "bad"}, {"severitynumber", "17"},
	}
	if diff := cmp.Diff(want, attributes(e)); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// What an event says reaches a terminal as text.
func TestTerminalIsNotMoved(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\t\"a\": \"é 👩‍🔬 \"\n}": "{\n\t\"a\": \"é 👩‍🔬 \"\n}",
		"\x1b]0;owned\a\x1b[2J":     `\x1b]0;owned\x07\x1b[2J`,
		"a\rb\x7f\u009b2J":          `a\x0db\x7f\x9b2J`,
		"a\xff\xfe":                 `a\xff\xfe`,
		"\ufffd\x00":                "\ufffd\\x00",
		"user\u202excod.exe":        `user\u202excod.exe`,
		"\u2066a\u2069":             `\u2066a\u2069`,
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestPageGoesOnWhereItWas(t *testing.T) {
	d, url, _ := display(t, usual)
	handle(t, d, seen("1", ""), seen("2", ""))
	next, stop := watch(t, url, "")
	first := next()
	if s := first.shown(t); s.N != 1 || s.attribute("id") != "1" {
		t.Errorf("first %+v, want event 1", s)
	}
	second := next()
	handle(t, d, seen("3", "")) // while somebody looks
	if s := next().shown(t); s.N != 3 || s.attribute("id") != "3" {
		t.Errorf("told of %+v, want event 3", s)
	}
	stop()
	handle(t, d, seen("4", ""))
	next, _ = watch(t, url, second.id)
	for _, want := range []string{"3", "4"} {
		if got := next().shown(t).attribute("id"); got != want {
			t.Errorf("after %s: told of %s, want %s", second.id, got, want)
		}
	}
	// An id of another process, or none, says nothing of this one.
	for _, id := range []string{"other-2", "2", "-", "x", d.feed.began, d.feed.began + "-5", d.feed.began + "--1"} {
		next, stop := watch(t, url, id)
		if got := next().shown(t).attribute("id"); got != "1" {
			t.Errorf("after %q: told of %s, want 1", id, got)
		}
		stop()
	}
	// As a page asks that has lost its connection for good.
	resp, err := http.Get(url + "/events?after=" + second.id)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	beginning := make([]byte, len("retry: 3000\n\nid: "+d.feed.id(3)))
	if _, err := io.ReadFull(resp.Body, beginning); err != nil || string(beginning) != "retry: 3000\n\nid: "+d.feed.id(3) {
		t.Errorf("?after=%s begins with %q, %v", second.id, beginning, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	one := len(message(newFeed(1, 1).id(10), 10, time.Now(), seen("1", strings.Repeat("x", 1000))))
	for _, test := range []struct {
		name string
		cfg  Config
		kept int64
	}{
		{"by events", Config{Events: 3, Bytes: 1 << 20}, 3},
		{"by bytes", Config{Events: 100, Bytes: 5*one + one/2}, 5},
		{"too long for any", Config{Events: 100, Bytes: one / 2}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, url, _ := display(t, test.cfg)
			handle(t, d, seen("1", ""))
			next, _ := watch(t, url, "")
			if test.kept > 0 {
				next()
			}
			for range 20 {
				handle(t, d, seen("1", strings.Repeat("x", 1000)))
			}
			if len(d.feed.kept) != int(test.kept) || d.feed.bytes > test.cfg.Bytes {
				t.Errorf("%d events of %d bytes are kept, want %d of at most %d", len(d.feed.kept), d.feed.bytes, test.kept, test.cfg.Bytes)
			}
			// Who saw the first is told what they missed, and who comes anew is not.
			next, _ = watch(t, url, d.feed.id(1))
			if m := next(); m.name != "missed" || m.data != fmt.Sprint(20-test.kept) {
				t.Errorf("told %+v, want %d missed", m, 20-test.kept)
			}
			if test.kept == 0 {
				return
			}
			next, _ = watch(t, url, "")
			if s := next().shown(t); s.N != 21-test.kept+1 {
				t.Errorf("told of event %d first, want %d", s.N, 21-test.kept+1)
			}
		})
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{{0, 1}, {1, 0}, {-1, 1}} {
		if _, err := New(cfg, io.Discard, silent); err == nil || !strings.Contains(err.Error(), "DISPLAY_EVENTS") {
			t.Errorf("New(%+v): %v, want an error", cfg, err)
		}
	}
}

// A browser that takes nothing, its connection full, holds up no event and no other
// browser.
func TestSlowBrowserHoldsUpNothing(t *testing.T) {
	d, url, _ := display(t, Config{Events: 100, Bytes: 8 << 20})
	d.out, d.patience = io.Discard, time.Hour
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: display\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil { // it is being served
		t.Fatal(err)
	}
	next, _ := watch(t, url, "")
	data := strings.Repeat("x", dataShown)
	const all = 500 // 32 MB: more than sockets take
	for range all {
		handle(t, d, seen("1", data))
	}
	if len(d.feed.kept) != 100 {
		t.Errorf("%d events are kept, want 100", len(d.feed.kept))
	}
	var n, missed int64
	for n < all {
		m := next()
		if m.name == "missed" {
			var more int64
			fmt.Sscan(m.data, &more)
			missed, n = missed+more, n+more
			continue
		}
		if s := m.shown(t); s.N != n+1 {
			t.Fatalf("event %d after %d", s.N, n)
		}
		n++
	}
}

// Who takes nothing is disconnected in the end, and keeps nothing any longer.
func TestStuckBrowserIsLetGo(t *testing.T) {
	d, err := New(usual, io.Discard, silent)
	if err != nil {
		t.Fatal(err)
	}
	d.patience = 50 * time.Millisecond
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		d.pages().ServeHTTP(w, r)
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: display\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	e := seen("1", strings.Repeat("x", dataShown))
	for began := time.Now(); ; {
		select {
		case <-gone:
			return
		default:
			handle(t, d, e)
		}
		if time.Since(began) > stuck {
			t.Fatal("it is still being served")
		}
	}
}

// However they come, go and come again, all who watch see every event once, in order.
func TestEveryEventOnceToEveryBrowser(t *testing.T) {
	const senders, each, browsers = 4, 250, 5
	d, url, _ := display(t, Config{Events: senders * each, Bytes: 64 << 20})
	d.out = io.Discard
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for i := range each {
				d.Handle(t.Context(), seen(fmt.Sprintf("%d-%d", s, i), `{"a":1}`))
			}
		})
	}
	for b := range browsers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(b)))
			next, stop := watch(t, url, "")
			got := map[string]bool{}
			for n := int64(1); n <= senders*each; n++ {
				m := next()
				s := m.shown(t)
				if s.N != n {
					t.Errorf("event %d, want %d", s.N, n)
					return
				}
				got[s.attribute("id")] = true
				if random.IntN(20) == 0 {
					stop()
					next, stop = watch(t, url, m.id)
				}
			}
			if len(got) != senders*each {
				t.Errorf("browser %d has seen %d different events, want %d", b, len(got), senders*each)
			}
		})
	}
	all.Wait()
}

// Whoever looks does not keep the process from ending.
func TestEndEndsStreams(t *testing.T) {
	d, url, _ := display(t, usual)
	handle(t, d, seen("1", ""))
	late, cancel := context.WithTimeout(t.Context(), stuck)
	defer cancel()
	req, err := http.NewRequestWithContext(late, http.MethodGet, url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := d.Run(ctx); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil { // returns: it is at its end
		t.Error(err)
	}
	again, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	again.Body.Close()
	if again.StatusCode != http.StatusServiceUnavailable || again.Header.Get("Retry-After") == "" {
		t.Errorf("a new stream of what ends: %s, want 503 with Retry-After", again.Status)
	}
}

func TestPages(t *testing.T) {
	_, url, _ := display(t, usual)
	for path, want := range map[string]string{"/": "text/html; charset=utf-8", "/show.css": "text/css; charset=utf-8", "/show.js": "text/javascript; charset=utf-8"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || got != want || len(body) == 0 {
			t.Errorf("GET %s: %s, %s, %d bytes, want %s", path, resp.Status, got, len(body), want)
		}
		if policy := resp.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'; script-src 'self';") || strings.Contains(policy, "unsafe") {
			t.Errorf("GET %s: Content-Security-Policy %q", path, policy)
		}
	}
	for path, want := range map[string]int{"/other": http.StatusNotFound, "/page/show.js": http.StatusNotFound, "/show.go": http.StatusNotFound} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
		}
	}
}

func BenchmarkHandle(b *testing.B) {
	d, err := New(usual, io.Discard, silent)
	if err != nil {
		b.Fatal(err)
	}
	e := seen("1", `{"script":"`+strings.Repeat("5120a159", 120)+`"}`)
	b.SetBytes(int64(len(e.Data())))
	b.ReportAllocs()
	for b.Loop() {
		handle(b, d, e)
	}
}
