// Package handover brings what a source takes to the broker, each message until
// the broker has accepted the event that holds it.
//
// What is refused is tried again, whatever the broker answers: a refusal for good,
// such as of a source without the right, is somebody's to see to, and the source
// then stands still and loses nothing. How much is in flight is bounded, and who
// takes more waits: so the sender is held back, and memory does not grow.
package handover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/semaphore"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// ErrClosed says that the broker has not accepted a message while there was time.
var ErrClosed = errors.New("the intake is closed")

// Batching makes what fills events with messages.
type Batching[M any] func(batch.Config) *batch.Batcher[M]

// Handover is what is in flight. Its methods may be called from several
// goroutines.
type Handover[M any] struct {
	cfg      batch.Config
	batching Batching[M]
	bytes    int64
	slots    chan struct{}
	memory   *semaphore.Weighted // bytes in flight
	taken    atomic.Int64
	open     context.Context // until nothing is taken any more
	stop     context.CancelFunc
	trying   context.Context // until nothing is handed over again
	giveUp   context.CancelFunc

	mu      sync.Mutex
	batcher *batch.Batcher[M]
}

// New makes a handover with at most so many messages and bytes in flight.
func New[M any](cfg batch.Config, messages int, bytes int64, batching Batching[M]) *Handover[M] {
	h := &Handover[M]{cfg: cfg, batching: batching, bytes: bytes,
		slots: make(chan struct{}, messages), memory: semaphore.NewWeighted(bytes), batcher: batching(cfg)}
	h.open, h.stop = context.WithCancel(context.Background())
	h.trying, h.giveUp = context.WithCancel(context.Background())
	return h
}

// Place is room for a message.
type Place int64

// Reserve waits until there is room for a message of so many bytes, and gives it.
// One that is heavier than all there is waits for all. It fails with ErrClosed, or
// when ctx ends.
func (h *Handover[M]) Reserve(ctx context.Context, weight int) (Place, error) {
	if h.open.Err() != nil {
		return 0, ErrClosed
	}
	place := Place(min(max(int64(weight), 1), h.bytes))
	select {
	case h.slots <- struct{}{}:
	case <-h.open.Done():
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if !h.memory.TryAcquire(int64(place)) {
		waiting, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(h.open, stop)()
		if err := h.memory.Acquire(waiting, int64(place)); err != nil {
			<-h.slots
			if h.open.Err() != nil {
				err = ErrClosed
			}
			return 0, err
		}
	}
	h.taken.Add(int64(place))
	return place, nil
}

// Waiting is how many messages are in flight, or wait for room, and how many bytes
// they take.
func (h *Handover[M]) Waiting() (messages int, bytes int64) { return len(h.slots), h.taken.Load() }

// Go brings a message to the broker, and calls done once: when the broker has
// accepted the event that holds it, or with ErrClosed. Messages of another key come
// in other events; what is tried again has no order. done must not wait for
// anything.
func (h *Handover[M]) Go(key string, place Place, m M, done func(error)) {
	h.hand(key, place, m, done, 0)
}

// hand tries again and again. At the end the time that is left begins with another
// attempt.
func (h *Handover[M]) hand(key string, place Place, m M, done func(error), attempt int) {
	h.mu.Lock()
	batcher := h.batcher
	h.mu.Unlock()
	batcher.Go(key, m, func(err error) {
		if err != nil && h.trying.Err() == nil {
			go func() {
				next, stopped := attempt+1, h.open.Done()
				if h.open.Err() != nil { // it was woken already
					stopped = nil
				}
				select {
				case <-time.After(Backoff(attempt)):
				case <-stopped:
					next = 0
				case <-h.trying.Done():
				}
				h.hand(key, place, m, done, next)
			}()
			return
		}
		h.taken.Add(-int64(place))
		h.memory.Release(int64(place))
		<-h.slots
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		done(err)
	})
}

// Backoff is what attempt n+2 waits for: what the broker cannot take now, it can
// soon, or somebody has to see to it.
func Backoff(n int) time.Duration { return min(100*time.Millisecond<<min(n, 10), 10*time.Second) }

// endLinger is what a message waits for others once nothing more is taken.
const endLinger = 10 * time.Millisecond

// Stop has Reserve take nothing from now on.
func (h *Handover[M]) Stop() { h.stop() }

// Close takes nothing from now on, and hands over what was taken: at once, and
// again until the broker has accepted it or ctx ends. What is not accepted then
// is told ErrClosed.
func (h *Handover[M]) Close(ctx context.Context) error {
	h.stop()
	defer h.giveUp()
	h.mu.Lock()
	filling := h.batcher
	last := h.cfg
	last.Linger = min(last.Linger, endLinger)
	h.batcher = h.batching(last) // for what is tried again
	h.mu.Unlock()
	err := filling.Close(ctx)
	if err == nil {
		err = h.memory.Acquire(ctx, h.bytes) // all that is in flight has some
	}
	if err == nil {
		h.memory.Release(h.bytes)
		return h.batcher.Close(ctx) // until who waits is told
	}
	n := len(h.slots)
	h.giveUp()
	h.batcher.Close(ctx) // fails what it has: ctx has ended
	if n == 0 {
		return nil
	}
	return fmt.Errorf("hand over what was taken: the broker has not accepted %d of the messages: %w", n, err)
}

// Post gives what hands an event over and says what is refused. A refusal for good
// is the mesh's matter as well: a size or a right that somebody has to see to.
func Post(client *http.Client, sink string, log *slog.Logger) func(context.Context, event.Event) error {
	refused := refusals{log: log, kinds: map[bool]refusal{}}
	return func(ctx context.Context, e event.Event) error {
		err := function.Post(ctx, client, sink, e)
		if err != nil {
			refused.tell(e, err)
		}
		return err
	}
}

// refusalAfter is how long a refusal is not told again: in an outage there is one
// for each event and attempt.
const refusalAfter = 10 * time.Second

// refusals logs events that were not accepted: the first one, and then at most
// one in refusalAfter, with how many there were. Those for good, which somebody
// has to see to, do not hide behind the others.
type refusals struct {
	log   *slog.Logger
	mu    sync.Mutex
	kinds map[bool]refusal // by whether it is for good
}

type refusal struct {
	at    time.Time // of the last one told
	since int       // not told since
}

func (r *refusals) tell(e event.Event, err error) {
	permanent, now := mesh.IsPermanent(err), time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[permanent]
	if !k.at.IsZero() && now.Sub(k.at) < refusalAfter {
		k.since++
		r.kinds[permanent] = k
		return
	}
	r.kinds[permanent] = refusal{at: now}
	r.log.Warn("event not accepted, it is tried again", "event.id", e.ID(), "event.type", e.Type(),
		"permanent", permanent, "error", err, "others", k.since)
}
