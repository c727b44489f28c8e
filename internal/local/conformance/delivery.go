package conformance

import (
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	eventingduckv1 "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
	"knative.dev/pkg/apis"
	duckv1 "knative.dev/pkg/apis/duck/v1"
)

func reply(s *setup) func(*testing.T) {
	first := s.serve(func(w http.ResponseWriter, got received, _ int) {
		out := newEvent("reply to "+got.event.ID(), "second")
		out.SetExtension("tenantid", "t1")
		out.SetExtension("knativebrokerttl", 1) // is the Broker's own
		respond(w, http.StatusOK, out)
	})
	second, other := s.serve(nil), s.serve(nil)
	b := s.broker(nil)
	b.trigger("first", first.address, ofType("first"))
	b.trigger("second", second.address, ofType("second"))
	b.trigger("other", other.address, ofType("other"))
	return func(t *testing.T) {
		var events []event.Event
		for i := range 20 {
			events = append(events, newEvent(strconv.Itoa(i), "first"))
		}
		b.post(t, events...)
		b.settle(t)
		if got := first.ids(); len(got) != 20 {
			t.Errorf("%d events delivered, want 20: %v", len(got), got)
		}
		if got := second.ids(); len(got) != 20 || got[0] != "reply to 0" {
			t.Errorf("%d replies delivered, want 20: %v", len(got), got)
		}
		if r := second.the(t, "reply to 0").event; r.Extensions()["tenantid"] != "t1" || r.Extensions()["knativebrokerttl"] != nil {
			t.Errorf("extensions of a reply: %v, want its own and no TTL", r.Extensions())
		}
		if got := other.ids(); len(got) != 0 {
			t.Errorf("events %v delivered to a Trigger that filters them out", got)
		}
	}
}

// forms holds what is a reply: an event, in either mode, with any status that
// is a success. One that the ingress refuses makes a dead letter of the event.
func forms(s *setup) func(*testing.T) {
	const structured = "application/cloudevents+json"
	document := func(without string) string {
		fields := []string{`"specversion":"1.0"`, `"id":"reply"`, `"type":"reply"`, `"source":"/s"`, `"data":1`}
		return "{" + strings.Join(slices.DeleteFunc(fields, func(f string) bool { return strings.HasPrefix(f, `"`+without+`"`) }), ",") + "}"
	}
	got := s.serve(func(w http.ResponseWriter, got received, _ int) {
		id := got.event.ID()
		switch kind, value, _ := strings.Cut(id, " "); kind {
		case "status":
			status, _ := strconv.Atoi(value)
			respond(w, status, newEvent("reply to "+id, "reply"))
		case "structured":
			w.Header().Set("Content-Type", structured)
			io.WriteString(w, strings.Replace(document(""), `"reply"`, `"reply to structured"`, 1))
		case "without":
			w.Header().Set("Content-Type", structured)
			io.WriteString(w, document(value))
		}
	})
	replies, dead := s.serve(nil), s.serve(nil)
	b := s.broker(nil)
	b.trigger("ask", got.address, ofType("ask"), delivered(s.t, retries(1), dead.address))
	b.trigger("replies", replies.address, ofType("reply"))
	return func(t *testing.T) {
		var events []event.Event
		for _, id := range []string{"status 200", "status 201", "status 202", "structured", "without id", "without type", "without source"} {
			events = append(events, newEvent(id, "ask"))
		}
		b.post(t, events...)
		b.settle(t)
		want := []string{"reply to status 200", "reply to status 201", "reply to status 202", "reply to structured"}
		if diff := cmp.Diff(want, replies.ids()); diff != "" {
			t.Errorf("replies delivered (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"without id", "without source", "without type"}, dead.ids()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		for _, r := range dead.all() {
			if code := r.event.Extensions()["knativeerrorcode"]; code != "400" {
				t.Errorf("%s: knativeerrorcode is %v, want the ingress' 400", r.event.ID(), code)
			}
		}
	}
}

// What follows a 2xx is an event or nothing.
func brokenReply(s *setup) func(*testing.T) {
	got := s.serve(func(w http.ResponseWriter, got received, attempt int) {
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
		case "batch":
			w.Header().Set("Content-Type", "application/cloudevents-batch+json")
			io.WriteString(w, `[{"specversion":"1.0","id":"1","type":"reply","source":"/s"}]`)
		case "empty 200":
			w.WriteHeader(http.StatusOK)
		case "empty 202":
			w.WriteHeader(http.StatusAccepted)
		case "empty 204":
			w.WriteHeader(http.StatusNoContent)
		}
	})
	dead := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address, delivered(s.t, retries(2), dead.address))
	return func(t *testing.T) {
		var events []event.Event
		for _, id := range []string{"text", "text once", "half an event", "batch", "empty 200", "empty 202", "empty 204"} {
			events = append(events, newEvent(id, "t"))
		}
		b.post(t, events...)
		b.settle(t)
		if diff := cmp.Diff([]string{"batch", "half an event", "text"}, dead.ids()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		if n := got.attempts("text"); n < 3 {
			t.Errorf("a reply that is no event: %d attempts, want 3", n)
		}
		s.claim(t, TellsBrokenReply, causeFault(dead.the(t, "text"), http.StatusBadGateway, got.address))
	}
}

