package manifest

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"knative.dev/eventing/pkg/apis/eventing"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	duckv1 "knative.dev/pkg/apis/duck/v1"
)

// Annotations, and a label, by which manifests say what no field of Knative says.
// Emits and Outputs hold event types, separated by commas.
const (
	// Emits, on a Service or a Deployment: the types that the function makes.
	Emits = "telemesh.dev/emits"
	// Outputs, on a Broker: the types that are output ports of its domain's
	// products. Nobody here has to read them, and they may come from outside.
	Outputs = "telemesh.dev/outputs"
	// Keeps, on a Trigger, is "everything": its subscriber keeps whatever comes and
	// makes nothing of it, so that what it alone reads is read by nobody. Or it is
	// "nothing": what cannot be delivered is not worth keeping, as a tick is not
	// that another one follows.
	Keeps = "telemesh.dev/keeps"
	// Ends, on a Trigger, says why a circle of events that goes through it comes to
	// an end.
	Ends = "telemesh.dev/ends"
	// Product, a label of a ServiceAccount: the product that its functions are where
	// the warehouse is.
	Product = "telemesh.dev/product"
)

// Finding is a place where manifests do not fit together.
type Finding struct {
	Where
	Object  string // "Trigger iot/tenant-enrich"
	Problem string
	Fix     string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s: %s", f.Where, f.Object, f.Problem, f.Fix)
}

// Check says where the parts of the mesh do not fit: a Broker, subscriber or
// sink that is not there; a dead letter that would be another Trigger's; a type that
// is made and not read, or read and not made; a PingSource that wakes nobody; a
// function that could wake itself.
func Check(s Set) []Finding {
	c := checker{Set: s, flows: map[flow][]maker{}}
	c.destinations()
	c.ingress()
	c.emitted()
	c.ticks()
	c.forwarded()
	c.read()
	c.cycles()
	c.woken()
	return c.sorted()
}

// CheckIdentities says which functions are not told from others by their account, or
// would be refused by a Broker that asks who posts, and which policies name nobody.
func CheckIdentities(s Set) []Finding {
	c := checker{Set: s}
	c.accounts()
	c.tokens()
	c.policies()
	return c.sorted()
}

func (c *checker) sorted() []Finding {
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		if n := strings.Compare(a.File, b.File); n != 0 {
			return n
		}
		return a.Line - b.Line
	})
	return c.findings
}

// CheckFunctions says which Services and Deployments have an image of a function
// of telemesh that is none of the known ones. Other images run on a cluster
// only.
func CheckFunctions(s Set, known []string) []Finding {
	c := checker{Set: s}
	for _, w := range s.Workloads() {
		if name := w.Function(); name != "" && !slices.Contains(known, name) {
			c.find(w.image(), w.Object(), "name one of "+strings.Join(known, ", "), "image: there is no function %q", name)
		}
	}
	return c.findings
}

// flow is a type of event on a broker.
type flow struct {
	broker    Ref
	eventType string
}

// maker is what brings events of a type to a broker. Outputs have no object.
type maker struct {
	where  Where
	object string
}

type checker struct {
	Set
	flows    map[flow][]maker
	findings []Finding
}

func (c *checker) find(w Where, object, fix, problem string, args ...any) {
	c.findings = append(c.findings, Finding{w, object, fmt.Sprintf(problem, args...), fix})
}

func (c *checker) destinations() {
	for _, b := range c.Brokers {
		if d := b.Spec.Delivery; d != nil && d.DeadLetterSink != nil {
			object := "Broker " + b.Ref().String()
			c.destination(b.At("spec.delivery.deadLetterSink"), object, "dead letter sink", *d.DeadLetterSink, b.Namespace)
			c.deadLetters(b.At("spec.delivery.deadLetterSink.uri"), object, *d.DeadLetterSink, b.Namespace, "/"+b.Namespace)
		}
	}
	for _, t := range c.Triggers {
		object := "Trigger " + t.Ref().String()
		if c.Broker(t.BrokerOf()) == nil {
			c.find(t.At("spec.broker"), object, "name one of "+names(c.Brokers), "Broker %s does not exist", t.BrokerOf())
		}
		c.destination(t.At("spec.subscriber"), object, "subscriber", t.Spec.Subscriber, t.Namespace)
		if d := t.Spec.Delivery; d != nil && d.DeadLetterSink != nil {
			c.destination(t.At("spec.delivery.deadLetterSink"), object, "dead letter sink", *d.DeadLetterSink, t.Namespace)
			c.deadLetters(t.At("spec.delivery.deadLetterSink.uri"), object, *d.DeadLetterSink, t.Namespace, "/"+t.Ref().String())
		}
	}
}

func (c *checker) destination(w Where, object, role string, d duckv1.Destination, namespace string) {
	target, err := Resolve(d, namespace)
	none := Ref{}
	switch {
	case err != nil:
		c.find(w, object, "correct the "+role, "%s: %v", role, err)
	case target.Service != none && c.Service(target.Service) == nil:
		c.find(w, object, "name one of "+names(c.Services), "%s: Service %s does not exist", role, target.Service)
	case target.Broker != none && c.Broker(target.Broker) == nil:
		c.find(w, object, "name one of "+names(c.Brokers), "%s: Broker %s does not exist", role, target.Broker)
	}
}

