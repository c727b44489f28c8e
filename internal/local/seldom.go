package local

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// seldomAfter is how long what went wrong is not told again. A full disk goes
// wrong for each event.
const seldomAfter = 10 * time.Second

// seldom logs what may go wrong a thousand times in a second: each kind at
// once, and then at most once in seldomAfter, with how often it was.
type seldom struct {
	log   *slog.Logger
	mu    sync.Mutex
	kinds map[string]*told
}

type told struct {
	at    time.Time
	since int // times that were not told
}

// tell logs an error. Errors that differ by their numbers only are of a kind.
func (s *seldom) tell(level slog.Level, msg string, err error, args ...any) {
	text := err.Error()
	kind := msg + "\x00" + strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	t := s.kinds[kind]
	if t != nil && now.Sub(t.at) < seldomAfter {
		t.since++
		return
	}
	args = append(args, "error", text)
	if t != nil && t.since > 0 {
		args = append(args, "also", fmt.Sprintf("%d times in %s", t.since, now.Sub(t.at).Round(time.Second)))
	}
	s.log.Log(context.Background(), level, msg, args...)
	if s.kinds == nil || len(s.kinds) >= 100 { // texts may hold what never comes again
		s.kinds = map[string]*told{}
	}
	s.kinds[kind] = &told{at: now}
}
