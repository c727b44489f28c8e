package manifest

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"knative.dev/serving/pkg/apis/autoscaling"

	"github.com/telemesh/telemesh/internal/function"
)

// woken holds what a function wakes along with its events against what these lead
// to: one that is not named starts only when the event is there, one that is named
// and not reached starts for nothing.
func (c *checker) woken() {
	for _, w := range c.Workloads() {
		text, ok := w.Env["WAKE"]
		if !ok {
			continue
		}
		var want []string
		for _, ref := range c.Downstream(w) {
			want = append(want, "http://"+ref.Name+"."+ref.Namespace+clusterHost)
			c.staysAwake(c.Service(ref), w)
		}
		got := list(text)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			c.find(w.Where, w.Object(), "set it to "+strings.Join(want, ","), "WAKE does not name the Services that its events lead to")
		}
	}
}

// staysAwake: who wakes a Service does not do so again within function.Quiet.
func (c *checker) staysAwake(s *Service, by *Workload) {
	text, ok := s.Spec.Template.Annotations[autoscaling.WindowAnnotationKey]
	if !ok {
		return // a minute, unless the cluster says otherwise
	}
	if window, err := time.ParseDuration(text); err != nil || window <= function.Quiet {
		at := s.At("spec.template.metadata.annotations." + autoscaling.WindowAnnotationKey)
		c.find(at, s.Object(), "make it longer", "%s is %s; %s wakes it, and for %v does not wake it again", autoscaling.WindowAnnotationKey, text, by.Object(), function.Quiet)
	}
}

// Downstream gives the Services that the events of a workload lead to, from Broker
// to Broker, and those that these ask something of: all whose addresses are values
// in their environments, whatever the variables are called. It does not pass a
// Trigger where circles end: behind it is what corrects, and seldom wanted.
func (s Set) Downstream(w *Workload) []Ref {
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
			if t.BrokerOf() != f.broker || reads(t, f.eventType) == no || strings.TrimSpace(t.Annotations[Ends]) != "" {
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
				for _, eventType := range service.emits {
					reach(flow{f.broker, eventType}) // one event is a reply
					reach(flow{service.sink(), eventType})
				}
			}
		}
	}
	for _, eventType := range w.emits {
		reach(flow{w.sink(), eventType})
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b Ref) int { return strings.Compare(a.String(), b.String()) })
}