// deadLetters: the function of dead letters knows by the path alone whose they are,
// and gives them back to that Trigger.
func (c *checker) deadLetters(w Where, object string, d duckv1.Destination, namespace, want string) {
	target, err := Resolve(d, namespace)
	if err != nil {
		return // found already
	}
	if s := c.Service(target.Service); s != nil && s.Function() == "dead-letter-sink" && target.URL.Path != want {
		c.find(w, object, "make it uri: "+want, "dead letter sink: what it gives up is kept as that of %q", target.URL.Path)
	}
}

// ingress says which functions post to a Broker by a name that does not lead to it.
func (c *checker) ingress() {
	for _, w := range c.Workloads() {
		broker := c.Broker(w.sink())
		if broker == nil {
			continue
		}
		want := IngressHost
		if broker.Annotations[eventing.BrokerClassKey] == "Kafka" {
			want = KafkaIngressHost
		}
		sink, _ := url.Parse(w.Env["K_SINK"]) // it is a Broker's
		host, by := sink.Hostname(), w.Where
		if host == AliasHost {
			name, namespace, _ := strings.Cut(strings.TrimSuffix(AliasHost, clusterHost), ".")
			alias := find(c.Aliases, Ref{namespace, name})
			if alias == nil {
				c.find(by, w.Object(), "add a Service of that name, type ExternalName and externalName "+want, "K_SINK: there is no %s", AliasHost)
				continue
			}
			host, by = alias.Spec.ExternalName, alias.At("spec.externalName")
		}
		if host != want {
			c.find(by, w.Object(), "make it "+want, "K_SINK is Broker %s, of which %s knows nothing", broker.Ref(), host)
		}
	}
}

func names[T interface{ Ref() Ref }](all []T) string {
	if len(all) == 0 {
		return "(there is none)"
	}
	refs := make([]string, len(all))
	for i, o := range all {
		refs[i] = o.Ref().String()
	}
	return strings.Join(refs, ", ")
}

