package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/telemetry-ingest/ingest"
	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/microbit"
)

// endpoint is a telemetry-ingest whose broker takes all, behind faults: each
// takes a request in its turn, the last ones are left alone.
type endpoint struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	faults   []func(w http.ResponseWriter, r *http.Request, ingest http.Handler)
	requests int
	messages []mesh.Message
}

func serve(t testing.TB, cfg ingest.Config, faults ...func(http.ResponseWriter, *http.Request, http.Handler)) *endpoint {
	t.Helper()
	e := &endpoint{t: t, faults: faults}
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = 1 << 24
	}
	cfg.Config = batch.Config{MaxMessages: 500, MaxBytes: 1 << 18, Linger: time.Millisecond}
	server, err := ingest.New(cfg, http.DefaultClient, func(_ context.Context, in event.Event) error {
		messages, err := mesh.DecodeMessages(in.Data())
		e.mu.Lock()
		defer e.mu.Unlock()
		e.messages = append(e.messages, messages...)
		return err
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		e.requests++
		fault := func(w http.ResponseWriter, r *http.Request, ingest http.Handler) { ingest.ServeHTTP(w, r) }
		if len(e.faults) > 0 {
			fault, e.faults = e.faults[0], e.faults[1:]
		}
		e.mu.Unlock()
		fault(w, r, server)
	}))
	t.Cleanup(e.Close)
	return e
}

// taken gives the messages by id, and how many there were.
func (e *endpoint) taken() (byID map[string]mesh.Message, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	byID = map[string]mesh.Message{}
	for _, m := range e.messages {
		byID[m.ID] = m
	}
	return byID, len(e.messages)
}

// answers is a fault: nothing is taken, and this is answered.
func answers(status int, text string, header ...string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		io.WriteString(w, text)
	}
}

// hangUp ends the connection without an answer.
func hangUp(_ http.ResponseWriter, _ *http.Request, _ http.Handler) { panic(http.ErrAbortHandler) }

// loseAnswer takes the request and hangs up.
func loseAnswer(_ http.ResponseWriter, r *http.Request, ingest http.Handler) {
	ingest.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// logs collects what is logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func configOf(t testing.TB, url string) config {
	return config{
		ingest: url, name: "pi 1", spool: t.TempDir(), keep: "newest", maxBytes: 1 << 20, batch: 7,
		ids: map[string]string{"ZUVIG": "desk-1"}, retry: time.Millisecond, lastRetry: 4 * time.Millisecond,
	}
}

var nine = time.Date(2026, 3, 2, 9, 0, 0, 1000, time.UTC)

