package manifest

import (
	"maps"
	"slices"

	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"

	"github.com/telemesh/telemesh/internal/topology"
)

// Filtering is the trigger as package topology has it: what its filters say of
// events of which not everything is known.
func (t *Trigger) Filtering() *topology.Trigger {
	one := &topology.Trigger{Ref: topology.Ref(t.Ref()), Broker: topology.Ref(t.BrokerOf())}
	if len(t.Spec.Filters) > 0 { // they override filter
		one.Filters = filters(t.Spec.Filters)
	} else if t.Spec.Filter != nil {
		for _, name := range slices.Sorted(maps.Keys(t.Spec.Filter.Attributes)) {
			one.Filters = append(one.Filters, topology.Attribute(name, t.Spec.Filter.Attributes[name]))
		}
	}
	return one
}

func filters(all []eventingv1.SubscriptionsAPIFilter) []topology.Filter {
	var out []topology.Filter
	for _, f := range all {
		one := topology.Filter{Exact: f.Exact, Prefix: f.Prefix, Suffix: f.Suffix, All: filters(f.All), Any: filters(f.Any), CESQL: f.CESQL}
		if f.Not != nil {
			one.Not = &filters([]eventingv1.SubscriptionsAPIFilter{*f.Not})[0]
		}
		out = append(out, one)
	}
	return out
}

// Reads says whether the trigger may take events of a type.
func (t *Trigger) Reads(eventType string) bool {
	return t.Filtering().Takes(topology.Event{Attributes: map[string]string{"type": eventType}}, nil) != topology.No
}

// Types are the event types outside of which the trigger reads nothing, or nil
// if its filters do not say so.
func (t *Trigger) Types() []string { return t.Filtering().Types() }