// A subscriber that answers with what wakes it ends when the TTL is used up,
// and the last event becomes a dead letter.
func ttl(s *setup) func(*testing.T) {
	loop := s.serve(func(w http.ResponseWriter, got received, _ int) {
		hop, _ := strconv.Atoi(got.event.ID())
		respond(w, http.StatusOK, newEvent(strconv.Itoa(hop+1), "loop"))
	})
	dead := s.serve(nil)
	b := s.broker(nil)
	b.trigger("loop", loop.address, delivered(s.t, retries(0), dead.address))
	return func(t *testing.T) {
		e := newEvent("1", "loop")
		e.SetExtension("knativebrokerttl", 5)
		b.post(t, e)
		b.settle(t)
		if diff := cmp.Diff([]string{"1", "2", "3", "4"}, loop.ids()); diff != "" {
			t.Errorf("hops of an event with TTL 5 (-want +got):\n%s", diff)
		}
		r := dead.one(t)
		if r.event.ID() != "4" || r.event.Extensions()["knativeerrorcode"] != "400" {
			t.Errorf("dead letter %s, want event 4 and the ingress' 400", r.event)
		}
		if to := fmt.Sprint(r.event.Extensions()["knativeerrordest"]); !strings.HasSuffix(to, "/"+b.name) {
			t.Errorf("the dead letter's knativeerrordest is %s, want the Broker", to)
		}
	}
}

// chain holds that a Broker is a subscriber, by ref and by ref and uri, and
// that the TTL begins anew there.
func chain(s *setup) func(*testing.T) {
	got := s.serve(func(w http.ResponseWriter, got received, _ int) {
		if got.path != "/reply" {
			respond(w, http.StatusOK, newEvent("reply", "reply"))
		}
	})
	b, next, other := s.broker(nil), s.broker(nil), s.broker(nil)
	next.trigger("all", got.address+"/next", ofType("t"))
	next.trigger("reply", got.address+"/reply", ofType("reply"))
	other.trigger("all", got.address+"/other", ofType("t"))
	sibling := next.ref() // its address, but for the last segment
	sibling.URI = &apis.URL{Path: other.name}
	for name, to := range map[string]duckv1.Destination{"ref": next.ref(), "ref-uri": sibling} {
		s.triggers = append(s.triggers, newTrigger(b.name, b.name+"-"+name, to))
	}
	return func(t *testing.T) {
		e := newEvent("1", "t")
		e.SetExtension("knativebrokerttl", 2) // 1 is left, which another Broker would refuse
		b.post(t, e)
		b.settle(t)
		paths := map[string]bool{}
		for _, r := range got.all() {
			paths[r.path] = true
		}
		if diff := cmp.Diff(map[string]bool{"/next": true, "/reply": true, "/other": true}, paths); diff != "" {
			t.Errorf("where the event came by (-want +got):\n%s", diff)
		}
	}
}

