// Package snapshot keeps a copy of what an output port shows, for a function
// that looks it up for every reading.
//
// The port serves its whole table as NDJSON with an ETag and the version of
// the table. The copy is loaded when it is first needed and asked for again,
// by If-None-Match, when it is older than the refresh interval. A copy that
// cannot be refreshed is used on for as long as the port is away, which is
// logged, except by who asks for a fresh one; one that was never loaded is an
// error that passes.
package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The headers of an output port. Both name what exactly the rows of the answer
// show.
const (
	// VersionHeader has the version of the table: how many rows were recorded in
	// it.
	VersionHeader = "Telemesh-Version"
	// LastRowHeader has the highest version of a row that was recorded, also of
	// one that is deleted: the source of the rows counts on from it.
	LastRowHeader = "Last-Row-Version"
)

// askAgain bounds how often Newer asks the port: once in this time, however
// many readings of unknown devices come.
const askAgain = 100 * time.Millisecond

// Copy is what was made of a port's answer.
type Copy[T any] struct {
	Value T
	ETag  string // of the answer
}

// Snapshot is a copy of a port's rows, made into a T. Its methods may be
// called from several goroutines.
type Snapshot[T any] struct {
	url     string
	refresh time.Duration
	load    func(ctx context.Context, last *Copy[T]) (*Copy[T], error)
	log     *slog.Logger

	begun   atomic.Int64 // requests so far: the number of the last one
	current atomic.Pointer[answer[T]]
	asking  chan struct{} // holds one while the port is asked
}

// answer is what came of a request.
type answer[T any] struct {
	request int64
	asked   time.Time
	copy    *Copy[T] // the last one if there is an error; nil: none was ever made
	err     error
}

// New makes a snapshot of the rows that the port at url shows whole; build is
// called with them and the version of their table, 0 if the port names none.
// Members of a row are matched by exact name.
func New[Row, T any](client *http.Client, url string, refresh time.Duration, build func(rows []Row, version int64) (T, error), log *slog.Logger) *Snapshot[T] {
	return Of(url, refresh, log, func(ctx context.Context, last *Copy[T]) (*Copy[T], error) {
		etag := ""
		if last != nil {
			etag = last.ETag
		}
		resp, err := Ask(ctx, client, url, etag)
		if err != nil {
			return nil, err
		}
		if resp == nil {
			return last, nil
		}
		defer resp.Body.Close()
		version, err := Version(resp)
		if err != nil {
			return nil, err
		}
		var rows []Row
		lines := jsontext.NewDecoder(resp.Body)
		for lines.PeekKind() != 0 { // 0: the end, or an error
			var row Row
			if err := json.UnmarshalDecode(lines, &row); err != nil {
				return nil, fmt.Errorf("row %d: %w", len(rows)+1, err)
			}
			rows = append(rows, row)
		}
		if _, err := lines.ReadToken(); err != io.EOF {
			return nil, fmt.Errorf("row %d: %w", len(rows)+1, err)
		}
		value, err := build(rows, version)
		if err != nil {
			return nil, err
		}
		return &Copy[T]{value, resp.Header.Get("ETag")}, nil
	})
}

// Of makes a snapshot that load asks the port at url for, with the last copy
// (nil: none yet), which it gives again where nothing has changed.
func Of[T any](url string, refresh time.Duration, log *slog.Logger, load func(ctx context.Context, last *Copy[T]) (*Copy[T], error)) *Snapshot[T] {
	return &Snapshot[T]{url: url, refresh: refresh, load: load, log: log, asking: make(chan struct{}, 1)}
}

// Ask asks an output port. The response is nil if the port shows what it
// showed with the ETag (empty: none); otherwise its status is 200.
func Ask(ctx context.Context, client *http.Client, url, etag string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return resp, nil
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return nil, resp.Body.Close()
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	return nil, fmt.Errorf("%s: %q", resp.Status, bytes.TrimSpace(said))
}

// Version gives the version of the table that a port's answer names; 0: none.
func Version(resp *http.Response) (int64, error) {
	text := resp.Header.Get(VersionHeader)
	if text == "" {
		return 0, nil
	}
	version, err := strconv.ParseInt(text, 10, 64)
	if err != nil || version < 0 {
		return 0, fmt.Errorf("header %s: %q is no version", VersionHeader, text)
	}
	return version, nil
}

// Get gives the copy, at most the refresh interval old while the port answers.
func (s *Snapshot[T]) Get(ctx context.Context) (T, error) {
	return s.recent(ctx, s.refresh)
}

// Newer gives a copy asked for just now: for who misses something in the one
// Get gave.
func (s *Snapshot[T]) Newer(ctx context.Context) (T, error) {
	return s.recent(ctx, min(askAgain, s.refresh))
}

func (s *Snapshot[T]) recent(ctx context.Context, age time.Duration) (T, error) {
	a, err := s.get(ctx, func(a *answer[T]) bool { return a.copy != nil && time.Since(a.asked) < age })
	if a != nil && a.copy != nil {
		return a.copy.Value, nil
	}
	var none T
	return none, err
}

// Fresh gives a copy that was asked for after the call began, or the error
// that kept it from being read: for who must not miss what is recorded by now.
// Those who wait share one request.
func (s *Snapshot[T]) Fresh(ctx context.Context) (T, error) {
	called := s.begun.Load()
	a, err := s.get(ctx, func(a *answer[T]) bool { return a.request > called })
	if err != nil {
		var none T
		return none, err
	}
	return a.copy.Value, nil
}

// get gives the last answer that will do, or asks for one. The answer may be
// there in spite of an error; nil: there was none ever.
func (s *Snapshot[T]) get(ctx context.Context, enough func(*answer[T]) bool) (*answer[T], error) {
	a := s.current.Load()
	if a != nil && enough(a) {
		return a, a.err
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return a, ctx.Err()
	}
	a = s.current.Load()
	if a != nil && enough(a) {
		return a, a.err
	}
	next := &answer[T]{request: s.begun.Add(1), asked: time.Now()}
	var last *Copy[T]
	if a != nil {
		last = a.copy
	}
	next.copy, next.err = s.load(ctx, last)
	if next.err != nil {
		if ctx.Err() != nil {
			return a, ctx.Err() // the caller gave up, which says nothing of the port
		}
		next.copy, next.err = last, fmt.Errorf("read output port %s: %w", s.url, next.err)
		if last != nil {
			s.log.Warn("output port not read, going on with the last copy", "port", s.url, "error", next.err)
		}
	}
	s.current.Store(next)
	return next, next.err
}
