package source

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/feedtest"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// The test binary is the function's process as well, to be killed and measured, and
// that of who reads a feed and does nothing else.
func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv("WEBSOCKET_BARE")); err == nil {
		if err := bare(os.Getenv("WEBSOCKET_URL"), n); err != nil {
			fmt.Fprintln(os.Stderr, "bare:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv("WEBSOCKET_URL") != "" {
		function.Main(name, Start)
		return
	}
	os.Exit(m.Run())
}

// ingress is a broker's, which refuses and waits where it is told to.
type ingress struct {
	*httptest.Server

	mu       sync.Mutex
	changed  chan struct{}
	refuse   func(event.Event) bool
	held     chan struct{}  // requests wait until it is closed
	requests int            // also those refused
	posts    []event.Event  // accepted
	events   []event.Event  // that they carried
	times    map[string]int // that an id was among them
}

func newIngress(t testing.TB) *ingress {
	in := &ingress{changed: make(chan struct{}), times: map[string]int{}}
	in.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := cehttp.NewEventFromHTTPRequest(r)
		if err != nil {
			t.Error(err)
			return
		}
		carried, err := mesh.Carried(*e)
		if err != nil {
			t.Error(err)
		}
		in.mu.Lock()
		held := in.held
		in.mu.Unlock()
		if held != nil {
			<-held
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		defer func() {
			close(in.changed)
			in.changed = make(chan struct{})
		}()
		in.requests++
		if in.refuse != nil && slices.ContainsFunc(carried, in.refuse) {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		in.posts, in.events = append(in.posts, *e), append(in.events, carried...)
		for _, e := range carried {
			in.times[e.ID()]++
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(in.Close)
	return in
}

// hold keeps requests waiting until release is called.
func (in *ingress) hold(t testing.TB) (release func()) {
	held := make(chan struct{})
	in.mu.Lock()
	in.held = held
	in.mu.Unlock()
	release = sync.OnceFunc(func() {
		in.mu.Lock()
		in.held = nil
		in.mu.Unlock()
		close(held)
	})
	t.Cleanup(release)
	return release
}

// refuses answers 503 to what f says from now on; nil: to nothing.
func (in *ingress) refuses(f func(event.Event) bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.refuse = f
}

// await waits until ok, which is called with in.mu held.
func (in *ingress) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.After(feedtest.Patience); ; {
		in.mu.Lock()
		done, changed, n := ok(), in.changed, len(in.events)
		in.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%s did not come; %d events were accepted", what, n)
		}
	}
}

// awaitIDs waits until events of all these ids are accepted, each once or more.
func (in *ingress) awaitIDs(t testing.TB, ids ...string) {
	t.Helper()
	in.await(t, fmt.Sprintf("ids %.200q", ids), func() bool { return !slices.ContainsFunc(ids, func(id string) bool { return in.times[id] == 0 }) })
}

// numbered is a frame of a feed with a cursor.
func numbered(n int) []byte {
	return fmt.Appendf(nil, `{"id":"%d","seq":%d,"at":"2026-03-01T09:00:00Z"}`, n, n)
}

func numbers(from, to int) (frames [][]byte, ids []string) {
	for n := from; n < to; n++ {
		frames, ids = append(frames, numbered(n)), append(ids, strconv.Itoa(n))
	}
	return frames, ids
}

// quick is a configuration without pings and with short waits.
func quick(feed *feedtest.Server, in *ingress) Config {
	return Config{URL: feed.URL + "/feed", Subscribe: `{"op":"subscribe"}`, Sink: in.URL, Backoff: 10 * time.Millisecond,
		MaxFrame: 1 << 20, Buffer: 1000, BufferBytes: 1 << 24,
		FrameConfig: FrameConfig{Type: "com.example.seen.v1", Source: "//feed", ID: "/id", Time: "/at", TimeUnit: "s"},
		Config:      batch.Config{MaxMessages: 100, MaxBytes: 1 << 18, Linger: time.Millisecond}}
}

// run runs a source until stop or the end of the test.
func run(t testing.TB, cfg Config) (s *Source, stop func() error) {
	t.Helper()
	s, err := New(cfg, function.Ports{Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(feedtest.Patience + drainTime):
			t.Error("the source does not end")
			return nil
		}
	})
	t.Cleanup(func() { stop() })
	return s, stop
}

// read is how many frames s has read.
func read(t testing.TB, s *Source) int {
	t.Helper()
	var m dto.Metric
	if err := s.metrics.frames.Write(&m); err != nil {
		t.Fatal(err)
	}
	return int(m.GetCounter().GetValue())
}

// metric reads a line of /metrics.
func metric(t testing.TB, s *Source, line string) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	s.metrics.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta("websocket_source_"+line) + ` (\S+)$`).FindStringSubmatch(w.Body.String())
	if m == nil {
		return 0
	}
	value, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Transactions as they were, from a feed that answers and pings in between.
