// Package topology is the mesh as a graph: its Brokers, Triggers and functions,
// which events go from where to where, and which tables come of them.
//
// It knows nothing of Kubernetes, so that a function may hold it. Package
// manifests below reads it from the YAML of the mesh.
package topology

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Ref names an object of the mesh.
type Ref struct{ Namespace, Name string }

func (r Ref) String() string { return r.Namespace + "/" + r.Name }

func (r Ref) compare(other Ref) int {
	return cmp.Or(cmp.Compare(r.Namespace, other.Namespace), cmp.Compare(r.Name, other.Name))
}

// ParseRef reads NAMESPACE/NAME.
func ParseRef(s string) (Ref, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	return Ref{namespace, name}, ok && namespace != "" && name != "" && !strings.Contains(name, "/")
}

// Mesh is what the manifests describe, each kind ordered by namespace and name.
type Mesh struct {
	Brokers   []Broker
	Triggers  []Trigger
	Functions []Function
	Ticks     []Tick
}

// Broker takes events.
type Broker struct {
	Ref
	Outputs []string // types that products offer there, which may come from outside
}

// Trigger takes events from a Broker to a subscriber.
type Trigger struct {
	Ref
	Broker  Ref
	Filters []Filter // all of which an event has to pass
	// The subscriber is one of these; URL is any other.
	Service, To Ref // a function, another Broker
	URL         string
	Address     string // of the subscriber, whichever it is; empty: it has none
	Keeps       string // everything, nothing, or empty: internal/manifest says what this means
	Optional    bool   // it is there once its user applies its file
}

// Function is a Service that is woken, or a source, which runs all the time.
type Function struct {
	Ref
	Source   bool
	Image    string   // folder below functions/; empty: it is built from something else
	Emits    []string // types of the events that it makes
	Posts    Ref      // the Broker that it posts to; zero: it only replies
	Asks     []Ref    // Services that it asks something of
	Tables   []string // output ports that it serves
	Reads    []string // output ports that it asks such a function for
	Product  string   // that it is where the warehouse is; empty: it opens none
	Optional bool     // it is there once its user applies its file
}

// Tick wakes what reads its events as time goes on.
type Tick struct {
	Ref
	Schedule string // as of cron
	To       Ref    // a Broker; zero: something else
	Optional bool   // it is there once its user applies its file
}

// TickType is the type of the events of a Tick. knative.dev/eventing/pkg/apis/sources/v1
const TickType = "dev.knative.sources.ping"

// Sort orders a mesh.
func (m *Mesh) Sort() {
	slices.SortFunc(m.Brokers, func(a, b Broker) int { return a.compare(b.Ref) })
	slices.SortFunc(m.Triggers, func(a, b Trigger) int { return a.compare(b.Ref) })
	slices.SortFunc(m.Functions, func(a, b Function) int { return a.compare(b.Ref) })
	slices.SortFunc(m.Ticks, func(a, b Tick) int { return a.compare(b.Ref) })
}

// Function finds a function; nil: there is none.
func (m *Mesh) Function(r Ref) *Function {
	for i := range m.Functions {
		if m.Functions[i].Ref == r {
			return &m.Functions[i]
		}
	}
	return nil
}

// Broker finds a Broker; nil: there is none.
func (m *Mesh) Broker(r Ref) *Broker {
	for i := range m.Brokers {
		if m.Brokers[i].Ref == r {
			return &m.Brokers[i]
		}
	}
	return nil
}

// Wake gives the Triggers that wake a function.
func (m *Mesh) Wake(r Ref) []*Trigger {
	var all []*Trigger
	for i := range m.Triggers {
		if m.Triggers[i].Service == r {
			all = append(all, &m.Triggers[i])
		}
	}
	return all
}

// Subscriber names the subscriber of a trigger.
func (t *Trigger) Subscriber() string {
	switch {
	case t.Service != Ref{}:
		return t.Service.String()
	case t.To != Ref{}:
		return t.To.String()
	}
	return t.URL
}

