// Package local runs the mesh in one process: the Brokers, Triggers and
// Services of the manifests, with the delivery that Knative gives them on a
// cluster, durable on JetStream inside the process. DESIGN.md says how and
// what may be relied on.
package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// Config says what to run.
type Config struct {
	Dir       string // of the event store; belongs to one process at a time
	Manifests manifest.Set
	Functions map[string]function.Start          // by folder of functions/, as in image ko://…/functions/NAME
	Data      func(name string) fs.FS            // the folder kodata of a function, or nil; nil: none has one
	Warehouse warehouse.Warehouse                // for the functions; nil: the one that their environment names
	Set       map[manifest.Ref]map[string]string // by Service: variables instead of or besides its env
	Log       *slog.Logger                       // nil: nothing is logged
}

// Mesh is a running mesh.
type Mesh struct {
	cfg      Config
	log      *slog.Logger
	store    *store
	client   *http.Client
	brokers  map[manifest.Ref]*broker
	services map[manifest.Ref]*service
	triggers []*trigger
	sources  sources
	letters  *DeadLetters
	backlog  *backlog
	failures failures
	here     here

	stop    context.CancelFunc // ends the reading of events
	cancel  context.CancelFunc // ends deliveries in flight
	running sync.WaitGroup     // triggers
	closing sync.Once
	closed  chan struct{}
}

var errClosed = errors.New("the mesh is closed")

// What may wait in the mesh before events from outside have to. The bytes are
// as stored; micro-batches are ten times as long in memory.
const (
	maxBacklogPairs = 100_000
	maxBacklogBytes = 256 << 20
)

// Open starts the functions, and delivers what an earlier run left. Sources are
// started by StartSources.
func Open(ctx context.Context, cfg Config) (_ *Mesh, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mesh{
		cfg:      cfg,
		log:      cfg.Log,
		brokers:  map[manifest.Ref]*broker{},
		services: map[manifest.Ref]*service{},
		backlog:  &backlog{maxPairs: maxBacklogPairs, maxBytes: maxBacklogBytes},
		closed:   make(chan struct{}),
		here:     here{since: time.Now(), started: map[manifest.Ref]bool{}},
	}
	if m.here.topology, err = cfg.Manifests.Topology(); err != nil {
		return nil, err
	}
	network := http.DefaultTransport.(*http.Transport).Clone()
	network.MaxIdleConnsPerHost = inFlight
	m.client = &http.Client{Transport: &transport{mesh: m, network: network}}

	if m.store, err = openStore(cfg.Dir, cfg.Log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(m.store.explain(err), m.Close(context.WithoutCancel(ctx)))
		}
	}()
	if m.letters, err = newDeadLetters(ctx, m.store.js); err != nil {
		return nil, err
	}
	m.letters.redrive = m.redrive
	for _, spec := range cfg.Manifests.Brokers {
		b := &broker{mesh: m, ref: spec.Ref(), stream: streamName(spec.Ref())}
		stream, err := m.store.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name:     b.stream,
			Subjects: []string{b.stream + ".>"},
			Storage:  jetstream.FileStorage,
			// An event is kept until every trigger that reads it is done with it.
			Retention: jetstream.InterestPolicy,
		})
		if err != nil {
			return nil, fmt.Errorf("open Broker %s: %w", b.ref, err)
		}
		b.before = stream.CachedInfo().State.LastSeq
		m.brokers[b.ref] = b
	}
	if err := m.startServices(); err != nil {
		return nil, err
	}
	for _, spec := range cfg.Manifests.Triggers {
		if m.idles(spec) {
			continue
		}
		t, err := m.newTrigger(cfg.Manifests, spec)
		if err != nil {
			return nil, err
		}
		m.triggers = append(m.triggers, t)
		t.broker.triggers = append(t.broker.triggers, t)
	}
	if err := m.dropForeignConsumers(ctx); err != nil {
		return nil, err
	}
	for _, t := range m.triggers {
		if err := t.open(ctx); err != nil {
			return nil, err
		}
	}
	deliveries, cancel := context.WithCancel(context.WithoutCancel(ctx))
	reading, stop := context.WithCancel(deliveries)
	m.cancel, m.stop = cancel, stop
	for _, t := range m.triggers {
		if t.messages, err = newPuller(m.store.out, t.broker.stream, consumerName(t.ref), cap(t.slots)); err != nil {
			return nil, fmt.Errorf("open Trigger %s: %w", t.ref, err)
		}
	}
	for _, t := range m.triggers {
		m.running.Go(func() { t.run(deliveries, reading) })
	}
	m.runServices()
	return m, nil
}

// idles says that a Trigger is of a source that does not run here.
func (m *Mesh) idles(spec *manifest.Trigger) bool {
	target, err := manifest.Resolve(spec.Spec.Subscriber, spec.Namespace)
	s := m.services[target.Service]
	return spec.OptIn() && err == nil && s != nil && s.function == nil
}

