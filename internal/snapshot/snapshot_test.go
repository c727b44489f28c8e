package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/telemesh/telemesh/internal/snapshot"
)

// port serves rows with an ETag, over a transport without a network.
type port struct {
	rows, etag string
	version    string
	away       bool
	asked      int
	full, same int // answers with rows, and that nothing changed
}

func (p *port) RoundTrip(r *http.Request) (*http.Response, error) {
	p.asked++
	if p.away {
		return nil, fmt.Errorf("away")
	}
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Etag": {p.etag}, snapshot.VersionHeader: {p.version}}, Body: http.NoBody}
	if r.Header.Get("If-None-Match") == p.etag {
		p.same++
		resp.StatusCode = http.StatusNotModified
		return resp, nil
	}
	p.full++
	resp.Body = io.NopCloser(strings.NewReader(p.rows))
	return resp, nil
}

type row struct {
	Name string `json:"name"`
}

func names(rows []row, _ int64) (string, error) {
	var all []string
	for _, r := range rows {
		all = append(all, r.Name)
	}
	return strings.Join(all, " "), nil
}

func TestSnapshotFollowsItsPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &port{rows: `{"name":"a"}` + "\n" + `{"name":"b"}` + "\n", etag: `"1"`, away: true}
		s := snapshot.New(&http.Client{Transport: p}, "http://port", 10*time.Second, names, slog.New(slog.DiscardHandler))
		get := func(from func(context.Context) (string, error), want string) {
			t.Helper()
			if got, err := from(t.Context()); err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		}
		if _, err := s.Get(t.Context()); err == nil || !strings.Contains(err.Error(), "http://port") {
			t.Errorf("port away at first: %v, want an error that names it", err)
		}
		p.away = false
		get(s.Get, "a b")
		get(s.Get, "a b")
		if p.full != 1 {
			t.Errorf("asked %d times within the refresh interval, want once", p.full)
		}

		p.rows, p.etag = `{"name":"c"}`, `"2"`
		get(s.Get, "a b")
		time.Sleep(time.Second) // synctest's clock
		get(s.Newer, "c")
		get(s.Newer, "c")
		time.Sleep(11 * time.Second)
		get(s.Get, "c")
		if p.full != 2 || p.same != 1 {
			t.Errorf("%d full and %d unchanged answers, want 2 and 1", p.full, p.same)
		}

		p.away, p.asked = true, 0
		time.Sleep(11 * time.Second)
		for range 5 {
			get(s.Get, "c")
		}
		if p.asked != 1 {
			t.Errorf("asked a port that is away %d times within the refresh interval, want once", p.asked)
		}
	})
}

// slow is a port that answers when it is told to, each time with another row.
type slow struct {
	begun  chan int // the number of each request
	answer chan error
	n      int
}

func (p *slow) RoundTrip(*http.Request) (*http.Response, error) {
	p.n++
	n := p.n
	p.begun <- n
	if err := <-p.answer; err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{snapshot.VersionHeader: {fmt.Sprint(n)}},
		Body: io.NopCloser(strings.NewReader(fmt.Sprintf(`{"name":"%d"}`, n)))}, nil
}

// Who asks for a fresh copy while the port is asked for another caller gets
// the next one: what was recorded in between is not in the one under way. All
// who wait get the same.
func TestFreshIsAskedForAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &slow{begun: make(chan int), answer: make(chan error)}
		versions := []int64{}
		build := func(rows []row, version int64) (string, error) {
			versions = append(versions, version)
			return names(rows, version)
		}
		s := snapshot.New(&http.Client{Transport: p}, "http://port", time.Hour, build, slog.New(slog.DiscardHandler))
		type result struct {
			copy string
			err  error
		}
		results := make(chan result, 10)
		ask := func(from func(context.Context) (string, error)) {
			go func() {
				copy, err := from(t.Context())
				results <- result{copy, err}
			}()
			synctest.Wait()
		}
		want := func(n int, copy string, fails bool) {
			t.Helper()
			for range n {
				if r := <-results; r.copy != copy || (r.err != nil) != fails {
					t.Errorf("got %q, %v, want %q, error: %t", r.copy, r.err, copy, fails)
				}
			}
		}
		ask(s.Get)
		<-p.begun
		ask(s.Fresh)
		ask(s.Fresh)
		ask(s.Get)
		p.answer <- nil // of the first
		want(1, "1", false)
		if n := <-p.begun; n != 2 {
			t.Fatalf("request %d, want 2", n)
		}
		p.answer <- nil
		want(3, "2", false)

		// A port that is away fails who needs a fresh copy, all by one request, and
		// nobody else.
		ask(s.Fresh)
		<-p.begun
		ask(s.Fresh)
		ask(s.Fresh)
		p.answer <- errors.New("away")
		want(1, "", true)
		<-p.begun
		p.answer <- errors.New("away")
		want(2, "", true)
		ask(s.Get)
		want(1, "2", false)

		// Who gives up while others ask does not wait for them.
		ask(s.Fresh)
		<-p.begun
		ctx, cancel := context.WithCancel(t.Context())
		ask(func(context.Context) (string, error) { return s.Fresh(ctx) })
		cancel()
		want(1, "", true)
		p.answer <- nil
		want(1, "5", false)
		if p.n != 5 || fmt.Sprint(versions) != "[1 2 5]" {
			t.Errorf("%d requests, versions %v, want 5 and 1 2 5", p.n, versions)
		}
	})
}

func TestWhatIsNoAnswer(t *testing.T) {
	for name, p := range map[string]*port{
		"cut off": {rows: `{"name":"a"}` + "\n" + `{"name":"b`},
		"no row":  {rows: `[1]`},
		"version": {rows: `{"name":"a"}`, version: "-1"},
		"304":     nil, // to who has nothing
	} {
		if p == nil {
			p = &port{}
		} else {
			p.etag = `"1"`
		}
		s := snapshot.New(&http.Client{Transport: p}, "http://port", time.Hour, names, slog.New(slog.DiscardHandler))
		if _, err := s.Get(t.Context()); err == nil || !strings.Contains(err.Error(), "http://port") {
			t.Errorf("%s: %v, want an error that names the port", name, err)
		}
	}
}
