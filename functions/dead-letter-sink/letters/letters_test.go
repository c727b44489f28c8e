package letters_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/dead-letter-sink/letters"
	"github.com/telemesh/telemesh/internal/deadletter"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

const (
	ingress    = "http://broker-ingress.platform.svc.cluster.local"
	subscriber = "http://join.analytics.svc.cluster.local"
)

// cluster is what answers at the addresses of a cluster.
type cluster struct {
	client *http.Client

	mu  sync.Mutex
	got []request
	// answer gives the status and the reply of an address; nil: 204.
	answer func(address string) (status int, reply *event.Event, text string)
}

type request struct {
	address string // scheme, host and path
	header  http.Header
	event   event.Event
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}}
	t.Cleanup(transport.CloseIdleConnections)
	c.client = &http.Client{Transport: transport, Timeout: time.Minute}
	return c
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	address := "http://" + r.Host + strings.TrimSuffix(r.URL.Path, "/")
	e, err := cehttp.NewEventFromHTTPRequest(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	c.mu.Lock()
	c.got = append(c.got, request{address, r.Header, *e})
	answer := c.answer
	c.mu.Unlock()
	status, reply, text := http.StatusNoContent, (*event.Event)(nil), ""
	if answer != nil {
		status, reply, text = answer(address)
	}
	if reply != nil {
		cehttp.WriteResponseWriter(r.Context(), (*binding.EventMessage)(reply), status, w)
		return
	}
	if status >= 300 && status < 400 {
		w.Header().Set("Location", "http://elsewhere.example.com/")
	}
	w.WriteHeader(status)
	io.WriteString(w, text)
}

func (c *cluster) addresses() (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.got {
		out = append(out, r.address)
	}
	slices.Sort(out)
	return out
}

