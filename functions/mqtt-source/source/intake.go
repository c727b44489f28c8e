package source

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/device"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/handover"
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

// weight is what p takes of the memory while it is in flight.
func (p *Publish) weight() int {
	n := len(p.Topic) + len(p.ContentType) + len(p.Payload)
	for _, property := range p.Properties {
		n += len(property[0]) + len(property[1])
	}
	return n
}

var (
	// ErrAgain says that the same PUBLISH has come again: who brought it last is
	// told when it is accepted.
	ErrAgain = errors.New("it has come again")
	// ErrClosed says that the broker has not accepted it while there was time.
	ErrClosed = handover.ErrClosed
)

// Intake makes messages of received PUBLISH packets and brings them to the
// broker, each until it is accepted.
type Intake struct {
	topics topics
	source string
	flight *handover.Handover[mesh.Message]

	ask func(topic string, payload []byte)

	mu     sync.Mutex
	births *device.Births
	last   mesh.Instant
	young  map[packet]*taken // by what identifies it until it is acknowledged
	old    map[packet]*taken // those that were young before
}

type packet struct {
	session string
	id      uint16
}

// taken is a PUBLISH that was not dropped.
type taken struct {
	id   string      // a hash of the message's
	done func(error) // who is told; nil once it was
	err  error       // what it was told
	told time.Time   // when it was
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
	post := handover.Post(ports.Client, cfg.Sink, ports.Log)
	return &Intake{topics: all, source: source, ask: ask, births: device.NewBirths(), young: map[packet]*taken{},
		flight: handover.New(cfg.Config, cfg.inFlight(), maxBytes, func(c batch.Config) *batch.Batcher[mesh.Message] {
			return batch.New(c, name, post)
		})}, nil
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
	place, err := in.flight.Reserve(context.Background(), p.weight())
	if err != nil {
		done(err)
		return
	}
	t := &taken{id: mesh.Hash(m.ID), done: done}
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
	in.hand(t, place, m)
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

// hand brings a message to the broker, and tells who waits.
func (in *Intake) hand(t *taken, place handover.Place, m mesh.Message) {
	in.flight.Go("", place, m, func(err error) {
		in.mu.Lock()
		done := t.done
		t.done, t.err, t.told = nil, err, time.Now()
		in.mu.Unlock()
		done(err)
	})
}

// Close takes nothing from now on, and hands over what was taken: at once, and
// again until the broker has accepted it or ctx ends. What is not accepted then
// is told ErrClosed. Of it, what has QoS 0 is lost; the rest comes again.
func (in *Intake) Close(ctx context.Context) error { return in.flight.Close(ctx) }

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