func TestTransactions(t *testing.T) {
	folder := dataset.Path(t, "transactions")
	files, err := filepath.Glob(filepath.Join(folder, "utx-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	frames := [][]byte{[]byte(`{"op":"pong"}`)}
	want := map[string]string{}
	hash := regexp.MustCompile(`"hash":\s*"([0-9a-f]{64})"`)
	for _, file := range files {
		frame, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame)
		want[string(hash.FindSubmatch(frame)[1])] = string(frame)
	}
	feed, in := feedtest.Serve(t, frames...), newIngress(t)
	cfg := quick(feed, in)
	cfg.FrameConfig = transactions
	cfg.Subscribe = `{"op":"unconfirmed_sub"}`
	s, stop := run(t, cfg)
	in.await(t, "all transactions", func() bool { return len(in.events) >= len(files) })
	if err := stop(); err != nil {
		t.Error(err)
	}
	got := map[string]string{}
	for _, e := range in.events {
		got[e.ID()] = string(e.Data())
		if e.Type() != cfg.Type || e.Source() != feed.URL+"/feed" || e.Time().Year() < 2012 || e.Time().Year() > 2022 {
			t.Errorf("event %s", e)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("transactions (-want +got):\n%s", diff)
	}
	state := feed.Await(t, "the end", func(s feedtest.State) bool { return s.Open == 0 })
	if diff := cmp.Diff([]string{`{"op":"unconfirmed_sub"}`}, state.Received); diff != "" || state.Closed[0] != websocket.StatusGoingAway {
		t.Errorf("closed with %v; sent to the feed (-want +got):\n%s", state.Closed, diff)
	}
	for line, want := range map[string]int{"frames_total": len(frames), "frames_passed_over_total": 1, "events_accepted_total": len(files),
		"connections_total": 1, "connected": 0, "buffer_frames": 0, "buffer_bytes": 0, "posts_failed_total": 0} {
		if got := metric(t, s, line); got != float64(want) {
			t.Errorf("%s = %v, want %d", line, got, want)
		}
	}
	if got := metric(t, s, "lag_seconds"); got < 3600 {
		t.Errorf("lag of old transactions = %v s", got)
	}
}

func TestSinglyAndTogether(t *testing.T) {
	frames, ids := numbers(0, 20)
	for most, want := range map[int]int{1: 20, 20: 1} {
		feed, in := feedtest.Serve(t, frames...), newIngress(t)
		cfg := quick(feed, in)
		cfg.MaxMessages, cfg.Linger = most, time.Minute
		run(t, cfg)
		in.awaitIDs(t, ids...)
		if len(in.posts) != want {
			t.Errorf("at most %d together: %d posts, want %d", most, len(in.posts), want)
		}
		for _, e := range in.posts {
			if single := e.DataContentType() == event.ApplicationJSON; single != (most == 1) {
				t.Errorf("at most %d together: data are %s", most, e.DataContentType())
			}
		}
	}
}

// Events of different types do not come in one.
func TestTypesOfFrames(t *testing.T) {
	feed, in := feedtest.Serve(t), newIngress(t)
	cfg := quick(feed, in)
	cfg.Type = "#/type"
	var ids []string
	for n := range 20 {
		feed.Send(fmt.Appendf(nil, `{"id":"%d","type":"com.example.%d.v1"}`, n, n%3))
		ids = append(ids, strconv.Itoa(n))
	}
	run(t, cfg)
	in.awaitIDs(t, ids...)
	for _, e := range in.events {
		n, _ := strconv.Atoi(e.ID())
		if want := fmt.Sprintf("com.example.%d.v1", n%3); e.Type() != want {
			t.Errorf("frame %s is %s, want %s", e.ID(), e.Type(), want)
		}
	}
}

// However a connection ends, the next one is made, asks again and brings what is
// sent then; and the metrics tell why it ended.
func TestConnectionIsMadeAnew(t *testing.T) {
	type test struct {
		fail   func(*feedtest.Server)
		change func(*Config)
		cause  string
	}
	tests := map[string]test{
		"drop":    {fail: (*feedtest.Server).Drop, cause: "dropped"},
		"garbage": {fail: (*feedtest.Server).Garbage, cause: "dropped"},
		"stall": {fail: (*feedtest.Server).Stall, cause: "unanswered",
			change: func(c *Config) { c.Ping, c.PingTimeout = 10*time.Millisecond, 100*time.Millisecond }},
		"silence": {fail: (*feedtest.Server).Silence, cause: "silent", change: func(c *Config) { c.Silence = 100 * time.Millisecond }},
		"huge": {fail: func(s *feedtest.Server) { s.Send(bytes.Repeat([]byte("x"), 2000)); s.Silence() }, cause: "1009",
			change: func(c *Config) { c.MaxFrame = 1000 }},
	}
	// Those that may stand in a close frame (RFC 6455, section 7.4).
	for _, code := range []websocket.StatusCode{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999} {
		tests[fmt.Sprint("close ", int(code))] = test{fail: func(s *feedtest.Server) { s.Close(code, "why") }, cause: fmt.Sprint(int(code))}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := newIngress(t)
			// What was accepted is not sent again. On a slow day a connection also ends before.
			feed := feedtest.Feed{From: func(*http.Request, string) int {
				in.mu.Lock()
				defer in.mu.Unlock()
				return min(in.times["1"], 1)
			}}.Serve(t, numbered(1))
			cfg := quick(feed, in)
			if test.change != nil {
				test.change(&cfg)
			}
			test.fail(feed)
			feed.Send(numbered(2))
			s, _ := run(t, cfg)
			if name == "huge" { // it comes again as often as the feed sends it
				feed.Await(t, "1009", func(s feedtest.State) bool { return slices.Contains(s.Closed, websocket.StatusMessageTooBig) })
			} else {
				in.awaitIDs(t, "1", "2")
				state := feed.Now()
				if got := len(state.Received); got < 2 {
					t.Errorf("the feed was asked %d times, want 2 at least", got)
				}
			}
			for limit := time.Now().Add(feedtest.Patience); metric(t, s, `connections_ended_total{cause="`+test.cause+`"}`) == 0; runtime.Gosched() {
				if time.Now().After(limit) {
					t.Fatalf("no connection has ended by %s", test.cause)
				}
			}
		})
	}
}