func handler(t *testing.T, w warehouse.Warehouse, c *cluster) function.Handler {
	t.Helper()
	handle, err := letters.New(w, c.client, ingress, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return handle
}

// dead is an event as a Broker sends it to a dead letter sink.
func dead(id, destination string, code int, cause string, change func(*event.Event)) event.Event {
	e := event.New()
	e.SetID(id)
	e.SetSource("/devices")
	e.SetType("com.example.joined")
	e.SetExtension("knativearrivaltime", time.Now().UTC().Format(time.RFC3339Nano))
	e.SetExtension("knativebrokerttl", "200")
	if destination != "" {
		e.SetExtension("knativeerrordest", destination)
		e.SetExtension("knativeerrorcode", code)
		data := base64.StdEncoding.EncodeToString([]byte(cause))
		e.SetExtension("knativeerrordata", data[:min(len(data), 1024)])
	}
	if change != nil {
		change(&e)
	}
	return e
}

// deliver sends an event to the handler as a Broker does.
func deliver(t *testing.T, handle function.Handler, path string, e event.Event) error {
	t.Helper()
	_, err := handle(function.WithPath(t.Context(), path), e)
	return err
}

func open(t *testing.T, w warehouse.Warehouse) (out []deadletter.Letter) {
	t.Helper()
	for l, err := range deadletter.Open(t.Context(), w) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

var requests int

// ask asks for letters to be delivered to subscriber.
func ask(ids ...string) event.Event { return askAt(subscriber, ids...) }

func askAt(address string, ids ...string) event.Event {
	requests++
	data := mesh.Redrive{Letters: []mesh.RedriveLetter{}}
	for _, id := range ids {
		data.Letters = append(data.Letters, mesh.RedriveLetter{ID: id, Subscriber: address})
	}
	return mesh.NewEvent(mesh.RedriveRequested, "/test", mesh.Encode(data), fmt.Sprint(requests))
}

// sent is an event as it leaves the sink: attributes are text, what the Broker
// added is gone.
func sent(e event.Event) event.Event {
	out := e.Clone()
	for name, value := range e.Extensions() {
		text, _ := types.Format(value)
		out.SetExtension(name, text)
	}
	for _, name := range []string{"knativebrokerttl", "knativeerrordest", "knativeerrorcode", "knativeerrordata"} {
		out.SetExtension(name, nil)
	}
	return out
}

// What a Broker could not deliver comes to the subscriber as it would have from
// the Broker, byte for byte.
func TestRedriveSendsTheEventAsItWas(t *testing.T) {
	var every []byte
	for i := range 256 {
		every = append(every, byte(i))
	}
	at := time.Date(2024, 3, 1, 12, 0, 0, 123456789, time.UTC)
	for name, change := range map[string]func(*event.Event){
		"nothing more": func(e *event.Event) {},
		"all attributes": func(e *event.Event) {
			e.SetSubject("devices/ü")
			e.SetTime(at)
			e.SetDataSchema("https://example.com/schema?a=<b>")
			e.SetDataContentType("application/vnd.example")
			e.SetExtension("tenantid", "a\"b<&日本")
			e.SetExtension("count", 7)
			e.DataEncoded = every
		},
		"JSON as it is written": func(e *event.Event) {
			e.SetDataContentType("application/json")
			e.DataEncoded = []byte(" {\"a\" : 1.0,\r\n \"a\":\"\\u00e9\"}\n")
		},
		"what no header carries": func(e *event.Event) {
			e.SetSubject("two\nlines")
			e.SetDataContentType("application/json")
			e.DataEncoded = []byte(`{"a":1}`)
		},
		"an older version": func(e *event.Event) {
			*e = event.New("0.3")
			e.SetID("x")
			e.SetSource("/devices")
			e.SetType("com.example.joined")
			e.SetExtension("knativeerrordest", subscriber)
			e.DataEncoded = []byte("x")
		},
		"large binary data": func(e *event.Event) { e.DataEncoded = bytes.Repeat(every, 20_000) },
		"large text": func(e *event.Event) {
			e.DataEncoded = append([]byte("x"), strings.Repeat("日本", 1_000_000)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			db, c := duckdbtest.Open(t), newCluster(t)
			handle := handler(t, db, c)
			in := dead("e1", subscriber, 400, "no room", change)
			if err := deliver(t, handle, "/analytics/join", in); err != nil {
				t.Fatal(err)
			}
			kept := open(t, db)
			if len(kept) != 1 || kept[0].Size != int64(len(in.Data())) {
				t.Fatalf("open letters = %v, want the one with %d bytes", kept, len(in.Data()))
			}
			if err := deliver(t, handle, "/", ask(kept[0].ID)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{subscriber}, c.addresses()); diff != "" {
				t.Fatalf("delivered to (-want +got):\n%s", diff)
			}
			want, got := sent(in), c.got[0].event
			if !bytes.Equal(want.Data(), got.Data()) {
				t.Errorf("%d bytes of data arrive that differ from the %d of the event", len(got.Data()), len(want.Data()))
			}
			want.DataEncoded, got.DataEncoded, want.DataBase64, got.DataBase64 = nil, nil, false, false
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
			if h := c.got[0].header; h.Get("Prefer") != "reply" || h.Get("Kn-Namespace") != "analytics" {
				t.Errorf("headers = %v, want those of Knative", h)
			}
			if kept := open(t, db); len(kept) != 0 {
				t.Errorf("still open: %v", kept)
			}
		})
	}
}

// The Broker of a dead letter says what failed, and the path which Trigger.
func TestStore(t *testing.T) {
	long := strings.Repeat("日", 400) // 1200 bytes, 1600 of base64
	for name, test := range map[string]struct {
		path string
		in   event.Event
		want deadletter.Letter
	}{
		"a refusal": {"/iot/enrich", dead("e", "http://enrich.iot.svc.cluster.local", 400, "field ts: no time", nil),
			deadletter.Letter{Namespace: "iot", Trigger: "enrich", Destination: "http://enrich.iot.svc.cluster.local", Status: 400, Cause: "field ts: no time"}},
		"of a Broker's own sink": {"/iot", dead("e", subscriber, 503, "", nil),
			deadletter.Letter{Namespace: "iot", Destination: subscriber, Status: 503}},
		"of nobody": {"/", dead("e", subscriber, 503, "", nil), deadletter.Letter{Destination: subscriber, Status: 503}},
		"without a cause, as after a timeout": {"/iot/enrich", dead("e", "", 0, "", nil),
			deadletter.Letter{Namespace: "iot", Trigger: "enrich"}},
		"a cause that was cut": {"/iot/enrich", dead("e", subscriber, 500, long, nil),
			deadletter.Letter{Namespace: "iot", Trigger: "enrich", Destination: subscriber, Status: 500, Cause: strings.Repeat("日", 256)}},
		"a cause that is no text": {"/iot/enrich", dead("e", subscriber, 500, "a\xffb", nil),
			deadletter.Letter{Namespace: "iot", Trigger: "enrich", Destination: subscriber, Status: 500, Cause: "a�b"}},
		"extensions that are not Knative's": {"/iot/enrich", dead("e", "", 0, "", func(e *event.Event) {
			e.SetExtension("knativeerrorcode", "many")
			e.SetExtension("knativeerrordata", "no base64")
		}), deadletter.Letter{Namespace: "iot", Trigger: "enrich", Cause: "no base64"}},
		"a redrive that could not be delivered": {"/iot/dead-letter-redrive", func() event.Event {
			e := ask("x")
			e.SetExtension("knativeerrordest", "http://dead-letter-sink.platform.svc.cluster.local")
			return e
		}(), deadletter.Letter{Namespace: "iot", Trigger: "dead-letter-redrive", Destination: "http://dead-letter-sink.platform.svc.cluster.local"}},
	} {
		t.Run(name, func(t *testing.T) {
			db := duckdbtest.Open(t)
			handle := handler(t, db, newCluster(t))
			for range 2 { // at-least-once
				if err := deliver(t, handle, test.path, test.in); err != nil {
					t.Fatal(err)
				}
			}
			kept := open(t, db)
			if len(kept) != 1 {
				t.Fatalf("open letters = %v, want one", kept)
			}
			got := kept[0]
			if got.ID == "" || got.Event.ID() != test.in.ID() || time.Since(got.ReceivedAt.Time()) > time.Hour {
				t.Errorf("letter %q of event %q, received at %v", got.ID, got.Event.ID(), got.ReceivedAt)
			}
			got.ID, got.Event, got.ReceivedAt, got.RecordedAt, got.Size = "", event.Event{}, 0, 0, 0
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("letter (-want +got):\n%s", diff)
			}
		})
	}
}

// The same event is another letter at another Trigger, and when its sender posts
// it again.
func TestLettersAreToldApart(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := handler(t, db, newCluster(t))
	first := dead("e", subscriber, 400, "", nil)
	later := first.Clone()
	later.SetExtension("knativearrivaltime", time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano))
	other := first.Clone()
	other.SetID("f")
	for range 2 {
		for _, d := range []struct {
			path string
			e    event.Event
		}{{"/iot/a", first}, {"/iot/b", first}, {"/crm/a", first}, {"/iot/a", later}, {"/iot/a", other}} {
			if err := deliver(t, handle, d.path, d.e); err != nil {
				t.Fatal(err)
			}
		}
	}
	if kept := open(t, db); len(kept) != 5 {
		t.Errorf("%d letters are open, want 5", len(kept))
	}
}

