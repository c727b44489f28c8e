package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/google/go-cmp/cmp"
	mochi "github.com/mochi-mqtt/server/v2"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/mqtt/mqtttest"
)

// run runs a source and gives what ends it well.
func run(t *testing.T, cfg Config) (s *Source, stop func()) {
	t.Helper()
	s, err := New(cfg, ports())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := mqtttest.Await(t, ended, "the end of the source"); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

// subscribed runs a source and waits until it is subscribed.
func subscribed(t *testing.T, server *mqtttest.Server, cfg Config) (s *Source, stop func()) {
	t.Helper()
	s, stop = run(t, cfg)
	awaitSubscription(t, server, cfg.ClientID)
	return s, stop
}

// awaitInFlight waits until n messages are received and not accepted. The MQTT
// broker routes a message after it has acknowledged it.
func awaitInFlight(t *testing.T, s *Source, n int) {
	t.Helper()
	for limit := time.Now().Add(mqtttest.Patience); ; runtime.Gosched() {
		got, _ := s.intake.flight.Waiting()
		if got >= n {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%d messages are in flight, want %d", got, n)
		}
	}
}

func awaitSubscription(t *testing.T, server *mqtttest.Server, id string) {
	t.Helper()
	if got := mqtttest.Await(t, server.Subscribed, "a subscription"); got != id {
		t.Fatalf("%s has subscribed, want %s", got, id)
	}
}

func sourceConfig(server *mqtttest.Server, ingress *mqtttest.Ingress) Config {
	return Config{URL: "tcp://" + server.Address, ClientID: "telemesh", IntakeConfig: config(ingress, "#")}
}

func newServer(t *testing.T, address string, limit ...func(*mochi.Capabilities)) *mqtttest.Server {
	t.Helper()
	server := mqtttest.NewServer(t, address, limit...)
	t.Cleanup(func() { server.Close() })
	return server
}

func publish(t *testing.T, server *mqtttest.Server, qos byte, payloads ...string) {
	t.Helper()
	client := mqtttest.NewClient(t, server.Address, "device", nil)
	for _, payload := range payloads {
		mqtttest.Publish(t, client, &paho.Publish{Topic: "a/desk", QoS: qos, Payload: []byte(payload)})
	}
}

// unacknowledged is how many messages the MQTT broker would send again.
func unacknowledged(t *testing.T, server *mqtttest.Server, id string) int {
	t.Helper()
	client, ok := server.Clients.Get(id)
	if !ok {
		t.Fatalf("no session of %s", id)
	}
	return client.State.Inflight.Len()
}

func payloads(messages []mesh.Message) map[string]int {
	out := map[string]int{}
	for _, m := range messages {
		out[string(m.Payload)]++
	}
	return out
}

func TestWhatThePacketSays(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	cfg := sourceConfig(server, ingress)
	cfg.Topics = "a/{device_id}?format=json"
	subscribed(t, server, cfg)
	client := mqtttest.NewClient(t, server.Address, "device", nil)
	mqtttest.Publish(t, client, &paho.Publish{Topic: "a/desk", QoS: 1, Payload: []byte(`{"co2":1}`), Properties: &paho.PublishProperties{
		ContentType: "text/plain", ResponseTopic: "answer", CorrelationData: []byte("c"),
		User: paho.UserProperties{{Key: "room", Value: "1"}, {Key: "id", Value: "m-1"}},
	}})
	got := ingress.Await(t, 1)[0]
	got.ReceivedAt = 0
	want := mesh.Message{ID: "m-1", Source: "mqtt://" + server.Address + "/", DeviceID: "desk", Format: "json", ContentType: "text/plain",
		Attributes: map[string]string{"topic": "a/desk", "room": "1"}, Payload: []byte(`{"co2":1}`)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}

// While the mesh refuses, nothing is acknowledged; after the connection is lost
// the MQTT broker sends all of it again, and it becomes no second message.
func TestAcknowledgedOnceAccepted(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	ingress.Refuse(http.StatusServiceUnavailable)
	cfg := sourceConfig(server, ingress)
	s, _ := subscribed(t, server, cfg)
	publish(t, server, 1, "1", "2", "3")
	awaitInFlight(t, s, 3)
	mqtttest.Await(t, ingress.Refused, "a refusal")
	if got := unacknowledged(t, server, cfg.ClientID); got != 3 {
		t.Errorf("%d messages are unacknowledged, want 3", got)
	}
	session, _ := server.Clients.Get(cfg.ClientID)
	session.Stop(nil)
	awaitSubscription(t, server, cfg.ClientID)
	if got := unacknowledged(t, server, cfg.ClientID); got != 3 {
		t.Errorf("%d messages are unacknowledged after a reconnection, want 3", got)
	}
	ingress.Refuse(0)
	server.AwaitAcks(t, cfg.ClientID, 3)
	if diff := cmp.Diff(map[string]int{"1": 1, "2": 1, "3": 1}, payloads(ingress.Messages())); diff != "" {
		t.Errorf("handed over (-want +got):\n%s", diff)
	}
}

// The end waits for what is on its way, and leaves nothing to come again.
func TestOrderlyEndLeavesNothing(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	release := ingress.Hold()
	defer release()
	cfg := sourceConfig(server, ingress)
	s, stop := subscribed(t, server, cfg)
	var sent []string
	for i := range 20 {
		sent = append(sent, fmt.Sprint(i))
	}
	publish(t, server, 1, sent...)
	awaitInFlight(t, s, len(sent))
	ended := make(chan struct{})
	go func() { defer close(ended); stop() }()
	release()
	<-ended
	server.AwaitAcks(t, cfg.ClientID, len(sent))
	if got := len(ingress.Messages()); got != len(sent) {
		t.Errorf("%d messages, want %d", got, len(sent))
	}

	// What comes while nobody is connected comes to the next.
	publish(t, server, 1, "while away")
	subscribed(t, server, cfg)
	messages := ingress.Await(t, len(sent)+1)
	if got := string(messages[len(sent)].Payload); got != "while away" || len(messages) != len(sent)+1 {
		t.Errorf("%d messages, the last one %q", len(messages), got)
	}
}

func TestQoS0(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	ingress.Refuse(http.StatusServiceUnavailable)
	subscribed(t, server, sourceConfig(server, ingress))
	publish(t, server, 0, "1", "2")
	mqtttest.Await(t, ingress.Refused, "a refusal")
	ingress.Refuse(0)
	if diff := cmp.Diff(map[string]int{"1": 1, "2": 1}, payloads(ingress.Await(t, 2))); diff != "" {
		t.Errorf("handed over (-want +got):\n%s", diff)
	}
}

func TestSharedSubscription(t *testing.T) {
	server := newServer(t, "127.0.0.1:0")
	ingresses := []*mqtttest.Ingress{mqtttest.NewIngress(t), mqtttest.NewIngress(t)}
	for i, ingress := range ingresses {
		cfg := sourceConfig(server, ingress)
		cfg.ClientID, cfg.Share = fmt.Sprintf("telemesh-%d", i), "mesh"
		subscribed(t, server, cfg)
	}
	const n = 100
	client := mqtttest.NewClient(t, server.Address, "device", nil)
	for i := range n {
		mqtttest.Publish(t, client, &paho.Publish{Topic: "a/desk", QoS: 1, Payload: fmt.Append(nil, i)})
		mqtttest.Await(t, server.Acknowledged, "an acknowledgement")
	}
	all := payloads(append(ingresses[0].Messages(), ingresses[1].Messages()...))
	for i := range n {
		if got := all[fmt.Sprint(i)]; got != 1 {
			t.Errorf("message %d came %d times, want once", i, got)
		}
	}
	if first := len(ingresses[0].Messages()); first == 0 || first == n {
		t.Errorf("one source has %d of %d messages: nothing is shared", first, n)
	}
}

func TestConnectsAgain(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	server := mqtttest.NewServer(t, "127.0.0.1:0")
	cfg := sourceConfig(server, ingress)
	_, stop := subscribed(t, server, cfg)
	publish(t, server, 1, "before")
	ingress.Await(t, 1)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	server = newServer(t, server.Address)
	defer stop() // mochi does not end while somebody connects
	awaitSubscription(t, server, cfg.ClientID)
	publish(t, server, 1, "after")
	if diff := cmp.Diff(map[string]int{"before": 1, "after": 1}, payloads(ingress.Await(t, 2))); diff != "" {
		t.Errorf("handed over (-want +got):\n%s", diff)
	}
}

// A retained message is another reading each time it comes: it comes with the
// subscription, and not with every connection.
func TestRetainedComesOnce(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	client := mqtttest.NewClient(t, server.Address, "device", nil)
	mqtttest.Publish(t, client, &paho.Publish{Topic: "a", QoS: 1, Retain: true, Payload: []byte("kept")})
	cfg := sourceConfig(server, ingress)
	subscribed(t, server, cfg)
	if got := ingress.Await(t, 1)[0].Attributes["retain"]; got != "true" {
		t.Errorf("retain = %q, want true", got)
	}
	server.AwaitAcks(t, cfg.ClientID, 1)
	session, _ := server.Clients.Get(cfg.ClientID)
	session.Stop(nil)
	awaitSubscription(t, server, cfg.ClientID)
	mqtttest.Publish(t, client, &paho.Publish{Topic: "a", QoS: 1, Retain: true, Payload: []byte("live")})
	messages := ingress.Await(t, 2)
	if got := messages[1]; len(messages) != 2 || string(got.Payload) != "live" || got.Attributes["retain"] != "" {
		t.Errorf("after a reconnection: %s, retain %q; want live and not retained", got.Payload, got.Attributes["retain"])
	}
}

// A source that receives nothing must not look well.
func TestRefusedSubscriptionEndsTheSource(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	cfg := sourceConfig(server, ingress)
	cfg.Topics = "$share/without-a-filter"
	s, err := New(cfg, ports())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	if err := mqtttest.Await(t, ended, "the end"); err == nil || !strings.Contains(err.Error(), "subscribe $share") {
		t.Errorf("Run = %v, want that the subscription is refused", err)
	}
}

func TestConfig(t *testing.T) {
	t.Setenv("K_SINK", "http://sink")
	for _, test := range []struct{ name, value, want string }{
		{"MQTT_URL", "", "MQTT_URL"},
		{"MQTT_URL", "http://host", "MQTT_URL http://host: want tcp://"},
		{"MQTT_URL", "tcp://", "and a host"},
		{"MQTT_URL", "tcp://user:secret@ho st", "MQTT_URL is no URL"},
		{"MQTT_TOPICS", "a/#/b", `MQTT_TOPICS: filter "a/#/b"`},
		{"MQTT_SHARE", "a/b", "MQTT_SHARE"},
		{"BATCH_MAX_MESSAGES", "0", "BATCH_MAX_MESSAGES"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("MQTT_URL", "tcp://host")
			t.Setenv(test.name, test.value)
			_, err := Start(ports())
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("Start with %s=%q = %v, want %s", test.name, test.value, err, test.want)
			}
		})
	}

	// Credentials of the URL are used, and appear nowhere.
	t.Setenv("MQTT_URL", "mqtts://user:secret@host")
	cfg, err := function.Config[Config]()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, ports())
	if err != nil {
		t.Fatal(err)
	}
	if s.cfg.Username != "user" || s.cfg.Password != "secret" || s.server.String() != "mqtts://host:8883" || s.intake.source != "mqtt://host:8883/" {
		t.Errorf("user %q, password %q, server %s, source %s", s.cfg.Username, s.cfg.Password, s.server, s.intake.source)
	}
	if cfg.MaxMessages != 500 || cfg.Topics != "#" || cfg.ClientID != "telemesh" {
		t.Errorf("defaults: %+v", cfg)
	}
}

