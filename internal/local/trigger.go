package local

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
	"knative.dev/eventing/pkg/eventfilter"
	"knative.dev/pkg/logging"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/manifest"
)

const (
	// inFlight is how many events of a trigger are with its subscriber at
	// once, unless the Service says less. A sink commits what is in flight
	// together; more does not make it faster.
	inFlight = 64
	// inFlightBytes bounds them where they are large; one event is always let
	// through.
	inFlightBytes = 16 << 20
	// maxUnacknowledged bounds the events of a trigger that wait for another
	// attempt. When it is reached, newer ones wait too.
	maxUnacknowledged = 10_000
	// redeliverAfter is when JetStream takes an event in flight for lost. It
	// never is: what a process leaves behind is taken up when the next begins.
	redeliverAfter = 24 * time.Hour
	// storeAgain is how long to wait when even the dead letter cannot be kept.
	storeAgain = time.Second
)

// Extensions of dead letters, by knative.dev/eventing/pkg/kncloudevents/attributes.
const (
	extErrorDest = "knativeerrordest"
	extErrorCode = "knativeerrorcode"
	extErrorData = "knativeerrordata"
	maxErrorData = 1024
)

// trigger brings the events of a broker that pass its filter to a subscriber.
type trigger struct {
	mesh       *Mesh
	broker     *broker
	ref        manifest.Ref
	log        *slog.Logger
	types      map[string]bool // nil: any
	filter     eventfilter.Filter
	subscriber subscriber
	address    string // of the subscriber
	sink       subscriber
	delivery   delivery
	keepsNone  bool // what cannot be delivered is no dead letter
	slots      chan struct{}
	bytes      *semaphore.Weighted
	consumer   jetstream.Consumer
	messages   *puller

	pending, delivered, retried, deadLettered, dropped atomic.Int64

	mu      sync.Mutex
	failing map[uint64]*failure // events that failed, by their sequence in the stream
}

// failure is what is known of an event that was not delivered. It is forgotten
// when the process ends: the attempts begin again then.
type failure struct {
	attempts int
	cause    *Cause // set once the attempts are used up: it goes to the sink now
	tried    int    // times that the sink was tried
}

func consumerName(r manifest.Ref) string { return joined(r) }

// redriveSubject is where events go that only one trigger is to read.
func redriveSubject(stream, consumer string) string { return stream + ".redrive." + consumer }

func (m *Mesh) newTrigger(set manifest.Set, spec *manifest.Trigger) (*trigger, error) {
	fault := func(err error) error { return fmt.Errorf("%s: Trigger %s: %w", spec.Where, spec.Ref(), err) }
	t := &trigger{
		mesh: m, ref: spec.Ref(), broker: m.brokers[spec.BrokerOf()],
		log:     m.log.With("trigger", spec.Ref().String()),
		bytes:   semaphore.NewWeighted(inFlightBytes),
		failing: map[uint64]*failure{}, keepsNone: spec.Annotations[manifest.Keeps] == "nothing",
	}
	if t.broker == nil {
		return nil, fault(fmt.Errorf("there is no Broker %s", spec.BrokerOf()))
	}
	if types := spec.Types(); types != nil {
		t.types = map[string]bool{}
		for _, eventType := range types {
			t.types[eventType] = true
		}
	}
	var err error
	if t.filter, err = manifest.NewFilter(spec.Spec); err != nil {
		return nil, fault(err)
	}
	if t.delivery, err = newDelivery(set.Delivery(spec), spec.Namespace); err != nil {
		return nil, fault(err)
	}
	target, err := manifest.Resolve(spec.Spec.Subscriber, spec.Namespace)
	if err != nil {
		return nil, fault(err)
	}
	t.address = target.URL.String()
	if t.subscriber, err = m.subscriber(target, spec.Namespace, t.delivery.structured); err != nil {
		return nil, fault(err)
	}
	if t.delivery.sink != nil {
		if t.sink, err = m.subscriber(*t.delivery.sink, spec.Namespace, false); err != nil {
			return nil, fault(fmt.Errorf("dead letter sink: %w", err))
		}
	}
	most := inFlight
	if s, ok := t.subscriber.(called); ok && s.concurrency > 0 {
		most = min(most, s.concurrency)
	}
	t.slots = make(chan struct{}, most)
	return t, nil
}

