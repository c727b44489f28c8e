// Package conformance says what the mesh expects of a Broker, as tests that
// talk HTTP alone: they run against the local runtime and against Knative
// Eventing. docs/conformance.md is the list of what it holds, of what it leaves
// open, and of the exceptions.
package conformance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventingduckv1 "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/pkg/apis"
	duckv1 "knative.dev/pkg/apis/duck/v1"
)

// Target is a mesh under test.
type Target interface {
	// Serve makes h reachable for the Brokers until stop or the test's end: then
	// nobody listens there. The port is any free one if it is 0.
	Serve(t *testing.T, port int, h http.Handler) (address string, stop func())
	// Apply makes Brokers and Triggers until the test ends. It may return before
	// they are ready. Their namespace is the target's choice.
	Apply(t *testing.T, brokers []*eventingv1.Broker, triggers []*eventingv1.Trigger) Mesh
	// Refused says of each Trigger why it is refused, or nothing; none is made.
	Refused(t *testing.T, triggers []*eventingv1.Trigger) []string
	// Exceptions are the claims that the target does not keep, or may not.
	Exceptions() map[Claim]Exception
}

// Mesh is what Apply made.
type Mesh interface {
	// Ready returns when all of it is ready.
	Ready(t *testing.T)
	// Ingress is the address of a Broker.
	Ingress(broker string) (address string)
	// Settle returns when every event that was answered, and every reply to it,
	// is delivered or a dead letter.
	Settle(t *testing.T)
}

// Claim is something that the suite holds and a target may be excepted from.
type Claim string

// Exception is what the suite does with a claim of which a target is excepted.
type Exception int

const (
	// Broken claims are not kept. The suite holds the contrary: an exception that is
	// no longer needed is a failure.
	Broken Exception = iota + 1
	// Open claims are told of, whatever is so: nobody has looked at such a target.
	Open
)

// Claims that some target does not keep. docs/conformance.md has the reasons.
const (
	// AcceptsUndeliverable: 202 says that the event is accepted, whatever
	// becomes of it.
	AcceptsUndeliverable Claim = "an event that no subscriber and no dead letter sink takes is accepted"
	// HeedsRetryAfter: a Trigger may have a retryAfterMax.
	HeedsRetryAfter Claim = "retryAfterMax is heeded"
	// TellsBrokenReply, TellsTimeout and TellsBadCESQL are about the extensions
	// knativeerrordest, knativeerrorcode and knativeerrordata.
	TellsBrokenReply Claim = "the dead letter of a reply that is no event says its cause"
	TellsTimeout     Claim = "the dead letter of an attempt that took too long says its cause"
	TellsBadCESQL    Claim = "the dead letter of a CESQL filter that gives no boolean says its cause"
	// CutsLongAnswers is not tried where it does not hold: what happens then is no
	// answer to a test.
	CutsLongAnswers Claim = "of a subscriber's long answer a dead letter has the beginning"
	// RefusesEmptyValues: Knative passes over such a filter when it runs.
	RefusesEmptyValues Claim = "a filter for an empty value is refused"
)

// setup is what the cases need, gathered before any of it is made: a cluster
// takes its time for each object, and less if they are made together.
type setup struct {
	t        *testing.T
	target   Target
	except   map[Claim]Exception
	brokers  []*eventingv1.Broker
	triggers []*eventingv1.Trigger
	mesh     Mesh

	name  string // of the case: its Brokers have it too
	count int    // of its Brokers
}

