package conformance

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	eventingduckv1 "knative.dev/eventing/pkg/apis/duck/v1"
	eventingv1 "knative.dev/eventing/pkg/apis/eventing/v1"
)

func ingress(s *setup) func(*testing.T) {
	got := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address)
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
	return func(t *testing.T) {
		address := s.mesh.Ingress(b.name)
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		root := u.Scheme + "://" + u.Host
		parts := strings.Split(u.Path, "/")
		namespace := parts[len(parts)-2]
		for _, test := range []struct {
			name   string
			method string
			url    string
			header http.Header
			body   string
			want   int
		}{
			{"binary", "POST", address, binary, "x", 202},
			{"slash at the end", "POST", address + "/", with("ce-id", "slash"), "x", 202},
			{"structured", "POST", address, structured, document, 202},
			{"no data", "POST", address, with("ce-id", "empty"), "", 202},
			{"no content type", "POST", address, func() http.Header {
				h := with("ce-id", "untyped")
				h.Del("Content-Type")
				return h
			}(), "x", 202},
			{"TTL left", "POST", address, with("ce-knativebrokerttl", "2"), "x", 202},
			{"TTL that is no number", "POST", address, with("ce-knativebrokerttl", "many"), "x", 202},
			{"TTL above the greatest", "POST", address, with("ce-knativebrokerttl", "1000"), "x", 202},
			{"TTL used up", "POST", address, with("ce-knativebrokerttl", "1"), "x", 400},
			{"TTL zero", "POST", address, with("ce-knativebrokerttl", "0"), "x", 400},
			{"TTL below zero", "POST", address, with("ce-knativebrokerttl", "-5"), "x", 400},
			{"no event", "POST", address, http.Header{"Content-Type": {"application/json"}}, `{}`, 400},
			{"no id", "POST", address, without("ce-id"), "x", 400},
			{"empty id", "POST", address, with("ce-id", ""), "x", 400},
			{"no type", "POST", address, without("ce-type"), "x", 400},
			{"no source", "POST", address, without("ce-source"), "x", 400},
			{"source that is no URI", "POST", address, with("ce-source", "http://[/"), "x", 400},
			{"unknown version", "POST", address, with("ce-specversion", "7.0"), "x", 400},
			{"bad time", "POST", address, with("ce-time", "yesterday"), "x", 400},
			{"bad name of an extension", "POST", address, with("ce-not_a_name", "x"), "x", 400},
			{"structured, no id", "POST", address, structured, `{"specversion":"1.0","type":"t","source":"/s"}`, 400},
			{"structured, no JSON", "POST", address, structured, `{"specversion":`, 400},
			{"batch", "POST", address, http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, "[" + document + "]", 400},
			{"no such broker", "POST", root + "/" + namespace + "/none", binary, "x", 404},
			{"no event for no such broker", "POST", root + "/" + namespace + "/none", nil, "x", 400},
			{"query", "POST", address + "?a=b", binary, "x", 404}, // it is of the Broker's name
			{"root", "POST", root + "/", binary, "x", 404},
			{"one segment", "POST", root + "/" + namespace, binary, "x", 400},
			{"three segments", "POST", address + "/more", binary, "x", 400},
			{"GET", "GET", address, nil, "", 405},
			{"HEAD", "HEAD", address, nil, "", 405},
			{"PUT", "PUT", address, binary, "x", 405},
			{"DELETE", "DELETE", address, binary, "x", 405},
			{"OPTIONS", "OPTIONS", address, nil, "", 200},
		} {
			req, err := http.NewRequest(test.method, test.url, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			if test.header != nil {
				req.Header = test.header
			}
			resp, err := do(req)
			if err != nil {
				t.Fatal(err)
			}
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
		b.settle(t)
		if diff := cmp.Diff([]string{"binary", "empty", "slash", "structured", "untyped"}, got.ids()); diff != "" {
			t.Errorf("events delivered (-want +got):\n%s", diff)
		}
	}
}

// modes holds that an event is the same however it was sent.
func modes(s *setup) func(*testing.T) {
	got := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address)
	type arrived struct {
		ContentType, Data string
		Extensions        map[string]string
	}
	tests := []struct {
		id, contentType, body string
		want                  arrived
	}{
		{"json", "application/cloudevents+json", `"data":{"a":[1,"é"]}`, arrived{"", `{"a":[1,"é"]}`, nil}},
		{"charset", "application/cloudevents+json; charset=utf-8", `"datacontenttype":"application/json","data":[1]`, arrived{"application/json", `[1]`, nil}},
		{"text", "application/cloudevents+json", `"datacontenttype":"text/plain","data":"héllo"`, arrived{"text/plain", "héllo", nil}},
		{"base64", "application/cloudevents+json", `"datacontenttype":"application/octet-stream","data_base64":"AP/+"`, arrived{"application/octet-stream", "\x00\xff\xfe", nil}},
		{"none", "application/cloudevents+json", `"subject":"s"`, arrived{"", "", nil}},
		{"extensions", "application/cloudevents+json", `"flag":true,"number":7,"word":"x y%","data":1`,
			arrived{"", "1", map[string]string{"flag": "true", "number": "7", "word": "x y%"}}},
	}
	return func(t *testing.T) {
		for _, test := range tests {
			body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"type":"t","source":"/s",%s}`, test.id, test.body)
			req, err := http.NewRequest("POST", s.mesh.Ingress(b.name), strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", test.contentType)
			resp, err := do(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusAccepted {
				t.Fatalf("%s: the ingress answers %d, want 202", test.id, resp.StatusCode)
			}
		}
		b.settle(t)
		for _, test := range tests {
			r := got.the(t, test.id)
			if r.header.Get("Ce-Specversion") != "1.0" {
				t.Errorf("%s: headers %v, want binary mode", test.id, r.header)
			}
			is := arrived{ContentType: r.header.Get("Content-Type"), Data: string(r.event.Data())}
			for name := range test.want.Extensions {
				if is.Extensions == nil {
					is.Extensions = map[string]string{}
				}
				is.Extensions[name] = fmt.Sprint(r.event.Extensions()[name])
			}
			if diff := cmp.Diff(test.want, is); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.id, diff)
			}
		}
	}
}

func binaryMode(s *setup) func(*testing.T) {
	got := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address+"/path?query=1")
	sent := newEvent("1", "t")
	sent.SetSubject("größe & more")
	sent.SetDataSchema("https://example.com/schema")
	sent.SetDataContentType("application/octet-stream")
	sent.SetExtension("tenantid", "school 1")
	sent.SetExtension("number", 7)
	sent.SetExtension("knativebrokerttl", 9)
	sent.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	sent.DataEncoded = []byte("\x00 any bytes \xff")
	return func(t *testing.T) {
		b.post(t, sent)
		b.settle(t)
		r := got.one(t)
		is := map[string]any{"path": r.path, "query": r.query, "prefer": r.header.Get("Prefer"), "binary": r.header.Get("Ce-Specversion"),
			"subject": r.event.Subject(), "dataschema": r.event.DataSchema(), "datacontenttype": r.event.DataContentType(), "data": string(r.event.Data())}
		for _, name := range []string{"tenantid", "number", "knativebrokerttl", "traceparent"} {
			is[name] = r.event.Extensions()[name]
		}
		if diff := cmp.Diff(map[string]any{
			"path": "/path", "query": "query=1", "prefer": "reply", "binary": "1.0",
			"subject": "größe & more", "dataschema": "https://example.com/schema", "datacontenttype": "application/octet-stream", "data": "\x00 any bytes \xff",
			"tenantid": "school 1", "number": "7", "knativebrokerttl": nil, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}, is); diff != "" {
			t.Errorf("what arrived (-want +got):\n%s", diff)
		}
		if r.event.Extensions()["knativearrivaltime"] == nil {
			t.Error("no knativearrivaltime")
		}
		if r.header.Get("Kn-Namespace") == "" {
			t.Error("no Kn-Namespace: it says of which namespace the Trigger is")
		}
	}
}

// structuredMode holds that delivery.format is about the subscriber: its dead
// letter sink gets the binary mode.
func structuredMode(s *setup) func(*testing.T) {
	got := s.serve(func(w http.ResponseWriter, got received, _ int) {
		if !strings.HasPrefix(got.path, "/sink") {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	b := s.broker(nil)
	json, binary := eventingduckv1.DeliveryFormatJson, eventingduckv1.DeliveryFormatBinary
	for name, format := range map[string]*eventingduckv1.FormatType{"json": &json, "binary": &binary} {
		b.trigger(name, got.address+"/"+name, delivered(s.t, retries(0), got.address+"/sink-of-"+name), func(s *eventingv1.TriggerSpec) { s.Delivery.Format = format })
	}
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
		types := map[string]string{}
		for _, r := range got.all() {
			types[r.path], _, _ = strings.Cut(r.header.Get("Content-Type"), ";")
			if data := string(r.event.Data()); data != `{"id":"1"}` {
				t.Errorf("%s: data %s", r.path, data)
			}
		}
		want := map[string]string{"/json": "application/cloudevents+json", "/binary": "application/json",
			"/sink-of-json": "application/json", "/sink-of-binary": "application/json"}
		if diff := cmp.Diff(want, types); diff != "" {
			t.Errorf("content types by path (-want +got):\n%s", diff)
		}
	}
}

// large holds what micro-batches and backfills need: events of MiB, and
// attributes of KiB.
func large(s *setup) func(*testing.T) {
	got := s.serve(func(w http.ResponseWriter, got received, _ int) {
		if got.event.Type() == "ask" {
			respond(w, http.StatusOK, sized("reply", "reply", 1<<20))
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	b := s.broker(nil)
	b.trigger("all", got.address)
	sizes := map[string]int{"1": 1 << 20, "8": 8 << 20}
	return func(t *testing.T) {
		var events []event.Event
		for id, size := range sizes {
			events = append(events, sized(id, "t", size))
		}
		attribute := newEvent("attribute", "t")
		attribute.SetExtension("long", strings.Repeat("x", 64<<10))
		b.post(t, append(events, attribute, newEvent("0", "ask"))...)
		b.settle(t)
		sizes["reply"] = 1 << 20
		for id, size := range sizes {
			if r := got.the(t, id); !bytes.Equal(r.event.Data(), sized(id, "t", size).Data()) {
				t.Errorf("event %s: %d bytes of data arrived, or others than the %d sent", id, len(r.event.Data()), size)
			}
		}
		if long := fmt.Sprint(got.the(t, "attribute").event.Extensions()["long"]); len(long) != 64<<10 {
			t.Errorf("%d bytes of an attribute arrived, want %d", len(long), 64<<10)
		}
	}
}

// sized is an event with data that does not compress to nothing.
func sized(id, eventType string, size int) event.Event {
	e := newEvent(id, eventType)
	e.SetDataContentType("application/octet-stream")
	e.DataEncoded = make([]byte, size)
	for i := range e.DataEncoded {
		e.DataEncoded[i] = byte(i * i >> 3)
	}
	return e
}

// twice holds that a Broker forgets: who sends an event again, has it
// delivered again.
func twice(s *setup) func(*testing.T) {
	got := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address)
	return func(t *testing.T) {
		for range 2 {
			b.post(t, newEvent("1", "t"))
			b.settle(t)
		}
		if n := got.attempts("1"); n < 2 {
			t.Errorf("an event that was sent twice was delivered %d times", n)
		}
	}
}

func noTrigger(s *setup) func(*testing.T) {
	b := s.broker(nil)
	return func(t *testing.T) {
		b.post(t, newEvent("1", "t"))
		b.settle(t)
	}
}

// overtaking holds that an event does not wait until another is delivered: no
// order may be relied on.
func overtaking(s *setup) func(*testing.T) {
	const most = 20 * time.Second
	first, second := make(chan struct{}), make(chan struct{})
	got := s.serve(func(w http.ResponseWriter, got received, attempt int) {
		switch {
		case attempt > 1:
		case got.event.ID() == "second":
			close(second)
		default:
			close(first)
			select {
			case <-second:
			case <-time.After(most):
				w.WriteHeader(http.StatusBadRequest)
			}
		}
	})
	dead := s.serve(nil)
	b := s.broker(nil)
	b.trigger("all", got.address, delivered(s.t, retries(0), dead.address))
	return func(t *testing.T) {
		answered := make(chan error, 1)
		go func() {
			status, err := b.sendOne(newEvent("first", "t"))
			if err == nil && status != http.StatusAccepted {
				err = fmt.Errorf("the ingress answers %d", status)
			}
			answered <- err
		}()
		select {
		case <-first:
			b.post(t, newEvent("second", "t"))
		case <-time.After(most):
			t.Errorf("the first event did not come within %v", most)
		}
		if err := <-answered; err != nil {
			t.Fatal(err)
		}
		b.settle(t)
		if diff := cmp.Diff([]string{"first", "second"}, got.ids()); diff != "" {
			t.Errorf("events delivered (-want +got):\n%s", diff)
		}
		if n := len(dead.all()); n != 0 {
			t.Errorf("the second event came only when the first was done, or not within %v", most)
		}
	}
}

// fanOut holds that an event comes to every Trigger that wants it.
func fanOut(s *setup) func(*testing.T) {
	got := s.serve(nil)
	b := s.broker(nil)
	const triggers, events = 4, 20
	for i := range triggers {
		b.trigger(strconv.Itoa(i), got.address+"/"+strconv.Itoa(i), ofType("t"+strconv.Itoa(i%2)))
	}
	return func(t *testing.T) {
		var list []event.Event
		for i := range events {
			list = append(list, newEvent(strconv.Itoa(i), "t"+strconv.Itoa(i%2)))
		}
		b.post(t, list...)
		b.settle(t)
		pairs := map[string]bool{}
		for _, r := range got.all() {
			pairs[r.path+" "+r.event.ID()] = true
			trigger, _ := strconv.Atoi(strings.Trim(r.path, "/"))
			if id, _ := strconv.Atoi(r.event.ID()); id%2 != trigger%2 {
				t.Errorf("event %d came to Trigger %d", id, trigger)
			}
		}
		if want := triggers * events / 2; len(pairs) != want {
			t.Errorf("%d pairs of Trigger and event, want %d", len(pairs), want)
		}
	}
}