func (t *trigger) reads(eventType string) bool { return t.types == nil || t.types[eventType] }

// open makes the consumer, or finds the one of an earlier run.
func (t *trigger) open(ctx context.Context) error {
	stream, name := t.broker.stream, consumerName(t.ref)
	subjects := []string{redriveSubject(stream, name)}
	if t.types == nil {
		subjects = append(subjects, stream+".type.*")
	}
	seen := map[string]bool{}
	for eventType := range t.types {
		if s := t.broker.typeSubject(eventType); !seen[s] {
			seen[s] = true
			subjects = append(subjects, s)
		}
	}
	var err error
	t.consumer, err = t.mesh.store.js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable:        name,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        redeliverAfter,
		MaxAckPending:  maxUnacknowledged,
		DeliverPolicy:  jetstream.DeliverNewPolicy,
		FilterSubjects: subjects,
	})
	if err != nil {
		return fmt.Errorf("open Trigger %s: %w", t.ref, err)
	}
	if err := t.takeUp(ctx); err != nil {
		return fmt.Errorf("take up what Trigger %s left: %w", t.ref, err)
	}
	info, err := t.consumer.Info(ctx)
	if err != nil {
		return fmt.Errorf("open Trigger %s: %w", t.ref, err)
	}
	left := int64(info.NumPending) + int64(info.NumAckPending)
	t.pending.Store(left)
	t.mesh.backlog.add(left, 0)
	return nil
}

// takeUp makes JetStream deliver at once what an earlier process had in flight
// or waiting for another attempt, instead of when it takes it for lost. A
// killed process may also have left events in flight whose acknowledgement
// reached the stream and not the consumer's own record: these are gone, and
// acknowledging them again corrects the record.
func (t *trigger) takeUp(ctx context.Context) error {
	info, err := t.consumer.Info(ctx)
	if err != nil || info.NumAckPending == 0 {
		return err
	}
	stream, err := t.mesh.store.js.Stream(ctx, info.Stream)
	if err != nil {
		return err
	}
	kept, err := stream.Info(ctx, jetstream.WithDeletedDetails(true))
	if err != nil {
		return err
	}
	gone := make(map[uint64]bool, len(kept.State.Deleted))
	for _, seq := range kept.State.Deleted {
		gone[seq] = true
	}
	for seq := info.AckFloor.Stream + 1; seq <= info.Delivered.Stream; seq++ {
		answer := "-NAK"
		if gone[seq] || seq < kept.State.FirstSeq {
			answer = "+ACK"
		}
		if err := t.mesh.store.out.Publish(t.ackSubject(seq, info.Delivered.Consumer), []byte(answer)); err != nil {
			return err
		}
	}
	return t.sync(ctx)
}

// ackSubject is the reply subject of a delivery. Of its numbers the server
// reads the sequence in the stream, and that the consumer's is none of the
// future.
func (t *trigger) ackSubject(seq, consumerSeq uint64) string {
	return fmt.Sprintf("$JS.ACK.%s.%s.1.%d.%d.%d.0", t.broker.stream, consumerName(t.ref), seq, consumerSeq, time.Now().UnixNano())
}

// sync returns when the server has done what every answer before asks for. It
// takes them in their order, and this one is about an event that will never
// be: it is answered, and nothing is done.
func (t *trigger) sync(ctx context.Context) error {
	_, err := t.mesh.store.out.RequestWithContext(ctx, t.ackSubject(math.MaxInt64, 0), []byte("+WPI"))
	return err
}