// statuses holds the table of what is tried again.
func statuses(s *setup) func(*testing.T) {
	again := []int{404, 408, 409, 429, 500, 501, 502, 503, 504, 599}
	never := []int{300, 302, 400, 401, 403, 405, 410, 413, 415, 422, 451}
	got := s.serve(func(w http.ResponseWriter, got received, attempt int) {
		// Events are named STATUS-TIMES: so often they are answered so.
		code, times, _ := strings.Cut(got.event.ID(), "-")
		status, _ := strconv.Atoi(code)
		if most, _ := strconv.Atoi(times); attempt > most {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		w.WriteHeader(status)
		io.WriteString(w, "no: "+code)
	})
	dead := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address, delivered(s.t, retries(2), dead.address))
	return func(t *testing.T) {
		var events []event.Event
		for _, status := range slices.Concat(again, never) {
			events = append(events, newEvent(fmt.Sprintf("%d-1", status), "t"), newEvent(fmt.Sprintf("%d-99", status), "t"))
		}
		b.post(t, events...)
		b.settle(t)
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
			id, extensions := r.event.ID(), r.event.Extensions()
			gotDead[id] = fmt.Sprint(extensions["knativeerrorcode"])
			if to := extensions["knativeerrordest"]; to != got.address {
				t.Errorf("%s: knativeerrordest is %v, want %s", id, to, got.address)
			}
			code, _, _ := strings.Cut(id, "-")
			text, err := base64.StdEncoding.DecodeString(fmt.Sprint(extensions["knativeerrordata"]))
			if err != nil || string(text) != "no: "+code {
				t.Errorf("%s: knativeerrordata is %q, %v, want the answer in Base64", id, text, err)
			}
			if string(r.event.Data()) != `{"id":"`+id+`"}` {
				t.Errorf("%s: data of the dead letter is %s, want the event's", id, r.event.Data())
			}
		}
		if diff := cmp.Diff(wantDead, gotDead); diff != "" {
			t.Errorf("dead letters and their codes (-want +got):\n%s", diff)
		}
	}
}

// backoff holds the least time between attempts. More may always pass.
func backoff(s *setup) func(*testing.T) {
	const delay = 200 * time.Millisecond
	got, dead := s.serve(with(http.StatusServiceUnavailable)), s.serve(nil)
	b := s.broker(nil)
	want := map[string][]time.Duration{
		"linear":      {0, delay, 2 * delay},
		"exponential": {delay, 2 * delay, 4 * delay},
	}
	for policy := range want {
		b.trigger(policy, got.address+"/"+policy, delivered(s.t, backingOff(3, eventingduckv1.BackoffPolicyType(policy), "PT0.2S"), dead.address))
	}
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		for policy, least := range want {
			gaps := gaps(got, "/"+policy)
			if len(gaps) < len(least) {
				t.Errorf("%s: %d attempts, want %d", policy, len(gaps)+1, len(least)+1)
				continue
			}
			for i, gap := range gaps[:len(least)] {
				// The subscriber's clock starts when a request is there.
				if gap < least[i]-delay/4 {
					t.Errorf("%s: attempt %d came %v after the one before, want %v", policy, i+2, gap, least[i])
				}
			}
		}
	}
}

func gaps(s *subscriber, path string) (gaps []time.Duration) {
	var last time.Time
	for _, r := range s.all() {
		if r.path != path {
			continue
		}
		if !last.IsZero() {
			gaps = append(gaps, r.at.Sub(last))
		}
		last = r.at
	}
	return gaps
}