// A ping that meets the end of a connection does not hide why it ended.
func TestPingAtTheEnd(t *testing.T) {
	conn, _, err := websocket.Dial(t.Context(), feedtest.Serve(t).URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.CloseNow()
	s := &Source{cfg: Config{Ping: time.Millisecond, PingTimeout: feedtest.Patience}}
	s.ping(t.Context(), conn, func(err error) { t.Errorf("the connection is ended: %v", err) })
}

// A feed that refuses is asked again, not before it wants it.
func TestRefused(t *testing.T) {
	feed, in := feedtest.Serve(t, numbered(1)), newIngress(t)
	for _, status := range []int{401, 429, 503, 200} {
		feed.Refuse(status, "0")
	}
	cfg := quick(feed, in)
	cfg.Header = "Authorization: Bearer secret\nX-Client: telemesh"
	s, _ := run(t, cfg)
	in.awaitIDs(t, "1")
	requests := feed.Now().Requests
	for _, r := range requests {
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Client") != "telemesh" {
			t.Errorf("asked with %v", r.Header)
		}
	}
	for _, status := range []string{"401", "429", "503", "200"} {
		if got := metric(t, s, `connections_ended_total{cause="`+status+`"}`); got != 1 {
			t.Errorf("%v refusals by %s are told, want 1", got, status)
		}
	}
}