// run delivers until reading ends, and returns when the last event is handled
// or ctx ends.
func (t *trigger) run(ctx, reading context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx = logging.WithLogger(ctx, zap.NewNop().Sugar()) // for the filters
	for {
		msg, err := t.messages.next(reading)
		if err != nil {
			if reading.Err() == nil {
				t.log.Error("deliveries ended", "error", err)
			}
			return
		}
		size := min(weight(msg.Data), inFlightBytes)
		if t.bytes.Acquire(reading, size) != nil {
			return
		}
		select {
		case t.slots <- struct{}{}:
		case <-reading.Done():
			return
		}
		running.Go(func() {
			defer func() {
				<-t.slots
				t.bytes.Release(size)
			}()
			t.handle(ctx, msg)
		})
	}
}

// handle makes one attempt to deliver an event, and acknowledges it only when
// all that comes of it is durable.
func (t *trigger) handle(ctx context.Context, msg *nats.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		t.log.Error("message without metadata", "error", err) // it is no delivery of JetStream
		return
	}
	seq := meta.Sequence.Stream
	e, ttl, err := readFrame(msg.Data)
	if err != nil {
		t.settle(ctx, msg, seq, &failure{cause: &Cause{Status: http.StatusInternalServerError, Destination: t.address, Text: err.Error()}}, nil, 0)
		return
	}
	var fault error
	if msg.Subject != redriveSubject(t.broker.stream, consumerName(t.ref)) {
		var passes bool
		if passes, fault = t.passes(ctx, e); !passes && fault == nil {
			t.done(msg, seq)
			return
		}
	}
	t.mu.Lock()
	f := t.failing[seq]
	t.mu.Unlock()
	if f == nil {
		f = &failure{}
	}
	if f.cause == nil {
		r, destination := t.attempt(ctx, e, ttl, fault)
		if !r.failed() {
			t.delivered.Add(1)
			t.done(msg, seq)
			return
		}
		if ctx.Err() != nil {
			return // the process ends: it is no failure of the subscriber
		}
		f.attempts++
		t.mesh.failures.add(Failure{time.Now().UTC(), t.ref, e.ID(), e.Type(), r.status, r.text})
		if function.Retriable(r.status) && f.attempts <= t.delivery.retry {
			t.retried.Add(1)
			level := slog.LevelDebug
			if f.attempts == 1 {
				level = slog.LevelWarn
			}
			wait := t.delivery.backoff(f.attempts-1, r)
			t.log.Log(ctx, level, "attempt failed: the event is tried again", "event.id", e.ID(), "event.type", e.Type(),
				"status", r.status, "attempt", f.attempts, "of", t.delivery.retry+1, "wait", wait, "error", r.text)
			t.again(msg, seq, f, wait)
			return
		}
		f.cause = &Cause{Status: r.status, Destination: destination, Text: r.text}
		t.log.Warn("event not delivered", "event.id", e.ID(), "event.type", e.Type(),
			"status", r.status, "attempts", f.attempts, "error", r.text)
	}
	t.settle(ctx, msg, seq, f, &e, ttl)
}

// passes says whether the filter lets an event pass. Knative's panics where a
// CESQL expression gives no boolean: its broker breaks the connection off, which
// is an attempt that failed.
func (t *trigger) passes(ctx context.Context, e event.Event) (passes bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("filter the event: its CESQL expression gives no boolean: %v", p)
		}
	}()
	return t.filter.Filter(ctx, e) != eventfilter.FailFilter, nil
}

// attempt delivers the event, if its filter had no fault, and brings the replies
// to the broker. It names the destination that failed.
func (t *trigger) attempt(ctx context.Context, e event.Event, ttl int32, fault error) (result, string) {
	if fault != nil {
		return result{status: http.StatusInternalServerError, text: fault.Error()}, t.address
	}
	subscriberCtx, cancel := t.delivery.bounded(ctx)
	defer cancel()
	r := t.subscriber.deliver(subscriberCtx, e)
	if r.failed() || len(r.replies) == 0 {
		return r, t.address
	}
	if err := t.broker.accept(ctx, ttl-1, r.replies...); err != nil {
		address := "http://" + manifest.IngressHost + "/" + t.broker.ref.String()
		return result{status: statusOf(err), text: "reply: " + err.Error()}, address
	}
	return result{status: http.StatusOK}, ""
}

