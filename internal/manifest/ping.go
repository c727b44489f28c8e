package manifest

import (
	"maps"
	"path"
	"path/filepath"

	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"
)

// PingSource is a sources.knative.dev PingSource: it wakes by the clock.
type PingSource struct {
	Where
	sourcesv1.PingSource
}

// Ref is the ping source's name.
func (p *PingSource) Ref() Ref { return Ref{p.Namespace, p.Name} }

// BrokerOf names the Broker that the ticks go to; the zero Ref if they go
// elsewhere.
func (p *PingSource) BrokerOf() Ref {
	target, err := Resolve(p.Spec.Sink, p.Namespace)
	if err != nil {
		return Ref{}
	}
	return target.Broker
}

// PingSource finds a ping source; nil if there is none.
func (s Set) PingSource(r Ref) *PingSource { return find(s.PingSources, r) }

// OptIn says that the object stands in a folder of the name sources, which `ko
// apply -f config/` passes over: it is there once its user applies its file.
func (w Where) OptIn() bool { return path.Base(path.Dir(filepath.ToSlash(w.File))) == "sources" }

// attributes are those of a tick, but for its id and time.
func (p *PingSource) attributes() map[string]string {
	known := map[string]string{}
	if o := p.Spec.CloudEventOverrides; o != nil {
		maps.Copy(known, o.Extensions)
	}
	known["specversion"] = "1.0"
	known["type"] = sourcesv1.PingSourceEventType
	known["source"] = sourcesv1.PingSourceSource(p.Namespace, p.Name)
	return known
}

// Takers are the Triggers that take the ticks of a ping source to do something
// at them, as far as their filters say without CESQL.
func (s Set) Takers(p *PingSource) []*Trigger {
	var takers []*Trigger
	for _, t := range s.Triggers {
		if t.BrokerOf() == p.BrokerOf() && takes(t, knowledge{p.attributes(), true}) != no && t.Annotations[Keeps] != "everything" {
			takers = append(takers, t)
		}
	}
	return takers
}

// ticks adds what ping sources bring to the brokers. Each must be taken: that
// a Trigger takes ticks says nothing of whose.
func (c *checker) ticks() {
	for _, p := range c.PingSources {
		object, at := "PingSource "+p.Ref().String(), p.At("spec.sink")
		target, err := Resolve(p.Spec.Sink, p.Namespace)
		switch {
		case err != nil:
			c.find(at, object, "name a Broker by ref", "sink: %v", err)
			continue
		case target.Broker == Ref{}:
			c.find(at, object, "name a Broker by ref, and let a Trigger bring the ticks there",
				"sink: %s is no Broker: a tick that it does not take is lost, without retries and dead letter", target.URL)
			continue
		case c.Broker(target.Broker) == nil:
			c.find(at, object, "name one of "+names(c.Brokers), "sink: Broker %s does not exist", target.Broker)
			continue
		}
		c.add(flow{target.Broker, sourcesv1.PingSourceEventType}, maker{}) // who reads it is said here
		if len(c.Takers(p)) == 0 {
			c.find(p.Where, object, "add a Trigger with the filter exact: {type: "+sourcesv1.PingSourceEventType+", source: "+p.attributes()["source"]+"}",
				"no Trigger of Broker %s takes its ticks", target.Broker)
		}
	}
}