// emitted collects what enters each broker: the outputs, and what functions
// make. A reply goes to the broker whose Trigger woke the Service, several
// events at once to K_SINK.
func (c *checker) emitted() {
	for _, b := range c.Brokers {
		for _, eventType := range list(b.Annotations[Outputs]) {
			c.add(flow{b.Ref(), eventType}, maker{})
		}
	}
	for _, s := range c.Workloads() {
		if len(s.emits) == 0 {
			continue
		}
		object := s.Object()
		at := s.At("metadata.annotations." + Emits)
		into := map[Ref]bool{}
		for _, t := range c.Triggers {
			if target, err := Resolve(t.Spec.Subscriber, t.Namespace); err == nil && "Service "+target.Service.String() == object {
				into[t.BrokerOf()] = true
			}
		}
		if sink := s.sink(); sink != (Ref{}) {
			if c.Broker(sink) == nil {
				c.find(s.Where, object, "name one of "+names(c.Brokers), "K_SINK: Broker %s does not exist", sink)
			} else {
				if len(into) > 0 && !into[sink] {
					c.find(s.Where, object, "make K_SINK the ingress of the Broker that wakes it",
						"one event goes as a reply to another Broker than several events, which go to K_SINK (%s)", sink)
				}
				into[sink] = true
			}
		}
		if len(into) == 0 {
			c.find(at, object, "add a Trigger that wakes it, set K_SINK to a Broker's ingress, or remove the annotation",
				"emits %s and reaches no Broker", strings.Join(s.emits, ", "))
		}
		for broker := range into {
			for _, eventType := range s.emits {
				c.add(flow{broker, eventType}, maker{at, object})
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

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

// forwarded adds what Triggers bring from one broker to another, until
// nothing new comes of it.
func (c *checker) forwarded() {
	for grown := true; grown; {
		grown = false
		for _, t := range c.Triggers {
			target, err := Resolve(t.Spec.Subscriber, t.Namespace)
			if err != nil || c.Broker(target.Broker) == nil {
				continue
			}
			for f := range maps.Clone(c.flows) {
				to := flow{target.Broker, f.eventType}
				if f.broker == t.BrokerOf() && reads(t, f.eventType) != no && len(c.flows[to]) == 0 {
					c.add(to, maker{t.At("spec.subscriber"), "Trigger " + t.Ref().String()})
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
			if f.broker == broker.Ref() && reads(t, f.eventType) != no {
				isRead[f], any = isRead[f] || t.Annotations[Keeps] != "everything", true
			}
		}
		const fix = "correct the type, declare it in " + Emits + " of the Service or Deployment that makes it, or in " + Outputs + " of the Broker if it comes from outside"
		named := t.Types()
		for _, eventType := range named {
			if len(c.flows[flow{broker.Ref(), eventType}]) == 0 {
				c.find(t.At(filterField(t)), object, fix, "reads %s, which nobody brings to Broker %s", eventType, broker.Ref())
			}
		}
		if !any && len(named) == 0 {
			c.find(t.At(filterField(t)), object, fix, "reads nothing of what is brought to Broker %s", broker.Ref())
		}
	}
	for f, makers := range c.flows {
		if isRead[f] || slices.ContainsFunc(makers, func(m maker) bool { return m.object == "" }) {
			continue
		}
		for _, m := range makers {
			c.find(m.where, m.object, "add a Trigger that reads it, or declare it in "+Outputs+" of the Broker",
				"brings %s to Broker %s, where nobody reads it", f.eventType, f.broker)
		}
	}
}

func filterField(t *Trigger) string {
	if len(t.Spec.Filters) > 0 {
		return "spec.filters"
	}
	return "spec.filter"
}

// cycles follows each type through the functions it wakes to the types they
// make. It does not pass a Trigger where circles end.
func (c *checker) cycles() {
	next := map[flow]map[flow]*Trigger{}
	for f := range c.flows {
		next[f] = map[flow]*Trigger{}
		for _, t := range c.Triggers {
			if t.BrokerOf() != f.broker || reads(t, f.eventType) == no || strings.TrimSpace(t.Annotations[Ends]) != "" {
				continue
			}
			target, err := Resolve(t.Spec.Subscriber, t.Namespace)
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
				c.find(t.At("spec.subscriber"), "Trigger "+t.Ref().String(), "break the circle with a filter or another type, or say in "+Ends+" of a Trigger on it why it ends",
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

// verdict is what a filter says of an event of which not everything is known.
type verdict int

const (
	no verdict = iota
	maybe
	yes
)

// knowledge is what is known of an event: all of its attributes but id and time,
// or some.
type knowledge struct {
	attributes map[string]string
	all        bool
}

// reads says whether the trigger wants events of a type.
func reads(t *Trigger, eventType string) verdict {
	return takes(t, knowledge{attributes: map[string]string{"type": eventType}})
}

// takes says whether the trigger wants an event.
func takes(t *Trigger, e knowledge) verdict {
	if len(t.Spec.Filters) > 0 {
		return all(t.Spec.Filters, e)
	}
	if t.Spec.Filter == nil {
		return yes
	}
	return e.match(t.Spec.Filter.Attributes, func(have, want string) bool { return want == "" || want == have })
}

func all(filters []eventingv1.SubscriptionsAPIFilter, e knowledge) verdict {
	out := yes
	for _, f := range filters {
		out = min(out, passes(f, e))
	}
	return out
}

func passes(f eventingv1.SubscriptionsAPIFilter, e knowledge) verdict {
	switch {
	case len(f.Exact) > 0:
		return e.match(f.Exact, func(have, want string) bool { return have == want })
	case len(f.Prefix) > 0:
		return e.match(f.Prefix, strings.HasPrefix)
	case len(f.Suffix) > 0:
		return e.match(f.Suffix, strings.HasSuffix)
	case len(f.All) > 0:
		return all(f.All, e)
	case len(f.Any) > 0:
		out := no
		for _, f := range f.Any {
			out = max(out, passes(f, e))
		}
		return out
	case f.Not != nil:
		return yes - passes(*f.Not, e)
	case f.CESQL != "":
		return maybe
	}
	return yes
}

func (e knowledge) match(want map[string]string, matches func(have, want string) bool) verdict {
	out := yes
	for name, value := range want {
		have, known := e.attributes[name]
		switch {
		case !known && (!e.all || name == "id" || name == "time"):
			out = min(out, maybe)
		case !known || !matches(have, value):
			return no
		}
	}
	return out
}

// Types are the event types outside of which the trigger reads nothing, or nil
// if its filters do not say so.
func (t *Trigger) Types() []string {
	if len(t.Spec.Filters) > 0 {
		return slices.Sorted(maps.Keys(typesOfAll(t.Spec.Filters)))
	}
	if t.Spec.Filter != nil && t.Spec.Filter.Attributes["type"] != "" {
		return []string{t.Spec.Filter.Attributes["type"]}
	}
	return nil
}

// types is nil where the filter sets no bound to the type.
func types(f eventingv1.SubscriptionsAPIFilter) map[string]bool {
	switch {
	case len(f.Exact) > 0:
		if v := f.Exact["type"]; v != "" {
			return map[string]bool{v: true}
		}
	case len(f.Prefix) > 0, len(f.Suffix) > 0:
	case len(f.All) > 0:
		return typesOfAll(f.All)
	case len(f.Any) > 0:
		union := map[string]bool{}
		for _, f := range f.Any {
			some := types(f)
			if some == nil {
				return nil
			}
			maps.Copy(union, some)
		}
		return union
	}
	return nil
}

func typesOfAll(filters []eventingv1.SubscriptionsAPIFilter) map[string]bool {
	var common map[string]bool
	for _, f := range filters {
		some := types(f)
		switch {
		case common == nil:
			common = some
		case some != nil:
			maps.DeleteFunc(common, func(t string, _ bool) bool { return !some[t] })
		}
	}
	return common
}