// Nobody listens yet.
func TestFeedComesLater(t *testing.T) {
	away := httptest.NewServer(nil)
	address := away.Listener.Addr().String()
	away.Close()
	in := newIngress(t)
	cfg := quick(&feedtest.Server{URL: "ws://" + address}, in)
	s, _ := run(t, cfg)
	for metric(t, s, `connections_ended_total{cause="unreachable"}`) == 0 {
		runtime.Gosched()
	}
	feedtest.Feed{Address: address}.Serve(t, numbered(1))
	in.awaitIDs(t, "1")
}

func TestBackoff(t *testing.T) {
	s := &Source{cfg: Config{Backoff: time.Minute}}
	for failures, most := range map[int]time.Duration{0: firstBackoff, 1: 2 * firstBackoff, 3: 8 * firstBackoff, 7: time.Minute, 1 << 30: time.Minute} {
		var longest time.Duration
		for range 2000 {
			longest = max(longest, s.backoff(failures, false))
		}
		if longest > most || longest < most/2 {
			t.Errorf("after %d failures at most %s, want nearly %s", failures, longest, most)
		}
	}
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999": maxRetryAfter,
		"Sun, 01 Mar 2026 09:01:00 GMT": time.Minute, "Sun, 01 Mar 2020 09:01:00 GMT": 0} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("Retry-After %q is %s, want %s", value, got, want)
		}
	}
	for status, last := range map[int]bool{401: true, 404: true, 408: false, 429: false, 503: false, 302: false} {
		if _, got, _ := causeOf(&refused{status: status}); got != last {
			t.Errorf("%d is for somebody to see to: %v, want %v", status, got, last)
		}
	}
}

// While the broker stands still no more is read than there is room for, and nothing
// is lost.
func TestPushesBack(t *testing.T) {
	const n, room = 300, 20
	frames, ids := numbers(0, n)
	for i := range frames { // more than the network keeps
		frames[i] = append(frames[i][:len(frames[i])-1], fmt.Sprintf(`,"filler":"%s"}`, strings.Repeat("x", 60_000))...)
	}
	for name, change := range map[string]func(*Config){
		"frames": func(c *Config) { c.Buffer = room },
		"bytes":  func(c *Config) { c.BufferBytes = room * int64(len(frames[0])+10) },
	} {
		t.Run(name, func(t *testing.T) {
			feed, in := feedtest.Serve(t, frames...), newIngress(t)
			release := in.hold(t)
			cfg := quick(feed, in)
			change(&cfg)
			cfg.Ping, cfg.PingTimeout = time.Millisecond, time.Minute
			s, _ := run(t, cfg)
			for limit := time.Now().Add(feedtest.Patience); !s.pressed.now.Load() || read(t, s) <= room; runtime.Gosched() {
				if time.Now().After(limit) {
					t.Fatalf("%d frames are read, want those there is room for", read(t, s))
				}
			}
			for range 200 { // and no more
				if got := read(t, s); got > room+1 || !s.pressed.now.Load() {
					t.Fatalf("%d frames are read, want %d and the one that waits", got, room)
				}
			}
			if sent := feed.Now().Sent; sent >= n {
				t.Error("the feed was not held back")
			}
			release()
			in.awaitIDs(t, ids...)
		})
	}
}

// What the broker refuses comes again, and at the end, too; nothing is given up
// for it.
func TestEndHandsOver(t *testing.T) {
	frames, ids := numbers(0, 30)
	feed, in := feedtest.Serve(t, frames...), newIngress(t)
	in.refuses(func(event.Event) bool { return true })
	cfg := quick(feed, in)
	cfg.Buffer = 20
	s, stop := run(t, cfg)
	in.await(t, "a refusal", func() bool { return in.requests > 2 && read(t, s) > 20 })
	ended := make(chan error)
	go func() { ended <- stop() }()
	feed.Await(t, "the end of the connection", func(s feedtest.State) bool { return len(s.Closed) > 0 })
	in.refuses(nil)
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
	in.awaitIDs(t, ids[:read(t, s)]...)
	if metric(t, s, "posts_failed_total") == 0 {
		t.Error("no refusal is counted")
	}
}

