package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	eventingduckv1 "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	duckv1 "knative.dev/pkg/apis/duck/v1"
	"sigs.k8s.io/yaml"

	"github.com/telemesh/telemesh/internal/dataset"
)

// filterCase is a filter of a Trigger and whether it lets an event pass.
type filterCase struct {
	name    string
	filters []eventingv1.SubscriptionsAPIFilter
	filter  *eventingv1.TriggerFilter
	event   attributes // besides those that every event has
	passes  bool
}

type attributes = map[string]string

type filter = eventingv1.SubscriptionsAPIFilter

func exact(name, value string) filter  { return filter{Exact: attributes{name: value}} }
func prefix(name, value string) filter { return filter{Prefix: attributes{name: value}} }
func suffix(name, value string) filter { return filter{Suffix: attributes{name: value}} }
func cesql(expression string) filter   { return filter{CESQL: expression} }
func all(list ...filter) filter        { return filter{All: list} }
func anyOf(list ...filter) filter      { return filter{Any: list} }
func not(f filter) filter              { return filter{Not: &f} }
func legacy(a attributes) *eventingv1.TriggerFilter {
	return &eventingv1.TriggerFilter{Attributes: eventingv1.TriggerFilterAttributes(a)}
}

// filterCases are about an event of type a.b.c with the extension tenantid t1,
// unless they say more.
var filterCases = []filterCase{
	{name: "none", passes: true},
	{name: "exact", filters: []filter{exact("type", "a.b.c")}, passes: true},
	{name: "exact, other", filters: []filter{exact("type", "a.b")}},
	{name: "exact, other case of letters", filters: []filter{exact("type", "A.b.c")}},
	{name: "exact, two attributes", filters: []filter{{Exact: attributes{"type": "a.b.c", "tenantid": "t1"}}}, passes: true},
	{name: "exact, two attributes, one fails", filters: []filter{{Exact: attributes{"type": "a.b.c", "tenantid": "t2"}}}},
	{name: "exact, subject beyond ASCII", filters: []filter{exact("subject", "größe & 50 %")}, event: attributes{"subject": "größe & 50 %"}, passes: true},
	{name: "two filters, one fails", filters: []filter{exact("type", "a.b.c"), exact("tenantid", "t2")}},
	{name: "two filters of two dialects", filters: []filter{prefix("type", "a."), suffix("tenantid", "1")}, passes: true},
	{name: "prefix", filters: []filter{prefix("type", "a.")}, passes: true},
	{name: "prefix, the whole", filters: []filter{prefix("type", "a.b.c")}, passes: true},
	{name: "prefix, other", filters: []filter{prefix("type", "b.")}},
	{name: "prefix, missing attribute", filters: []filter{prefix("missing", "a")}},
	{name: "suffix", filters: []filter{suffix("type", ".c")}, passes: true},
	{name: "suffix, longer than the value", filters: []filter{suffix("type", "a.a.b.c")}},
	{name: "suffix, missing attribute", filters: []filter{suffix("missing", "c")}},
	{name: "all", filters: []filter{all(exact("type", "a.b.c"), exact("tenantid", "t1"))}, passes: true},
	{name: "all, one fails", filters: []filter{all(exact("type", "a.b.c"), exact("tenantid", "t2"))}},
	{name: "any", filters: []filter{anyOf(exact("type", "x"), exact("tenantid", "t1"))}, passes: true},
	{name: "any, the first", filters: []filter{anyOf(exact("tenantid", "t1"), exact("type", "x"))}, passes: true},
	{name: "any of types", filters: []filter{anyOf(exact("type", "x"), exact("type", "a.b.c"))}, passes: true},
	{name: "any, none", filters: []filter{anyOf(exact("type", "x"), exact("type", "y"))}},
	{name: "not", filters: []filter{not(exact("tenantid", "t2"))}, passes: true},
	{name: "not, equal", filters: []filter{not(exact("tenantid", "t1"))}},
	{name: "not, missing attribute", filters: []filter{not(exact("missing", "t1"))}, passes: true},
	{name: "not of all of any", filters: []filter{not(all(prefix("type", "a."), anyOf(exact("tenantid", "t2"), suffix("tenantid", "1"))))}},
	{name: "not of not", filters: []filter{not(not(cesql("tenantid = 't1'")))}, passes: true},
	{name: "CESQL", filters: []filter{cesql("type LIKE 'a.%' AND tenantid IN ('t1', 't2')")}, passes: true},
	{name: "CESQL, number in a text", filters: []filter{cesql("number > 5")}, event: attributes{"number": "7"}, passes: true},
	{name: "CESQL, EXISTS", filters: []filter{cesql("EXISTS missing AND missing = 'x'")}},
	{name: "CESQL, missing attribute", filters: []filter{cesql("missing <> 'x'")}},
	{name: "CESQL, missing attribute or true", filters: []filter{cesql("missing = 'x' OR TRUE")}},
	{name: "not of CESQL with a missing attribute", filters: []filter{not(cesql("missing = 'x'"))}, passes: true},
	{name: "filters override filter", filter: legacy(attributes{"type": "x"}), filters: []filter{exact("type", "a.b.c")}, passes: true},
	{name: "filters override filter that would pass", filter: legacy(attributes{"type": "a.b.c"}), filters: []filter{exact("type", "x")}},
	{name: "empty filters do not override", filter: legacy(attributes{"type": "x"}), filters: []filter{}},
	{name: "attributes", filter: legacy(attributes{"type": "a.b.c", "tenantid": ""}), passes: true},
	{name: "attributes, missing", filter: legacy(attributes{"missing": ""})},
	{name: "attributes, none", filter: legacy(attributes{}), passes: true},
}