// A letter is open again when its event dies again, also where no Broker says when
// it accepted it.
func TestDiesAgain(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := handler(t, db, newCluster(t))
	in := dead("e", subscriber, 400, "", func(e *event.Event) { e.SetExtension("knativearrivaltime", nil) })
	for range 3 {
		if err := deliver(t, handle, "/iot/a", in); err != nil {
			t.Fatal(err)
		}
		kept := open(t, db)
		if len(kept) != 1 {
			t.Fatalf("%d letters are open, want 1", len(kept))
		}
		if err := deliver(t, handle, "/", ask(kept[0].ID)); err != nil {
			t.Fatal(err)
		}
		if kept := open(t, db); len(kept) != 0 {
			t.Fatalf("%d letters are open after the redrive, want none", len(kept))
		}
	}
}

// What the warehouse refuses for good is a permanent error, and in the log as a
// whole; a warehouse that is away is a passing one.
func TestNothingIsLostSilently(t *testing.T) {
	db, c := duckdbtest.Open(t), newCluster(t)
	var log bytes.Buffer
	handle, err := letters.New(db, c.client, ingress, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	in := dead("e", subscriber, 400, "no", func(e *event.Event) {
		e.SetSubject("\xff")
		e.DataEncoded = []byte("the data")
	})
	if err := deliver(t, handle, "/iot/a", in); !mesh.IsPermanent(err) {
		t.Errorf("handler = %v, want a permanent error", err)
	}
	if want := base64.StdEncoding.EncodeToString([]byte("the data")); !strings.Contains(log.String(), want) {
		t.Errorf("the log has no data %s:\n%s", want, log.String())
	}
	db.Close()
	if err := deliver(t, handle, "/iot/a", dead("e", subscriber, 400, "no", nil)); err == nil || mesh.IsPermanent(err) {
		t.Errorf("handler without a warehouse = %v, want a passing error", err)
	}
}

// Where a letter goes, what comes of the answer, and what is recorded.
func TestRedrive(t *testing.T) {
	reply := mesh.NewEvent("com.example.made", "/join", []byte(`{}`), "made")
	const own = ingress + "/analytics/analytics"
	for name, test := range map[string]struct {
		destination string
		answers     map[string]func() (int, *event.Event, string) // by address; 204 where there is none
		posted      []string
		want        deadletter.Outcome
	}{
		"taken": {subscriber, nil, []string{subscriber}, deadletter.Outcome{Outcome: deadletter.Redriven}},
		"a path of the subscriber": {subscriber + "/analytics/analytics", nil, []string{subscriber + "/analytics/analytics"},
			deadletter.Outcome{Outcome: deadletter.Redriven}},
		"a reply goes to the Broker": {subscriber, map[string]func() (int, *event.Event, string){
			subscriber: func() (int, *event.Event, string) { return 200, &reply, "" },
		}, []string{own, subscriber}, deadletter.Outcome{Outcome: deadletter.Redriven}},
		"refused again": {subscriber, map[string]func() (int, *event.Event, string){
			subscriber: func() (int, *event.Event, string) { return 400, nil, "field ts: no time" },
		}, []string{subscriber}, deadletter.Outcome{Outcome: deadletter.Failed, Destination: subscriber, Status: 400, Cause: "field ts: no time"}},
		"a reply that the Broker refuses": {subscriber, map[string]func() (int, *event.Event, string){
			subscriber: func() (int, *event.Event, string) { return 200, &reply, "" },
			own:        func() (int, *event.Event, string) { return 400, nil, "its TTL is used up" },
		}, []string{own, subscriber}, deadletter.Outcome{Outcome: deadletter.Failed, Destination: own, Status: 400, Cause: "its TTL is used up"}},
		"a reply that is no event": {subscriber, map[string]func() (int, *event.Event, string){
			subscriber: func() (int, *event.Event, string) { return 200, nil, "thanks" },
		}, []string{subscriber}, deadletter.Outcome{Outcome: deadletter.Failed, Destination: subscriber, Status: 502, Cause: "the reply has a body and is no CloudEvent: thanks"}},
		"sent elsewhere": {subscriber, map[string]func() (int, *event.Event, string){
			subscriber: func() (int, *event.Event, string) { return 307, nil, "" },
		}, []string{subscriber}, deadletter.Outcome{Outcome: deadletter.Failed, Destination: subscriber, Status: 307}},
		"another domain's Broker, by the ingress that knows the sink": {"http://broker-ingress.knative-eventing.svc.cluster.local/iot/iot", nil,
			[]string{ingress + "/iot/iot"}, deadletter.Outcome{Outcome: deadletter.Redriven}},
		"one of class Kafka": {"http://kafka-broker-ingress.knative-eventing.svc.cluster.local/iot/iot", nil,
			[]string{ingress + "/iot/iot"}, deadletter.Outcome{Outcome: deadletter.Redriven}},
		"its own Broker": {"http://broker-ingress.knative-eventing.svc.cluster.local/analytics/analytics", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: "the subscriber took the event, Broker analytics/analytics not its reply: which subscriber that is does not stand in the letter; post the event to it yourself, and discard the letter"}},
		"nobody": {"", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: "its Broker did not say which subscriber failed: it did not answer in time, or with what is no event; post the event to it yourself, and discard the letter"}},
		"outside the cluster": {"http://169.254.169.254/latest", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: "http://169.254.169.254/latest is no Service of the cluster: post the event there yourself, and discard the letter"}},
		"a name that only ends like the cluster's": {"http://svc.cluster.local.example.com/", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: "http://svc.cluster.local.example.com/ is no Service of the cluster: post the event there yourself, and discard the letter"}},
		"another scheme": {"file:///etc/passwd", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: `"file:///etc/passwd" is no address that an event is posted to`}},
	} {
		t.Run(name, func(t *testing.T) {
			db, c := duckdbtest.Open(t), newCluster(t)
			c.answer = func(address string) (int, *event.Event, string) {
				if a := test.answers[address]; a != nil {
					return a()
				}
				return http.StatusNoContent, nil, ""
			}
			handle := handler(t, db, c)
			if err := deliver(t, handle, "/analytics/join", dead("e", test.destination, 400, "", nil)); err != nil {
				t.Fatal(err)
			}
			id := open(t, db)[0].ID
			request := ask(id)
			for range 3 { // the request comes again
				if err := deliver(t, handle, "/", request); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(test.posted, c.addresses()); diff != "" {
				t.Errorf("posted to (-want +got):\n%s", diff)
			}
			outcomes, err := deadletter.Outcomes(t.Context(), db, request.Source(), request.ID())
			if err != nil {
				t.Fatal(err)
			}
			got := outcomes[id]
			got.LetterID, got.RequestSource, got.RequestID, got.DoneAt = "", "", "", 0
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if is := len(open(t, db)) == 1; is != (test.want.Outcome == deadletter.Failed) {
				t.Errorf("the letter is open: %v, after %s", is, test.want.Outcome)
			}
			// What failed can be asked for again, what did not is left alone.
			before := len(c.addresses())
			if err := deliver(t, handle, "/", ask(id)); err != nil {
				t.Fatal(err)
			}
			if again := len(c.addresses()) > before; again != (test.want.Outcome == deadletter.Failed && test.posted != nil) {
				t.Errorf("delivered for another request: %v, after %s", again, test.want.Outcome)
			}
		})
	}
}

