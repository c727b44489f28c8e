// Package mqtttest has the two ends of a source of MQTT messages, for tests: an
// MQTT broker that acknowledges at once, and the ingress of a mesh that refuses
// when it is told to.
package mqtttest

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/telemesh/telemesh/internal/mesh"
)

// Patience is how long a test waits for what has to happen.
const Patience = 20 * time.Second

// Await waits for a value.
func Await[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// Ingress is a broker's ingress.
type Ingress struct {
	*httptest.Server
	Refused chan int      // the status of each refusal
	Held    chan struct{} // a request that waits

	mu       sync.Mutex
	status   int
	held     chan struct{}
	messages []mesh.Message
	changed  chan struct{}
}

// NewIngress makes an ingress that accepts.
func NewIngress(t testing.TB) *Ingress {
	in := &Ingress{Refused: make(chan int, 1<<16), Held: make(chan struct{}, 1<<16), changed: make(chan struct{})}
	in.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := cehttp.NewEventFromHTTPRequest(r)
		if err != nil {
			t.Error(err)
			return
		}
		in.mu.Lock()
		held := in.held
		in.mu.Unlock()
		if held != nil {
			in.Held <- struct{}{}
			<-held
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.status != 0 {
			in.Refused <- in.status
			http.Error(w, "not now", in.status)
			return
		}
		messages, err := mesh.DecodeMessages(e.Data())
		if err != nil || e.Type() != mesh.TelemetryReceived {
			t.Errorf("event of type %s: %v", e.Type(), err)
		}
		in.messages = append(in.messages, messages...)
		close(in.changed)
		in.changed = make(chan struct{})
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(in.Close)
	return in
}

// Refuse answers with status from now on, or accepts if it is 0.
func (in *Ingress) Refuse(status int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.status = status
}

// Hold keeps requests waiting until release is called.
func (in *Ingress) Hold() (release func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	held := make(chan struct{})
	in.held = held
	return sync.OnceFunc(func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.held = nil
		close(held)
	})
}

// Messages are those accepted.
func (in *Ingress) Messages() []mesh.Message {
	in.mu.Lock()
	defer in.mu.Unlock()
	return cloned(in.messages)
}

func cloned(messages []mesh.Message) []mesh.Message {
	out := append([]mesh.Message(nil), messages...)
	for i := range out {
		out[i].Payload = bytes.Clone(out[i].Payload)
	}
	return out
}

// Await waits until n messages are accepted.
func (in *Ingress) Await(t testing.TB, n int) []mesh.Message {
	t.Helper()
	for limit := time.After(Patience); ; {
		in.mu.Lock()
		got, changed := len(in.messages), in.changed
		in.mu.Unlock()
		if got >= n {
			return in.Messages()
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%d of %d messages were accepted", got, n)
		}
	}
}

// Server is an MQTT broker that acknowledges at once.
type Server struct {
	*mochi.Server
	Address      string
	Subscribed   chan string // by the client whose filters took effect
	Acknowledged chan string // of a message, by the client
}

// NewServer starts an MQTT broker on address. Nothing should be published to a
// client while it acknowledges: mochi reads its in-flight messages under two read
// locks of which one holds the other (Inflight.NextImmediate), and a write
// between them waits for ever.
func NewServer(t testing.TB, address string, limit ...func(*mochi.Capabilities)) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	capabilities := mochi.NewDefaultServerCapabilities()
	capabilities.MaximumInflight = math.MaxUint16 // what it keeps for who is away
	for _, limit := range limit {
		limit(capabilities)
	}
	s := &Server{
		Server:       mochi.New(&mochi.Options{Capabilities: capabilities, Logger: slog.New(slog.DiscardHandler)}),
		Address:      listener.Addr().String(),
		Subscribed:   make(chan string, 1<<10),
		Acknowledged: make(chan string, 1<<16),
	}
	for _, hook := range []mochi.Hook{new(auth.AllowHook), &hook{server: s}} {
		if err := s.AddHook(hook, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddListener(listeners.NewNet("mqtt", listener)); err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	return s
}

type hook struct {
	mochi.HookBase
	server *Server
}

func (h *hook) ID() string { return "mqtttest" }

func (h *hook) Provides(b byte) bool { return b == mochi.OnSubscribed || b == mochi.OnQosComplete }

func (h *hook) OnSubscribed(client *mochi.Client, _ packets.Packet, _ []byte) {
	h.server.Subscribed <- client.ID
}

// OnQosComplete is told of the acknowledgements of both sides: those that come
// were read, those that go are made, and have no length yet.
func (h *hook) OnQosComplete(client *mochi.Client, p packets.Packet) {
	if p.FixedHeader.Type == packets.Puback && p.FixedHeader.Remaining > 0 {
		select {
		case h.server.Acknowledged <- client.ID:
		default: // nobody looks
		}
	}
}

// AwaitAcks waits until a client has acknowledged n messages since the last call.
func (s *Server) AwaitAcks(t testing.TB, client string, n int) {
	t.Helper()
	for n > 0 {
		if Await(t, s.Acknowledged, "an acknowledgement") == client {
			n--
		}
	}
}

// Connect makes a client that keeps its session and connects again. It may be
// called before there is an MQTT broker.
func Connect(t testing.TB, address, id string, received func(*paho.Publish)) *autopaho.ConnectionManager {
	t.Helper()
	cfg := autopaho.ClientConfig{
		ServerUrls: []*url.URL{{Scheme: "tcp", Host: address}}, KeepAlive: 30, SessionExpiryInterval: 3600,
		ReconnectBackoff: func(int) time.Duration { return 10 * time.Millisecond },
		ClientConfig: paho.ClientConfig{ClientID: id, PacketTimeout: Patience, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(r paho.PublishReceived) (bool, error) {
				if received != nil {
					received(r.Packet)
				}
				return true, nil
			},
		}},
	}
	client, err := autopaho.NewConnection(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		client.Disconnect(ctx)
	})
	return client
}

// NewClient makes a client that is connected.
func NewClient(t testing.TB, address, id string, received func(*paho.Publish)) *autopaho.ConnectionManager {
	t.Helper()
	client := Connect(t, address, id, received)
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if err := client.AwaitConnection(ctx); err != nil {
		t.Fatal(err)
	}
	return client
}

// Publish publishes and waits for the acknowledgement, if there is one to come.
func Publish(t testing.TB, client *autopaho.ConnectionManager, p *paho.Publish) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	if _, err := client.Publish(ctx, p); err != nil {
		t.Fatalf("publish %s: %v", p.Topic, err)
	}
}

// Metric is a Sparkplug B payload of one metric, a double: by its name and
// alias, or by its alias alone.
func Metric(name string, alias uint64) []byte {
	var m []byte
	if name != "" {
		m = protowire.AppendString(protowire.AppendTag(m, 1, protowire.BytesType), name)
	}
	m = protowire.AppendVarint(protowire.AppendTag(m, 2, protowire.VarintType), alias)
	m = protowire.AppendVarint(protowire.AppendTag(m, 4, protowire.VarintType), 10)
	m = protowire.AppendFixed64(protowire.AppendTag(m, 13, protowire.Fixed64Type), math.Float64bits(21.5))
	return protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), m)
}
