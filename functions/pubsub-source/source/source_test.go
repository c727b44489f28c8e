package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/telemesh/telemesh/internal/batch"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pubsub/pubsubtest"
)

var silent = slog.New(slog.DiscardHandler)

// broker is an ingress that keeps what it accepts. fault says how it treats an
// event, by its number from 0 and what is in it: nil: it accepts.
type broker struct {
	*httptest.Server
	fault func(n int, payloads []string) http.HandlerFunc

	mu       sync.Mutex
	asked    int
	accepted []event.Event
}

func newBroker(t testing.TB, fault func(n int, payloads []string) http.HandlerFunc) *broker {
	b := &broker{fault: fault}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := cehttp.NewEventFromHTTPRequest(r)
		if err == nil {
			err = e.Validate()
		}
		if err != nil {
			t.Error(err)
			return
		}
		b.mu.Lock()
		n := b.asked
		b.asked++
		b.mu.Unlock()
		if b.fault != nil {
			if fail := b.fault(n, payloads(t, *e)); fail != nil {
				fail(w, r)
				return
			}
		}
		b.mu.Lock()
		b.accepted = append(b.accepted, *e)
		b.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *broker) events() []event.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.accepted)
}

// taken is the payloads that the broker has accepted as received, in order.
func (b *broker) taken(t testing.TB) []string {
	var all []string
	for _, e := range b.events() {
		if e.Type() == mesh.TelemetryReceived {
			all = append(all, payloads(t, e)...)
		}
	}
	return all
}

func payloads(t testing.TB, e event.Event) []string {
	messages := received(t, e)
	var out []string
	for _, m := range messages {
		out = append(out, string(m.Payload))
	}
	return out
}

func received(t testing.TB, e event.Event) []mesh.Message {
	if e.Type() != mesh.TelemetryReceived {
		return nil
	}
	messages, err := mesh.DecodeMessages(e.Data())
	if err != nil {
		t.Error(err)
	}
	return messages
}

func answer(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "said the broker", status) }
}

// cut ends the connection with the request read and no answer.
func cut(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// hang gives no answer.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func newSource(t testing.TB, address, sink string) *Source {
	t.Helper()
	t.Setenv("PUBSUB_EMULATOR_HOST", address)
	cfg := Config{
		Config: batch.Config{MaxMessages: 500, MaxBytes: 1 << 18, Linger: 10 * time.Millisecond},
		Sink:   sink, Subscription: pubsubtest.Subscription, MaxOutstandingMessages: 1000, MaxOutstandingBytes: 1 << 25,
	}
	post := func(ctx context.Context, e event.Event) error { return function.Post(ctx, http.DefaultClient, sink, e) }
	s, err := New(cfg, post, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// start runs the source. What it gives ends it and waits for that.
func start(t testing.TB, s *Source) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

// await polls a server, which cannot wake the test, until ok.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !ok(); <-tick.C {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("gave up after 30 s: %s", what)
		}
	}
}

func reading(i int) *pubsubpb.PubsubMessage { return &pubsubpb.PubsubMessage{Data: fmt.Append(nil, i)} }

func readings(n int) (messages []*pubsubpb.PubsubMessage, want []string) {
	for i := range n {
		messages = append(messages, reading(i))
		want = append(want, fmt.Sprint(i))
	}
	slices.Sort(want)
	return messages, want
}

// Whatever the broker does with the first events, each message is accepted in
// the end, and none is acknowledged before.
func TestAcksWhatTheBrokerAccepted(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{"none": nil, "503": answer(503), "429": answer(429), "cut": cut, "refused for good": answer(400)} {
		t.Run(name, func(t *testing.T) {
			server := pubsubtest.New(t)
			away := make(chan struct{})
			failed := make(chan struct{}, 1000)
			b := newBroker(t, func(int, []string) http.HandlerFunc {
				select {
				case <-away:
					return nil
				default:
				}
				select { // what is refused for good comes again at once, and soon fills it
				case failed <- struct{}{}:
				default:
				}
				return fault
			})
			messages, want := readings(3000)
			server.Publish(t, messages...)
			stop := start(t, newSource(t, server.Addr, b.URL))
			if fault != nil {
				for range 4 {
					<-failed
				}
				if n := len(messages) - server.Unacked(); n > 0 {
					t.Errorf("%d messages are acknowledged that no broker has accepted", n)
				}
			}
			close(away)
			await(t, "unacked messages", func() bool { return server.Unacked() == 0 })
			if err := stop(); err != nil {
				t.Error(err)
			}
			got := b.taken(t)
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("the broker has accepted %d of %d messages", len(got), len(want))
			}
			if fault == nil && len(b.events()) > 30 {
				t.Errorf("%d events for 3000 messages: want micro-batches", len(b.events()))
			}
		})
	}
}