// manyTriggers is how many a Broker has at least.
const manyTriggers = 60

// filters has a Trigger for each filter, all of one Broker, and sends each
// different event once.
func filters(s *setup) func(*testing.T) {
	cases := slices.Clone(filterCases)
	for i := range cases {
		about := attributes{"type": "a.b.c", "tenantid": "t1"}
		for name, value := range cases[i].event {
			about[name] = value
		}
		cases[i].event = about
	}
	s.t.Run("data sets", func(t *testing.T) {
		cases = append(cases, together("knative", knativeTables(t))...)
		cases = append(cases, together("subscriptions", subscriptionsExamples(t))...)
		cases = append(cases, tck(t)...)
	})
	got := s.serve(nil)
	b := s.broker(nil)
	triggers := map[string]string{} // by filter: the path of its subscriber
	path := func(c filterCase) string {
		key, err := json.Marshal([]any{c.filter, c.filters})
		if err != nil {
			s.t.Fatal(err)
		}
		if triggers[string(key)] == "" {
			triggers[string(key)] = "/" + strconv.Itoa(len(triggers))
		}
		return triggers[string(key)]
	}
	add := func(c filterCase) {
		before := len(triggers)
		if to := path(c); len(triggers) > before {
			b.trigger(to[1:], got.address+to, func(s *eventingv1.TriggerSpec) { s.Filters, s.Filter = c.filters, c.filter })
		}
	}
	for _, c := range cases {
		add(c)
	}
	for i := 0; len(triggers) < manyTriggers; i++ {
		c := filterCase{name: "one more", filters: []filter{exact("more", strconv.Itoa(i))}, event: attributes{"more": strconv.Itoa(i % 5)}, passes: i < 5}
		cases = append(cases, c)
		add(c)
	}
	return func(t *testing.T) {
		ids := map[string]string{} // by the attributes of an event
		var events []event.Event
		id := func(c filterCase) string {
			key := fmt.Sprint(c.event) // in the order of the names
			if ids[key] == "" {
				e := newEvent("event", "t")
				for name, value := range c.event {
					set(t, &e, name, value)
				}
				ids[key] = strconv.Itoa(len(ids))
				e.SetExtension("suite", ids[key]) // the case may say which id it has
				events = append(events, e)
			}
			return ids[key]
		}
		for _, c := range cases {
			id(c)
		}
		// Knative's channels in memory may say that a Trigger is ready seconds before
		// they deliver to it. What comes of an event that is posted again is the same.
		var faults []string
		for range 5 {
			b.post(t, events...)
			b.settle(t)
			passed := map[string]bool{}
			for _, r := range got.all() {
				passed[r.path+" "+fmt.Sprint(r.event.Extensions()["suite"])] = true
			}
			faults = nil
			missing := false
			for _, c := range cases {
				if passes := passed[path(c)+" "+id(c)]; passes != c.passes {
					missing = missing || c.passes
					filter, _ := json.Marshal(append(slices.Clone(c.filters), filter{}))
					faults = append(faults, fmt.Sprintf("%s: passes is %v, want %v: %s of %v", c.name, passes, c.passes, filter[:min(len(filter), 500)], c.event))
				}
			}
			if !missing {
				break
			}
		}
		for _, fault := range faults {
			t.Error(fault)
		}
		t.Logf("%d cases, %d Triggers, %d events", len(cases), len(triggers), len(events))
	}
}

