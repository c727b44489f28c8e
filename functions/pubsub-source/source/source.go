// Package source pulls messages from a Pub/Sub subscription and hands them to
// the broker in micro-batches, as telemetry.received; package batch says how
// they are filled, package pubsub how a message is made.
//
// A message is acknowledged when the broker has accepted the event that holds
// it, not before: a source that is killed loses none. It is delivered
// at-least-once. One that comes again makes the same readings, since its time is
// that of its payload, else the publish time.
//
// A message that claims to be a CloudEvent and is none is handed over as
// telemetry.rejected and acknowledged when that is accepted. It holds up no
// other.
//
// While the broker does not accept an event, the event is tried again, with
// pauses, for up to 30 s; then its messages are nacked and Pub/Sub delivers them
// again. An event that the broker refuses for good is nacked at once. So the
// subscription should have a retry policy with a backoff of at least 10 s, or
// what is refused comes again without a pause. A dead letter policy on it
// catches what is refused for good; it counts deliveries while the broker is
// away too, so its attempts should last as long as that may be.
//
// On a subscription with message ordering, the messages of an ordering key are
// accepted by the broker in order, in events whose partitionkey it is. A nack
// makes Pub/Sub deliver the message and all later ones of its key again; those
// of them that are here already are nacked too, unseen by the broker, until the
// message has come again. So the broker may accept m1 m2 m3 m2 m3, but never m3
// before the first m2.
//
// At most PUBSUB_MAX_OUTSTANDING_MESSAGES messages with about
// PUBSUB_MAX_OUTSTANDING_BYTES of data are held. For messages with an ordering
// key it is the service that keeps to this; not every emulator does.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	gcp "cloud.google.com/go/pubsub/v2"
	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pubsub"
)

// Config is the source's environment. The client library reads
// PUBSUB_EMULATOR_HOST, and where its credentials are, by itself.
type Config struct {
	batch.Config
	Sink         string `envconfig:"K_SINK" required:"true"`              // the broker's ingress
	Subscription string `envconfig:"PUBSUB_SUBSCRIPTION" required:"true"` // projects/PROJECT/subscriptions/NAME
	// The library acknowledges every 100 ms, and the service sends no more until
	// then: ten times this is the most there can be a second.
	MaxOutstandingMessages int `envconfig:"PUBSUB_MAX_OUTSTANDING_MESSAGES" default:"5000"`
	MaxOutstandingBytes    int `envconfig:"PUBSUB_MAX_OUTSTANDING_BYTES" default:"33554432"`
}

var subscriptionName = regexp.MustCompile(`^projects/([^/]+)/subscriptions/[^/]+$`)

// Start makes the source from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	post := func(ctx context.Context, e event.Event) error { return function.Post(ctx, ports.Client, cfg.Sink, e) }
	s, err := New(cfg, post, ports.Log)
	if err != nil {
		return nil, err
	}
	return &function.Function{Run: s.Run, Close: s.Close}, nil
}

const name = "pubsub-source"

// Source pulls from a subscription.
type Source struct {
	subscription string
	subscriber   *gcp.Subscriber
	disconnect   func() error
	batcher      *batch.Batcher[mesh.Message]
	post         func(context.Context, event.Event) error
	log          *slog.Logger

	drain   time.Duration // how long Run goes on handing over
	ack     time.Duration // how long it goes on acknowledging after that
	keys    keys
	slots   chan struct{} // of those that hand over a rejection
	keeping sync.WaitGroup
}

// New makes a source that hands events to post, which returns once the broker
// has accepted them.
func New(cfg Config, post func(context.Context, event.Event) error, log *slog.Logger) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxOutstandingMessages < 1 || cfg.MaxOutstandingBytes < 1 {
		return nil, errors.New("PUBSUB_MAX_OUTSTANDING_MESSAGES and PUBSUB_MAX_OUTSTANDING_BYTES have to be at least 1")
	}
	parts := subscriptionName.FindStringSubmatch(cfg.Subscription)
	if parts == nil {
		return nil, fmt.Errorf("PUBSUB_SUBSCRIPTION is %q: it has to be projects/PROJECT/subscriptions/NAME", cfg.Subscription)
	}
	client, err := gcp.NewClient(context.Background(), parts[1])
	if err != nil {
		return nil, fmt.Errorf("make a Pub/Sub client for %s: %w", cfg.Subscription, err)
	}
	s := &Source{
		subscription: cfg.Subscription, subscriber: client.Subscriber(cfg.Subscription), disconnect: sync.OnceValue(client.Close),
		log: log, drain: drainTimeout, ack: ackTimeout, slots: make(chan struct{}, maxKeeping),
	}
	s.subscriber.ReceiveSettings.MaxOutstandingMessages = cfg.MaxOutstandingMessages
	s.subscriber.ReceiveSettings.MaxOutstandingBytes = cfg.MaxOutstandingBytes
	s.post = func(ctx context.Context, e event.Event) error { return s.persist(ctx, e, post) }
	s.batcher = batch.New(cfg.Config, name, s.post)
	return s, nil
}

