package check

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/eventing/pkg/eventfilter"

	"github.com/telemesh/telemesh/internal/cesql"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
)

// What filters take is found by trying: events as their producers make them, with and
// without each attribute that a filter asks for, with the values that it names and
// another one, by the code that Knative filters by.

// common are the extension attributes that any event of a function here may have.
var common = []string{mesh.ExtTraceParent, "tracestate", mesh.ExtPartitionKey, mesh.ExtCauseSource, mesh.ExtCauseID, mesh.ExtVersion}

// produced is what is known of the events of a flow.
type produced struct {
	sources map[string]bool
	sets    map[string]bool // extension attributes that they may have
	open    bool            // events come from outside, with whatever attributes
}

// produced gives what the makers of a flow make. What is declared an output, too, comes
// from them unless there are none.
func (c *checker) produced(f flow) produced {
	p := produced{map[string]bool{}, map[string]bool{}, true}
	for _, name := range common {
		p.sets[name] = true
	}
	seen := map[flow]bool{}
	var collect func(flow)
	collect = func(f flow) {
		if seen[f] {
			return
		}
		seen[f] = true
		for _, m := range c.flows[f] {
			switch {
			case m.workload != nil:
				p.open = false
				if name := m.workload.Function(); name != "" {
					p.sources[mesh.Source(name)] = true
				}
				for _, name := range m.workload.Attributes {
					p.sets[name] = true
				}
			case m.trigger != nil:
				collect(flow{m.trigger.BrokerOf(), f.eventType})
			}
		}
	}
	collect(f)
	if b := c.Broker(f.broker); b != nil {
		if declared, ok := b.Annotations[manifest.Attributes]; ok {
			p.open = false
			for _, name := range manifest.List(declared) {
				p.sets[name] = true
			}
		}
	}
	for _, name := range c.ofTenant[f.eventType] {
		p.sets[name] = true
	}
	return p
}

// optional are the attributes of CloudEvents that an event may lack.
var optional = []string{"subject", "dataschema", "datacontenttype", "time"}

// tries is how many events are tried of one flow; a filter that asks for more is not
// looked into.
const tries = 4096

// events calls yield with events of a flow in which the attributes that are asked for
// differ, until it returns false; false: there are too many to try. Where all is true,
// they may have any attribute.
func (p produced) events(eventType string, filters []*taker, all bool, yield func(event.Event) bool) bool {
	names, values := map[string]bool{}, map[string]map[string]bool{}
	var literals []string
	for _, t := range filters {
		for _, name := range t.Attributes() {
			names[name] = true
		}
		t.values(values, &literals)
	}
	var asked []string
	choices := [][]string{}
	n := 1
	for _, name := range slices.Sorted(maps.Keys(names)) {
		some := slices.Sorted(maps.Keys(values[name]))
		some = append(some, literals...)
		switch {
		case name == "type" || name == "specversion":
			continue
		case name == "source":
			if len(p.sources) > 0 {
				some = slices.Sorted(maps.Keys(p.sources))
			} else {
				some = append([]string{"/outside"}, some...)
			}
		case name == "id":
			some = append([]string{"1"}, some...)
		case name == "time":
			some = []string{"2026-11-21T12:00:00Z", ""}
		case slices.Contains(optional, name) || all || p.open || p.sets[name]:
			some = append([]string{"", "other"}, some...)
		default:
			some = []string{""}
		}
		slices.Sort(some[1:])
		some = slices.Compact(some)
		asked, choices = append(asked, name), append(choices, some)
		if n *= len(some); n > tries {
			return false
		}
	}
	for i := range n {
		e := event.New()
		e.SetID("1")
		e.SetType(eventType)
		e.SetSource("/outside")
		if len(p.sources) > 0 {
			e.SetSource(slices.Min(slices.Collect(maps.Keys(p.sources))))
		}
		for at, rest := 0, i; at < len(asked); at++ {
			if value := choices[at][rest%len(choices[at])]; value != "" {
				set(&e, asked[at], value)
			}
			rest /= len(choices[at])
		}
		if !yield(e) {
			break
		}
	}
	return true
}

var noon = time.Date(2026, time.November, 21, 12, 0, 0, 0, time.UTC)

func set(e *event.Event, name, value string) {
	switch name {
	case "id":
		e.SetID(value)
	case "source":
		e.SetSource(value)
	case "subject":
		e.SetSubject(value)
	case "dataschema":
		e.SetDataSchema(value)
	case "datacontenttype":
		e.SetDataContentType(value)
	case "time":
		e.SetTime(noon)
	default:
		e.SetExtension(name, value)
	}
}