// fromCursor is a feed that goes on behind a cursor, given in the URL or in a
// message.
func fromCursor(r *http.Request, asked string) int {
	text := r.URL.Query().Get("after")
	if m := regexp.MustCompile(`"since":"(\d+)"`).FindStringSubmatch(asked); m != nil {
		text = m[1]
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n + 1
}

func TestCursor(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"in the URL":   func(c *Config) { c.URL += "?after={cursor}" },
		"in a message": func(c *Config) { c.Resume = `{"op":"resume","since":"{cursor}"}` },
	} {
		t.Run(name, func(t *testing.T) {
			frames, ids := numbers(0, 10)
			feed, in := feedtest.Feed{From: fromCursor}.Serve(t, frames...), newIngress(t)
			cfg := quick(feed, in)
			cfg.Cursor, cfg.CursorFile, cfg.MaxMessages = "/seq", filepath.Join(t.TempDir(), "cursor"), 1
			change(&cfg)
			s, stop := run(t, cfg)
			in.awaitIDs(t, ids...)
			for value, _ := s.cursor.get(); value != "9"; value, _ = s.cursor.get() { // done is called behind the answer
				runtime.Gosched()
			}
			// Of what follows, 12 is not accepted for now: the cursor stays before it.
			in.refuses(func(e event.Event) bool { return e.ID() == "12" })
			more, rest := numbers(10, 15)
			feed.Send(more...)
			in.awaitIDs(t, "10", "11", "13", "14")
			for value, _ := s.cursor.get(); value != "11"; value, _ = s.cursor.get() {
				runtime.Gosched()
			}
			feed.Drop()
			feed.Await(t, "another connection", func(s feedtest.State) bool { return len(s.Requests) > 1 && len(s.Received) > 1 })
			in.refuses(nil)
			in.awaitIDs(t, rest...)
			for metric(t, s, "events_accepted_total") < 18 { // 12 and what follows it have come again
				runtime.Gosched()
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			if text, err := os.ReadFile(cfg.CursorFile); err != nil || string(text) != "14\n" {
				t.Errorf("the file has %q, %v", text, err)
			}
			feed.Send(numbered(15))
			run(t, cfg)
			in.awaitIDs(t, "15")
			state := feed.Now()
			last := state.Received[len(state.Received)-1]
			if asked := state.Requests[len(state.Requests)-1].URL.Query().Get("after") + last; !strings.Contains(asked, "14") {
				t.Errorf("asked with %s for what comes after 14", asked)
			}
			first := state.Requests[0].URL.Query().Get("after") + state.Received[0]
			if first != `{"op":"subscribe"}` {
				t.Errorf("asked with %s when no cursor was known", first)
			}
			for id, n := range in.times {
				if n > 1 && id != "13" && id != "14" && id != "12" {
					t.Errorf("frame %s came %d times, though the cursor was behind it", id, n)
				}
			}
		})
	}
}

// A process that is killed anywhere goes on behind its cursor: nothing is missed,
// and what comes twice has the same id.
func TestKill(t *testing.T) {
	const n = 3000
	frames, ids := numbers(0, n)
	feed, in := feedtest.Feed{From: fromCursor}.Serve(t), newIngress(t)
	file := filepath.Join(t.TempDir(), "cursor")
	process := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "PORT=0", "K_SINK="+in.URL, "WEBSOCKET_URL="+feed.URL+"/?after={cursor}", "WEBSOCKET_SUBSCRIBE=go",
			"WEBSOCKET_TYPE=com.example.seen.v1", "WEBSOCKET_ID=/id", "WEBSOCKET_CURSOR=/seq", "WEBSOCKET_CURSOR_FILE="+file,
			"BATCH_MAX_MESSAGES=10", "BATCH_LINGER=1ms", "WEBSOCKET_BACKOFF=10ms")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	for kill := range 3 {
		cmd := process()
		feed.Send(frames[kill*n/3 : (kill+1)*n/3]...)
		at := kill*n/3 + n/6
		in.await(t, "half of them", func() bool { return in.times[strconv.Itoa(at)] > 0 })
		cmd.Process.Kill()
		cmd.Wait()
	}
	cmd := process()
	in.awaitIDs(t, ids...)
	for limit := time.Now().Add(feedtest.Patience); ; runtime.Gosched() {
		text, err := os.ReadFile(file)
		if err == nil && string(text) == fmt.Sprintln(n-1) {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("the file has %q, %v, want %d", text, err, n-1)
		}
	}
	cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the end: %v", err)
	}
	data := map[string]string{}
	for _, e := range in.events {
		data[e.ID()] = string(e.Data())
	}
	if len(data) != n {
		t.Errorf("%d ids of %d frames", len(data), n)
	}
	t.Logf("%d events of %d frames, three kills", len(in.events), n)
}