// retryAfter holds that a subscriber's Retry-After counts up to retryAfterMax,
// and not where there is none.
func retryAfter(s *setup) func(*testing.T) {
	got := s.serve(func(w http.ResponseWriter, got received, attempt int) {
		if attempt == 1 {
			w.Header().Set("Retry-After", "100")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	heeds := func(s *eventingv1.TriggerSpec) {
		most := "PT1S"
		s.Delivery = retries(1)
		s.Delivery.RetryAfterMax = &most
	}
	b := s.broker(nil)
	b.trigger("passes-over", got.address+"/passes-over", delivered(s.t, retries(1), ""))
	if s.except[HeedsRetryAfter] != Broken {
		b.trigger("heeds", got.address+"/heeds", heeds)
	}
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		if n := len(gaps(got, "/passes-over")); n < 1 {
			t.Error("an attempt that was to come again later did not")
		}
		if s.except[HeedsRetryAfter] == Broken {
			s.claim(t, HeedsRetryAfter, s.target.Refused(t, []*eventingv1.Trigger{newTrigger(b.name, "heeds", at(t, got.address), heeds)})[0])
			return
		}
		var fault string
		if gaps := gaps(got, "/heeds"); len(gaps) < 1 || gaps[0] < time.Second-50*time.Millisecond {
			fault = fmt.Sprintf("after a Retry-After of 100 s and a retryAfterMax of 1 s attempts came after %v, want 1 s", gaps)
		}
		s.claim(t, HeedsRetryAfter, fault)
	}
}

func unreachable(s *setup) func(*testing.T) {
	dead := s.serve(nil)
	b := s.broker(nil)
	const nowhere = "http://127.0.0.1:1/"
	b.trigger("nobody", nowhere, delivered(s.t, retries(1), dead.address))
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		if fault := causeFault(dead.one(t), http.StatusInternalServerError, nowhere); fault != "" {
			t.Error(fault)
		}
	}
}

// byDefault holds that a Broker which says nothing of delivery tries again: by
// the defaults that Knative installs.
func byDefault(s *setup) func(*testing.T) {
	got := s.serve(func(w http.ResponseWriter, got received, attempt int) {
		if attempt < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	b := s.broker(nil)
	b.trigger("all", got.address)
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		if n := got.attempts("1"); n < 3 {
			t.Errorf("%d attempts, want 3", n)
		}
	}
}

// downThenUp holds that events wait for a subscriber which is away for less than
// the retries take: nobody listens at its address. It comes up when the dead letter
// of a Trigger without retries tells that the Broker has asked for it.
func downThenUp(s *setup) func(*testing.T) {
	got := &subscriber{}
	address, stop := s.target.Serve(s.t, 0, got)
	stop()
	up := make(chan struct{})
	var first sync.Once
	asked := s.serve(func(w http.ResponseWriter, _ received, _ int) { first.Do(func() { close(up) }) })
	dead := s.serve(nil)
	b := s.broker(nil)
	b.trigger("asks", address+"/asks", delivered(s.t, retries(0), asked.address))
	b.trigger("waits", address+"/waits", delivered(s.t, backingOff(6, eventingduckv1.BackoffPolicyExponential, "PT0.1S"), dead.address)) // 6 s
	return func(t *testing.T) {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		port, err := strconv.Atoi(u.Port())
		if err != nil {
			t.Fatal(err)
		}
		var events []event.Event
		var want []string
		for i := range 10 {
			want = append(want, strconv.Itoa(i))
			events = append(events, newEvent(want[i], "t"))
		}
		came := make(chan struct{})
		go func() { // beside the post, which may be answered only when all is delivered
			defer close(came)
			select {
			case <-up:
				s.target.Serve(s.t, port, got)
			case <-t.Context().Done():
			}
		}()
		b.post(t, events...)
		b.settle(t)
		select {
		case <-up:
			<-came
		default:
			t.Fatal("no event is a dead letter of a Trigger without retries, whose subscriber is down")
		}
		waited := map[string]bool{}
		for _, r := range got.all() {
			if r.path == "/waits" {
				waited[r.event.ID()] = true
			}
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(waited))); diff != "" {
			t.Errorf("events that came to a subscriber which was up in time (-want +got):\n%s", diff)
		}
		if ids := dead.ids(); len(ids) != 0 {
			t.Errorf("dead letters %v of a subscriber that was up in time", ids)
		}
	}
}

func timeout(s *setup) func(*testing.T) {
	got := s.serve(func(w http.ResponseWriter, got received, attempt int) {
		if got.event.ID() == "once" && attempt > 1 {
			return
		}
		<-got.gone
	})
	dead := s.serve(nil)
	b := s.broker(nil)
	b.trigger("slow", got.address, delivered(s.t, retries(1), dead.address), func(s *eventingv1.TriggerSpec) {
		limit := "PT0.5S"
		s.Delivery.Timeout = &limit
	})
	return func(t *testing.T) {
		b.post(t, newEvent("once", "t"), newEvent("always", "t"))
		b.settle(t)
		for _, id := range []string{"once", "always"} {
			if n := got.attempts(id); n < 2 {
				t.Errorf("%s: %d attempts, want 2", id, n)
			}
		}
		s.claim(t, TellsTimeout, causeFault(dead.one(t), http.StatusInternalServerError, got.address))
	}
}

// The Broker's delivery is that of Triggers which have none, and its sink that
// of Triggers which have none.
func deadLetterSinks(s *setup) func(*testing.T) {
	refuse := s.serve(with(http.StatusServiceUnavailable))
	letters := s.serve(func(w http.ResponseWriter, got received, _ int) {
		respond(w, http.StatusOK, newEvent("reply of the sink", "t")) // which goes nowhere
	})
	delivery := retries(1)
	sink := at(s.t, letters.address+"/of/broker?a=b")
	delivery.DeadLetterSink = &sink
	b := s.broker(delivery)
	b.trigger("none", refuse.address+"/none")
	b.trigger("own", refuse.address+"/own", delivered(s.t, retries(0), letters.address+"/of/trigger"))
	b.trigger("own-but-sink", refuse.address+"/own-but-sink", delivered(s.t, retries(0), ""))
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		sinks := map[string]string{}
		for _, r := range letters.all() {
			to := fmt.Sprint(r.event.Extensions()["knativeerrordest"])
			sinks[strings.TrimPrefix(to, refuse.address)] = r.path + "?" + r.query
		}
		if diff := cmp.Diff(map[string]string{"/none": "/of/broker?a=b", "/own": "/of/trigger?", "/own-but-sink": "/of/broker?a=b"}, sinks); diff != "" {
			t.Errorf("where dead letters went, by subscriber (-want +got):\n%s", diff)
		}
		attempts := map[string]int{}
		for _, r := range refuse.all() {
			attempts[r.path]++
		}
		if attempts["/none"] < 2 || attempts["/own"] != 1 || attempts["/own-but-sink"] != 1 {
			t.Errorf("attempts %v, want 2 by the Broker's delivery and 1 by the Triggers'", attempts)
		}
		if diff := cmp.Diff([]string{"1"}, refuse.ids()); diff != "" {
			t.Errorf("events delivered, with the sink's reply or without the event (-want +got):\n%s", diff)
		}
	}
}

