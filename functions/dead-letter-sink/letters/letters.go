// Package letters stores what Triggers could not deliver, and delivers it again
// when it is asked to.
//
//	any event to /NAMESPACE/TRIGGER or /NAMESPACE → event_log_internal.dead_letters
//	redrive.requested to /                        → the subscribers that it names,
//	                                                event_log_internal.dead_letter_outcomes
//
// A dead letter is stored whatever it is, and the same one once. Only then is it
// answered. One that cannot be stored, now or for good, stands whole in the log of the
// process, once for all attempts that come to it: Knative drops what a dead letter
// sink refuses, and what it does not take within its retries. The log says so when it
// is stored after all.
//
// A letter that is asked for is delivered as its Trigger would have: to the
// subscriber that the request names and to no other, without what the Broker has
// added, and the reply goes to the Broker of the Trigger's namespace. What came of it
// is recorded, for each letter that the request names: also for one that is not open
// any more, or that there is not. A letter that a request has led to an outcome for is
// not delivered again for it, so that a request may come twice. A request that is a
// dead letter itself is not made again: its letters are open still. A subscriber may
// get an event twice, as ever: when the function dies between the delivery and its
// record, when the outcome cannot be recorded, when the subscriber takes longer than
// what is left of the request's time, or when two processes are at the same letter.
//
// The asker says where the event goes, because a letter cannot: a sender can choose
// the address that it says has failed, and it goes stale. Who may post
// redrive.requested to a Broker, or to this function, can have any letter sent
// anywhere; redirects are not followed, and only Brokers are shown a token.
package letters

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/semaphore"

	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Config of the function.
type Config struct {
	connect.Config
	Ingress string `envconfig:"K_SINK" required:"true"` // of the Brokers: replies go to /NAMESPACE/NAMESPACE there
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	config, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	w, err := config.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	handler, err := New(w, ports.Client, config.Ingress, ports.Log)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: handler}, nil
}

// New makes the handler. ingress is the address of the Brokers' ingress.
func New(w warehouse.Warehouse, client *http.Client, ingress string, log *slog.Logger) (function.Handler, error) {
	memory := newMemory()
	r, err := newRedriver(w, client, ingress, memory)
	if err != nil {
		return nil, err
	}
	logged := &recent{}
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		path := function.Path(ctx)
		// A request that could not be delivered is a dead letter as any other.
		if in.Type() == mesh.RedriveRequested && strings.Trim(path, "/") == "" {
			return nil, r.redrive(ctx, in)
		}
		l := deadletter.New(in, path, time.Now())
		// On in-memory channels the request ends when who posted the event goes away.
		ctx = context.WithoutCancel(ctx)
		return nil, memory.hold(ctx, l.Size, func() error {
			ctx, cancel := context.WithTimeout(ctx, recordWithin)
			defer cancel()
			err := deadletter.Put(ctx, w, &l)
			switch {
			case err != nil && logged.add(l.ID):
				log.Error("dead letter not stored: this is all that is left of it, unless another attempt stores it",
					"letter", l.ID, "path", path, "permanent", mesh.IsPermanent(err), "error", err, "event", whole(in))
			case err == nil && logged.remove(l.ID):
				log.Info("dead letter stored after all", "letter", l.ID)
			}
			return err
		})
	}, nil
}

// memory bounds the bytes of data that are made rows of, read from rows, or logged at
// once: that takes up to seven times as much. One letter may be as large as Brokers
// take.
type memory struct{ free *semaphore.Weighted }

const maxMemory = 64 << 20

func newMemory() memory { return memory{semaphore.NewWeighted(maxMemory)} }

// hold waits until there is room for some bytes, and does what takes them.
func (m memory) hold(ctx context.Context, size int64, do func() error) error {
	size = min(size, maxMemory)
	if err := m.free.Acquire(ctx, size); err != nil {
		return fmt.Errorf("wait for letters that are large: %w", err)
	}
	defer m.free.Release(size)
	return do()
}

// recent is a bounded set: the oldest goes when there are too many, and then counts as
// new when it comes again.
type recent struct {
	mu   sync.Mutex
	has  map[string]bool
	ring [4096]string
	next int
}

// add says whether it was not there.
func (r *recent) add(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.has[id] {
		return false
	}
	if r.has == nil {
		r.has = map[string]bool{}
	}
	delete(r.has, r.ring[r.next])
	r.has[id], r.ring[r.next] = true, id
	r.next = (r.next + 1) % len(r.ring)
	return true
}

// remove says whether it was there.
func (r *recent) remove(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	had := r.has[id]
	delete(r.has, id)
	return had
}

// whole is an event as text.
func whole(e event.Event) string {
	e.DataBase64 = true // so that it is none that JSON lacks
	text, err := json.Marshal(e)
	if err != nil {
		return e.String()
	}
	return string(text)
}