// taker is a trigger, and what it takes by Knative's code.
type taker struct {
	*manifest.Trigger
	filter eventfilter.Filter
}

func (t *taker) takes(e event.Event) bool {
	return t.filter.Filter(context.Background(), e) != eventfilter.FailFilter
}

func (t *taker) Attributes() []string { return t.Filtering().Attributes() }

// filtering makes the filter of a trigger; nil: it is none, which reading it has found.
func filtering(t *manifest.Trigger) *taker {
	filter, err := manifest.NewFilter(t.Spec)
	if err != nil {
		return nil
	}
	return &taker{t, filter}
}

// literal is a value in a CESQL expression.
var literal = regexp.MustCompile(`'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)"|\b([0-9]+)\b`)

// values collects the values that filters compare attributes with, and those of their
// expressions, which may be of any attribute.
func (t *taker) values(of map[string]map[string]bool, literals *[]string) {
	add := func(pairs map[string]string) {
		for name, value := range pairs {
			if of[name] == nil {
				of[name] = map[string]bool{}
			}
			of[name][value] = true
		}
	}
	begins, ends := map[string][]string{}, map[string][]string{}
	var collect func([]eventingv1.SubscriptionsAPIFilter)
	collect = func(filters []eventingv1.SubscriptionsAPIFilter) {
		for _, f := range filters {
			add(f.Exact)
			add(f.Prefix)
			add(f.Suffix)
			collect(f.All)
			collect(f.Any)
			if f.Not != nil {
				collect([]eventingv1.SubscriptionsAPIFilter{*f.Not})
			}
			for name, begin := range f.Prefix {
				begins[name] = append(begins[name], begin)
			}
			for name, end := range f.Suffix {
				ends[name] = append(ends[name], end)
			}
			for _, m := range literal.FindAllStringSubmatch(f.CESQL, -1) {
				*literals = append(*literals, strings.Trim(m[1]+m[2]+m[3], "%"))
				if n, err := strconv.Atoi(m[3]); err == nil { // it may be a bound
					*literals = append(*literals, strconv.Itoa(n-1), strconv.Itoa(n+1))
				}
			}
		}
	}
	collect(t.Spec.Filters)
	for name := range begins {
		for _, begin := range begins[name] {
			for _, end := range ends[name] {
				of[name][begin+end] = true
			}
		}
	}
	if len(t.Spec.Filters) == 0 && t.Spec.Filter != nil {
		add(t.Spec.Filter.Attributes)
	}
}

// ways are the triggers that a trigger is several of: one for each way through its any.
func ways(t *manifest.Trigger) []*manifest.Trigger {
	conjunctions := expand(t.Spec.Filters)
	if len(conjunctions) <= 1 || len(conjunctions) > 64 {
		return []*manifest.Trigger{t}
	}
	var all []*manifest.Trigger
	for _, filters := range conjunctions {
		one := *t
		one.Spec.Filters = filters
		all = append(all, &one)
	}
	return all
}

func expand(filters []eventingv1.SubscriptionsAPIFilter) [][]eventingv1.SubscriptionsAPIFilter {
	out := [][]eventingv1.SubscriptionsAPIFilter{nil}
	for _, f := range filters {
		parts := [][]eventingv1.SubscriptionsAPIFilter{{f}}
		switch {
		case len(f.All) > 0:
			parts = expand(f.All)
		case len(f.Any) > 0:
			parts = nil
			for _, one := range f.Any {
				parts = append(parts, expand([]eventingv1.SubscriptionsAPIFilter{one})...)
			}
		}
		var next [][]eventingv1.SubscriptionsAPIFilter
		for _, before := range out {
			for _, part := range parts {
				next = append(next, append(slices.Clip(before), part...))
			}
		}
		out = next
	}
	return out
}

// untrue says which filters no event passes, though events of their types come, and
// which fail for some that they should take.
func (c *checker) untrue() {
	for _, t := range c.Triggers {
		for _, way := range ways(t) {
			c.passable(t, way)
		}
		c.failing(t)
	}
}