func set(t testing.TB, e *event.Event, name, value string) {
	t.Helper()
	switch name {
	case "specversion":
	case "id":
		e.SetID(value)
	case "type":
		e.SetType(value)
	case "source":
		e.SetSource(value)
	case "subject":
		e.SetSubject(value)
	case "time":
		at, err := time.Parse(time.RFC3339, value)
		if err != nil {
			t.Fatal(err)
		}
		e.SetTime(at)
	default:
		e.SetExtension(name, value)
	}
}

// together has the filters of a list in one: a Trigger costs a cluster more than an
// event does. The extension testcase says whose case an event is. Attributes of the
// legacy filter cannot be nested, and stay by themselves.
func together(list string, cases []filterCase) []filterCase {
	var parts []filter
	for i, c := range cases {
		if c.filter == nil {
			cases[i].event = maps.Clone(c.event)
			cases[i].event["testcase"] = list + strconv.Itoa(i)
			parts = append(parts, all(append([]filter{exact("testcase", list+strconv.Itoa(i))}, c.filters...)...))
		}
	}
	for i, c := range cases {
		if c.filter == nil {
			cases[i].filters = []filter{anyOf(parts...)}
		}
	}
	return cases
}

// knativeTables are the tables of Knative's own tests of its filters.
func knativeTables(t *testing.T) (cases []filterCase) {
	var file struct {
		Dialects map[string][]struct {
			Name   string
			Filter struct {
				eventingv1.SubscriptionsAPIFilter
				Attributes attributes `json:"attributes"`
			}
			Event map[string]any
			Want  string
		}
	}
	read(t, dataset.Path(t, "cloudevents/knative-trigger-filters/cases.json"), &file)
	for dialect, list := range file.Dialects {
		for _, c := range list {
			one := filterCase{name: dialect + ": " + c.Name, event: attributes{}, passes: c.Want != "fail"}
			if c.Filter.Attributes != nil {
				one.filter = legacy(c.Filter.Attributes)
			} else {
				one.filters = []filter{c.Filter.SubscriptionsAPIFilter}
			}
			for name, value := range c.Event {
				if s, ok := value.(string); ok { // the TTL is the ingress' own matter
					one.event[name] = s
				}
			}
			cases = append(cases, one)
		}
	}
	if len(cases) < 20 {
		t.Fatalf("%d cases of Knative's, want 20 or more", len(cases))
	}
	return cases
}