func TestStart(t *testing.T) {
	ports := function.Ports{Client: http.DefaultClient, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	good := map[string]string{"K_SINK": "http://broker", "WEBSOCKET_URL": "wss://user:password@feed.example.com/inv?key=secret", "WEBSOCKET_TYPE": "t"}
	for _, test := range []struct{ name, value, want string }{
		{"", "", ""},
		{"K_SINK", "", "K_SINK"},
		{"WEBSOCKET_TYPE", "", "WEBSOCKET_TYPE"},
		{"WEBSOCKET_TYPE", "a b", `WEBSOCKET_TYPE "a b": want a type`},
		{"WEBSOCKET_TYPE", "#x", `WEBSOCKET_TYPE "#x": want a JSON Pointer`},
		{"WEBSOCKET_SOURCE", "a b", `WEBSOCKET_SOURCE "a b": want a URI`},
		{"WEBSOCKET_URL", "https://feed/?key=secret", "WEBSOCKET_URL https://feed/: want ws:// or wss://"},
		{"WEBSOCKET_URL", "wss://a b/?key=secret", "WEBSOCKET_URL is no URL"},
		{"WEBSOCKET_ID", "x", `WEBSOCKET_ID "x": want a JSON Pointer`},
		{"WEBSOCKET_ONLY", "op=utx", `WEBSOCKET_ONLY "op": want a JSON Pointer`},
		{"WEBSOCKET_TIME_UNIT", "h", `WEBSOCKET_TIME_UNIT "h": want one of s, ms, us, ns`},
		{"WEBSOCKET_HEADER", "secret", "WEBSOCKET_HEADER: a line is no"},
		{"WEBSOCKET_HEADER", "X-Client: telemesh\nX Token: secret", "WEBSOCKET_HEADER: a line is no"},
		{"WEBSOCKET_HEADER", "X-Token: sec\x01ret", "WEBSOCKET_HEADER: a line is no"},
		{"WEBSOCKET_RESUME", "x", "WEBSOCKET_CURSOR is empty"},
		{"WEBSOCKET_CURSOR_FILE", "x", "WEBSOCKET_CURSOR is empty"},
		{"WEBSOCKET_BUFFER", "0", "WEBSOCKET_BUFFER is 0"},
		{"WEBSOCKET_BACKOFF", "0s", "WEBSOCKET_BACKOFF is 0s"},
		{"WEBSOCKET_SILENCE", "-1s", "WEBSOCKET_SILENCE is -1s"},
		{"BATCH_MAX_MESSAGES", "0", "BATCH_MAX_MESSAGES is 0"},
	} {
		env := maps.Clone(good)
		if test.name != "" {
			env[test.name] = test.value
		}
		for _, name := range []string{"K_SINK", "WEBSOCKET_URL", "WEBSOCKET_TYPE", "WEBSOCKET_SOURCE", "WEBSOCKET_ID", "WEBSOCKET_ONLY", "WEBSOCKET_TIME_UNIT",
			"WEBSOCKET_HEADER", "WEBSOCKET_RESUME", "WEBSOCKET_CURSOR_FILE", "WEBSOCKET_BUFFER", "WEBSOCKET_BACKOFF", "WEBSOCKET_SILENCE", "BATCH_MAX_MESSAGES"} {
			t.Setenv(name, env[name])
			if _, ok := env[name]; !ok || env[name] == "" {
				os.Unsetenv(name)
			}
		}
		fn, err := Start(ports)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("Start = %v", err)
		case test.want == "":
			for path, want := range map[string]string{"/metrics": "websocket_source_frames_total 0", "/healthz": ""} {
				w := httptest.NewRecorder()
				fn.HTTP.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
				if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), want) {
					t.Errorf("GET %s = %d %.100s, want %q", path, w.Code, w.Body, want)
				}
			}
		case err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "key=secret"):
			t.Errorf("Start with %s=%q = %v, want an error that says %q", test.name, test.value, err, test.want)
		}
	}
}