// Data of Sparkplug B mean what a birth said before; a node whose birth was not
// seen is asked for it.
func TestSparkplugBirths(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	subscribed(t, server, sourceConfig(server, ingress))
	asked := make(chan []byte, 1)
	node := mqtttest.NewClient(t, server.Address, "node", func(p *paho.Publish) { asked <- p.Payload })
	ctx, cancel := context.WithTimeout(t.Context(), mqtttest.Patience)
	defer cancel()
	if _, err := node.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "spBv1.0/g/NCMD/n"}}}); err != nil {
		t.Fatal(err)
	}
	mqtttest.Publish(t, node, &paho.Publish{Topic: "spBv1.0/g/NDATA/n", Payload: mqtttest.Metric("", 5)})
	if payload := mqtttest.Await(t, asked, "the request"); !bytes.Contains(payload, []byte("Node Control/Rebirth")) {
		t.Errorf("asked %q", payload)
	}
	mqtttest.Publish(t, node, &paho.Publish{Topic: "spBv1.0/g/NBIRTH/n", Payload: mqtttest.Metric("temperature", 5)})
	mqtttest.Publish(t, node, &paho.Publish{Topic: "spBv1.0/g/NDATA/n", Payload: mqtttest.Metric("", 5)})
	data := 0
	for _, m := range ingress.Await(t, 3) {
		if m.Attributes["topic"] != "spBv1.0/g/NDATA/n" {
			continue
		}
		if data++; data == 2 && !strings.Contains(m.Attributes["sparkplug_names"], "temperature") {
			t.Errorf("attributes of the data after the birth: %v", m.Attributes)
		}
	}
	if data != 2 {
		t.Errorf("%d data messages, want 2", data)
	}
}

