package manifest

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Downstream gives the Services that the events of a workload lead to, from Broker
// to Broker, and those that these ask something of: all whose addresses are values
// in their environments, whatever the variables are called. It does not pass a
// Trigger where circles end: behind it is what corrects, and seldom wanted. Nor does it
// pass one that says that it is Seldom.
func (s Set) Downstream(w *Workload) []Ref {
	type flow struct {
		broker    Ref
		eventType string
	}
	found := map[Ref]bool{}
	seen := map[flow]bool{}
	var reach func(flow)
	var wake func(Ref)
	wake = func(ref Ref) {
		service := s.Service(ref)
		if service == nil || found[ref] {
			return
		}
		found[ref] = true
		for name, value := range service.Env {
			if u, err := url.Parse(value); err == nil && name != "WAKE" {
				wake(TargetOf(u).Service)
			}
		}
	}
	reach = func(f flow) {
		if seen[f] {
			return
		}
		seen[f] = true
		for _, t := range s.Triggers {
			if t.BrokerOf() != f.broker || !t.Reads(f.eventType) || strings.TrimSpace(t.Annotations[Ends]) != "" || strings.TrimSpace(t.Annotations[Seldom]) != "" {
				continue
			}
			target, err := Resolve(t.Spec.Subscriber, t.Namespace)
			if err != nil {
				continue
			}
			if s.Broker(target.Broker) != nil {
				reach(flow{target.Broker, f.eventType})
			} else if service := s.Service(target.Service); service != nil {
				wake(target.Service)
				for _, eventType := range service.Emits {
					reach(flow{f.broker, eventType}) // one event is a reply
					reach(flow{service.Sink(), eventType})
				}
			}
		}
	}
	for _, eventType := range w.Emits {
		reach(flow{w.Sink(), eventType})
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b Ref) int { return strings.Compare(a.String(), b.String()) })
}
