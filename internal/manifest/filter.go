package manifest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/cloudevents/sdk-go/v2/event"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/eventing/pkg/eventfilter"
	"knative.dev/eventing/pkg/eventfilter/attributes"
	"knative.dev/eventing/pkg/eventfilter/subscriptionsapi"

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

// NewFilter makes the filter of a trigger: filters override filter, as in
// knative.dev/eventing/pkg/broker/filter. What a filter says of an event is
// Knative's code; what all and any make of several is not, since Knative's
// (v0.50.0) sort themselves in goroutines that race with their use.
func NewFilter(spec eventingv1.TriggerSpec) (eventfilter.Filter, error) {
	switch {
	case len(spec.Filters) > 0:
		return newAll(spec.Filters)
	case spec.Filter != nil:
		return attributes.NewAttributesFilter(spec.Filter.Attributes), nil
	}
	return subscriptionsapi.NewNoFilter(), nil
}

func newDialect(f eventingv1.SubscriptionsAPIFilter) (eventfilter.Filter, error) {
	switch {
	case len(f.Exact) > 0:
		return subscriptionsapi.NewExactFilter(f.Exact)
	case len(f.Prefix) > 0:
		return subscriptionsapi.NewPrefixFilter(f.Prefix)
	case len(f.Suffix) > 0:
		return subscriptionsapi.NewSuffixFilter(f.Suffix)
	case len(f.All) > 0:
		return newAll(f.All)
	case len(f.Any) > 0:
		filters, err := newDialects(f.Any)
		return anyOf(filters), err
	case f.Not != nil:
		not, err := newDialect(*f.Not)
		return subscriptionsapi.NewNotFilter(not), err
	case f.CESQL != "":
		return subscriptionsapi.NewCESQLFilter(f.CESQL)
	}
	return subscriptionsapi.NewNoFilter(), nil
}

func newDialects(list []eventingv1.SubscriptionsAPIFilter) ([]eventfilter.Filter, error) {
	filters := make([]eventfilter.Filter, len(list))
	for i, f := range list {
		var err error
		if filters[i], err = newDialect(f); err != nil {
			return nil, fmt.Errorf("filter %d: %w", i, err)
		}
	}
	return filters, nil
}

func newAll(list []eventingv1.SubscriptionsAPIFilter) (eventfilter.Filter, error) {
	filters, err := newDialects(list)
	if len(filters) == 1 {
		return filters[0], err
	}
	return allOf(filters), err
}

type allOf []eventfilter.Filter

func (all allOf) Filter(ctx context.Context, e event.Event) eventfilter.FilterResult {
	out := eventfilter.NoFilter
	for _, f := range all {
		if out = f.Filter(ctx, e); out == eventfilter.FailFilter {
			return out
		}
	}
	return out
}

func (allOf) Cleanup() {}

type anyOf []eventfilter.Filter

func (some anyOf) Filter(ctx context.Context, e event.Event) eventfilter.FilterResult {
	out := eventfilter.NoFilter
	for _, f := range some {
		if out = f.Filter(ctx, e); out == eventfilter.PassFilter {
			return out
		}
	}
	return out
}

func (anyOf) Cleanup() {}