// subscriptionsExamples are the filters that the CloudEvents Subscriptions API
// gives as examples, with two events that tell them apart.
func subscriptionsExamples(t *testing.T) (cases []filterCase) {
	dir := dataset.Path(t, "cloudevents/subscriptions-filters")
	push := attributes{"type": "com.github.push", "source": "https://github.com/cloudevents/spec", "subject": "https://github.com/cloudevents/spec"}
	created := attributes{"type": "com.example.object.created", "source": "/other", "subject": "https://example.com/cloudevents/spec"}
	for name, passes := range map[string][2]bool{
		"example-01": {false, true}, "example-02": {true, false}, "example-03": {true, false}, "example-04": {false, true},
		"example-05": {true, false}, "example-06": {true, false}, "example-07": {false, true}, "example-08": {true, false},
	} {
		var example struct {
			filter
			SQL     string // Knative calls the dialect cesql
			Filters []filter
		}
		read(t, filepath.Join(dir, name+".json"), &example)
		filters := example.Filters
		if example.CESQL = example.SQL; filters == nil {
			filters = []filter{example.filter}
		}
		for i, e := range []attributes{push, created} {
			cases = append(cases, filterCase{name: fmt.Sprintf("Subscriptions API, %s, event %d", name, i), filters: filters, event: e, passes: passes[i]})
		}
	}
	return cases
}

// tck is the conformance kit of CESQL. Its expressions stand in one expression per
// file. The extension testcase says which of them is evaluated.
func tck(t *testing.T) (cases []filterCase) {
	for _, name := range tckFiles(t) {
		var parts []string
		var events []filterCase
		file := tckFile(t, name)
		for i, test := range file.Tests {
			if test.Error == "parse" {
				continue // refused tests these
			}
			about := attributes{"testcase": strconv.Itoa(i)}
			typed := false
			for _, more := range []map[string]any{test.Event, test.EventOverrides} {
				for attribute, value := range more {
					if _, is := value.(string); !is {
						typed = true // on the wire it is a text
					}
					about[attribute] = fmt.Sprint(value)
				}
			}
			expression := "(" + test.Expression + ")"
			passes := test.Error == ""
			if result, is := test.Result.(bool); is && !typed {
				passes = passes && result
			} else {
				expression = fmt.Sprintf("(%s = %s)", expression, literal(test.Result))
			}
			parts = append(parts, fmt.Sprintf("(testcase = '%d' AND %s)", i, expression))
			events = append(events, filterCase{name: file.Name + ": " + test.Name, event: about, passes: passes})
		}
		if parts == nil {
			continue
		}
		filters := []filter{cesql("EXISTS testcase AND (" + strings.Join(parts, " OR ") + ")")}
		for _, c := range events {
			c.filters = filters
			cases = append(cases, c)
		}
	}
	if len(cases) < 100 {
		t.Fatalf("%d cases of the TCK, want 100 or more", len(cases))
	}
	return cases
}

