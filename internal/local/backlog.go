package local

import (
	"context"
	"sync"
)

// backlog counts what is accepted and not yet delivered, as pairs of an event
// and a trigger that reads it. It holds back who brings events from outside,
// and says when all is done.
//
// Events that come of events are never held back: the trigger that brings them
// would keep the very event whose end makes room. What comes of a bounded
// number of events is bounded too.
type backlog struct {
	maxPairs, maxBytes int64

	mu      sync.Mutex
	pairs   int64
	bytes   int64
	room    chan struct{} // closed when there is room again; nil: nobody waits
	allDone chan struct{} // closed when pairs is 0; nil: nobody waits
}

// enter waits until there is room for an event from outside.
func (b *backlog) enter(ctx context.Context) error {
	for {
		b.mu.Lock()
		if b.pairs < b.maxPairs && b.bytes < b.maxBytes {
			b.mu.Unlock()
			return nil
		}
		if b.room == nil {
			b.room = make(chan struct{})
		}
		room := b.room
		b.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *backlog) add(pairs, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pairs += pairs
	b.bytes += bytes
	if b.room != nil && b.pairs < b.maxPairs && b.bytes < b.maxBytes {
		close(b.room)
		b.room = nil
	}
	if b.allDone != nil && b.pairs == 0 {
		close(b.allDone)
		b.allDone = nil
	}
}

// idle waits until nothing is left.
func (b *backlog) idle(ctx context.Context) error {
	b.mu.Lock()
	if b.pairs == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.allDone == nil {
		b.allDone = make(chan struct{})
	}
	done := b.allDone
	b.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