// Test runs the suite.
func Test(t *testing.T, target Target) {
	except := target.Exceptions()
	few := &setup{t: t, target: target, except: except}
	checks := map[string]func(*testing.T){}
	for name, prepare := range map[string]func(*setup) func(*testing.T){
		"ingress":                           ingress,
		"ingress in both modes":             modes,
		"delivery in binary mode":           binaryMode,
		"delivery as JSON":                  structuredMode,
		"large events":                      large,
		"the same event twice":              twice,
		"no Trigger":                        noTrigger,
		"events overtake":                   overtaking,
		"reply":                             reply,
		"forms of replies":                  forms,
		"broken reply":                      brokenReply,
		"TTL":                               ttl,
		"Broker after Broker":               chain,
		"statuses":                          statuses,
		"backoff":                           backoff,
		"delivery by default":               byDefault,
		"Retry-After":                       retryAfter,
		"unreachable subscriber":            unreachable,
		"subscriber down, then up":          downThenUp,
		"timeout":                           timeout,
		"dead letter sinks":                 deadLetterSinks,
		"extensions of dead letters":        deadLetterExtensions,
		"dead letters to a Broker":          deadLettersToBroker,
		"nobody takes it":                   nobody,
		"CESQL that gives no boolean":       badCESQL,
		"filters: one event, many Triggers": fanOut,
	} {
		few.name, few.count = name, 0
		checks[name] = prepare(few)
	}
	many := &setup{t: t, target: target, except: except, name: "filters"}
	checkFilters := filters(many)

	few.apply()
	t.Run("refused Triggers", func(t *testing.T) { refused(t, target, except) })
	few.mesh.Ready(t)
	many.apply() // made ready while the others run
	t.Run("cases", func(t *testing.T) {
		for name, check := range checks {
			t.Run(name, func(t *testing.T) {
				t.Parallel() // most of the time of some is a wait
				check(t)
			})
		}
	})
	many.mesh.Ready(t)
	t.Run("filters", checkFilters)
}

func (s *setup) apply() { s.mesh = s.target.Apply(s.t, s.brokers, s.triggers) }

// claim reports a fault (what is not as claimed, or nothing), unless the
// target is excepted: then it reports that there is none.
func (s *setup) claim(t testing.TB, c Claim, fault string) {
	t.Helper()
	judge(t, s.except, c, fault)
}

func judge(t testing.TB, except map[Claim]Exception, c Claim, fault string) {
	t.Helper()
	switch {
	case except[c] == Broken && fault == "":
		t.Errorf("the target is excepted from %q, which it keeps: strike the exception", c)
	case except[c] == Open && fault == "":
		t.Logf("open whether %q: it is kept", c)
	case except[c] != 0:
		t.Logf("excepted from %q: %s", c, fault)
	case fault != "":
		t.Errorf("%s: %s", c, fault)
	}
}

// broker is a Broker of a case. It has no events but the case's.
type broker struct {
	setup *setup
	name  string
}

func (s *setup) broker(delivery *eventingduckv1.DeliverySpec) *broker {
	s.count++
	name := strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '-':
			return '-'
		case r < 'a' || r > 'z':
			return -1
		}
		return r
	}, strings.ToLower(s.name))
	b := &broker{s, name + "-" + strconv.Itoa(s.count)}
	s.brokers = append(s.brokers, &eventingv1.Broker{
		TypeMeta:   metav1.TypeMeta{APIVersion: "eventing.knative.dev/v1", Kind: "Broker"},
		ObjectMeta: metav1.ObjectMeta{Name: b.name},
		Spec:       eventingv1.BrokerSpec{Delivery: delivery},
	})
	return b
}

func (b *broker) trigger(name, subscriber string, changes ...func(*eventingv1.TriggerSpec)) {
	b.setup.triggers = append(b.setup.triggers, newTrigger(b.name, b.name+"-"+name, at(b.setup.t, subscriber), changes...))
}

