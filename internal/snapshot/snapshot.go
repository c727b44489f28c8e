// Package snapshot keeps a copy of what an output port shows, for a function
// that looks it up for every reading.
//
// The port serves its whole table as NDJSON with an ETag. The copy is loaded
// when it is first needed and asked for again, by If-None-Match, when it is
// older than the refresh interval. A copy that cannot be refreshed is used on
// for as long as the port is away, which is logged; one that was never loaded
// is an error that passes.
package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/telemesh/telemesh/internal/function"
)

// askAgain bounds how often Newer asks the port: once in this time, however
// many readings of unknown devices come.
const askAgain = 100 * time.Millisecond

// Snapshot is a copy of a port's rows, made into a T by build.
type Snapshot[Row, T any] struct {
	client  *http.Client
	url     string
	refresh time.Duration
	build   func([]Row) (T, error)
	log     *slog.Logger

	current atomic.Pointer[copied[T]]
	loading sync.Mutex // held while the port is asked
}

type copied[T any] struct {
	value T
	etag  string
	asked time.Time
}

// New makes a snapshot of the port at url. Rows are decoded by encoding/json.
func New[Row, T any](client *http.Client, url string, refresh time.Duration, build func([]Row) (T, error), log *slog.Logger) *Snapshot[Row, T] {
	return &Snapshot[Row, T]{client: client, url: url, refresh: refresh, build: build, log: log}
}

// Get gives the copy, at most the refresh interval old while the port answers.
func (s *Snapshot[Row, T]) Get(ctx context.Context) (T, error) {
	return s.get(ctx, s.refresh)
}

// Newer gives a copy asked for just now: for who misses something in the one
// Get gave.
func (s *Snapshot[Row, T]) Newer(ctx context.Context) (T, error) {
	return s.get(ctx, min(askAgain, s.refresh))
}

func (s *Snapshot[Row, T]) get(ctx context.Context, age time.Duration) (T, error) {
	if c := s.current.Load(); c != nil && time.Since(c.asked) < age {
		return c.value, nil
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	c := s.current.Load()
	if c != nil && time.Since(c.asked) < age {
		return c.value, nil
	}
	next, err := s.load(ctx, c)
	if err != nil {
		if c != nil && ctx.Err() != nil {
			return c.value, nil // the caller gave up, which says nothing of the port
		}
		if c != nil {
			s.log.Warn("output port not read, going on with the last copy", "port", s.url, "error", err)
			s.current.Store(&copied[T]{c.value, c.etag, time.Now()}) // not again for every event
			return c.value, nil
		}
		var none T
		return none, fmt.Errorf("read output port %s: %w", s.url, err)
	}
	s.current.Store(next)
	return next.value, nil
}

func (s *Snapshot[Row, T]) load(ctx context.Context, last *copied[T]) (*copied[T], error) {
	asked := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	if last != nil {
		req.Header.Set("If-None-Match", last.etag)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
		return &copied[T]{last.value, last.etag, asked}, nil
	case http.StatusOK:
	default:
		return nil, function.StatusError(resp)
	}
	var rows []Row
	lines := json.NewDecoder(resp.Body)
	for {
		var row Row
		if err := lines.Decode(&row); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("row %d: %w", len(rows)+1, err)
		}
		rows = append(rows, row)
	}
	value, err := s.build(rows)
	if err != nil {
		return nil, err
	}
	return &copied[T]{value, resp.Header.Get("ETag"), asked}, nil
}
