// Package disorder runs the functions of the mesh over a warehouse as badly as
// at-least-once delivery allows: events in any order, twice and late, and
// functions that die in the middle. What comes next is chosen by the caller, so
// that a run can be repeated, and made smaller by who looks for the reason of
// its end.
//
// It is for tests. Brokers and Triggers are those of the manifests, filtered by
// Knative's code; a queue in memory takes the place of the broker.
package disorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"github.com/cloudevents/sdk-go/v2/event"
	"knative.dev/eventing/pkg/eventfilter"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Mesh is the Services and Triggers of manifests, and the deliveries that wait.
type Mesh struct {
	services map[manifest.Ref]*service
	triggers []*trigger
	waiting  []*delivery
	store    *mortal
	client   *http.Client
	choose   Choose
	asked    atomic.Int64 // requests of ports: each goes to the next instance

	mu sync.Mutex // held while a Service starts or a delivery is added: a function asks several ports at once
}

// Choose gives a number in [0, n) for what is to be decided.
type Choose func(what string, n int) int

// service is a Service with its instances, whose copies of the metadata are of
// different age.
type service struct {
	spec      *manifest.Service
	start     function.Start
	env       map[string]string
	instances [instances]instance
}

const instances = 3

type instance struct {
	fn   *function.Function // nil: not started since the last crash
	http http.Handler
}

type trigger struct {
	spec   *manifest.Trigger
	filter eventfilter.Filter
	to     manifest.Target
}

type delivery struct {
	*trigger
	event event.Event
	tries int
}

// maxTries of one delivery: more failures than a run provokes are a fault.
const maxTries = 100

var errDied = errors.New("the function died here")

// New makes a mesh of what is in set, but for the Services in without, whose
// Triggers are left out too. Services are started when they are first needed.
// env is the environment of Services beside their own, by name.
func New(set manifest.Set, functions map[string]function.Start, w warehouse.Warehouse, env map[string]map[string]string, choose Choose, without ...string) (*Mesh, error) {
	m := &Mesh{services: map[manifest.Ref]*service{}, store: &mortal{Warehouse: w}, choose: choose}
	m.client = &http.Client{Transport: transport{m}}
	left := map[manifest.Ref]bool{}
	for _, s := range set.Services {
		for _, name := range without {
			left[s.Ref()] = left[s.Ref()] || s.Name == name
		}
		if left[s.Ref()] {
			continue
		}
		start := functions[s.Function()]
		if start == nil {
			return nil, fmt.Errorf("%s: no function %q", s.Ref(), s.Function())
		}
		all, _ := s.Environ(env[s.Name])
		m.services[s.Ref()] = &service{spec: s, start: start, env: all}
	}
	for _, spec := range set.Triggers {
		filter, err := manifest.NewFilter(spec.Spec)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", spec.Ref(), err)
		}
		to, err := manifest.Resolve(spec.Spec.Subscriber, spec.Namespace)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", spec.Ref(), err)
		}
		if left[to.Service] {
			continue
		}
		m.triggers = append(m.triggers, &trigger{spec, filter, to})
	}
	return m, nil
}

// Post brings an event to a Broker.
func (m *Mesh) Post(broker manifest.Ref, e event.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.triggers {
		if t.spec.BrokerOf() == broker && t.filter.Filter(context.Background(), e) != eventfilter.FailFilter {
			m.waiting = append(m.waiting, &delivery{trigger: t, event: e.Clone()})
		}
	}
}

// Waiting is how many deliveries wait.
func (m *Mesh) Waiting() int { return len(m.waiting) }

// The fates of a delivery.
const (
	arrives   = iota // and is answered
	doubled          // arrives, and once more later
	unheard          // is handled, and its answer is lost: it comes again
	dies             // the function dies in the middle: it comes again to a new one
	forgotten        // arrives at a function that was started anew
	fates
)

