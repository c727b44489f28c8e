package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"golang.org/x/sync/semaphore"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// IntakeConfig is what becomes of a received PUBLISH, wherever it was received.
type IntakeConfig struct {
	Sink   string `envconfig:"K_SINK" required:"true"` // the broker's ingress
	Topics string `envconfig:"MQTT_TOPICS" default:"#"`
	batch.Config
}

// inFlight is how many messages may wait for the broker: enough to fill events
// while some are on their way.
func (c *IntakeConfig) inFlight() int { return max(1000, min(4*c.MaxMessages, 1<<16-1)) }

// maxBytes is how many bytes may wait for the broker. They are there several
// times while an event is made and sent.
const maxBytes = 32 << 20

// Publish is a PUBLISH packet as it was received (MQTT 5, section 3.3).
type Publish struct {
	Session     string // of the client, whose packet ids they are
	PacketID    uint16 // 0: QoS 0, it does not come again
	Duplicate   bool
	Retained    bool // it was kept by the MQTT broker, and is older than its coming
	Topic       string
	ContentType string
	Properties  [][2]string // the user properties
	Payload     []byte
}

// weight is what p takes of the memory while it is in flight. What is heavier
// than all of it waits for all.
func (p *Publish) weight() int64 {
	n := len(p.Topic) + len(p.ContentType) + len(p.Payload)
	for _, property := range p.Properties {
		n += len(property[0]) + len(property[1])
	}
	return int64(min(max(n, 1), maxBytes))
}

var (
	// ErrAgain says that the same PUBLISH has come again: who brought it last is
	// told when it is accepted.
	ErrAgain = errors.New("it has come again")
	// ErrClosed says that the broker has not accepted it while there was time.
	ErrClosed = errors.New("the intake is closed")
)

// Intake makes messages of received PUBLISH packets and brings them to the
// broker, each until it is accepted.
type Intake struct {
	topics topics
	source string
	events batch.Config
	post   func(context.Context, event.Event) error
	slots  chan struct{}
	memory *semaphore.Weighted // bytes in flight
	open   context.Context     // until nothing is taken any more
	stop   context.CancelFunc
	trying context.Context // until nothing is handed over again
	giveUp context.CancelFunc

	ask func(topic string, payload []byte)

	mu      sync.Mutex
	batcher *batch.Batcher
	births  *device.Births
	last    mesh.Instant
	young   map[packet]*taken // by what identifies it until it is acknowledged
	old     map[packet]*taken // those that were young before
}

type packet struct {
	session string
	id      uint16
}

// taken is a PUBLISH that was not dropped.
type taken struct {
	id     string // a hash of the message's
	weight int64
	done   func(error) // who is told; nil once it was
	err    error       // what it was told
	told   time.Time   // when it was
}

// maxYoung bounds what is remembered of sessions: it has to be more than what
// one of them has unacknowledged.
const maxYoung = 1 << 16

// againTime is how long after its acknowledgement a PUBLISH is known when it
// comes again. Its packet id is free by then, and a device that sends the same
// bytes has measured again: what it sends twice in earnest comes twice rather
// than one of them not at all.
const againTime = 10 * time.Minute

// NewIntake makes an intake of messages whose source is the given one. ask
// publishes what asks a Sparkplug node to tell its births again; it must not
// wait for anything.
func NewIntake(cfg IntakeConfig, source string, ports function.Ports, ask func(topic string, payload []byte)) (*Intake, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	all, err := parseTopics(cfg.Topics)
	if err != nil {
		return nil, err
	}
	in := &Intake{topics: all, source: source, events: cfg.Config, slots: make(chan struct{}, cfg.inFlight()),
		memory: semaphore.NewWeighted(maxBytes), ask: ask, births: device.NewBirths(), young: map[packet]*taken{}}
	in.open, in.stop = context.WithCancel(context.Background())
	in.trying, in.giveUp = context.WithCancel(context.Background())
	in.post = post(ports.Client, cfg.Sink, ports.Log)
	in.batcher = batch.New(cfg.Config, name, in.post)
	return in, nil
}

