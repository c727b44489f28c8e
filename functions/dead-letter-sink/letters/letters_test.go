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
func ask(ids ...string) event.Event {
	letters := []mesh.RedriveLetter{}
	for _, id := range ids {
		letters = append(letters, mesh.RedriveLetter{ID: id, Subscriber: subscriber})
	}
	return askFor(letters...)
}

func askFor(letters ...mesh.RedriveLetter) event.Event {
	requests++
	return mesh.NewEvent(mesh.RedriveRequested, "/test", mesh.Encode(mesh.Redrive{Letters: letters}), fmt.Sprint(requests))
}

// outcomes gives what a request led to, by letter.
func outcomes(t *testing.T, w warehouse.Warehouse, request event.Event) map[string]deadletter.Outcome {
	t.Helper()
	all, err := deadletter.Outcomes(t.Context(), w, 0, request.Source(), request.ID())
	if err != nil {
		t.Fatal(err)
	}
	for id, o := range all {
		if o.LetterID != id || o.DoneAt == 0 {
			t.Errorf("outcome of %s = %+v", id, o)
		}
		o.LetterID, o.RequestSource, o.RequestID, o.DoneAt = "", "", "", 0
		all[id] = o
	}
	return all
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

// away is a warehouse that refuses what a test says.
type away struct {
	warehouse.Warehouse
	refuses func(warehouse.Batch) bool
}

func (w *away) Append(ctx context.Context, b warehouse.Batch) (int64, error) {
	if w.refuses(b) {
		return 0, errors.New("away")
	}
	return w.Warehouse.Append(ctx, b)
}

// A letter that is not stored, for good or because the warehouse is away, is in the log
// as a whole, once for all attempts, and again when it is not stored the next time that
// it dies.
func TestNothingIsLostSilently(t *testing.T) {
	c := newCluster(t)
	for name, test := range map[string]struct {
		subject   string
		permanent bool
	}{"refused for good": {"\xff", true}, "the warehouse is away": {"x", false}} {
		t.Run(name, func(t *testing.T) {
			isAway := !test.permanent
			db := &away{duckdbtest.Open(t), func(warehouse.Batch) bool { return isAway }}
			var log bytes.Buffer
			handle, err := letters.New(db, c.client, ingress, slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			in := dead("e", subscriber, 400, "no", func(e *event.Event) {
				e.SetExtension("knativearrivaltime", nil)
				e.SetSubject(test.subject)
				e.DataEncoded = []byte("the data")
			})
			want := base64.StdEncoding.EncodeToString(in.Data())
			for range 3 {
				if err := deliver(t, handle, "/iot/a", in); err == nil || mesh.IsPermanent(err) != test.permanent {
					t.Errorf("handler = %v, want an error that is permanent: %v", err, test.permanent)
				}
			}
			if n := strings.Count(log.String(), want); n != 1 {
				t.Errorf("the log has the data %d times, want once:\n%s", n, log.String())
			}
			if test.permanent {
				return
			}
			isAway = false
			if err := deliver(t, handle, "/iot/a", in); err != nil {
				t.Fatal(err)
			}
			if id := open(t, db)[0].ID; !strings.Contains(log.String(), "stored after all\" letter="+id) {
				t.Errorf("the log does not say that %s is stored:\n%s", id, log.String())
			}
			isAway = true
			if err := deliver(t, handle, "/iot/a", in); err == nil {
				t.Error("handler = nil without a warehouse")
			}
			if n := strings.Count(log.String(), want); n != 2 {
				t.Errorf("the log has the data %d times after the event died again, want twice", n)
			}
		})
	}
}

// A letter is stored also when who brings it goes away: nobody brings it again.
func TestStoredWhenTheRequestEnds(t *testing.T) {
	db := duckdbtest.Open(t)
	ctx, cancel := context.WithCancel(function.WithPath(t.Context(), "/iot/a"))
	cancel()
	if _, err := handler(t, db, newCluster(t))(ctx, dead("e", subscriber, 400, "", nil)); err != nil {
		t.Fatal(err)
	}
	if n := len(open(t, db)); n != 1 {
		t.Errorf("%d letters are open, want 1", n)
	}
}

// Many letters that are not stored do not fill the memory with their ids: the oldest is
// forgotten, and logged again.
func TestLoggedLettersAreBounded(t *testing.T) {
	db := &away{duckdbtest.Open(t), func(warehouse.Batch) bool { return true }}
	var log bytes.Buffer
	handle, err := letters.New(db, newCluster(t).client, ingress, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	logged := func(i int) bool {
		log.Reset()
		if err := deliver(t, handle, "/iot/a", dead(fmt.Sprint(i), subscriber, 400, "", func(e *event.Event) { e.SetExtension("knativearrivaltime", nil) })); err == nil {
			t.Fatal("handler = nil without a warehouse")
		}
		return log.Len() > 0
	}
	const n = 5000
	for i := range n {
		if !logged(i) {
			t.Fatalf("letter %d is not logged", i)
		}
	}
	if logged(n-1) || !logged(0) {
		t.Error("want that the last letter is known still, and the first is not")
	}
}

// Where a letter goes, what comes of the answer, and what is recorded. The address that
// its sender says has failed does not matter.
func TestRedrive(t *testing.T) {
	reply := mesh.NewEvent("com.example.made", "/join", []byte(`{}`), "made")
	const (
		own     = ingress + "/analytics/analytics"
		outside = "http://hooks.example.com/x?y=z"
	)
	for name, test := range map[string]struct {
		subscriber string
		answers    map[string]func() (int, *event.Event, string) // by address; 204 where there is none
		posted     []string
		want       deadletter.Outcome
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
		"outside the cluster": {outside, nil, []string{"http://hooks.example.com/x"}, deadletter.Outcome{Outcome: deadletter.Redriven}},
		"nobody": {"", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: "the request names no subscriber: who asks says where the event goes"}},
		"another scheme": {"file:///etc/passwd", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: `"file:///etc/passwd" is no address that an event is posted to`}},
		"no host": {"http:///x", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: `"http:///x" is no address that an event is posted to`}},
		"with a password": {"http://u:p@join.analytics.svc.cluster.local", nil, nil,
			deadletter.Outcome{Outcome: deadletter.Failed, Cause: `"http://u:p@join.analytics.svc.cluster.local" is no address that an event is posted to`}},
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
			if err := deliver(t, handle, "/analytics/join", dead("e", "http://warehouse.platform.svc.cluster.local/query", 400, "", nil)); err != nil {
				t.Fatal(err)
			}
			id := open(t, db)[0].ID
			letter := mesh.RedriveLetter{ID: id, Subscriber: test.subscriber}
			request := askFor(letter)
			for range 3 { // the request comes again
				if err := deliver(t, handle, "/", request); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(test.posted, c.addresses()); diff != "" {
				t.Errorf("posted to (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(map[string]deadletter.Outcome{id: test.want}, outcomes(t, db, request)); diff != "" {
				t.Errorf("outcome (-want +got):\n%s", diff)
			}
			if is := len(open(t, db)) == 1; is != (test.want.Outcome == deadletter.Failed) {
				t.Errorf("the letter is open: %v, after %s", is, test.want.Outcome)
			}
			// What failed can be asked for again, what did not is left alone.
			before := len(c.addresses())
			if err := deliver(t, handle, "/", askFor(letter)); err != nil {
				t.Fatal(err)
			}
			if again := len(c.addresses()) > before; again != (test.want.Outcome == deadletter.Failed && test.posted != nil) {
				t.Errorf("delivered for another request: %v, after %s", again, test.want.Outcome)
			}
		})
	}
}