// A birth may have been missed while there was no connection: what was known
// before is not used behind it.
func TestSparkplugBirthsAreOfAConnection(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	cfg := sourceConfig(server, ingress)
	subscribed(t, server, cfg)
	node := mqtttest.NewClient(t, server.Address, "node", nil)
	mqtttest.Publish(t, node, &paho.Publish{QoS: 1, Topic: "spBv1.0/g/NBIRTH/n", Payload: mqtttest.Metric("temperature", 5)})
	mqtttest.Publish(t, node, &paho.Publish{QoS: 1, Topic: "spBv1.0/g/NDATA/n", Payload: mqtttest.Metric("", 5)})
	ingress.Await(t, 2)
	client, _ := server.Clients.Get(cfg.ClientID)
	client.Stop(errors.New("the network is gone"))
	awaitSubscription(t, server, cfg.ClientID)
	mqtttest.Publish(t, node, &paho.Publish{QoS: 1, Topic: "spBv1.0/g/NDATA/n", Payload: append(mqtttest.Metric("", 5), 0x08, 1)})
	var named []bool
	for _, m := range ingress.Await(t, 3) {
		if m.Attributes["topic"] == "spBv1.0/g/NDATA/n" {
			named = append(named, m.Attributes["sparkplug_names"] != "")
		}
	}
	if want := []bool{true, false}; !slices.Equal(named, want) {
		t.Errorf("names are told %v, want %v", named, want)
	}
}

