package conformance

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// received is one request to a subscriber.
type received struct {
	at     time.Time
	path   string
	query  string
	header http.Header
	event  event.Event
	gone   <-chan struct{} // closed when the request's sender waits no more
}

// subscriber remembers what it gets and answers as it is told.
type subscriber struct {
	address string
	answer  func(w http.ResponseWriter, got received, attempt int) // nil: 204

	mu       sync.Mutex
	requests []received
}

// serve is a subscriber that the Brokers reach. It answers 204 unless told
// otherwise; attempt counts the requests with the event to the path.
func (s *setup) serve(answer func(w http.ResponseWriter, got received, attempt int)) *subscriber {
	out := &subscriber{answer: answer}
	out.address, _ = s.target.Serve(s.t, 0, out)
	return out
}

func (s *subscriber) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
	e, err := cehttp.NewEventFromHTTPRequest(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	got := received{at, r.URL.Path, r.URL.RawQuery, r.Header.Clone(), *e, r.Context().Done()}
	s.mu.Lock()
	s.requests = append(s.requests, got)
	attempt := 0
	for _, earlier := range s.requests {
		if earlier.path == got.path && earlier.event.ID() == e.ID() {
			attempt++
		}
	}
	s.mu.Unlock()
	if s.answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.answer(w, got, attempt)
}

// with answers a status.
func with(status int) func(http.ResponseWriter, received, int) {
	return func(w http.ResponseWriter, _ received, _ int) { w.WriteHeader(status) }
}

func (s *subscriber) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// attempts counts the requests with an event.
func (s *subscriber) attempts(id string) int { return len(s.of(id)) }

// of gives the requests with an event.
func (s *subscriber) of(id string) (out []received) {
	for _, r := range s.all() {
		if r.event.ID() == id {
			out = append(out, r)
		}
	}
	return out
}

// ids are those of the events, each once.
func (s *subscriber) ids() []string {
	ids := map[string]bool{}
	for _, r := range s.all() {
		ids[r.event.ID()] = true
	}
	return slices.Sorted(maps.Keys(ids))
}

// one gives the only event that came, however often.
func (s *subscriber) one(t testing.TB) received {
	t.Helper()
	if ids := s.ids(); len(ids) != 1 {
		t.Fatalf("events %q came, want one", ids)
	}
	return s.all()[0]
}

// the gives an event that came, however often.
func (s *subscriber) the(t testing.TB, id string) received {
	t.Helper()
	all := s.of(id)
	if len(all) == 0 {
		t.Fatalf("event %q did not come, %q did", id, s.ids())
	}
	return all[0]
}

func respond(w http.ResponseWriter, status int, e event.Event) {
	if err := cehttp.WriteResponseWriter(context.Background(), (*binding.EventMessage)(&e), status, w); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