// deadLetterExtensions holds what a dead letter says besides its event: one that
// says why it was not delivered keeps that.
func deadLetterExtensions(s *setup) func(*testing.T) {
	const room = 768 // bytes are 1024 in Base64
	lengths := []int{0, 1, room}
	if s.except[CutsLongAnswers] == 0 {
		lengths = append(lengths, room+1, 10*room)
	}
	answer := strings.Repeat("because ", 10*room/8)
	got := s.serve(func(w http.ResponseWriter, got received, _ int) {
		w.WriteHeader(http.StatusBadRequest)
		n, _ := strconv.Atoi(got.event.ID())
		io.WriteString(w, answer[:n])
	})
	dead := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address, delivered(s.t, retries(0), dead.address))
	return func(t *testing.T) {
		again := newEvent("again", "t")
		for name, value := range map[string]string{
			"knativeerrordest": "http://example.com/", "knativeerrorcode": "503", "knativeerrordata": "b2xk",
			"knativebrokerttl": "255", "tenantid": "t1", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		} {
			again.SetExtension(name, value)
		}
		events := []event.Event{again}
		for _, n := range lengths {
			events = append(events, newEvent(strconv.Itoa(n), "t"))
		}
		b.post(t, events...)
		b.settle(t)
		for _, n := range lengths {
			want := base64.StdEncoding.EncodeToString([]byte(answer[:min(n, room)]))
			if data, _ := dead.the(t, strconv.Itoa(n)).event.Extensions()["knativeerrordata"].(string); data != want {
				t.Errorf("knativeerrordata of an answer of %d bytes is %q, want %q", n, data, want)
			}
		}
		extensions := dead.the(t, "again").event.Extensions()
		if extensions["knativearrivaltime"] == nil {
			t.Error("a dead letter without knativearrivaltime")
		}
		is := map[string]any{}
		for name := range again.Extensions() {
			is[name] = extensions[name]
		}
		want := again.Extensions()
		want["knativebrokerttl"] = "254" // so that one which comes back to its Broker does not do so for ever
		if diff := cmp.Diff(want, is); diff != "" {
			t.Errorf("extensions of a dead letter that was one before (-want +got):\n%s", diff)
		}
	}
}