// post hands an event over. A refusal for good is the mesh's matter as well: a
// size or a right that somebody has to see to.
func post(client *http.Client, sink string, log *slog.Logger) func(context.Context, event.Event) error {
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

// Take takes a PUBLISH and calls done once: when the broker has accepted the
// event that holds it, or with ErrAgain or ErrClosed. It waits while too many
// are in flight. done must not wait for anything.
func (in *Intake) Take(p Publish, done func(error)) {
	filter := in.topics.match(p.Topic)
	if filter == nil { // subscribed once, and no longer
		done(nil)
		return
	}
	m := in.message(filter, &p)
	if p.Duplicate && in.again(p, m.ID, done) {
		return
	}
	select {
	case in.slots <- struct{}{}:
	case <-in.open.Done():
		done(ErrClosed)
		return
	}
	t := &taken{id: mesh.Hash(m.ID), weight: p.weight(), done: done}
	if in.memory.Acquire(in.open, t.weight) != nil {
		<-in.slots
		done(ErrClosed)
		return
	}
	in.mu.Lock()
	// Messages without a time take this one, and must not all say something of
	// the same instant.
	in.last = max(mesh.At(time.Now()), in.last+1)
	m.ReceivedAt = in.last
	rebirth := in.births.Take(&m)
	if p.PacketID != 0 {
		if len(in.young) == maxYoung {
			in.young, in.old = map[packet]*taken{}, in.young
		}
		in.young[packet{p.Session, p.PacketID}] = t
	}
	in.mu.Unlock()
	if rebirth != "" {
		in.ask(rebirth, device.RebirthRequest(m.ReceivedAt))
	}
	in.hand(t, m, 0)
}

// Missed says that messages may have been missed until now, births of Sparkplug
// nodes among them.
func (in *Intake) Missed() {
	in.mu.Lock()
	in.births.Forget()
	in.mu.Unlock()
}

// again says whether the PUBLISH with this message is one that was taken before
// and not acknowledged so that its sender knew: then done is told what becomes
// of that one.
func (in *Intake) again(p Publish, id string, done func(error)) bool {
	in.mu.Lock()
	key := packet{p.Session, p.PacketID}
	t := in.young[key]
	if t == nil {
		t = in.old[key]
	}
	if t == nil || t.id != mesh.Hash(id) || t.done == nil && time.Since(t.told) > againTime {
		in.mu.Unlock()
		return false
	}
	tell, err := done, t.err
	if t.done != nil {
		tell, err = t.done, ErrAgain
		t.done = done
	}
	in.mu.Unlock()
	tell(err)
	return true
}

// hand brings a message to the broker, again and again until it is accepted. At
// the end the time that is left begins with another attempt.
func (in *Intake) hand(t *taken, m mesh.Message, attempt int) {
	in.mu.Lock()
	batcher := in.batcher
	in.mu.Unlock()
	batcher.Go("", m, func(err error) {
		if err != nil && in.trying.Err() == nil {
			go func() {
				next, stopped := attempt+1, in.open.Done()
				if in.open.Err() != nil { // it was woken already
					stopped = nil
				}
				select {
				case <-time.After(backoff(attempt)):
				case <-stopped:
					next = 0
				case <-in.trying.Done():
				}
				in.hand(t, m, next)
			}()
			return
		}
		in.memory.Release(t.weight)
		<-in.slots
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, err)
		}
		in.mu.Lock()
		done := t.done
		t.done, t.err, t.told = nil, err, time.Now()
		in.mu.Unlock()
		done(err)
	})
}

// backoff is what attempt n+2 waits for: what the broker cannot take now, it can
// soon, or somebody has to see to it.
func backoff(n int) time.Duration { return min(100*time.Millisecond<<min(n, 10), 10*time.Second) }

// endLinger is what a message waits for others once nothing more is taken.
const endLinger = 10 * time.Millisecond

// Close takes nothing from now on, and hands over what was taken: at once, and
// again until the broker has accepted it or ctx ends. What is not accepted then
// is told ErrClosed. Of it, what has QoS 0 is lost; the rest comes again.
func (in *Intake) Close(ctx context.Context) error {
	in.stop()
	defer in.giveUp()
	in.mu.Lock()
	filling := in.batcher
	last := in.events
	last.Linger = min(last.Linger, endLinger)
	in.batcher = batch.New(last, name, in.post) // for what is tried again
	in.mu.Unlock()
	err := filling.Close(ctx)
	if err == nil {
		err = in.memory.Acquire(ctx, maxBytes) // all that is in flight has some
	}
	if err == nil {
		in.memory.Release(maxBytes)
		return in.batcher.Close(ctx) // until who waits is told
	}
	n := len(in.slots)
	in.giveUp()
	in.batcher.Close(ctx) // fails what it has: ctx has ended
	if n == 0 {
		return nil
	}
	return fmt.Errorf("hand over what was taken: the broker has not accepted %d of the messages: %w", n, err)
}

// Bounds of what user properties become attributes: every message carries them.
const (
	maxProperties = 32
	maxProperty   = 256 // bytes of a name, and of a value
)

// message makes the message of p, all but its time. What the topic and its
// filter say goes before what the sender says.
func (in *Intake) message(f *filter, p *Publish) mesh.Message {
	m := mesh.Message{Source: in.source, ContentType: mesh.MediaType(p.ContentType), Payload: p.Payload}
	for i, property := range p.Properties {
		name, value := property[0], property[1]
		switch {
		case name == "id" && value != "" && len(value) <= mesh.MaxIdentity:
			m.ID = value
		case i < maxProperties && name != "id" && name != "retain" && len(name) <= maxProperty && len(value) <= maxProperty:
			m.Describe(name, value)
		}
	}
	m.Describe("topic", p.Topic)
	if p.Retained {
		m.Describe("retain", "true")
	}
	f.describe(&m, p.Topic)
	if m.ID == "" {
		m.ID = mesh.Hash(m.Source, p.Topic, string(p.Payload))
	}
	return m
}