// recording is a file of n frames, one each second.
func recording(t testing.TB, n int) string {
	t.Helper()
	var text bytes.Buffer
	for i := range n {
		f := microbit.Frame{Device: "zuvig", Characteristic: microbit.TemperatureData, At: nine.Add(time.Duration(i) * time.Second), Value: []byte{byte(i)}}
		if err := microbit.Record(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	return write(t, text.String())
}

func write(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "frames.ndjson")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Whatever becomes of a request, each reading arrives, as it was, and nothing is
// left or put aside.
func TestReadingsArriveThroughFaults(t *testing.T) {
	for _, test := range []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request, http.Handler)
		says  string
		again int // how many are taken twice
	}{
		{"unavailable", answers(503, "later", "Retry-After", "0"), "503 Service Unavailable: later", 0},
		{"too many", answers(429, "slower"), "429 Too Many", 0},
		{"broken", answers(500, ""), "500", 0},
		{"redirect", answers(302, "", "Location", "http://login.example.org/"), "http://login.example.org/, and is not followed", 0},
		{"no token", answers(401, "no token"), "look at --token-file", 0},
		{"no endpoint", answers(404, "no endpoint"), "404", 0},
		{"no gzip", answers(415, "no gzip"), "415", 0},
		{"log-in page", answers(200, "<html>Welcome to our free Wi-Fi</html>"), "is it an ingest endpoint?", 0},
		{"some taken", answers(202, `{"accepted":6}`), "does not say that it took 7 readings", 0},
		{"no answer", hangUp, "EOF", 0},
		{"answer lost", loseAnswer, "EOF", 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := serve(t, ingest.Config{}, test.fault)
			cfg := configOf(t, e.URL)
			var log logs
			if n, err := replay(t.Context(), cfg, SystemClock, log.logger(), recording(t, 100)); err != nil || n != 100 {
				t.Fatalf("replay = %d, %v, want 100\n%s", n, err, &log)
			}
			got, n := e.taken()
			if len(got) != 100 || n != 100+test.again {
				t.Errorf("ingest took %d messages, %d times, want 100, %d of them twice", len(got), n, test.again)
			}
			for _, m := range got {
				i := m.Payload[0]
				want := mesh.Message{
					ID: m.ID, Source: "/microbit-gateway/pi%201", DeviceID: "desk-1", Format: "microbit", ContentType: "application/octet-stream",
					Attributes: map[string]string{
						"characteristic": microbit.TemperatureData, "type": "dev.telemesh.microbit.measured.v1",
						"time": nine.Add(time.Duration(i) * time.Second).Format(time.RFC3339Nano),
					},
					ReceivedAt: m.ReceivedAt, Payload: []byte{i},
				}
				if diff := cmp.Diff(want, m); diff != "" {
					t.Fatalf("message (-want +got):\n%s", diff)
				}
			}
			for _, want := range []string{test.says, "readings are sent again"} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the log does not say %q:\n%s", want, &log)
				}
			}
			if files, err := filepath.Glob(filepath.Join(cfg.spool, "refused*")); err != nil || len(files) > 0 {
				t.Errorf("%v are put aside, %v", files, err)
			}
		})
	}
}