// Flow is events of one type on one Broker.
type Flow struct {
	Broker Ref
	Type   string
	Makers []Ref // functions that reply with it there, or post it
	Ticks  []Ref
	Bring  []*Trigger // that take it there from another Broker
	Read   []*Trigger // that may take it from there, but those that keep everything
	Output bool       // a product offers it there: it may also come from outside
}

// Flows gives the events that the mesh knows of, by Broker and type. A type that
// a Trigger reads is among them though nobody is known to bring it.
func (m *Mesh) Flows() []*Flow {
	type key struct {
		broker    Ref
		eventType string
	}
	flows := map[key]*Flow{}
	at := func(broker Ref, eventType string) *Flow {
		k := key{broker, eventType}
		if flows[k] == nil {
			flows[k] = &Flow{Broker: broker, Type: eventType}
		}
		return flows[k]
	}
	for _, b := range m.Brokers {
		for _, t := range b.Outputs {
			at(b.Ref, t).Output = true
		}
	}
	for _, f := range m.Functions {
		for _, broker := range m.Brokers {
			into := f.Posts == broker.Ref
			for _, t := range m.Wake(f.Ref) {
				into = into || t.Broker == broker.Ref
			}
			for _, eventType := range f.Emits {
				if into {
					flow := at(broker.Ref, eventType)
					flow.Makers = append(flow.Makers, f.Ref)
				}
			}
		}
	}
	for _, t := range m.Ticks {
		if m.Broker(t.To) != nil {
			flow := at(t.To, TickType)
			flow.Ticks = append(flow.Ticks, t.Ref)
		}
	}
	for _, t := range m.Triggers {
		for _, eventType := range t.Types() {
			at(t.Broker, eventType)
		}
	}
	// What Triggers take to other Brokers may be taken further from there.
	for grown := true; grown; {
		grown = false
		for i := range m.Triggers {
			t := &m.Triggers[i]
			if m.Broker(t.To) == nil {
				continue
			}
			for k := range flows {
				if k.broker != t.Broker || t.Takes(Event{Attributes: map[string]string{"type": k.eventType}}, nil) == No {
					continue
				}
				grown = grown || flows[key{t.To, k.eventType}] == nil
				if to := at(t.To, k.eventType); !slices.Contains(to.Bring, t) {
					to.Bring = append(to.Bring, t)
				}
			}
		}
	}
	var all []*Flow
	for _, f := range flows {
		for i := range m.Triggers {
			t := &m.Triggers[i]
			if t.Broker == f.Broker && t.Keeps != "everything" && t.Takes(Event{Attributes: map[string]string{"type": f.Type}}, nil) != No {
				f.Read = append(f.Read, t)
			}
		}
		slices.SortFunc(f.Bring, func(a, b *Trigger) int { return a.compare(b.Ref) })
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *Flow) int { return cmp.Or(a.Broker.compare(b.Broker), cmp.Compare(a.Type, b.Type)) })
	return all
}

// Here is the process that runs a whole mesh, as it stands.
type Here struct {
	Mesh     Mesh
	Since    time.Time // when it was started
	Folder   string    // where it keeps events and tables
	Ingest   string    // URL that takes messages of devices; empty: nothing listens
	Ingress  string    // URL of the Brokers, with a slash at the end; empty: nothing listens
	Triggers []Count
	Failures []Failure // the latest attempts that failed, newest first
}

// Count is what became of the events of a Trigger since Here.Since.
type Count struct {
	Trigger      Ref
	Pending      int64 // accepted, and neither delivered nor given up
	InFlight     int64 // of these, with the subscriber now
	Delivered    int64
	Retried      int64 // attempts that failed and are made again
	DeadLettered int64
}

// Failure is an attempt to deliver an event that failed.
type Failure struct {
	At        time.Time
	Trigger   Ref
	EventID   string
	EventType string
	Status    int // of HTTP
	Text      string
}