// A reply has the TTL that the event had left, as Knative puts it back: a circle
// of events ends, also through a redrive.
func TestReplyKeepsTTL(t *testing.T) {
	db, c := duckdbtest.Open(t), newCluster(t)
	reply := mesh.NewEvent("com.example.made", "/join", []byte(`{}`), "made")
	c.answer = func(address string) (int, *event.Event, string) {
		if address == subscriber {
			return 200, &reply, ""
		}
		return 202, nil, ""
	}
	handle := handler(t, db, c)
	if err := deliver(t, handle, "/analytics/join", dead("e", subscriber, 400, "", nil)); err != nil {
		t.Fatal(err)
	}
	if err := deliver(t, handle, "/", ask(open(t, db)[0].ID)); err != nil {
		t.Fatal(err)
	}
	if len(c.got) != 2 || c.got[1].event.Extensions()["knativebrokerttl"] != "200" {
		t.Errorf("the reply = %v, want TTL 200", c.got)
	}
	if _, has := c.got[0].event.Extensions()["knativebrokerttl"]; has {
		t.Error("the subscriber got a TTL")
	}
}

// All letters of a request are tried, whatever comes of one.
func TestRedriveOfMany(t *testing.T) {
	db, c := duckdbtest.Open(t), newCluster(t)
	handle := handler(t, db, c)
	const n = 50
	for i := range n {
		destination := fmt.Sprintf("http://s%d.iot.svc.cluster.local", i)
		if err := deliver(t, handle, "/iot/a", dead(fmt.Sprint(i), destination, 400, "", nil)); err != nil {
			t.Fatal(err)
		}
	}
	c.answer = func(address string) (int, *event.Event, string) {
		if strings.HasPrefix(address, "http://s1") {
			return 500, nil, "not yet"
		}
		return 204, nil, ""
	}
	ids := []string{"unknown"}
	for _, l := range open(t, db) {
		ids = append(ids, l.ID, l.ID)
	}
	request := ask(ids...)
	if err := deliver(t, handle, "/", request); err != nil {
		t.Fatal(err)
	}
	if got := len(c.addresses()); got != n {
		t.Errorf("%d deliveries, want %d", got, n)
	}
	if got := len(open(t, db)); got != 11 {
		t.Errorf("%d letters are open, want the 11 that failed", got)
	}
}

// broken fails to answer queries.
type broken struct{ warehouse.Warehouse }

func (broken) Query(context.Context, string) (*warehouse.Rows, error) { return nil, errors.New("away") }

// A request that cannot be read is refused; one that cannot be worked on comes
// again.
func TestRedriveErrors(t *testing.T) {
	db, c := duckdbtest.Open(t), newCluster(t)
	for _, data := range []string{``, `{}`, `{"letters":7}`, `{"ids":["x"]}`} {
		e := mesh.NewEvent(mesh.RedriveRequested, "/test", []byte(data), data)
		if err := deliver(t, handler(t, db, c), "/", e); !mesh.IsPermanent(err) {
			t.Errorf("redrive %s = %v, want a permanent error", data, err)
		}
	}
	if err := deliver(t, handler(t, db, c), "/", ask()); err != nil {
		t.Errorf("redrive of none = %v, want nil", err)
	}
	if err := deliver(t, handler(t, broken{db}, c), "/", ask("x")); err == nil || mesh.IsPermanent(err) {
		t.Errorf("redrive without a warehouse = %v, want a passing error", err)
	}
}