// A server that is not there is waited for, and what is not sent is not lost when
// the program ends meanwhile.
func TestReadingsWaitForTheServer(t *testing.T) {
	e := serve(t, ingest.Config{})
	address := e.URL
	file := recording(t, 30)
	cfg := configOf(t, "http://127.0.0.1:1/")
	var log logs
	ctx, cancel := context.WithCancel(t.Context())
	// Ended when it has said that it cannot send.
	told := writer(func(b []byte) {
		log.Write(b)
		if strings.Contains(string(b), "readings are not sent") {
			cancel()
		}
	})
	if _, err := replay(ctx, cfg, SystemClock, slog.New(slog.NewTextHandler(told, nil)), file); !errors.Is(err, context.Canceled) {
		t.Fatalf("replay without a server = %v, want that it was canceled\n%s", err, &log)
	}
	cfg.ingest = address
	if n, err := replay(t.Context(), cfg, SystemClock, log.logger(), file); err != nil || n != 30 {
		t.Fatalf("replay = %d, %v, want 30\n%s", n, err, &log)
	}
	if got, n := e.taken(); len(got) != 30 || n != 30 {
		t.Errorf("ingest took %d messages, %d times, want 30: it goes on where it was", len(got), n)
	}
	if !strings.Contains(log.String(), "frames=30") {
		t.Errorf("the log does not say that 30 frames were taken before:\n%s", &log)
	}
	// From its beginning again, once all was sent: the same events.
	if _, err := replay(t.Context(), cfg, SystemClock, log.logger(), file); err != nil {
		t.Fatal(err)
	}
	if got, n := e.taken(); len(got) != 30 || n != 60 {
		t.Errorf("after a second replay ingest took %d messages, %d times, want 30, 60 times", len(got), n)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

// A body that is too large for the server goes in parts.
func TestTooLargeABatchIsHalved(t *testing.T) {
	e := serve(t, ingest.Config{MaxBodyBytes: 1500}) // four events, unpacked
	cfg := configOf(t, e.URL)
	cfg.batch = 50
	if n, err := replay(t.Context(), cfg, SystemClock, slog.New(slog.DiscardHandler), recording(t, 100)); err != nil || n != 100 {
		t.Fatalf("replay = %d, %v, want 100", n, err)
	}
	if got, n := e.taken(); len(got) != 100 || n != 100 {
		t.Errorf("ingest took %d messages, %d times, want 100, once each", len(got), n)
	}
	if e.requests < 25 {
		t.Errorf("%d requests: the test shows nothing", e.requests)
	}
}

// refusesPoison answers 400 in plain text to a request that holds a reading with
// the value 13 or 14, of which it takes nothing.
func refusesPoison(w http.ResponseWriter, r *http.Request, ingest http.Handler) {
	copied := new(bytes.Buffer)
	r.Body = io.NopCloser(io.TeeReader(r.Body, copied))
	unpacked, err := unpack(r)
	if err != nil {
		panic(err)
	}
	if bytes.Contains(unpacked, []byte(`"data_base64":"DQ=="`)) || bytes.Contains(unpacked, []byte(`"data_base64":"Dg=="`)) {
		http.Error(w, "cannot take this", http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(copied)
	ingest.ServeHTTP(w, r)
}

func unpack(r *http.Request) ([]byte, error) {
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// What a server does not take holds up nothing else. It is kept, and can be
// replayed once the server takes it.
func TestRefusedReadingsArePutAside(t *testing.T) {
	e := serve(t, ingest.Config{}, slices.Repeat([]func(http.ResponseWriter, *http.Request, http.Handler){refusesPoison}, 1000)...)
	cfg := configOf(t, e.URL)
	var log logs
	_, err := replay(t.Context(), cfg, SystemClock, log.logger(), recording(t, 40))
	if err == nil || !strings.Contains(err.Error(), "2 frames were not taken") {
		t.Fatalf("replay = %v, want an error of 2 frames that were not taken", err)
	}
	if got, n := e.taken(); len(got) != 38 || n != 38 {
		t.Errorf("ingest took %d messages, %d times, want 38", len(got), n)
	}
	aside := filepath.Join(cfg.spool, "refused.ndjson")
	text, err := os.ReadFile(aside)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		var frame map[string]string
		if err := json.Unmarshal([]byte(line), &frame); err != nil || frame["value"] != []string{"0d", "0e"}[i] || !strings.Contains(frame["cause"], "400 Bad Request: cannot take this") {
			t.Errorf("line %d put aside is %s, %v", i+1, line, err)
		}
	}

	e.mu.Lock()
	e.faults = nil
	e.mu.Unlock()
	if n, err := replay(t.Context(), configOf(t, e.URL), SystemClock, log.logger(), aside); err != nil || n != 2 {
		t.Errorf("replay of what was put aside = %d, %v, want 2", n, err)
	}
	if got, _ := e.taken(); len(got) != 40 {
		t.Errorf("ingest took %d messages, want 40", len(got))
	}
}

// A line that was torn off takes none of those behind it with it.
func TestLinesAreAddedBehindATornOne(t *testing.T) {
	for before, want := range map[string]string{"": "new\n", "whole\n": "whole\nnew\n", `{"device":"zu`: `{"device":"zu` + "\nnew\n"} {
		file := write(t, before)
		f, err := addTo(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("new\n"); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("behind %q: %q, %v, want %q", before, got, err, want)
		}
	}
}

// A server that refuses everything is the wrong server: nothing is put aside for
// it.
func TestAServerThatRefusesAllTakesNothingAway(t *testing.T) {
	e := serve(t, ingest.Config{}, slices.Repeat([]func(http.ResponseWriter, *http.Request, http.Handler){answers(400, "what?")}, 40)...)
	cfg := configOf(t, e.URL)
	var log logs
	if n, err := replay(t.Context(), cfg, SystemClock, log.logger(), recording(t, 20)); err != nil || n != 20 {
		t.Fatalf("replay = %d, %v, want 20\n%s", n, err, &log)
	}
	if got, n := e.taken(); len(got) != 20 || n != 20 {
		t.Errorf("ingest took %d messages, %d times, want 20", len(got), n)
	}
	if !strings.Contains(log.String(), "refuses every reading") {
		t.Errorf("the log does not say that every reading is refused:\n%s", &log)
	}
}

// Ingest takes what it can of a request and names the others: they are told, and
// not sent again.
func TestCausesOfIngestArePutAside(t *testing.T) {
	e := serve(t, ingest.Config{}, answers(400, `{"accepted":6,"refused":1,"causes":[{"event":3,"cause":"it is none"}]}`))
	cfg := configOf(t, e.URL)
	if _, err := replay(t.Context(), cfg, SystemClock, slog.New(slog.DiscardHandler), recording(t, 14)); err == nil || !strings.Contains(err.Error(), "1 frames were not taken") {
		t.Fatalf("replay = %v, want an error of a frame that was not taken", err)
	}
	if got, n := e.taken(); n != 7 || len(got) != 7 {
		t.Errorf("ingest took %d messages after the first 7, %d times, want 7", len(got), n)
	}
	text, err := os.ReadFile(filepath.Join(cfg.spool, "refused.ndjson"))
	if err != nil || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), `"value":"03","cause":"it is none"`) {
		t.Errorf("put aside is %s, %v, want the reading 3", text, err)
	}
}

// Of many that it refuses ingest names the first ones: fewer are sent again, until each
// is known.
func TestCausesThatAreNotAllTold(t *testing.T) {
	e := serve(t, ingest.Config{}, answers(400, `{"accepted":5,"refused":2,"causes":[{"event":3,"cause":"it is none"}]}`),
		answers(400, `{"accepted":2,"refused":1,"causes":[{"event":2,"cause":"it is none"}]}`))
	cfg := configOf(t, e.URL)
	if _, err := replay(t.Context(), cfg, SystemClock, slog.New(slog.DiscardHandler), recording(t, 7)); err == nil || !strings.Contains(err.Error(), "1 frames were not taken") {
		t.Fatalf("replay = %v, want an error of a frame that was not taken", err)
	}
	if got, n := e.taken(); n != 4 || len(got) != 4 {
		t.Errorf("ingest took %d messages, %d times, want the second half", len(got), n)
	}
	text, err := os.ReadFile(filepath.Join(cfg.spool, "refused.ndjson"))
	if err != nil || strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), `"value":"02","cause":"it is none"`) {
		t.Errorf("put aside is %s, %v, want the reading 2", text, err)
	}
}