// readBy gives the flows that a trigger reads by their types.
func (c *checker) readBy(t *manifest.Trigger) []flow {
	var all []flow
	for f := range c.flows {
		if f.broker == t.BrokerOf() && t.Reads(f.eventType) {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, compareFlows)
	return all
}

func (c *checker) passable(t, way *manifest.Trigger) {
	filter := filtering(way)
	flows := c.readBy(way)
	if filter == nil || len(flows) == 0 {
		return // found already
	}
	one := []*taker{filter}
	var example *event.Event // that does not pass
	for _, f := range flows {
		if isTick(f) {
			return // Takers says who takes it
		}
		passed := false
		whole := c.produced(f).events(f.eventType, one, false, func(e event.Event) bool {
			if passed = filter.takes(e); !passed && (example == nil || len(e.Extensions()) > len(example.Extensions())) {
				example = &e
			}
			return !passed
		})
		if passed || !whole {
			return
		}
	}
	object := "Trigger " + t.Ref().String()
	p := c.produced(flows[0])
	if example == nil {
		return
	}
	could := false
	p.events(flows[0].eventType, one, true, func(e event.Event) bool {
		could = filter.takes(e)
		return !could
	})
	var unset []string
	for _, name := range filter.Attributes() {
		if known := slices.Contains(optional, name) || slices.Contains([]string{"type", "source", "id", "specversion"}, name); !known && !p.sets[name] {
			unset = append(unset, name)
		}
	}
	if could && len(unset) > 0 {
		c.find(t.At(filterField(t)), object, "attribute-unset",
			"correct the name, or set it and declare it in "+manifest.Attributes+" of "+c.makersOf(flows[0]),
			"asks for %s, which nobody sets in events of %s on Broker %s: it does not take %s",
			strings.Join(unset, ", "), flows[0].eventType, flows[0].broker, sketch(*example))
		return
	}
	c.find(t.At(filterField(t)), object, "filter-never-true", "correct the filter, or remove this part of it",
		"%s takes no event that there can be: it does not take %s", way.Filtering().FilterText(), sketch(*example))
}

// makersOf names who makes the events of a flow.
func (c *checker) makersOf(f flow) string {
	var names []string
	for _, m := range c.flows[f] {
		switch {
		case m.workload != nil:
			names = append(names, m.object)
		case m.trigger != nil:
			return c.makersOf(flow{m.trigger.BrokerOf(), f.eventType})
		}
	}
	if names == nil {
		return "Broker " + f.broker.String()
	}
	return strings.Join(names, ", ")
}

// failing says which expressions have no value for events that lack an attribute, and
// are true of those that have another value in it.
func (c *checker) failing(t *manifest.Trigger) {
	for _, text := range expressions(t.Spec.Filters) {
		one := &manifest.Trigger{Where: t.Where}
		one.Spec.Filters = []eventingv1.SubscriptionsAPIFilter{{CESQL: text}}
		filter := filtering(one)
		x, err := cesql.Parse(text)
		if filter == nil || err != nil {
			continue
		}
		for _, f := range c.readBy(t) {
			var fails *event.Event
			matches := false
			c.produced(f).events(f.eventType, []*taker{filter}, false, func(e event.Event) bool {
				before := x.Failed
				if x.Matches(e) {
					matches = matches || hasOther(e)
				} else if x.Failed > before && fails == nil {
					fails = &e
				}
				return true
			})
			if fails != nil && matches {
				c.find(t.At(filterField(t)), "Trigger "+t.Ref().String(), "filter-fails", "say what becomes of events without it: NOT (EXISTS name) OR …, or EXISTS name AND …",
					"%s has no value for an event without the attribute, and so does not take %s", text, sketch(*fails))
				break
			}
		}
	}
}

// hasOther says whether an attribute has the value that no filter names.
func hasOther(e event.Event) bool {
	for _, v := range e.Extensions() {
		if v == "other" {
			return true
		}
	}
	return e.Subject() == "other"
}

func expressions(filters []eventingv1.SubscriptionsAPIFilter) []string {
	var all []string
	for _, f := range filters {
		if f.CESQL != "" {
			all = append(all, f.CESQL)
		}
		all = append(all, expressions(append(slices.Clip(f.All), f.Any...))...)
		if f.Not != nil {
			all = append(all, expressions([]eventingv1.SubscriptionsAPIFilter{*f.Not})...)
		}
	}
	return all
}

// sketch writes the attributes of an event by which it is told from others.
func sketch(e event.Event) string {
	parts := []string{"type: " + e.Type(), "source: " + e.Source()}
	if e.Subject() != "" {
		parts = append(parts, "subject: "+e.Subject())
	}
	for _, name := range slices.Sorted(maps.Keys(e.Extensions())) {
		parts = append(parts, fmt.Sprintf("%s: %v", name, e.Extensions()[name]))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