// deadLettersToBroker holds that a Broker is a sink, by ref and uri.
func deadLettersToBroker(s *setup) func(*testing.T) {
	got, dead := s.serve(with(http.StatusBadRequest)), s.serve(nil)
	b, letters := s.broker(nil), s.broker(nil)
	letters.trigger("all", dead.address)
	b.trigger("all", got.address, func(spec *eventingv1.TriggerSpec) {
		sink := b.ref()
		sink.URI = &apis.URL{Path: letters.name}
		spec.Delivery = retries(0)
		spec.Delivery.DeadLetterSink = &sink
	})
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		if fault := causeFault(dead.one(t), http.StatusBadRequest, got.address); fault != "" {
			t.Error(fault)
		}
	}
}

// nobody holds that an event which no sink takes keeps no other from being
// delivered, by the same Trigger and by others.
func nobody(s *setup) func(*testing.T) {
	refuse := s.serve(func(w http.ResponseWriter, got received, _ int) {
		if strings.HasPrefix(got.event.ID(), "bad") {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	failing, other := s.serve(with(http.StatusInternalServerError)), s.serve(nil)
	b := s.broker(nil)
	b.trigger("no-sink", refuse.address+"/no-sink", delivered(s.t, retries(1), ""))
	b.trigger("failing-sink", refuse.address+"/failing-sink", delivered(s.t, retries(1), failing.address))
	b.trigger("other", other.address)
	return func(t *testing.T) {
		var fault string
		for _, status := range b.send(t, newEvent("bad", "t"), newEvent("bad too", "t")) {
			if status != http.StatusAccepted {
				fault = fmt.Sprintf("the ingress answers %d", status)
			}
		}
		s.claim(t, AcceptsUndeliverable, fault)
		b.post(t, newEvent("good", "t"))
		b.settle(t)
		all := []string{"bad", "bad too", "good"}
		if diff := cmp.Diff(all, refuse.ids()); diff != "" {
			t.Errorf("events delivered (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(all, other.ids()); diff != "" {
			t.Errorf("events delivered by another Trigger (-want +got):\n%s", diff)
		}
		if n := failing.attempts("bad"); n < 2 {
			t.Errorf("the failing sink was tried %d times, want 2", n)
		}
	}
}

// badCESQL holds that an expression which is a number for an event does not
// let it pass, nor lose it, nor stop the Broker.
func badCESQL(s *setup) func(*testing.T) {
	got, dead := s.serve(nil), s.serve(nil)
	b := s.broker(nil)
	b.trigger("number", got.address, delivered(s.t, retries(0), dead.address), func(s *eventingv1.TriggerSpec) {
		s.Filters = []eventingv1.SubscriptionsAPIFilter{{CESQL: "LENGTH(type)"}}
	})
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		if ids := got.ids(); len(ids) != 0 {
			t.Errorf("events %v pass", ids)
		}
		s.claim(t, TellsBadCESQL, causeFault(dead.one(t), http.StatusInternalServerError, got.address))
	}
}