// Step makes one delivery, whichever is chosen. With calm all goes well.
func (m *Mesh) Step(ctx context.Context, calm bool) error {
	at := m.choose("delivery", len(m.waiting))
	d := m.waiting[at]
	fate := arrives
	if !calm && m.choose("trouble", 4) == 0 {
		fate = m.choose("fate", fates)
	}
	m.waiting = append(m.waiting[:at], m.waiting[at+1:]...)
	if d.to.Broker != (manifest.Ref{}) {
		m.Post(d.to.Broker, d.event)
		if fate != arrives {
			m.waiting = append(m.waiting, d)
		}
		return nil
	}
	s := m.services[d.to.Service]
	if s == nil {
		return fmt.Errorf("%s: no Service %s", d.spec.Ref(), d.to.Service)
	}
	by := &s.instances[m.choose("instance", instances)]
	if fate == forgotten {
		by.fn = nil
	}
	if err := m.started(s, by); err != nil {
		return err
	}
	if fate == dies {
		m.store.mayCall = 1 + m.choose("calls", 4)
	}
	replies, err := by.fn.Handler(function.WithPath(ctx, "/"+strings.TrimPrefix(d.to.URL.Path, "/")), d.event.Clone())
	died := m.store.mayCall < 0
	m.store.mayCall = 0
	switch {
	case mesh.IsPermanent(err) && !died:
		return fmt.Errorf("%s of %s: %w", d.event.Type(), d.spec.Ref(), err)
	case err != nil && !died:
		if d.tries++; d.tries > maxTries {
			return fmt.Errorf("%s of %s: %w", d.event.Type(), d.spec.Ref(), err)
		}
		m.waiting = append(m.waiting, d)
		return nil
	}
	if fate == dies {
		by.fn = nil
	}
	if fate == doubled || fate == unheard || fate == dies {
		m.waiting = append(m.waiting, d)
	}
	if fate == arrives || fate == doubled || fate == forgotten {
		for _, reply := range replies {
			m.Post(d.spec.BrokerOf(), reply)
		}
	}
	return nil
}

// Drain makes all deliveries that wait and those that follow, calmly.
func (m *Mesh) Drain(ctx context.Context) error {
	for n := 0; len(m.waiting) > 0; n++ {
		if n > 100_000 {
			return fmt.Errorf("%d deliveries wait after %d: does a loop not end? The first: %s to %s",
				len(m.waiting), n, m.waiting[0].event.Type(), m.waiting[0].to.URL)
		}
		if err := m.Step(ctx, true); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mesh) started(s *service, by *instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if by.fn != nil {
		return nil
	}
	for name, value := range s.env {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
		defer os.Unsetenv(name)
	}
	log := slog.New(slog.DiscardHandler)
	fn, err := s.start(function.Ports{Client: m.client, Warehouse: m.store, Log: log})
	if err != nil {
		return fmt.Errorf("start %s: %w", s.spec.Ref(), err)
	}
	by.fn, by.http = fn, fn.Serve(log, s.env["K_SINK"], m.client)
	return nil
}

// transport leads to the Services and Brokers of a Mesh.
type transport struct{ *Mesh }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.store.call(); err != nil {
		return nil, err
	}
	to := manifest.TargetOf(r.URL)
	if to.Broker != (manifest.Ref{}) {
		e, err := cehttp.NewEventFromHTTPRequest(r)
		if err != nil {
			return nil, err
		}
		t.Post(to.Broker, *e)
		return answer(r, http.StatusAccepted), nil
	}
	s := t.services[to.Service]
	if s == nil {
		return nil, fmt.Errorf("%s: no such address", r.URL)
	}
	by := &s.instances[int(t.asked.Add(1))%instances]
	if err := t.started(s, by); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	in.RequestURI, in.Host = r.URL.RequestURI(), r.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	by.http.ServeHTTP(w, in)
	out := w.Result()
	out.Request = r
	return out, nil
}

func answer(r *http.Request, status int) *http.Response {
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: r}
}

// mortal is a warehouse whose caller dies: what it asked for is done, and it
// does not hear of it.
type mortal struct {
	warehouse.Warehouse
	mu      sync.Mutex
	mayCall int // calls until death; 0: it lives, -1: it is dead
}

func (w *mortal) call() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.mayCall < 0:
		return errDied
	case w.mayCall == 1:
		w.mayCall = -1
	case w.mayCall > 1:
		w.mayCall--
	}
	return nil
}

func (w *mortal) dead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mayCall < 0
}

func (w *mortal) Append(ctx context.Context, batch warehouse.Batch) (int64, error) {
	if err := w.call(); err != nil {
		return 0, err
	}
	version, err := w.Warehouse.Append(ctx, batch)
	if w.dead() {
		return 0, errDied
	}
	return version, err
}

func (w *mortal) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	if err := w.call(); err != nil {
		return nil, err
	}
	return w.Warehouse.Query(ctx, sql)
}

// Named is the Broker of a domain.
func Named(broker string) manifest.Ref { return manifest.Ref{Namespace: broker, Name: broker} }

// At is an instant of a small universe, n units after its beginning.
func At(n int) mesh.Instant {
	return mesh.At(time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)) + mesh.Instant(n)*mesh.Instant(time.Minute/time.Microsecond)
}
