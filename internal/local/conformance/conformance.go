// Package conformance says what the mesh expects of a Broker, as tests that
// talk HTTP alone: they run against the local runtime and against Knative
// Eventing. Where the two may differ, nothing is tested: order, duplicates, and
// how long an attempt waits.
package conformance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	eventingduckv1 "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/pkg/apis"
	duckv1 "knative.dev/pkg/apis/duck/v1"
)

// Target is a mesh under test.
type Target interface {
	// Serve makes h reachable for the Broker until the test ends.
	Serve(t testing.TB, h http.Handler) (address string)
	// Apply makes a Broker with its Triggers until the test ends, and returns
	// when they are ready.
	Apply(t testing.TB, broker *eventingv1.Broker, triggers ...*eventingv1.Trigger) Broker
}

// Broker is one that is ready.
type Broker struct {
	Ingress string // address of the Broker
	// Settle returns when every event accepted so far, and every reply to it,
	// is delivered or a dead letter.
	Settle func(testing.TB)
}

// FilterCase is a filter of a Trigger and whether it lets an event pass.
type FilterCase struct {
	Name    string
	Filters []eventingv1.SubscriptionsAPIFilter
	Filter  *eventingv1.TriggerFilter
	Event   map[string]string // attributes
	Passes  bool
}

// Test runs the suite.
func Test(t *testing.T, target Target) {
	for name, test := range map[string]func(*testing.T, Target){
		"ingress":                 ingress,
		"delivery in binary mode": binaryMode,
		"delivery as JSON":        structuredMode,
		"reply":                   reply,
		"TTL":                     ttl,
		"statuses":                statuses,
		"broken reply":            brokenReply,
		"unreachable subscriber":  unreachable,
		"dead letter sinks":       deadLetterSinks,
		"failing dead letter sink does not stop others": failingSink,
	} {
		t.Run(name, func(t *testing.T) { test(t, target) })
	}
	t.Run("filters", func(t *testing.T) { TestFilters(t, target, filterCases) })
}

// Names of what the suite makes. A target for a cluster may put them into a
// namespace of its own.
const (
	namespace  = "conformance"
	brokerName = "default"
)

func broker(delivery *eventingduckv1.DeliverySpec) *eventingv1.Broker {
	return &eventingv1.Broker{
		TypeMeta:   metav1.TypeMeta{APIVersion: "eventing.knative.dev/v1", Kind: "Broker"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: brokerName},
		Spec:       eventingv1.BrokerSpec{Delivery: delivery},
	}
}

