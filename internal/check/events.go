package check

import (
	"maps"
	"slices"
	"strings"

	sourcesv1 "knative.dev/eventing/pkg/apis/sources/v1"

	"github.com/telemesh/telemesh/internal/manifest"
)

// flow is a type of event on a broker.
type flow struct {
	broker    manifest.Ref
	eventType string
}

// maker is what brings events of a type to a broker. manifest.Outputs have no object.
type maker struct {
	where    manifest.Where
	object   string
	workload *manifest.Workload
	trigger  *manifest.Trigger // that brings them from another Broker
}

// emitted collects what enters each broker: the outputs, and what functions
// make. A reply goes to the broker whose Trigger woke the Service, several
// events at once to K_SINK.
func (c *checker) emitted() {
	for _, b := range c.Brokers {
		for _, eventType := range manifest.List(b.Annotations[manifest.Outputs]) {
			c.add(flow{b.Ref(), eventType}, maker{})
		}
	}
	for _, s := range c.Workloads() {
		if len(s.Emits) == 0 {
			continue
		}
		object := s.Object()
		at := s.At("metadata.annotations." + manifest.Emits)
		into := map[manifest.Ref]bool{}
		for _, t := range c.Triggers {
			if target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace); err == nil && "Service "+target.Service.String() == object {
				into[t.BrokerOf()] = true
			}
		}
		if sink := s.Sink(); sink != (manifest.Ref{}) {
			if c.Broker(sink) == nil {
				c.find(s.Where, object, "broker-missing", "name one of "+names(c.Brokers), "K_SINK: Broker %s does not exist", sink)
			} else {
				if len(into) > 0 && !into[sink] {
					c.find(s.Where, object, "replies-split", "make K_SINK the ingress of the Broker that wakes it",
						"one event goes as a reply to another Broker than several events, which go to K_SINK (%s)", sink)
				}
				into[sink] = true
			}
		}
		if len(into) == 0 {
			c.find(at, object, "emits-nowhere", "add a Trigger that wakes it, set K_SINK to a Broker's ingress, or remove the annotation",
				"emits %s and reaches no Broker", strings.Join(s.Emits, ", "))
		}
		for broker := range into {
			for _, eventType := range s.Emits {
				c.add(flow{broker, eventType}, maker{where: at, object: object, workload: s})
			}
		}
	}
}

func (c *checker) add(f flow, m maker) {
	for _, known := range c.flows[f] {
		if known.object == m.object {
			return
		}
	}
	c.flows[f] = append(c.flows[f], m)
}

// forwarded adds what Triggers bring from one broker to another, until
// nothing new comes of it.
func (c *checker) forwarded() {
	for grown := true; grown; {
		grown = false
		for _, t := range c.Triggers {
			target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace)
			if err != nil || c.Broker(target.Broker) == nil {
				continue
			}
			for f := range maps.Clone(c.flows) {
				to := flow{target.Broker, f.eventType}
				if f.broker == t.BrokerOf() && t.Reads(f.eventType) && len(c.flows[to]) == 0 {
					c.add(to, maker{where: t.At("spec.subscriber"), object: "Trigger " + t.Ref().String(), trigger: t})
					grown = true
				}
			}
		}
	}
}

// read holds what is made against what is read.
func (c *checker) read() {
	isRead := map[flow]bool{}
	for _, t := range c.Triggers {
		broker := c.Broker(t.BrokerOf())
		if broker == nil {
			continue // found already
		}
		object := "Trigger " + t.Ref().String()
		any := false
		for f := range c.flows {
			if f.broker == broker.Ref() && t.Reads(f.eventType) {
				isRead[f], any = isRead[f] || t.Annotations[manifest.Keeps] != "everything", true
			}
		}
		const fix = "correct the type, declare it in " + manifest.Emits + " of the Service or Deployment that makes it, or in " + manifest.Outputs + " of the Broker if it comes from outside"
		named := t.Types()
		for _, eventType := range named {
			if len(c.flows[flow{broker.Ref(), eventType}]) == 0 {
				c.find(t.At(filterField(t)), object, "type-unmade", fix, "reads %s, which nobody brings to Broker %s", eventType, broker.Ref())
			}
		}
		if !any && len(named) == 0 {
			c.find(t.At(filterField(t)), object, "trigger-idle", fix, "reads nothing of what is brought to Broker %s", broker.Ref())
		}
	}
	for f, makers := range c.flows {
		if isRead[f] || slices.ContainsFunc(makers, func(m maker) bool { return m.object == "" }) {
			continue
		}
		for _, m := range makers {
			c.find(m.where, m.object, "type-unread", "add a Trigger that reads it, or declare it in "+manifest.Outputs+" of the Broker",
				"brings %s to Broker %s, where nobody reads it", f.eventType, f.broker)
		}
	}
}