func newTrigger(broker, name string, subscriber duckv1.Destination, changes ...func(*eventingv1.TriggerSpec)) *eventingv1.Trigger {
	out := &eventingv1.Trigger{
		TypeMeta:   metav1.TypeMeta{APIVersion: "eventing.knative.dev/v1", Kind: "Trigger"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       eventingv1.TriggerSpec{Broker: broker, Subscriber: subscriber},
	}
	for _, change := range changes {
		change(&out.Spec)
	}
	return out
}

// at is an address as a destination.
func at(t testing.TB, address string) duckv1.Destination {
	t.Helper()
	uri, err := apis.ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	return duckv1.Destination{URI: uri}
}

// ref is a Broker as a destination.
func (b *broker) ref() duckv1.Destination {
	return duckv1.Destination{Ref: &duckv1.KReference{APIVersion: "eventing.knative.dev/v1", Kind: "Broker", Name: b.name}}
}

func ofType(eventType string) func(*eventingv1.TriggerSpec) {
	return func(s *eventingv1.TriggerSpec) {
		s.Filters = []eventingv1.SubscriptionsAPIFilter{{Exact: map[string]string{"type": eventType}}}
	}
}

// delivered is a change of a Trigger: its delivery, and its dead letter sink
// unless the address is empty.
func delivered(t testing.TB, delivery *eventingduckv1.DeliverySpec, sink string) func(*eventingv1.TriggerSpec) {
	t.Helper()
	if sink != "" {
		to := at(t, sink)
		delivery.DeadLetterSink = &to
	}
	return func(s *eventingv1.TriggerSpec) { s.Delivery = delivery }
}

// retries is a delivery with n retries that do not keep a test waiting.
func retries(n int32) *eventingduckv1.DeliverySpec {
	return backingOff(n, eventingduckv1.BackoffPolicyLinear, "PT0.1S")
}

func backingOff(n int32, policy eventingduckv1.BackoffPolicyType, delay string) *eventingduckv1.DeliverySpec {
	return &eventingduckv1.DeliverySpec{Retry: &n, BackoffPolicy: &policy, BackoffDelay: &delay}
}

func newEvent(id, eventType string) event.Event {
	e := event.New()
	e.SetID(id)
	e.SetType(eventType)
	e.SetSource("/conformance")
	e.SetDataContentType("application/json")
	e.DataEncoded = []byte(`{"id":` + strconv.Quote(id) + `}`)
	return e
}

// post sends events, several at a time: a Broker may answer only when an event
// is delivered.
func (b *broker) post(t *testing.T, events ...event.Event) {
	t.Helper()
	for i, status := range b.send(t, events...) {
		if status != http.StatusAccepted {
			t.Fatalf("the ingress answers %d to event %s, want 202", status, events[i].ID())
		}
	}
}

// send is post that gives the statuses.
func (b *broker) send(t *testing.T, events ...event.Event) []int {
	t.Helper()
	statuses, errs := make([]int, len(events)), make([]error, len(events))
	const atOnce = 16
	slots := make(chan struct{}, atOnce)
	var sending sync.WaitGroup
	for i, e := range events {
		slots <- struct{}{}
		sending.Go(func() {
			defer func() { <-slots }()
			statuses[i], errs[i] = b.sendOne(e)
		})
	}
	sending.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("send event %s: %v", events[i].ID(), err)
		}
	}
	return statuses
}

func (b *broker) sendOne(e event.Event) (status int, err error) {
	req, err := cehttp.NewHTTPRequestFromEvent(context.Background(), b.setup.mesh.Ingress(b.name), e)
	if err != nil {
		return 0, err
	}
	resp, err := do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

func (b *broker) settle(t *testing.T) {
	t.Helper()
	b.setup.mesh.Settle(t)
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

func do(req *http.Request) (*http.Response, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, err
}

// causeFault says what of the extensions of a dead letter does not tell the
// code and the destination.
func causeFault(r received, code int, destination string) string {
	extensions := r.event.Extensions()
	var faults []string
	if got := extensions["knativeerrorcode"]; got != strconv.Itoa(code) {
		faults = append(faults, fmt.Sprintf("knativeerrorcode is %v, want %d", got, code))
	}
	if got := extensions["knativeerrordest"]; got != destination {
		faults = append(faults, fmt.Sprintf("knativeerrordest is %v, want %s", got, destination))
	}
	return strings.Join(faults, "; ")
}
