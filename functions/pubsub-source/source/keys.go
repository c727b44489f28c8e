package source

import (
	"sync"
	"time"
)

// keys holds back what comes of an ordering key between a failure and the
// redelivery that it causes: the library has got it before the service knew of
// the nack. The zero keys hold nothing.
type keys struct {
	mu     sync.Mutex
	queued uint64 // messages that have passed
	gaps   map[string]*gap
}

// gap is what has to come of a key next, or has come.
type gap struct {
	id    string
	ended uint64 // the place of id among those that have passed; 0: it has not come
}

// gapLasts is longer than the service needs to learn of a nack and than what it
// had sent needs to be seen here. What it sends from then on is in order,
// whichever message it begins with: another source may have got the one that
// failed, or the dead letter topic.
const gapLasts = 10 * time.Second

// pass calls queue for a message that is in order, with its place. The key is
// not interrupted in between.
func (k *keys) pass(key, id string, queue func(place uint64)) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.gaps[key]
	if g != nil && g.ended == 0 && g.id != id {
		return false
	}
	k.queued++
	if g != nil && g.ended == 0 {
		g.ended = k.queued
	}
	queue(k.queued)
	return true
}

// interrupt lets nothing of a key pass until id, which has failed, comes again.
// Of those that fail together the first counts, also when it has come again
// before the others are known to have failed.
func (k *keys) interrupt(key, id string, place uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g := k.gaps[key]; g != nil && (g.ended == 0 || place < g.ended) {
		return
	}
	if k.gaps == nil {
		k.gaps = map[string]*gap{}
	}
	g := &gap{id: id}
	k.gaps[key] = g
	time.AfterFunc(gapLasts, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.gaps[key] == g {
			delete(k.gaps, key)
		}
	})
}
