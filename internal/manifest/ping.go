package manifest

import (
	"maps"
	"path"
	"path/filepath"

	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"

	"github.com/telemesh/telemesh/internal/topology"
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

// Attributes are those of a tick, but for its id and time.
func (p *PingSource) Attributes() map[string]string {
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
		if t.BrokerOf() == p.BrokerOf() && t.Filtering().Takes(topology.Event{Attributes: p.Attributes(), All: true}, nil) != topology.No && t.Annotations[Keeps] != "everything" {
			takers = append(takers, t)
		}
	}
	return takers
}