func literal(value any) string {
	if s, ok := value.(string); ok {
		if at, err := time.Parse(time.RFC3339, s); err == nil {
			s = at.UTC().Format(time.RFC3339) // as brokers write instants
		}
		return "'" + strings.ReplaceAll(s, "'", `\'`) + "'"
	}
	if f, ok := value.(float64); ok {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

type tckTests struct {
	Name  string
	Tests []struct {
		Name, Expression, Error string
		Result                  any
		Event, EventOverrides   map[string]any
	}
}

func tckFiles(t *testing.T) []string {
	names, err := filepath.Glob(filepath.Join(dataset.Path(t, "cloudevents/cesql-tck"), "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func tckFile(t *testing.T, name string) (tests tckTests) {
	read(t, name, &tests)
	return tests
}

// read reads YAML or JSON.
func read(t *testing.T, name string, out any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err == nil {
		err = yaml.Unmarshal(data, out)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// refused holds which Triggers are none.
func refused(t *testing.T, target Target, except map[Claim]Exception) {
	to := at(t, "http://example.com/")
	filtered := func(filters ...filter) func(*eventingv1.TriggerSpec) {
		return func(s *eventingv1.TriggerSpec) { s.Filters = filters }
	}
	delivered := func(change func(*eventingduckv1.DeliverySpec)) func(*eventingv1.TriggerSpec) {
		return func(s *eventingv1.TriggerSpec) {
			s.Delivery = retries(1)
			change(s.Delivery)
		}
	}
	text := func(s string) *string { return &s }
	cases := map[string]func(*eventingv1.TriggerSpec){
		"CESQL that does not parse":       filtered(cesql("ABC(")),
		"CESQL with no operand":           filtered(cesql("type = ")),
		"CESQL, deep":                     filtered(all(exact("type", "t"), not(anyOf(cesql("type LIKE"))))),
		"two dialects in one filter":      filtered(filter{Exact: attributes{"type": "t"}, Prefix: attributes{"type": "t"}}),
		"attribute with a capital":        filtered(exact("tenantId", "t")),
		"attribute with a sign":           filtered(not(prefix("tenant-id", "t"))),
		"attribute of the legacy filter":  func(s *eventingv1.TriggerSpec) { s.Filter = legacy(attributes{"tenant_id": "t"}) },
		"no Broker":                       func(s *eventingv1.TriggerSpec) { s.Broker = "" },
		"no subscriber":                   func(s *eventingv1.TriggerSpec) { s.Subscriber = duckv1.Destination{} },
		"subscriber by relative uri":      func(s *eventingv1.TriggerSpec) { s.Subscriber.URI.Scheme, s.Subscriber.URI.Host = "", "" },
		"negative retries":                delivered(func(d *eventingduckv1.DeliverySpec) { *d.Retry = -1 }),
		"unknown backoff policy":          delivered(func(d *eventingduckv1.DeliverySpec) { *d.BackoffPolicy = "random" }),
		"backoff delay of another format": delivered(func(d *eventingduckv1.DeliverySpec) { d.BackoffDelay = text("1s") }),
		"timeout zero":                    delivered(func(d *eventingduckv1.DeliverySpec) { d.Timeout = text("PT0S") }),
		"unknown format": delivered(func(d *eventingduckv1.DeliverySpec) {
			*d = eventingduckv1.DeliverySpec{Format: (*eventingduckv1.FormatType)(text("xml"))}
		}),
		"sink by relative uri": delivered(func(d *eventingduckv1.DeliverySpec) {
			d.DeadLetterSink = to.DeepCopy()
			d.DeadLetterSink.URI.Scheme, d.DeadLetterSink.URI.Host = "", ""
		}),
	}
	t.Run("data set", func(t *testing.T) {
		for _, name := range tckFiles(t) {
			for _, test := range tckFile(t, name).Tests {
				if test.Error == "parse" {
					cases["CESQL of the TCK: "+test.Name] = filtered(cesql(test.Expression))
				}
			}
		}
	})
	claims := map[string]Claim{"exact, empty value": RefusesEmptyValues}
	cases["exact, empty value"] = filtered(exact("type", ""))
	cases["none of these"] = filtered(exact("type", "t"))
	var names []string
	var triggers []*eventingv1.Trigger
	for name, change := range cases {
		names = append(names, name)
		triggers = append(triggers, newTrigger("default", "refused-"+strconv.Itoa(len(names)), *to.DeepCopy(), change))
	}
	for i, cause := range target.Refused(t, triggers) {
		name := names[i]
		switch {
		case claims[name] != "" && cause == "":
			judge(t, except, claims[name], name+" is taken")
		case claims[name] != "":
			judge(t, except, claims[name], "")
		case name == "none of these":
			if cause != "" {
				t.Errorf("a plain Trigger is refused: %s", cause)
			}
		case cause == "":
			t.Errorf("%s: the Trigger is taken, want it refused", name)
		}
	}
}