func filterField(t *manifest.Trigger) string {
	if len(t.Spec.Filters) > 0 {
		return "spec.filters"
	}
	return "spec.filter"
}

// cycles follows each type through the functions it wakes to the types they
// make. It does not pass a Trigger where circles end.
func (c *checker) cycles() {
	next := map[flow]map[flow]*manifest.Trigger{}
	for f := range c.flows {
		next[f] = map[flow]*manifest.Trigger{}
		for _, t := range c.Triggers {
			if t.BrokerOf() != f.broker || !t.Reads(f.eventType) || strings.TrimSpace(t.Annotations[manifest.Ends]) != "" {
				continue
			}
			target, err := manifest.Resolve(t.Spec.Subscriber, t.Namespace)
			if err != nil {
				continue
			}
			if c.Broker(target.Broker) != nil {
				next[f][flow{target.Broker, f.eventType}] = t
			} else if s := c.Service(target.Service); s != nil {
				for to, makers := range c.flows {
					if slices.ContainsFunc(makers, func(m maker) bool { return m.object == s.Object() }) {
						next[f][to] = t
					}
				}
			}
		}
	}
	const onPath, done = 1, 2
	state := map[flow]int{}
	var path []flow
	var visit func(flow)
	visit = func(f flow) {
		state[f] = onPath
		path = append(path, f)
		for _, to := range slices.SortedFunc(maps.Keys(next[f]), compareFlows) {
			switch state[to] {
			case onPath:
				var round []string
				for _, p := range append(path[slices.Index(path, to):], to) {
					round = append(round, p.eventType+" on "+p.broker.String())
				}
				t := next[f][to]
				c.find(t.At("spec.subscriber"), "Trigger "+t.Ref().String(), "cycle", "break the circle with a filter or another type, or say in "+manifest.Ends+" of a Trigger on it why it ends",
					"closes a circle of events that would wake each other for ever: %s", strings.Join(round, " → "))
			case 0:
				visit(to)
			}
		}
		path = path[:len(path)-1]
		state[f] = done
	}
	for _, f := range slices.SortedFunc(maps.Keys(next), compareFlows) {
		if state[f] == 0 {
			visit(f)
		}
	}
}

func compareFlows(a, b flow) int {
	return strings.Compare(a.broker.String()+" "+a.eventType, b.broker.String()+" "+b.eventType)
}

// ticks adds what ping sources bring to the brokers. Each must be taken: that
// a Trigger takes ticks says nothing of whose.
func (c *checker) ticks() {
	for _, p := range c.PingSources {
		object, at := "PingSource "+p.Ref().String(), p.At("spec.sink")
		target, err := manifest.Resolve(p.Spec.Sink, p.Namespace)
		switch {
		case err != nil:
			c.find(at, object, "destination-invalid", "name a Broker by ref", "sink: %v", err)
			continue
		case target.Broker == manifest.Ref{}:
			c.find(at, object, "tick-lost", "name a Broker by ref, and let a Trigger bring the ticks there",
				"sink: %s is no Broker: a tick that it does not take is lost, without retries and dead letter", target.URL)
			continue
		case c.Broker(target.Broker) == nil:
			c.find(at, object, "broker-missing", "name one of "+names(c.Brokers), "sink: Broker %s does not exist", target.Broker)
			continue
		}
		c.add(flow{target.Broker, sourcesv1.PingSourceEventType}, maker{}) // who reads it is said here
		if len(c.Takers(p)) == 0 {
			c.find(p.Where, object, "tick-untaken", "add a Trigger with the filter exact: {type: "+sourcesv1.PingSourceEventType+", source: "+p.Attributes()["source"]+"}",
				"no Trigger of Broker %s takes its ticks", target.Broker)
		}
	}
}

func isTick(f flow) bool { return f.eventType == sourcesv1.PingSourceEventType }
