package local

import (
	"context"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/eventing/pkg/eventfilter"
	"knative.dev/eventing/pkg/eventfilter/attributes"
	"knative.dev/eventing/pkg/eventfilter/subscriptionsapi"
)

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