// settle brings an event that cannot be delivered to the dead letter sink, or
// keeps it where there is none or the sink fails too. e is nil if it cannot
// be read.
func (t *trigger) settle(ctx context.Context, msg *nats.Msg, seq uint64, f *failure, e *event.Event, ttl int32) {
	if t.keepsNone {
		t.dropped.Add(1)
		t.done(msg, seq)
		return
	}
	if t.sink != nil && e != nil {
		dead := deadLetterOf(e, ttl, f.cause)
		sinkCtx, cancel := t.delivery.bounded(ctx)
		r := t.sink.deliver(sinkCtx, dead)
		cancel()
		if !r.failed() {
			t.deadLettered.Add(1)
			t.done(msg, seq)
			return
		}
		if ctx.Err() != nil {
			return
		}
		f.tried++
		if function.Retriable(r.status) && f.tried <= t.delivery.retry {
			t.retried.Add(1)
			t.again(msg, seq, f, t.delivery.backoff(f.tried-1, r))
			return
		}
		t.log.Warn("dead letter sink failed: kept here", "event.id", e.ID(), "event.type", e.Type(),
			"sink", t.delivery.sink.URL.String(), "status", r.status, "error", r.text)
	}
	err := t.mesh.letters.keep(ctx, lettersStream, letter{
		At: time.Now().UTC(), Broker: t.broker.ref, Trigger: t.ref, Attempts: f.attempts, Cause: *f.cause,
	}, msg.Data)
	if err != nil {
		if ctx.Err() == nil {
			t.mesh.store.log.tell(slog.LevelError, "dead letter not kept: the event is tried again", err, "trigger", t.ref.String())
			t.again(msg, seq, f, storeAgain)
		}
		return
	}
	t.deadLettered.Add(1)
	t.done(msg, seq)
}

// deadLetterOf is an event as a dead letter sink gets it: as the Broker has it, with
// why it was not delivered. An event that says so already keeps what it says.
// knative.dev/eventing/pkg/kncloudevents/attributes
func deadLetterOf(e *event.Event, ttl int32, c *Cause) event.Event {
	dead := e.Clone()
	dead.SetExtension(extTTL, ttl)
	data := base64.StdEncoding.EncodeToString([]byte(c.Text))
	for name, value := range map[string]any{extErrorDest: c.Destination, extErrorCode: c.Status, extErrorData: data[:min(len(data), maxErrorData)]} {
		if old := dead.Extensions()[name]; old == nil || old == "" {
			dead.SetExtension(name, value)
		}
	}
	return dead
}

// again asks for another delivery. The event leaves memory until then.
func (t *trigger) again(msg *nats.Msg, seq uint64, f *failure, wait time.Duration) {
	t.mu.Lock()
	t.failing[seq] = f
	t.mu.Unlock()
	var err error
	if wait > 0 {
		err = msg.NakWithDelay(wait)
	} else {
		err = msg.Nak()
	}
	if err != nil {
		t.log.Error("no further attempt before the next start", "error", err)
	}
}

// done ends the event for this trigger.
func (t *trigger) done(msg *nats.Msg, seq uint64) {
	t.mu.Lock()
	delete(t.failing, seq)
	t.mu.Unlock()
	if err := msg.Ack(); err != nil {
		t.log.Error("event not acknowledged: it is delivered again at the next start", "error", err)
	}
	var bytes int64
	if seq > t.broker.before {
		bytes = int64(len(msg.Data))
	}
	t.pending.Add(-1)
	t.mesh.backlog.add(-1, -bytes)
}