// A broker that answers after all is handed the same event, so that what it had
// accepted without saying so is seen to be the same.
func TestTriesTheSameEventAgain(t *testing.T) {
	server := pubsubtest.New(t)
	var mu sync.Mutex
	ids := map[string]int{}
	b := newBroker(t, nil)
	b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		ids[r.Header.Get("Ce-Id")]++
		if len(ids) == 1 && ids[r.Header.Get("Ce-Id")] < 3 {
			cut(w, r)
		}
	})
	server.Publish(t, reading(1))
	stop := start(t, newSource(t, server.Addr, b.URL))
	await(t, "unacked message", func() bool { return server.Unacked() == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if len(ids) != 1 {
		t.Errorf("attempts by event id: %v, want three of one", ids)
	}
	if m := server.Messages()[0]; m.Deliveries != 1 {
		t.Errorf("delivered %d times: a dead letter policy would count that", m.Deliveries)
	}
}

// One that the broker refuses for good comes again and again; the others do not
// wait for it.
func TestRefusedForGoodIsNacked(t *testing.T) {
	server := pubsubtest.New(t)
	b := newBroker(t, func(_ int, payloads []string) http.HandlerFunc {
		if slices.ContainsFunc(payloads, func(p string) bool { return strings.Contains(p, "large") }) {
			return answer(http.StatusRequestEntityTooLarge)
		}
		return nil
	})
	// Over the bytes of a batch, it has an event of its own.
	large := `"large` + strings.Repeat("x", 1<<18) + `"`
	server.Publish(t, &pubsubpb.PubsubMessage{Data: []byte(large)}, reading(1), reading(2))
	stop := start(t, newSource(t, server.Addr, b.URL))
	await(t, "redelivery", func() bool { return server.Unacked() == 1 && server.Messages()[0].Deliveries > 2 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if m := server.Messages()[0]; m.Acks != 0 || !strings.Contains(string(m.Data), "large") {
		t.Errorf("acknowledged %d times: nobody has the message", m.Acks)
	}
}

// How a Pub/Sub message becomes a device message, as the broker sees it.
func TestMessages(t *testing.T) {
	server := pubsubtest.New(t)
	b := newBroker(t, nil)
	began := mesh.At(time.Now())
	server.Publish(t,
		&pubsubpb.PubsubMessage{Data: []byte(`{"plain":1}`), Attributes: map[string]string{"deviceId": "d1", "subFolder": "events"}},
		&pubsubpb.PubsubMessage{Data: []byte(`{"binary":1}`), Attributes: map[string]string{
			"ce-specversion": "1.0", "ce-id": "e1", "ce-source": "/sensors", "ce-type": "t", "ce-time": "2026-01-02T03:04:05Z", "content-type": "application/json"}},
		&pubsubpb.PubsubMessage{Data: []byte(`{"specversion":"1.0","id":"e2","source":"/sensors","type":"t","data":{"structured":1}}`),
			Attributes: map[string]string{"content-type": "application/cloudevents+json"}},
		&pubsubpb.PubsubMessage{Data: []byte("\x00\xff"), Attributes: map[string]string{"content-type": "application/octet-stream"}},
	)
	stop := start(t, newSource(t, server.Addr, b.URL))
	await(t, "unacked messages", func() bool { return server.Unacked() == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	published := map[string]string{}
	for _, m := range server.Messages() {
		published[m.ID] = m.PublishTime.UTC().Format(time.RFC3339Nano)
	}
	type message struct{ Source, ContentType, Device, Time, Payload string }
	got := map[string]message{}
	for _, e := range b.events() {
		if e.Source() != "/telemesh/pubsub-source" {
			t.Errorf("event from %s", e.Source())
		}
		for _, m := range received(t, e) {
			at := m.Attributes["time"]
			if at == published[m.ID] || m.ID == "e2" && at == published["m2"] {
				at = "published"
			}
			got[m.ID] = message{m.Source, m.ContentType, m.Attributes["deviceId"], at, string(m.Payload)}
			if m.ReceivedAt < began || m.ReceivedAt > mesh.At(time.Now()) {
				t.Errorf("%s was received at %v", m.ID, m.ReceivedAt)
			}
		}
	}
	const subscription = "//pubsub.googleapis.com/" + pubsubtest.Subscription
	want := map[string]message{
		"m0": {subscription, "", "d1", "published", `{"plain":1}`},
		"e1": {"/sensors", "", "", "2026-01-02T03:04:05Z", `{"binary":1}`},
		"e2": {"/sensors", "", "", "published", `{"structured":1}`},
		"m3": {subscription, "application/octet-stream", "", "published", "\x00\xff"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// What claims to be a CloudEvent and is none is kept as it came, whether or not
// it has an ordering key, and acknowledged when it is kept, not before.
func TestKeepsWhatIsNoCloudEvent(t *testing.T) {
	for _, key := range []string{"", "k"} {
		t.Run("key "+key, func(t *testing.T) {
			server := pubsubtest.New(t)
			tried := make(chan struct{}, 1)
			b := newBroker(t, func(n int, payloads []string) http.HandlerFunc {
				if payloads == nil { // the rejection
					select {
					case tried <- struct{}{}:
						if len(server.Messages()) == 3 && server.Messages()[1].Acks > 0 {
							t.Error("acknowledged before it is kept")
						}
						return answer(http.StatusServiceUnavailable)
					default:
					}
				}
				return nil
			})
			attributes := map[string]string{"ce-specversion": "1.0", "ce-id": "e", "ce-type": "t", "site": "north"}
			server.Publish(t, reading(1), &pubsubpb.PubsubMessage{Data: []byte("{oops"), Attributes: attributes, OrderingKey: key}, reading(2))
			stop := start(t, newSource(t, server.Addr, b.URL))
			await(t, "unacked messages", func() bool { return server.Unacked() == 0 })
			if err := stop(); err != nil {
				t.Error(err)
			}
			var kept []mesh.Rejection
			for _, e := range b.events() {
				if e.Type() == mesh.TelemetryRejected {
					rejections, err := mesh.DecodeRejections(e.Data())
					if err != nil {
						t.Fatal(err)
					}
					kept = append(kept, rejections...)
				}
			}
			if len(kept) != 1 || string(kept[0].Payload) != "{oops" || kept[0].ID != "m1" || kept[0].Attributes["site"] != "north" || !strings.Contains(kept[0].Cause, "source") {
				t.Errorf("kept %+v, want the message with its cause", kept)
			}
			if got := b.taken(t); len(got) != 2 {
				t.Errorf("beside it, %v were accepted", got)
			}
		})
	}
}

// The end comes while messages wait for their batch to fill: they are handed
// over and acknowledged.
func TestEndHandsOver(t *testing.T) {
	server := pubsubtest.New(t)
	b := newBroker(t, nil)
	s := newSource(t, server.Addr, b.URL)
	s.batcher = batch.New(batch.Config{MaxMessages: 500, MaxBytes: 1 << 18, Linger: time.Hour}, name, s.post)
	messages, _ := readings(20)
	server.Publish(t, messages...)
	stop := start(t, s)
	await(t, "delivery", func() bool {
		return !slices.ContainsFunc(server.Messages(), func(m pstest.Message) bool { return m.Deliveries == 0 || len(m.Modacks) == 0 })
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := server.Unacked(); n != 0 {
		t.Errorf("%d messages are not acknowledged after the end", n)
	}
	if got := len(b.taken(t)); got != 20 {
		t.Errorf("the broker has %d of 20 messages", got)
	}
}

// A broker that does not answer cannot keep the source from ending. What it has
// not accepted, Pub/Sub has.
func TestEndDoesNotWaitForEver(t *testing.T) {
	for name, fault := range map[string]http.HandlerFunc{"hangs": hang, "503": answer(503)} {
		t.Run(name, func(t *testing.T) {
			server := pubsubtest.New(t)
			asked := make(chan struct{}, 1000)
			b := newBroker(t, func(int, []string) http.HandlerFunc {
				asked <- struct{}{}
				return fault
			})
			s := newSource(t, server.Addr, b.URL)
			s.drain = 50 * time.Millisecond
			server.Publish(t, reading(1), &pubsubpb.PubsubMessage{Data: []byte("2"), OrderingKey: "k"},
				&pubsubpb.PubsubMessage{Data: []byte("3"), Attributes: map[string]string{"ce-specversion": "1.0"}},
				&pubsubpb.PubsubMessage{Data: []byte("4"), Attributes: map[string]string{"ce-specversion": "1.0"}, OrderingKey: "k"})
			stop := start(t, s)
			for range 4 {
				<-asked
			}
			began := time.Now()
			if err := stop(); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not accepted within 50ms") {
				t.Errorf("Run = %v, want that not all was handed over", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("Run ended after %s", took)
			}
			for _, m := range server.Messages() {
				nacked := slices.ContainsFunc(m.Modacks, func(m pstest.Modack) bool { return m.AckDeadline == 0 })
				if m.Acks > 0 || !nacked {
					t.Errorf("message %s: %d acks, nacked %t; want it to be delivered again", m.Data, m.Acks, nacked)
				}
			}
		})
	}
}

// Nor can a Pub/Sub that is not there, or that has gone.
func TestEndWithoutService(t *testing.T) {
	b := newBroker(t, nil)
	run := func(address string, began func()) {
		t.Helper()
		s := newSource(t, address, b.URL)
		s.ack = 50 * time.Millisecond
		stop := start(t, s)
		began()
		ended := make(chan error, 1)
		go func() { ended <- stop() }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("Run has not ended after 10 s without %s", address)
		}
	}
	run("127.0.0.1:1", func() {})
	tried := make(chan struct{}, 1000)
	run(pubsubtest.Serve(t, failing{code: codes.Unavailable, tried: tried}), func() {
		for range 3 {
			<-tried
		}
	})
}

// What no retry mends ends the source, with what to do.
func TestFailuresThatStay(t *testing.T) {
	b := newBroker(t, nil)
	for code, says := range map[codes.Code]string{
		codes.PermissionDenied: "roles/pubsub.subscriber", codes.NotFound: "create the subscription",
		codes.Unauthenticated: "credentials", codes.FailedPrecondition: "pull subscription",
	} {
		address := pubsubtest.Serve(t, failing{code: code})
		if err := newSource(t, address, b.URL).Run(t.Context()); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), pubsubtest.Subscription) {
			t.Errorf("%s: Run = %v, want an error with %q", code, err, says)
		}
	}
}

// What passes does not.
func TestFailuresThatPass(t *testing.T) {
	b := newBroker(t, nil)
	server := pubsubtest.New(t)
	server.Publish(t, reading(1))
	stop := start(t, newSource(t, server.Addr, b.URL))
	await(t, "first message", func() bool { return server.Unacked() == 0 })
	server.Cut(codes.Unavailable)
	server.Publish(t, reading(2))
	await(t, "message after a cut", func() bool { return server.Unacked() == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestStartRefuses(t *testing.T) {
	for _, test := range []struct{ name, value, says string }{
		{"PUBSUB_SUBSCRIPTION", "s", "projects/PROJECT/subscriptions/NAME"},
		{"PUBSUB_SUBSCRIPTION", "projects/p/topics/t", "projects/PROJECT/subscriptions/NAME"},
		{"PUBSUB_MAX_OUTSTANDING_MESSAGES", "0", "PUBSUB_MAX_OUTSTANDING_MESSAGES"},
		{"PUBSUB_MAX_OUTSTANDING_BYTES", "-1", "PUBSUB_MAX_OUTSTANDING_BYTES"},
		{"BATCH_MAX_MESSAGES", "0", "BATCH_MAX_MESSAGES"},
	} {
		t.Run(test.name+" "+test.value, func(t *testing.T) {
			t.Setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:1")
			t.Setenv("PUBSUB_SUBSCRIPTION", pubsubtest.Subscription)
			t.Setenv("K_SINK", "http://broker")
			if fn, err := Start(function.Ports{Client: http.DefaultClient, Log: silent}); err != nil {
				t.Fatal(err)
			} else if err := fn.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Setenv(test.name, test.value)
			if _, err := Start(function.Ports{Client: http.DefaultClient, Log: silent}); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Start = %v, want an error with %q", err, test.says)
			}
		})
	}
}

// failing answers every stream with a code.
type failing struct {
	pubsubpb.UnimplementedSubscriberServer
	code  codes.Code
	tried chan<- struct{}
}

func (f failing) StreamingPull(pubsubpb.Subscriber_StreamingPullServer) error {
	select {
	case f.tried <- struct{}{}:
	default:
	}
	return status.Error(f.code, "said the service")
}
