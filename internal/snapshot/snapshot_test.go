package snapshot_test

import (
	"context"
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
	away       bool
	asked      int
	full, same int // answers with rows, and that nothing changed
}

func (p *port) RoundTrip(r *http.Request) (*http.Response, error) {
	p.asked++
	if p.away {
		return nil, fmt.Errorf("away")
	}
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Etag": {p.etag}}, Body: http.NoBody}
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