func trigger(t testing.TB, name, subscriber string, change func(*eventingv1.TriggerSpec)) *eventingv1.Trigger {
	out := &eventingv1.Trigger{
		TypeMeta:   metav1.TypeMeta{APIVersion: "eventing.knative.dev/v1", Kind: "Trigger"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       eventingv1.TriggerSpec{Broker: brokerName, Subscriber: destination(t, subscriber)},
	}
	if change != nil {
		change(&out.Spec)
	}
	return out
}

func destination(t testing.TB, address string) duckv1.Destination {
	t.Helper()
	uri, err := apis.ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	return duckv1.Destination{URI: uri}
}

func ofType(eventType string) func(*eventingv1.TriggerSpec) {
	return func(s *eventingv1.TriggerSpec) {
		s.Filters = []eventingv1.SubscriptionsAPIFilter{{Exact: map[string]string{"type": eventType}}}
	}
}

// retries is a delivery with n retries that do not keep a test waiting.
func retries(n int32) *eventingduckv1.DeliverySpec {
	policy, delay := eventingduckv1.BackoffPolicyLinear, "PT0.1S"
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

func (b Broker) post(t testing.TB, e event.Event) {
	t.Helper()
	req, err := cehttp.NewHTTPRequestFromEvent(context.Background(), b.Ingress, e)
	if err != nil {
		t.Fatal(err)
	}
	if status := do(t, req).StatusCode; status != http.StatusAccepted {
		t.Fatalf("the ingress answers %d to event %s, want 202", status, e.ID())
	}
}

func do(t testing.TB, req *http.Request) *http.Response {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp
}

// received is one request to a subscriber.
type received struct {
	path   string
	header http.Header
	event  event.Event
}

// subscriber remembers what it gets and answers as it is told.
type subscriber struct {
	answer func(w http.ResponseWriter, got received, attempt int) // nil: 204

	mu       sync.Mutex
	requests []received
}

func (s *subscriber) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e, err := cehttp.NewEventFromHTTPRequest(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	got := received{r.URL.Path, r.Header.Clone(), *e}
	s.mu.Lock()
	s.requests = append(s.requests, got)
	attempt := 0
	for _, earlier := range s.requests {
		if earlier.path == got.path && earlier.event.ID() == e.ID() {
			attempt++
		}
	}
	s.mu.Unlock()
	if s.answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	s.answer(w, got, attempt)
}

func (s *subscriber) all() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// attempts counts the requests with an event.
func (s *subscriber) attempts(id string) int {
	n := 0
	for _, r := range s.all() {
		if r.event.ID() == id {
			n++
		}
	}
	return n
}

// ids are those of the events, each once.
func (s *subscriber) ids() []string {
	var ids []string
	for _, r := range s.all() {
		ids = append(ids, r.event.ID())
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// one gives the only event that came, however often.
func (s *subscriber) one(t testing.TB) received {
	t.Helper()
	if ids := s.ids(); len(ids) != 1 {
		t.Fatalf("events %v came, want one", ids)
	}
	return s.all()[0]
}

func respond(w http.ResponseWriter, e event.Event) {
	if err := cehttp.WriteResponseWriter(context.Background(), (*binding.EventMessage)(&e), http.StatusOK, w); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func ingress(t *testing.T, target Target) {
	var got subscriber
	b := target.Apply(t, broker(nil), trigger(t, "all", target.Serve(t, &got), nil))
	u, err := url.Parse(b.Ingress)
	if err != nil {
		t.Fatal(err)
	}
	root := u.Scheme + "://" + u.Host
	binary := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"binary"}, "Ce-Type": {"t"}, "Ce-Source": {"/s"}, "Content-Type": {"text/plain"},
	}
	without := func(name string) http.Header {
		h := binary.Clone()
		h.Del(name)
		return h
	}
	with := func(name, value string) http.Header {
		h := binary.Clone()
		h.Set(name, value)
		return h
	}
	structured := http.Header{"Content-Type": {"application/cloudevents+json"}}
	const document = `{"specversion":"1.0","id":"structured","type":"t","source":"/s","data":{"a":1}}`
	for _, test := range []struct {
		name   string
		method string
		url    string
		header http.Header
		body   string
		want   int
	}{
		{"binary", "POST", b.Ingress, binary, "x", 202},
		{"slash at the end", "POST", b.Ingress + "/", with("ce-id", "slash"), "x", 202},
		{"structured", "POST", b.Ingress, structured, document, 202},
		{"no data", "POST", b.Ingress, with("ce-id", "empty"), "", 202},
		{"TTL left", "POST", b.Ingress, with("ce-knativebrokerttl", "2"), "x", 202},
		{"TTL that is no number", "POST", b.Ingress, with("ce-knativebrokerttl", "many"), "x", 202},
		{"TTL used up", "POST", b.Ingress, with("ce-knativebrokerttl", "1"), "x", 400},
		{"TTL zero", "POST", b.Ingress, with("ce-knativebrokerttl", "0"), "x", 400},
		{"no event", "POST", b.Ingress, http.Header{"Content-Type": {"application/json"}}, `{}`, 400},
		{"no id", "POST", b.Ingress, without("ce-id"), "x", 400},
		{"no type", "POST", b.Ingress, without("ce-type"), "x", 400},
		{"no source", "POST", b.Ingress, without("ce-source"), "x", 400},
		{"unknown version", "POST", b.Ingress, with("ce-specversion", "7.0"), "x", 400},
		{"bad time", "POST", b.Ingress, with("ce-time", "yesterday"), "x", 400},
		{"structured, no id", "POST", b.Ingress, structured, `{"specversion":"1.0","type":"t","source":"/s"}`, 400},
		{"structured, no JSON", "POST", b.Ingress, structured, `{"specversion":`, 400},
		{"batch", "POST", b.Ingress, http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, "[" + document + "]", 400},
		{"no such broker", "POST", root + "/conformance/none", binary, "x", 404},
		{"no event for no such broker", "POST", root + "/conformance/none", nil, "x", 400},
		{"root", "POST", root + "/", binary, "x", 404},
		{"one segment", "POST", root + "/conformance", binary, "x", 400},
		{"three segments", "POST", b.Ingress + "/more", binary, "x", 400},
		{"GET", "GET", b.Ingress, nil, "", 405},
		{"PUT", "PUT", b.Ingress, binary, "x", 405},
		{"OPTIONS", "OPTIONS", b.Ingress, nil, "", 200},
	} {
		req, err := http.NewRequest(test.method, test.url, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		if test.header != nil {
			req.Header = test.header
		}
		resp := do(t, req)
		if resp.StatusCode != test.want {
			t.Errorf("%s: %d, want %d", test.name, resp.StatusCode, test.want)
		}
		if test.method == "OPTIONS" && resp.Header.Get("WebHook-Allowed-Origin") != "*" {
			t.Errorf("OPTIONS: headers %v, want the answer to a web hook's handshake", resp.Header)
		}
		if allow := resp.Header.Get("Allow"); allow != "POST, OPTIONS" {
			t.Errorf("%s: Allow is %q, want POST, OPTIONS", test.name, allow)
		}
	}
	b.Settle(t)
	if diff := cmp.Diff([]string{"binary", "empty", "slash", "structured"}, got.ids()); diff != "" {
		t.Errorf("events delivered (-want +got):\n%s", diff)
	}
}

func binaryMode(t *testing.T, target Target) {
	var got subscriber
	b := target.Apply(t, broker(nil), trigger(t, "all", target.Serve(t, &got)+"/path?query=1", nil))
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	sent := newEvent("1", "t")
	sent.SetSubject("größe & more")
	sent.SetDataSchema("https://example.com/schema")
	sent.SetDataContentType("application/octet-stream")
	sent.SetExtension("tenantid", "school 1")
	sent.SetExtension("number", 7)
	sent.SetExtension("knativebrokerttl", 9)
	sent.DataEncoded = data
	b.post(t, sent)
	b.Settle(t)
	r := got.one(t)
	if !bytes.Equal(r.event.Data(), data) {
		t.Errorf("%d bytes of data arrived, or others than the %d sent", len(r.event.Data()), len(data))
	}
	attributes := map[string]any{
		"subject": r.event.Subject(), "dataschema": r.event.DataSchema(), "datacontenttype": r.event.DataContentType(),
		"tenantid": r.event.Extensions()["tenantid"], "number": r.event.Extensions()["number"],
		"knativebrokerttl": r.event.Extensions()["knativebrokerttl"], "path": r.path,
		"prefer": r.header.Get("Prefer"), "binary": r.header.Get("Ce-Specversion"),
	}
	if diff := cmp.Diff(map[string]any{
		"subject": "größe & more", "dataschema": "https://example.com/schema", "datacontenttype": "application/octet-stream",
		"tenantid": "school 1", "number": "7", "knativebrokerttl": nil, "path": "/path",
		"prefer": "reply", "binary": "1.0",
	}, attributes); diff != "" {
		t.Errorf("what arrived (-want +got):\n%s", diff)
	}
	if r.event.Extensions()["knativearrivaltime"] == nil {
		t.Error("no knativearrivaltime")
	}
}

func structuredMode(t *testing.T, target Target) {
	var got subscriber
	format := eventingduckv1.DeliveryFormatJson
	b := target.Apply(t, broker(nil), trigger(t, "all", target.Serve(t, &got), func(s *eventingv1.TriggerSpec) {
		s.Delivery = &eventingduckv1.DeliverySpec{Format: &format}
	}))
	b.post(t, newEvent("1", "t"))
	b.Settle(t)
	r := got.one(t)
	if contentType := r.header.Get("Content-Type"); !strings.HasPrefix(contentType, "application/cloudevents+json") {
		t.Errorf("content type %q, want the JSON format of CloudEvents", contentType)
	}
	if data := string(r.event.Data()); data != `{"id":"1"}` {
		t.Errorf("data %s", data)
	}
}

func reply(t *testing.T, target Target) {
	first := subscriber{answer: func(w http.ResponseWriter, got received, _ int) {
		out := newEvent("reply to "+got.event.ID(), "second")
		out.SetExtension("tenantid", "t1")
		respond(w, out)
	}}
	var second, other subscriber
	b := target.Apply(t, broker(nil),
		trigger(t, "first", target.Serve(t, &first), ofType("first")),
		trigger(t, "second", target.Serve(t, &second), ofType("second")),
		trigger(t, "other", target.Serve(t, &other), ofType("other")))
	for i := range 20 {
		b.post(t, newEvent(strconv.Itoa(i), "first"))
	}
	b.Settle(t)
	if got := first.ids(); len(got) != 20 {
		t.Errorf("%d events delivered, want 20: %v", len(got), got)
	}
	if got := second.ids(); len(got) != 20 || got[0] != "reply to 0" {
		t.Errorf("%d replies delivered, want 20: %v", len(got), got)
	}
	if r := second.all()[0].event; r.Extensions()["tenantid"] != "t1" || r.Extensions()["knativebrokerttl"] != nil {
		t.Errorf("extensions of a reply: %v, want its own and no TTL", r.Extensions())
	}
	if got := other.ids(); len(got) != 0 {
		t.Errorf("events %v delivered to a Trigger that filters them out", got)
	}
}

// A subscriber that answers with what wakes it ends when the TTL is used up,
// and the last event becomes a dead letter.
func ttl(t *testing.T, target Target) {
	var dead subscriber
	loop := subscriber{answer: func(w http.ResponseWriter, got received, _ int) {
		hop, _ := strconv.Atoi(got.event.ID())
		respond(w, newEvent(strconv.Itoa(hop+1), "loop"))
	}}
	b := target.Apply(t, broker(nil), trigger(t, "loop", target.Serve(t, &loop), func(s *eventingv1.TriggerSpec) {
		sink := destination(t, target.Serve(t, &dead))
		s.Delivery = retries(0)
		s.Delivery.DeadLetterSink = &sink
	}))
	e := newEvent("1", "loop")
	e.SetExtension("knativebrokerttl", 5)
	b.post(t, e)
	b.Settle(t)
	if diff := cmp.Diff([]string{"1", "2", "3", "4"}, loop.ids()); diff != "" {
		t.Errorf("hops of an event with TTL 5 (-want +got):\n%s", diff)
	}
	r := dead.one(t)
	if r.event.ID() != "4" || r.event.Extensions()["knativeerrorcode"] != "400" {
		t.Errorf("dead letter %s, want event 4 and the ingress' 400", r.event)
	}
	if to := fmt.Sprint(r.event.Extensions()["knativeerrordest"]); !strings.HasSuffix(to, "/"+brokerName) {
		t.Errorf("the dead letter's knativeerrordest is %s, want the Broker", to)
	}
}

// statuses holds the table of what is tried again.
func statuses(t *testing.T, target Target) {
	again := []int{404, 408, 409, 429, 500, 502, 503, 504}
	never := []int{400, 401, 403, 405, 410, 413, 415, 422}
	var dead subscriber
	var address string
	got := subscriber{answer: func(w http.ResponseWriter, got received, attempt int) {
		// Events are named STATUS-TIMES: so often they are answered so.
		code, times, _ := strings.Cut(got.event.ID(), "-")
		status, _ := strconv.Atoi(code)
		if most, _ := strconv.Atoi(times); attempt > most {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		http.Error(w, "no: "+code, status)
	}}
	address = target.Serve(t, &got)
	b := target.Apply(t, broker(retries(2)), trigger(t, "all", address, func(s *eventingv1.TriggerSpec) {
		sink := destination(t, target.Serve(t, &dead))
		s.Delivery = retries(2)
		s.Delivery.DeadLetterSink = &sink
	}))
	for _, status := range slices.Concat(again, never) {
		b.post(t, newEvent(fmt.Sprintf("%d-1", status), "t"))
		b.post(t, newEvent(fmt.Sprintf("%d-99", status), "t"))
	}
	b.Settle(t)
	wantDead := map[string]string{}
	for _, status := range again {
		if id := fmt.Sprintf("%d-1", status); got.attempts(id) < 2 {
			t.Errorf("%s: %d attempts, want 2", id, got.attempts(id))
		}
		id := fmt.Sprintf("%d-99", status)
		if got.attempts(id) < 3 {
			t.Errorf("%s: %d attempts, want 3", id, got.attempts(id))
		}
		wantDead[id] = strconv.Itoa(status)
	}
	for _, status := range never {
		for _, times := range []string{"-1", "-99"} {
			id := strconv.Itoa(status) + times
			if got.attempts(id) != 1 {
				t.Errorf("%s: %d attempts, want 1", id, got.attempts(id))
			}
			wantDead[id] = strconv.Itoa(status)
		}
	}
	gotDead := map[string]string{}
	for _, r := range dead.all() {
		extensions := r.event.Extensions()
		gotDead[r.event.ID()] = fmt.Sprint(extensions["knativeerrorcode"])
		if to := extensions["knativeerrordest"]; to != address {
			t.Errorf("%s: knativeerrordest is %v, want %s", r.event.ID(), to, address)
		}
		code, _, _ := strings.Cut(r.event.ID(), "-")
		text, err := base64.StdEncoding.DecodeString(fmt.Sprint(extensions["knativeerrordata"]))
		if err != nil || string(text) != "no: "+code+"\n" {
			t.Errorf("%s: knativeerrordata is %q, %v, want the answer in Base64", r.event.ID(), text, err)
		}
		if string(r.event.Data()) != `{"id":"`+r.event.ID()+`"}` {
			t.Errorf("%s: data of the dead letter is %s, want the event's", r.event.ID(), r.event.Data())
		}
	}
	if diff := cmp.Diff(wantDead, gotDead); diff != "" {
		t.Errorf("dead letters and their codes (-want +got):\n%s", diff)
	}
}

// What follows a 2xx is an event or nothing.
func brokenReply(t *testing.T, target Target) {
	var dead subscriber
	got := subscriber{answer: func(w http.ResponseWriter, got received, attempt int) {
		switch got.event.ID() {
		case "text":
			io.WriteString(w, "done")
		case "text once":
			if attempt == 1 {
				io.WriteString(w, "done")
			}
		case "half an event":
			w.Header().Set("Content-Type", "application/cloudevents+json")
			io.WriteString(w, `{"specversion":`)
		case "empty 200":
			w.WriteHeader(http.StatusOK)
		case "empty 202":
			w.WriteHeader(http.StatusAccepted)
		case "empty 204":
			w.WriteHeader(http.StatusNoContent)
		}
	}}
	b := target.Apply(t, broker(nil), trigger(t, "all", target.Serve(t, &got), func(s *eventingv1.TriggerSpec) {
		sink := destination(t, target.Serve(t, &dead))
		s.Delivery = retries(2)
		s.Delivery.DeadLetterSink = &sink
	}))
	for _, id := range []string{"text", "text once", "half an event", "empty 200", "empty 202", "empty 204"} {
		b.post(t, newEvent(id, "t"))
	}
	b.Settle(t)
	if diff := cmp.Diff([]string{"half an event", "text"}, dead.ids()); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	if n := got.attempts("text"); n < 3 {
		t.Errorf("a reply that is no event: %d attempts, want 3", n)
	}
}

func unreachable(t *testing.T, target Target) {
	var dead subscriber
	b := target.Apply(t, broker(nil), trigger(t, "nobody", "http://127.0.0.1:1/", func(s *eventingv1.TriggerSpec) {
		sink := destination(t, target.Serve(t, &dead))
		s.Delivery = retries(1)
		s.Delivery.DeadLetterSink = &sink
	}))
	b.post(t, newEvent("1", "t"))
	b.Settle(t)
	if r := dead.one(t); r.event.Extensions()["knativeerrorcode"] != "500" {
		t.Errorf("knativeerrorcode of an error of the connection is %v, want 500", r.event.Extensions()["knativeerrorcode"])
	}
}

// The Broker's delivery is the default of its Triggers'.
func deadLetterSinks(t *testing.T, target Target) {
	refuse := &subscriber{answer: func(w http.ResponseWriter, got received, _ int) { w.WriteHeader(http.StatusServiceUnavailable) }}
	var ofBroker, ofTrigger subscriber
	delivery := retries(1)
	sink := destination(t, target.Serve(t, &ofBroker))
	delivery.DeadLetterSink = &sink
	address := target.Serve(t, refuse)
	b := target.Apply(t, broker(delivery),
		trigger(t, "default", address+"/default", nil),
		trigger(t, "own", address+"/own", func(s *eventingv1.TriggerSpec) {
			sink := destination(t, target.Serve(t, &ofTrigger))
			s.Delivery = &eventingduckv1.DeliverySpec{DeadLetterSink: &sink}
		}))
	b.post(t, newEvent("1", "t"))
	b.Settle(t)
	for name, s := range map[string]*subscriber{"default": &ofBroker, "own": &ofTrigger} {
		if to := fmt.Sprint(s.one(t).event.Extensions()["knativeerrordest"]); to != address+"/"+name {
			t.Errorf("dead letter of Trigger %s: knativeerrordest is %s", name, to)
		}
	}
	attempts := map[string]int{}
	for _, r := range refuse.all() {
		attempts[r.path]++
	}
	if attempts["/default"] < 2 || attempts["/own"] != 1 {
		t.Errorf("attempts %v, want 2 by the Broker's delivery and 1 by the Trigger's", attempts)
	}
}

func failingSink(t *testing.T, target Target) {
	refuse := &subscriber{answer: func(w http.ResponseWriter, got received, _ int) {
		if got.event.ID() == "bad" {
			w.WriteHeader(http.StatusBadRequest)
		}
	}}
	failing := &subscriber{answer: func(w http.ResponseWriter, got received, _ int) { w.WriteHeader(http.StatusInternalServerError) }}
	b := target.Apply(t, broker(nil), trigger(t, "all", target.Serve(t, refuse), func(s *eventingv1.TriggerSpec) {
		sink := destination(t, target.Serve(t, failing))
		s.Delivery = retries(1)
		s.Delivery.DeadLetterSink = &sink
	}))
	b.post(t, newEvent("bad", "t"))
	b.post(t, newEvent("good", "t"))
	b.Settle(t)
	if diff := cmp.Diff([]string{"bad", "good"}, refuse.ids()); diff != "" {
		t.Errorf("events delivered (-want +got):\n%s", diff)
	}
	if n := failing.attempts("bad"); n < 2 {
		t.Errorf("the failing sink was tried %d times, want 2", n)
	}
}

type filterMap = map[string]string

func exact(name, value string) eventingv1.SubscriptionsAPIFilter {
	return eventingv1.SubscriptionsAPIFilter{Exact: filterMap{name: value}}
}

// filterCases are about an event of type a.b.c with the extension tenantid t1,
// unless they say more.
var filterCases = []FilterCase{
	{Name: "none", Passes: true},
	{Name: "exact", Filters: []eventingv1.SubscriptionsAPIFilter{exact("type", "a.b.c")}, Passes: true},
	{Name: "exact, other", Filters: []eventingv1.SubscriptionsAPIFilter{exact("type", "a.b")}},
	{Name: "two filters, one fails", Filters: []eventingv1.SubscriptionsAPIFilter{exact("type", "a.b.c"), exact("tenantid", "t2")}},
	{Name: "prefix", Filters: []eventingv1.SubscriptionsAPIFilter{{Prefix: filterMap{"type": "a."}}}, Passes: true},
	{Name: "prefix, other", Filters: []eventingv1.SubscriptionsAPIFilter{{Prefix: filterMap{"type": "b."}}}},
	{Name: "suffix", Filters: []eventingv1.SubscriptionsAPIFilter{{Suffix: filterMap{"type": ".c"}}}, Passes: true},
	{Name: "suffix, missing attribute", Filters: []eventingv1.SubscriptionsAPIFilter{{Suffix: filterMap{"missing": "c"}}}},
	{Name: "all", Filters: []eventingv1.SubscriptionsAPIFilter{{All: []eventingv1.SubscriptionsAPIFilter{exact("type", "a.b.c"), exact("tenantid", "t1")}}}, Passes: true},
	{Name: "all, one fails", Filters: []eventingv1.SubscriptionsAPIFilter{{All: []eventingv1.SubscriptionsAPIFilter{exact("type", "a.b.c"), exact("tenantid", "t2")}}}},
	{Name: "any", Filters: []eventingv1.SubscriptionsAPIFilter{{Any: []eventingv1.SubscriptionsAPIFilter{exact("type", "x"), exact("tenantid", "t1")}}}, Passes: true},
	{Name: "any of types", Filters: []eventingv1.SubscriptionsAPIFilter{{Any: []eventingv1.SubscriptionsAPIFilter{exact("type", "x"), exact("type", "a.b.c")}}}, Passes: true},
	{Name: "any, none", Filters: []eventingv1.SubscriptionsAPIFilter{{Any: []eventingv1.SubscriptionsAPIFilter{exact("type", "x"), exact("type", "y")}}}},
	{Name: "not", Filters: []eventingv1.SubscriptionsAPIFilter{{Not: &eventingv1.SubscriptionsAPIFilter{Exact: filterMap{"tenantid": "t2"}}}}, Passes: true},
	{Name: "not, equal", Filters: []eventingv1.SubscriptionsAPIFilter{{Not: &eventingv1.SubscriptionsAPIFilter{Exact: filterMap{"tenantid": "t1"}}}}},
	{Name: "CESQL", Filters: []eventingv1.SubscriptionsAPIFilter{{CESQL: "type LIKE 'a.%' AND tenantid IN ('t1', 't2')"}}, Passes: true},
	{Name: "CESQL, number in a text", Filters: []eventingv1.SubscriptionsAPIFilter{{CESQL: "number > 5"}}, Event: filterMap{"number": "7"}, Passes: true},
	{Name: "CESQL, EXISTS", Filters: []eventingv1.SubscriptionsAPIFilter{{CESQL: "EXISTS missing AND missing = 'x'"}}},
	{Name: "CESQL, missing attribute", Filters: []eventingv1.SubscriptionsAPIFilter{{CESQL: "missing <> 'x'"}}},
	{Name: "filters override filter", Filter: &eventingv1.TriggerFilter{Attributes: eventingv1.TriggerFilterAttributes{"type": "x"}},
		Filters: []eventingv1.SubscriptionsAPIFilter{exact("type", "a.b.c")}, Passes: true},
	{Name: "filters override filter that would pass", Filter: &eventingv1.TriggerFilter{Attributes: eventingv1.TriggerFilterAttributes{"type": "a.b.c"}},
		Filters: []eventingv1.SubscriptionsAPIFilter{exact("type", "x")}},
	{Name: "empty filters do not override", Filter: &eventingv1.TriggerFilter{Attributes: eventingv1.TriggerFilterAttributes{"type": "x"}},
		Filters: []eventingv1.SubscriptionsAPIFilter{}},
	{Name: "attributes", Filter: &eventingv1.TriggerFilter{Attributes: eventingv1.TriggerFilterAttributes{"type": "a.b.c", "tenantid": ""}}, Passes: true},
	{Name: "attributes, missing", Filter: &eventingv1.TriggerFilter{Attributes: eventingv1.TriggerFilterAttributes{"missing": ""}}},
}

// TestFilters makes a Trigger per case and sends each case's event. What the
// others' events do with a Trigger is told apart by an extension.
func TestFilters(t *testing.T, target Target, cases []FilterCase) {
	var got subscriber
	address := target.Serve(t, &got)
	var triggers []*eventingv1.Trigger
	for i, c := range cases {
		triggers = append(triggers, trigger(t, fmt.Sprintf("case-%d", i), fmt.Sprintf("%s/%d", address, i), func(s *eventingv1.TriggerSpec) {
			s.Filters, s.Filter = c.Filters, c.Filter
		}))
	}
	b := target.Apply(t, broker(nil), triggers...)
	for i, c := range cases {
		e := newEvent(strconv.Itoa(i), "a.b.c")
		e.SetExtension("tenantid", "t1")
		for name, value := range c.Event {
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
			default:
				e.SetExtension(name, value)
			}
		}
		e.SetExtension("testcase", strconv.Itoa(i))
		b.post(t, e)
	}
	b.Settle(t)
	passed := map[string]bool{}
	for _, r := range got.all() {
		passed[fmt.Sprintf("%s of %v", strings.Trim(r.path, "/"), r.event.Extensions()["testcase"])] = true
	}
	for i, c := range cases {
		if passed[fmt.Sprintf("%d of %d", i, i)] != c.Passes {
			filter, _ := json.Marshal(triggers[i].Spec)
			t.Errorf("%s: passes is %v, want %v: %s", c.Name, !c.Passes, c.Passes, filter)
		}
	}
}