// Who asks gets an answer for each letter, also for one that is closed or that there is
// not. Such an answer does not close a letter whose event dies again.
func TestEachLetterHasAnOutcome(t *testing.T) {
	db, c := duckdbtest.Open(t), newCluster(t)
	handle := handler(t, db, c)
	in := dead("e", subscriber, 400, "", func(e *event.Event) { e.SetExtension("knativearrivaltime", nil) })
	if err := deliver(t, handle, "/iot/a", in); err != nil {
		t.Fatal(err)
	}
	id := open(t, db)[0].ID
	first, second := ask(id), ask(id, "unknown")
	for _, request := range []event.Event{first, second, second} {
		if err := deliver(t, handle, "/", request); err != nil {
			t.Fatal(err)
		}
	}
	got := outcomes(t, db, second)
	closed := got[id]
	if closed.Outcome != deadletter.Closed || !strings.HasPrefix(closed.Cause, "redriven before, at 20") {
		t.Errorf("of the letter that is closed: %+v", closed)
	}
	if want := (deadletter.Outcome{Outcome: deadletter.Failed, Cause: "there is no such dead letter"}); got["unknown"] != want {
		t.Errorf("of a letter that there is not: %+v, want %+v", got["unknown"], want)
	}
	if history, err := deadletter.History(t.Context(), db, id); err != nil || len(history) != 1 {
		t.Errorf("History = %v, %v, want that the letter was redriven once", history, err)
	}
	if n := len(c.addresses()); n != 1 {
		t.Errorf("%d deliveries, want 1", n)
	}
	if err := deliver(t, handle, "/iot/a", in); err != nil {
		t.Fatal(err)
	}
	// As if the letter had died again after it was found closed.
	if err := deadletter.Record(t.Context(), db, deadletter.Outcome{LetterID: id, Outcome: deadletter.Closed, RequestSource: "/test", RequestID: "late", DoneAt: mesh.At(time.Now())}); err != nil {
		t.Fatal(err)
	}
	if n := len(open(t, db)); n != 1 {
		t.Errorf("%d letters are open, want the one that died again", n)
	}
}

