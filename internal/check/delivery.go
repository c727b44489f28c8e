package check

import (
	"maps"
	"slices"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/manifest"
)

// route is the Triggers that bring an event to a subscriber, one Broker after the other.
type route []*taker

// twice says which events reach a subscriber by two routes.
func (c *checker) twice() {
	said := map[string]bool{}
	for _, f := range slices.SortedFunc(maps.Keys(c.flows), compareFlows) {
		if isTick(f) || !slices.ContainsFunc(c.flows[f], func(m maker) bool { return m.trigger == nil }) {
			continue // Takers says who takes a tick; what is brought begins elsewhere
		}
		to := map[string][]route{}
		c.routes(f, []manifest.Ref{f.broker}, nil, to)
		for _, address := range slices.Sorted(maps.Keys(to)) {
			routes := to[address]
			for i, one := range routes {
				for _, other := range routes[:i] {
					c.both(f, other, one, said)
				}
			}
		}
	}
}

// routes collects the routes on from the last of some Brokers, by the address they lead
// to. One that comes back is a circle, which is found as such.
func (c *checker) routes(f flow, passed []manifest.Ref, so route, to map[string][]route) {
	for _, t := range c.Triggers {
		if t.BrokerOf() != passed[len(passed)-1] || !t.Reads(f.eventType) {
			continue
		}
		target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace)
		filter := filtering(t)
		if err != nil || filter == nil {
			continue
		}
		further := append(slices.Clip(so), filter)
		if c.Broker(target.Broker) != nil {
			if !slices.Contains(passed, target.Broker) {
				c.routes(f, append(slices.Clip(passed), target.Broker), further, to)
			}
			continue
		}
		address := strings.TrimSuffix(target.URL.String(), "/")
		to[address] = append(to[address], further)
	}
}

// both says whether one event goes both routes.
func (c *checker) both(f flow, a, b route, said map[string]bool) {
	var all []*taker
	for _, t := range append(slices.Clip(a), b...) {
		if !slices.ContainsFunc(all, func(other *taker) bool { return other.Trigger == t.Trigger }) {
			all = append(all, t)
		}
	}
	var example *event.Event
	c.produced(f).events(f.eventType, all, false, func(e event.Event) bool {
		for _, t := range all {
			if !t.takes(e) {
				return true
			}
		}
		example = &e
		return false
	})
	last := b[len(b)-1]
	key := last.Ref().String() + a.String()
	if example == nil || said[key] {
		return
	}
	said[key] = true
	c.find(last.At(filterField(last.Trigger)), "Trigger "+last.Ref().String(), "delivered-twice", "let the filter of one of them leave it out, or remove one",
		"brings %s to where %s brings it, too: %s", f.eventType, a, sketch(*example))
}

func (r route) String() string {
	var names []string
	for _, t := range r {
		names = append(names, t.Ref().String())
	}
	if len(names) == 1 {
		return "Trigger " + names[0]
	}
	return "Triggers " + strings.Join(names, " → ")
}