// Both together are less than what a process has to end, which is 30 s.
const (
	drainTimeout = 20 * time.Second
	ackTimeout   = 5 * time.Second
)

// Run pulls until ctx is done. Then it takes nothing more, hands over what it
// has, and returns when that is acknowledged; what the broker does not accept
// within 20 s is nacked. An error before that is one that the client library
// does not take to pass. A source has one Run.
func (s *Source) Run(ctx context.Context) error {
	held, abandon := context.WithCancel(context.Background())
	defer abandon()
	pulled := make(chan error, 1)
	go func() {
		err := s.subscriber.Receive(ctx, func(_ context.Context, in *gcp.Message) { s.take(held, in) })
		s.keeping.Wait()
		pulled <- err
	}()
	var failed error
	select {
	case failed = <-pulled:
		pulled = nil
	case <-ctx.Done():
	}
	time.AfterFunc(s.drain, abandon)
	late := s.batcher.Close(held)
	if pulled != nil {
		select {
		case failed = <-pulled:
		case <-time.After(s.ack):
			// The library waits for ever for a service that it cannot reach, unless
			// it has no connection.
			failed = errors.Join(fmt.Errorf("no answer within %s, it delivers again what is not acknowledged", s.ack), s.disconnect())
		}
	}
	if failed != nil {
		failed = fmt.Errorf("pull from %s: %w%s", s.subscription, failed, remedy(failed))
	}
	if late != nil {
		failed = errors.Join(failed, fmt.Errorf("hand over what was pulled: not accepted within %s, Pub/Sub delivers it again: %w", s.drain, late))
	}
	return failed
}

// remedy says what to do about an error of Receive.
func remedy(err error) string {
	switch status.Code(err) {
	case codes.NotFound:
		return ": create the subscription, or set PUBSUB_SUBSCRIPTION to one that exists"
	case codes.PermissionDenied:
		return ": grant the source's service account roles/pubsub.subscriber on the subscription"
	case codes.Unauthenticated:
		return ": give the source credentials of a service account, on a cluster by its Kubernetes service account"
	case codes.FailedPrecondition, codes.InvalidArgument:
		return ": it has to be a pull subscription that is attached to its topic"
	}
	return ""
}

// Close ends the connection to Pub/Sub.
func (s *Source) Close(context.Context) error { return s.disconnect() }

// take queues a message. Without an ordering key it returns when the message is
// settled, since the library counts as outstanding what it has not returned
// from. With one it returns at once: the library calls it for one message of a
// key after the other, so that no two of them would share an event.
func (s *Source) take(held context.Context, in *gcp.Message) {
	m, err := pubsub.Message{
		ID: in.ID, Data: in.Data, Attributes: in.Attributes, PublishTime: in.PublishTime,
		OrderingKey: in.OrderingKey, Subscription: s.subscription,
	}.Received(mesh.At(time.Now()))
	switch key := in.OrderingKey; {
	case err != nil && key == "":
		settle(in, s.keep(held, m, err))
	case err != nil:
		s.keeping.Go(func() { settle(in, s.keep(held, m, err)) })
	case key == "":
		settled := make(chan struct{})
		s.batcher.Go("", m, func(err error) {
			settle(in, err)
			close(settled)
		})
		<-settled
	default:
		passed := s.keys.pass(key, in.ID, func(place uint64) {
			s.batcher.Go(key, m, func(err error) {
				if err != nil {
					s.keys.interrupt(key, in.ID, place)
				}
				settle(in, err)
			})
		})
		if !passed {
			in.Nack()
		}
	}
}

func settle(in *gcp.Message, err error) {
	if err == nil {
		in.Ack()
	} else {
		in.Nack()
	}
}

const (
	maxKeeping  = 16 // connections to the broker, however much is rejected
	keepTimeout = 30 * time.Second
)

// keep hands over m as rejected. The id of the event does not tell when m came:
// one that comes again is the same.
func (s *Source) keep(ctx context.Context, m mesh.Message, cause error) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	rejection := mesh.Rejection{Message: m, Cause: cause.Error()}
	return s.post(ctx, mesh.NewEvent(mesh.TelemetryRejected, mesh.Source(name), mesh.EncodeRejections([]mesh.Rejection{rejection}), m.Source, m.ID, rejection.Cause))
}

// Pauses between attempts to hand over an event.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// persist posts e until the broker accepts it, refuses it for good, or ctx is
// done. A nack would do the same at the price of a delivery by Pub/Sub, which
// its dead letter policy counts.
func (s *Source) persist(ctx context.Context, e event.Event, post func(context.Context, event.Event) error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := post(ctx, e)
		if err == nil {
			return nil
		}
		if pause == firstPause { // one line for what fails many times
			s.log.Warn("event not accepted", "event.id", e.ID(), "event.type", e.Type(), "permanent", mesh.IsPermanent(err), "error", err)
		}
		if mesh.IsPermanent(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}