// An outcome that cannot be recorded does not touch the other letters: only its own is
// delivered again when the request comes again.
func TestOneOutcomeNotRecorded(t *testing.T) {
	failing := true
	db, c := duckdbtest.Open(t), newCluster(t)
	const n = 6
	var all []mesh.RedriveLetter
	var handle function.Handler
	reached, refused := make(chan bool, n), make(chan struct{})
	w := &away{db, func(b warehouse.Batch) bool {
		if !failing || b.Table != "event_log_internal.dead_letter_outcomes" || !strings.HasSuffix(b.EventID, " "+all[0].ID) {
			return false
		}
		close(refused)
		return true
	}}
	handle = handler(t, w, c)
	for i := range n {
		if err := deliver(t, handle, "/iot/a", dead(fmt.Sprint(i), "", 0, "", nil)); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range open(t, db) {
		all = append(all, mesh.RedriveLetter{ID: l.ID, Subscriber: fmt.Sprintf("http://s%d.iot.svc.cluster.local", i)})
	}
	// The others are with their subscribers when the outcome of the first is refused.
	c.answer = func(address string) (int, *event.Event, string) {
		if address == all[0].Subscriber {
			for range n - 1 {
				<-reached
			}
		} else {
			reached <- true
			<-refused
		}
		return http.StatusNoContent, nil, ""
	}
	request := askFor(all...)
	if err := deliver(t, handle, "/", request); err == nil || mesh.IsPermanent(err) || !strings.Contains(err.Error(), all[0].ID) {
		t.Errorf("handler = %v, want a passing error that names the letter", err)
	}
	failing, c.answer = false, nil
	if got := open(t, db); len(got) != 1 || got[0].ID != all[0].ID {
		t.Errorf("open = %v, want the letter whose outcome is not recorded", got)
	}
	if err := deliver(t, handle, "/", request); err != nil {
		t.Fatal(err)
	}
	if len(open(t, db)) != 0 || len(c.addresses()) != n+1 {
		t.Errorf("%d letters are open after %d deliveries, want none after %d", len(open(t, db)), len(c.addresses()), n+1)
	}
}

// When a request is given up, as on in-memory channels when who asked goes away, or when
// it takes too long, letters that are with their subscribers have their replies posted
// and their outcomes recorded, others are left to the next attempt. That waits for the
// first.
func TestRequestGivenUp(t *testing.T) {
	db, c := duckdbtest.Open(t), newCluster(t)
	handle := handler(t, db, c)
	const n = 12
	for i := range n {
		if err := deliver(t, handle, "/analytics/join", dead(fmt.Sprint(i), "", 0, "", nil)); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for _, l := range open(t, db) {
		ids = append(ids, l.ID)
	}
	reply := mesh.NewEvent("com.example.made", "/join", []byte(`{}`), "made")
	reached, free := make(chan bool, 2*n), make(chan struct{})
	c.answer = func(address string) (int, *event.Event, string) {
		if address != subscriber {
			return http.StatusAccepted, nil, ""
		}
		reached <- true
		<-free
		return http.StatusOK, &reply, ""
	}
	request := ask(ids...)
	ctx, giveUp := context.WithCancel(function.WithPath(t.Context(), "/"))
	ended := make(chan error, 2)
	attempt := func(ctx context.Context) {
		_, err := handle(ctx, request)
		ended <- err
	}
	go attempt(ctx)
	for range 8 { // as many as are delivered at once
		<-reached
	}
	giveUp()
	go attempt(function.WithPath(t.Context(), "/"))
	short, cancel := context.WithCancel(function.WithPath(t.Context(), "/"))
	cancel()
	if _, err := handle(short, request); err == nil || mesh.IsPermanent(err) {
		t.Errorf("an attempt that may not wait = %v, want a passing error", err)
	}
	close(free)
	if err := <-ended; err == nil || mesh.IsPermanent(err) {
		t.Errorf("the request that was given up = %v, want a passing error", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the next attempt = %v", err)
	}
	if got := outcomes(t, db, request); len(got) != n {
		t.Errorf("%d outcomes, want %d", len(got), n)
	}
	if got := len(c.addresses()); got != 2*n {
		t.Errorf("%d events and replies are posted, want %d", got, 2*n)
	}
}

// A request that died is not made again: its letters are asked for by the redrive that
// it would be part of. To others than this function it is an event as any.
func TestRequestThatDied(t *testing.T) {
	db, c := duckdbtest.Open(t), newCluster(t)
	handle := handler(t, db, c)
	if err := deliver(t, handle, "/iot/a", dead("x", "", 0, "", nil)); err != nil {
		t.Fatal(err)
	}
	old := ask(open(t, db)[0].ID)
	for _, trigger := range []string{"dead-letter-redrive", "event-log"} {
		if err := deliver(t, handle, "/iot/"+trigger, old); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	byTrigger := map[string]string{}
	for _, l := range open(t, db) {
		ids = append(ids, l.ID)
		byTrigger[l.ID] = l.Trigger
	}
	request := ask(ids...)
	if err := deliver(t, handle, "/", request); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for id, o := range outcomes(t, db, request) {
		got[byTrigger[id]] = o.Outcome
	}
	want := map[string]string{"a": deadletter.Redriven, "event-log": deadletter.Redriven, "dead-letter-redrive": deadletter.Discarded}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes by Trigger (-want +got):\n%s", diff)
	}
	if n := len(c.addresses()); n != 2 {
		t.Errorf("%d deliveries, want 2", n)
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
		if err := deliver(t, handle, "/iot/a", dead(fmt.Sprint(i), subscriber, 400, "", nil)); err != nil {
			t.Fatal(err)
		}
	}
	c.answer = func(address string) (int, *event.Event, string) {
		if strings.HasPrefix(address, "http://s1") {
			return 500, nil, "not yet"
		}
		return 204, nil, ""
	}
	all := []mesh.RedriveLetter{{ID: "unknown"}}
	for i, l := range open(t, db) {
		letter := mesh.RedriveLetter{ID: l.ID, Subscriber: fmt.Sprintf("http://s%d.iot.svc.cluster.local", i)}
		all = append(all, letter, letter)
	}
	request := askFor(all...)
	if err := deliver(t, handle, "/", request); err != nil {
		t.Fatal(err)
	}
	if got := len(c.addresses()); got != n {
		t.Errorf("%d deliveries, want %d", got, n)
	}
	if got := len(open(t, db)); got != 11 {
		t.Errorf("%d letters are open, want the 11 that failed", got)
	}
	if got := outcomes(t, db, request); len(got) != n+1 {
		t.Errorf("%d outcomes, want %d", len(got), n+1)
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