// dropForeignConsumers ends triggers that the manifests no longer have: an
// event would wait for them for ever. As on a cluster, what they had not yet
// delivered is not delivered.
func (m *Mesh) dropForeignConsumers(ctx context.Context) error {
	for _, b := range m.brokers {
		stream, err := m.store.js.Stream(ctx, b.stream)
		if err != nil {
			return fmt.Errorf("open Broker %s: %w", b.ref, err)
		}
		consumers := stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			if slices.ContainsFunc(b.triggers, func(t *trigger) bool { return consumerName(t.ref) == info.Name }) {
				continue
			}
			// That of a source that does not run here this time is there all the same.
			idle := slices.ContainsFunc(m.cfg.Manifests.Triggers, func(t *manifest.Trigger) bool { return consumerName(t.Ref()) == info.Name && m.idles(t) })
			if !idle {
				m.log.Warn("trigger is gone from the manifests", "broker", b.ref.String(), "trigger", info.Name,
					"undelivered", info.NumPending+uint64(info.NumAckPending))
			}
			if err := stream.DeleteConsumer(ctx, info.Name); err != nil {
				return fmt.Errorf("drop trigger %s of Broker %s: %w", info.Name, b.ref, err)
			}
		}
		if err := consumers.Err(); err != nil {
			return fmt.Errorf("open Broker %s: %w", b.ref, err)
		}
	}
	return nil
}

// redrive stores a frame for one trigger of a running mesh.
func (m *Mesh) redrive(ctx context.Context, brokerRef, triggerRef manifest.Ref, frame []byte) error {
	b := m.brokers[brokerRef]
	for _, t := range m.triggers {
		if t.broker != b || t.ref != triggerRef {
			continue
		}
		b.expect([]*trigger{t}, 1, len(frame))
		if _, err := m.store.publish.Publish(ctx, redriveSubject(b.stream, consumerName(t.ref)), frame); err != nil {
			b.expect([]*trigger{t}, -1, len(frame))
			return err
		}
		return nil
	}
	return fmt.Errorf("%w: Trigger %s of Broker %s is not in the manifests", ErrNotRedrivable, triggerRef, brokerRef)
}

// Idle waits until every accepted event is delivered or a dead letter, and so
// is every event that came of it.
func (m *Mesh) Idle(ctx context.Context) error { return m.backlog.idle(ctx) }

// DeadLetters gives what could not be delivered.
func (m *Mesh) DeadLetters() *DeadLetters { return m.letters }

// Close ends the sources, lets deliveries in flight end, closes the functions and
// the store. When ctx ends first, deliveries in flight are broken off; as all that is not
// delivered, they are made when the mesh is opened again.
func (m *Mesh) Close(ctx context.Context) error {
	var errs []error
	m.closing.Do(func() {
		errs = append(errs, m.sources.close(ctx))
		if m.stop != nil {
			m.stop()
		}
		ended := make(chan struct{})
		go func() {
			m.running.Wait()
			close(ended)
		}()
		select {
		case <-ended:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("close the mesh: deliveries broken off: %w", ctx.Err()))
		}
		if m.cancel != nil {
			m.cancel()
		}
		<-ended
		for _, s := range m.services {
			if err := s.close(ctx); err != nil {
				errs = append(errs, err)
			}
		}
		for _, t := range m.triggers {
			if t.messages == nil {
				break // Open did not come so far
			}
			syncCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
			if err := t.sync(syncCtx); err != nil {
				errs = append(errs, fmt.Errorf("close Trigger %s: its last events may be delivered again: %w", t.ref, err))
			}
			cancel()
		}
		close(m.closed)
		m.store.close()
		m.client.CloseIdleConnections()
	})
	return errors.Join(errs...)
}

// Status is what the mesh has done since it was opened.
type Status struct {
	Brokers  []BrokerStatus
	Triggers []TriggerStatus
	Failures []Failure // the latest, newest first
}

// BrokerStatus counts events at a broker's ingress, replies included.
type BrokerStatus struct {
	Broker            manifest.Ref
	Accepted, Refused int64
}

// TriggerStatus counts events of a trigger.
type TriggerStatus struct {
	Trigger      manifest.Ref
	Broker       manifest.Ref
	Subscriber   string // address
	Pending      int64  // accepted, and neither delivered nor dead-lettered
	InFlight     int64  // of these, with the subscriber now
	Delivered    int64
	Retried      int64 // attempts that failed and are made again
	DeadLettered int64
	Dropped      int64 // not delivered and not kept, as the Trigger says
}

// Failure is one attempt that failed.
type Failure struct {
	At        time.Time
	Trigger   manifest.Ref
	EventID   string
	EventType string
	Status    int
	Text      string
}

// Status says how the mesh is doing.
func (m *Mesh) Status() Status {
	s := Status{Failures: m.failures.latest()}
	for _, b := range m.brokers {
		s.Brokers = append(s.Brokers, BrokerStatus{b.ref, b.accepted.Load(), b.refused.Load()})
	}
	slices.SortFunc(s.Brokers, func(a, b BrokerStatus) int { return cmp.Compare(a.Broker.String(), b.Broker.String()) })
	for _, t := range m.triggers {
		s.Triggers = append(s.Triggers, TriggerStatus{
			Trigger: t.ref, Broker: t.broker.ref, Subscriber: t.address,
			Pending: t.pending.Load(), InFlight: int64(len(t.slots)),
			Delivered: t.delivered.Load(), Retried: t.retried.Load(), DeadLettered: t.deadLettered.Load(), Dropped: t.dropped.Load(),
		})
	}
	return s
}

// failures keeps the latest failures.
type failures struct {
	mu   sync.Mutex
	ring [20]Failure
	n    int
}

func (f *failures) add(one Failure) {
	one.Text = beginning([]byte(one.Text))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring[f.n%len(f.ring)] = one
	f.n++
}

func (f *failures) latest() []Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Failure
	for i := f.n - 1; i >= 0 && i > f.n-1-len(f.ring); i-- {
		out = append(out, f.ring[i%len(f.ring)])
	}
	return out
}