func TestReceiveMaximum(t *testing.T) {
	server, ingress := newServer(t, "127.0.0.1:0"), mqtttest.NewIngress(t)
	cfg := sourceConfig(server, ingress)
	cfg.MaxMessages = 400
	subscribed(t, server, cfg)
	session, ok := server.Clients.Get(cfg.ClientID)
	if !ok {
		t.Fatal("no session")
	}
	if got := session.Properties.Props.ReceiveMaximum; got != 1600 {
		t.Errorf("the MQTT broker may send %d without an acknowledgement, want 1600", got)
	}
}

// A subscription of QoS 0 works, and loses messages where nobody looks.
func TestGrantedLessIsSaid(t *testing.T) {
	for maximum, want := range map[byte]bool{0: true, 1: false} {
		server, ingress := newServer(t, "127.0.0.1:0", func(c *mochi.Capabilities) { c.MaximumQos = maximum }), mqtttest.NewIngress(t)
		lines := make(lines, 100)
		s, err := New(sourceConfig(server, ingress), function.Ports{Client: http.DefaultClient, Log: slog.New(slog.NewTextHandler(lines, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		if want {
			for !strings.Contains(mqtttest.Await(t, lines, "a warning"), "messages may be lost") {
			}
		} else {
			awaitSubscription(t, server, s.cfg.ClientID)
		}
		cancel()
		if err := mqtttest.Await(t, ended, "the end of the source"); err != nil {
			t.Error(err)
		}
		for !want && len(lines) > 0 {
			if line := <-lines; strings.Contains(line, "WARN") {
				t.Errorf("QoS %d granted: %s", maximum, line)
			}
		}
	}
}

// lines are those of a log.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}