// The token is read anew for each request.
func TestTokenIsReadAnew(t *testing.T) {
	token := write(t, "old\n")
	var log logs
	told := writer(func(b []byte) {
		log.Write(b)
		if strings.Contains(string(b), "look at --token-file") {
			if err := os.WriteFile(token, []byte("new\n"), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	e := serve(t, ingest.Config{Tokens: "pi:11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"}) // of "new"
	cfg := configOf(t, e.URL)
	cfg.tokenFile = token
	if _, err := replay(t.Context(), cfg, SystemClock, slog.New(slog.NewTextHandler(told, nil)), recording(t, 10)); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	got, _ := e.taken()
	for _, m := range got {
		if m.Attributes[mesh.AttributeSender] != "pi" {
			t.Errorf("sender %q, want pi", m.Attributes[mesh.AttributeSender])
		}
	}
	if len(got) != 10 || strings.Contains(log.String(), "new") {
		t.Errorf("ingest took %d messages, want 10; and the log tells no token:\n%s", len(got), &log)
	}
}

func TestLinesThatAreNoFramesAreTold(t *testing.T) {
	e := serve(t, ingest.Config{})
	frames, err := os.ReadFile(recording(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	var log logs
	n, err := replay(t.Context(), configOf(t, e.URL), SystemClock, log.logger(), write(t, "no frame\n"+string(frames)+`{"device":"zu`))
	if err == nil || !strings.Contains(err.Error(), "2 lines of ") || n != 2 {
		t.Errorf("replay = %d, %v, want 2 frames, and 2 lines that are none", n, err)
	}
	if got, _ := e.taken(); len(got) != 2 || !strings.Contains(log.String(), "line 1:") || !strings.Contains(log.String(), "line 4:") {
		t.Errorf("ingest took %d messages, want 2; the log has to name lines 1 and 4:\n%s", len(got), &log)
	}
}

// A recording that took the name of one whose replay was interrupted is sent from
// its beginning.
func TestReplayOfAnotherRecordingOfTheName(t *testing.T) {
	file := recording(t, 30)
	cfg := configOf(t, "http://127.0.0.1:1/")
	ctx, cancel := context.WithCancel(t.Context())
	told := writer(func(b []byte) {
		if strings.Contains(string(b), "readings are not sent") {
			cancel()
		}
	})
	if _, err := replay(ctx, cfg, SystemClock, slog.New(slog.NewTextHandler(told, nil)), file); !errors.Is(err, context.Canceled) {
		t.Fatalf("replay without a server = %v, want that it was canceled", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(text, []byte("zuvig"), []byte("gupot")), 0o600); err != nil {
		t.Fatal(err)
	}
	e := serve(t, ingest.Config{})
	cfg.ingest = e.URL
	if _, err := replay(t.Context(), cfg, SystemClock, slog.New(slog.DiscardHandler), file); err != nil {
		t.Fatal(err)
	}
	if got, n := e.taken(); len(got) != 60 || n != 60 {
		t.Errorf("ingest took %d messages, %d times, want the 30 that waited and the 30 of the other recording", len(got), n)
	}
}

// What has no room is counted and told, and which readings stay is chosen.
func TestAFullSpoolKeepsWhatItIsTold(t *testing.T) {
	for keep, first := range map[string]byte{"newest": 100, "oldest": 0} {
		cfg := configOf(t, "http://127.0.0.1:1/")
		cfg.keep, cfg.maxBytes = keep, 1<<16
		var log logs
		g, err := open(cfg, SystemClock, log.logger())
		if err != nil {
			t.Fatal(err)
		}
		readings := make(chan reading, 1000)
		for i := range cap(readings) {
			readings <- g.reading(microbit.Frame{Device: "zuvig", At: nine.Add(time.Duration(i)), Value: bytes.Repeat([]byte{byte(i / 4)}, 50)})
		}
		close(readings)
		g.keep(readings)
		stats := g.spool.Stats()
		records, err := g.spool.Peek(1, 1)
		if err != nil {
			t.Fatal(err)
		}
		var oldest reading
		if err := json.Unmarshal(records[0].Data, &oldest); err != nil {
			t.Fatal(err)
		}
		if lost := stats.Dropped + stats.Refused; lost == 0 || lost+stats.Records != 1000 || oldest.Value[0] < first {
			t.Errorf("keep %s: %+v of 1000, the oldest of %d", keep, stats, oldest.Value[0])
		}
		if !strings.Contains(log.String(), "the spool is full") || !strings.Contains(log.String(), "keeps="+keep) {
			t.Errorf("keep %s: the log does not say that readings are lost:\n%s", keep, &log)
		}
		if err := g.stop(); err != nil {
			t.Error(err)
		}
	}
}

// A card that fails while the gateway runs takes what was on it, and nothing of later.
func TestASpoolDamagedMeanwhile(t *testing.T) {
	cfg := configOf(t, "http://127.0.0.1:1/")
	cfg.maxBytes = 1 << 23
	var log logs
	g, err := open(cfg, SystemClock, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	value := bytes.Repeat([]byte{1}, 900)
	for range 8 { // more than SQLite has in memory
		var records [][]byte
		for range 500 {
			records = append(records, g.reading(microbit.Frame{Device: "zuvig", At: nine, Value: value}).record())
		}
		if err := g.append(records); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.maxBytes = 1 << 20 // what is added has to delete
	if g, err = open(cfg, SystemClock, log.logger()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(cfg.spool, "spool.db"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Repeat([]byte{0xff}, 4<<20)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	readings := make(chan reading, 1)
	readings <- g.reading(microbit.Frame{Device: "zuvig", At: nine, Value: []byte{7}})
	close(readings)
	g.keep(readings)
	if stats := g.spool.Stats(); stats.Records != 1 || g.lost.failed != 0 || !strings.Contains(log.String(), "the spool is damaged; a new one begins") {
		t.Errorf("%+v, %d not written; want the reading in a new spool, and that told:\n%s", stats, g.lost.failed, &log)
	}
	if err := g.stop(); err != nil {
		t.Error(err)
	}
}

// A replay that is not paced loses nothing to the bound: it waits.
func TestReplayWaitsForRoom(t *testing.T) {
	e := serve(t, ingest.Config{})
	cfg := configOf(t, e.URL)
	cfg.maxBytes, cfg.batch = 1<<16, 100
	if n, err := replay(t.Context(), cfg, SystemClock, slog.New(slog.DiscardHandler), recording(t, 5000)); err != nil || n != 5000 {
		t.Fatalf("replay = %d, %v, want 5000", n, err)
	}
	if got, n := e.taken(); len(got) != 5000 || n != 5000 {
		t.Errorf("ingest took %d messages, %d times, want 5000", len(got), n)
	}
}

// board is a machine whose clock is set or not.
type board struct {
	boot string
	up   time.Duration
	now  time.Time
	set  bool
}

func (b *board) Now() time.Time                { return b.now }
func (b *board) Set() bool                     { return b.set }
func (b *board) Boot() (string, time.Duration) { return b.boot, b.up }

// pass lets time pass.
func (b *board) pass(d time.Duration) {
	b.up += d
	b.now = b.now.Add(d)
}

// A machine without a clock of its own starts where it stopped, and learns what
// time it is later: readings have the true one, the same each time they are
// asked for.
func TestTimesArePutRight(t *testing.T) {
	b := &board{boot: "first", up: 10 * time.Second, now: nine.Add(-20 * time.Hour)}
	cfg := configOf(t, "http://127.0.0.1:1/")
	var log logs
	begin := func() *gateway {
		g, err := open(cfg, b, log.logger())
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	came := func(g *gateway) reading {
		r := g.reading(microbit.Frame{Device: "zuvig", At: b.now.Add(-2 * time.Second)}) // it waited
		if err := g.times.stamp(&r); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(r.record(), &r); err != nil { // as the spool has it
			t.Fatal(err)
		}
		return r
	}
	when := func(g *gateway, r reading, want time.Time) {
		t.Helper()
		for range 2 {
			if got, err := g.times.when(r); err != nil || got != want.UnixMicro() {
				t.Fatalf("it came at %s, %v, want %s", time.UnixMicro(got).UTC(), err, want)
			}
		}
	}

	g := begin()
	early := came(g)
	b.pass(time.Minute)
	if _, err := g.times.when(early); !errors.Is(err, errClock) {
		t.Fatalf("before the clock is set: %v, want errClock", err)
	}
	b.now, b.set = nine, true // 70 s after the start
	when(g, early, nine.Add(-62*time.Second))
	right := came(g)
	when(g, right, nine.Add(-2*time.Second))

	// Another process of the same start, with the clock of the kernel said to be
	// adrift and the wall clock corrected a little: nothing changes.
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	b.pass(10 * time.Hour)
	b.set, b.now = false, b.now.Add(3*time.Second)
	g = begin()
	when(g, early, nine.Add(-62*time.Second))
	later := came(g)
	when(g, later, nine.Add(10*time.Hour+time.Second))
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}

	// Two starts later: of the one between nobody ever knew.
	b.boot, b.up, b.now = "second", 5*time.Second, nine
	g = begin()
	lost := came(g)
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	b.boot, b.set = "third", true
	g = begin()
	defer g.stop()
	if _, err := g.times.when(lost); err == nil || errors.Is(err, errClock) {
		t.Errorf("a reading of a start whose clock was never set: %v, want that nobody knows", err)
	}
	when(g, early, nine.Add(-62*time.Second))
	if got := strings.Count(log.String(), "the clock is not set yet"); got != 2 {
		t.Errorf("the log says %d times that the clock is not set, want twice:\n%s", got, &log)
	}
}

// The clock and the time since the start are not read at one instant: readings that were
// apart stay so, or one of them is lost to who stores them by their time.
func TestTimesStayApart(t *testing.T) {
	b := &board{boot: "first", up: time.Minute, now: nine}
	g, err := open(configOf(t, "http://127.0.0.1:1/"), b, new(logs).logger())
	if err != nil {
		t.Fatal(err)
	}
	defer g.stop()
	var came []int64
	for _, late := range []time.Duration{0, -time.Microsecond, -50 * time.Microsecond, 0} {
		b.pass(time.Microsecond)
		r := g.reading(microbit.Frame{Device: "zuvig", At: b.now})
		b.up += late
		if err := g.times.stamp(&r); err != nil {
			t.Fatal(err)
		}
		b.up -= late
		came = append(came, r.Uptime)
	}
	for i := range came {
		if came[i] != came[0]+int64(i) {
			t.Fatalf("readings 1 µs apart came at %d", came)
		}
	}
}

// Readings whose time is not known wait, and those whose time never will be are
// put aside.
func TestReadingsWaitForTheClock(t *testing.T) {
	e := serve(t, ingest.Config{})
	cfg := configOf(t, e.URL)
	b := &board{boot: "first", now: nine}
	var log logs
	g, err := open(cfg, b, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	add := func(n int) {
		readings := make(chan reading, n)
		for range n {
			b.pass(time.Second)
			r := g.reading(microbit.Frame{Device: "zuvig", Characteristic: microbit.ButtonA, At: b.now, Value: []byte{1}})
			if err := g.times.stamp(&r); err != nil {
				t.Fatal(err)
			}
			readings <- r
		}
		close(readings)
		g.keep(readings)
	}
	add(3)
	if err := g.stop(); err != nil {
		t.Fatal(err)
	}
	b.boot = "second"
	if g, err = open(cfg, b, log.logger()); err != nil {
		t.Fatal(err)
	}
	defer g.stop()
	add(4)
	if err := g.deliver(t.Context()); err != nil {
		t.Fatalf("those that are lost: %v", err)
	}
	if err := g.deliver(t.Context()); !errors.Is(err, errClock) {
		t.Fatalf("those that wait: %v, want errClock", err)
	}
	if _, n := e.taken(); n != 0 || g.aside != 3 || g.spool.Stats().Records != 4 {
		t.Errorf("%d were sent, %d put aside, %d wait; want 0, 3, 4", n, g.aside, g.spool.Stats().Records)
	}
	b.set = true
	if err := g.deliver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, n := e.taken(); n != 4 || g.spool.Stats().Records != 0 {
		t.Errorf("%d were sent, %d wait; want 4 and none", n, g.spool.Stats().Records)
	}
	aside, err := os.Open(filepath.Join(cfg.spool, "refused.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	defer aside.Close()
	lines := 0
	for _, err := range microbit.Recorded(aside) {
		if lines++; err == nil || !strings.Contains(err.Error(), "without time") {
			t.Errorf("line %d put aside = %v, want one that a replay does not send: without time", lines, err)
		}
	}
	if lines != 3 {
		t.Errorf("%d lines are put aside, want 3", lines)
	}
}

// A reading is the same event each time, and another one is another.
func TestEventIsTheSameEachTime(t *testing.T) {
	r := reading{Device: "a", Characteristic: "c", At: 1, Value: []byte{1}}
	ids := map[string]string{}
	for i, other := range []reading{r, {"b", "c", 1, []byte{1}, "", 0}, {"a", "d", 1, []byte{1}, "", 0}, {"a", "c", 2, []byte{1}, "", 0}, {"a", "c", 1, []byte{2}, "", 0}} {
		e := other.event("/s")
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
		if same := ids[e.ID()]; same != "" {
			t.Errorf("readings %s and %d have one id", same, i)
		}
		ids[e.ID()] = fmt.Sprint(i)
	}
	put := r
	put.Boot, put.Uptime = "first", 7 // its time was put right
	if put.event("/s").ID() != r.event("/s").ID() {
		t.Error("a reading whose time was put right is another event than one whose time was right")
	}
}
