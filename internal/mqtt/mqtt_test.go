package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/google/go-cmp/cmp"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/mqtt/mqtttest"
)

// start runs the MQTT broker in front of an ingress.
func start(t testing.TB, ingress *mqtttest.Ingress) (address string, stop func()) {
	return startOn(t, ingress, filepath.Join(t.TempDir(), "sessions.json"))
}

func startOn(t testing.TB, ingress *mqtttest.Ingress, file string) (address string, stop func()) {
	t.Helper()
	address, end := startFor(t, ingress, file, drainTime)
	stop = func() {
		t.Helper()
		if err := end(); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}
	t.Cleanup(stop)
	return address, stop
}

// startFor gives what ends the MQTT broker, with its error.
func startFor(t testing.TB, ingress *mqtttest.Ingress, file string, drainTime time.Duration) (address string, end func() error) {
	t.Helper()
	t.Setenv("K_SINK", ingress.URL)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fn, err := startDraining(listener, file, drainTime)(function.Ports{Client: http.DefaultClient, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- fn.Run(ctx) }()
	end = sync.OnceValue(func() error {
		cancel()
		return mqtttest.Await(t, ended, "the end of the MQTT broker")
	})
	return listener.Addr().String(), end
}

// publishing publishes and gives what comes of it.
func publishing(t *testing.T, client *autopaho.ConnectionManager, p *paho.Publish) <-chan error {
	acked := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), mqtttest.Patience)
		defer cancel()
		_, err := client.Publish(ctx, p)
		acked <- err
	}()
	return acked
}

func TestMessageOfAPublish(t *testing.T) {
	t.Setenv("MQTT_TOPICS", "a/{device_id}")
	ingress := mqtttest.NewIngress(t)
	address, _ := start(t, ingress)
	client := mqtttest.NewClient(t, address, "device", nil)
	mqtttest.Publish(t, client, &paho.Publish{Topic: "a/desk", QoS: 1, Retain: true, Payload: []byte("1"), Properties: &paho.PublishProperties{
		ContentType: "text/plain", User: paho.UserProperties{{Key: "room", Value: "1"}},
	}})
	mqtttest.Publish(t, client, &paho.Publish{Topic: "other", QoS: 1, Payload: []byte("2")}) // matches no filter
	got := ingress.Messages()
	if len(got) != 1 {
		t.Fatalf("%d messages, want 1", len(got))
	}
	got[0].ReceivedAt = 0
	want := mesh.Message{ID: mesh.Hash("mqtt://localhost/", "a/desk", "1"), Source: "mqtt://localhost/", DeviceID: "desk", ContentType: "text/plain",
		Attributes: map[string]string{"topic": "a/desk", "room": "1"}, Payload: []byte("1")}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}

// Every QoS that is acknowledged is acknowledged when the mesh has the message.
func TestAcknowledgedOnceAccepted(t *testing.T) {
	for qos := byte(1); qos <= 2; qos++ {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			ingress := mqtttest.NewIngress(t)
			ingress.Refuse(http.StatusServiceUnavailable)
			address, _ := start(t, ingress)
			client := mqtttest.NewClient(t, address, "device", nil)
			acked := publishing(t, client, &paho.Publish{Topic: "a", QoS: qos, Payload: []byte("1")})
			mqtttest.Await(t, ingress.Refused, "a refusal")
			mqtttest.Await(t, ingress.Refused, "another refusal")
			select {
			case err := <-acked:
				t.Fatalf("acknowledged (%v) while the mesh refuses", err)
			default:
			}
			ingress.Refuse(0)
			if err := mqtttest.Await(t, acked, "the acknowledgement"); err != nil {
				t.Error(err)
			}
			if got := len(ingress.Messages()); got != 1 {
				t.Errorf("%d messages, want 1", got)
			}
		})
	}
}

// A client that loses its connection before the acknowledgement sends again:
// that is no second message, also not after a third time.
func TestSentAgainIsTheSame(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	release := ingress.Hold()
	defer release()
	address, _ := start(t, ingress)
	device := dial(t, address, 4)
	device.connect(t, "device", false)
	device.publish(t, 7, false)
	device = dial(t, address, 4)
	if present := device.connect(t, "device", false); !present {
		t.Error("the session is gone with its connection")
	}
	device.publish(t, 7, true)
	release()
	if p := device.read(t); p.FixedHeader.Type != packets.Puback || p.PacketID != 7 {
		t.Errorf("answer %+v, want the acknowledgement of 7", p)
	}
	device.publish(t, 7, true)
	device.read(t)
	if got := len(ingress.Messages()); got != 1 {
		t.Errorf("%d messages, want 1", got)
	}
}

// At the end what is on its way is accepted and acknowledged; what the mesh does
// not accept is not acknowledged.
func TestEnd(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	release := ingress.Hold()
	address, stop := start(t, ingress)
	device := dial(t, address, 4)
	device.connect(t, "device", true)
	device.publish(t, 1, false)
	mqtttest.Await(t, ingress.Held, "the event")
	ended := make(chan struct{})
	go func() { defer close(ended); stop() }()
	release()
	if p := device.read(t); p.FixedHeader.Type != packets.Puback {
		t.Errorf("answer %+v, want an acknowledgement", p)
	}
	ingress.Await(t, 1)
	<-ended

	ingress.Refuse(http.StatusServiceUnavailable)
	address, end := startFor(t, ingress, filepath.Join(t.TempDir(), "sessions.json"), time.Millisecond)
	device = dial(t, address, 4)
	device.connect(t, "device", true)
	device.publish(t, 1, false)
	mqtttest.Await(t, ingress.Refused, "a refusal")
	if err := end(); err == nil || !strings.Contains(err.Error(), "not accepted 1 of") {
		t.Errorf("Run = %v, want that one message is not accepted", err)
	}
	if rest, err := io.ReadAll(device.Conn); err != nil && !errors.Is(err, net.ErrClosed) || len(rest) > 0 && rest[0]>>4 == packets.Puback {
		t.Errorf("answer % x, %v, want none", rest, err)
	}
}

// Sessions outlive the process: a client that does not find its own forgets what
// it has not seen acknowledged, and one that finds it does not subscribe again.
func TestSessionsOutliveTheProcess(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	file := filepath.Join(t.TempDir(), "sessions.json")
	address, stop := startOn(t, ingress, file)
	seen := make(chan string, 10)
	for _, id := range []string{"kept", "clean"} {
		device := dial(t, address, 4)
		if present := device.connect(t, id, id == "clean"); present {
			t.Errorf("%s: a session before the first connection", id)
		}
	}
	display := mqtttest.NewClient(t, address, "display", nil)
	ctx, cancel := context.WithTimeout(t.Context(), mqtttest.Patience)
	defer cancel()
	if _, err := display.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "a/+", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	// What is in the file now is what a kill leaves.
	left := read(t, file)
	stop()
	if err := os.WriteFile(file, left, 0o600); err != nil {
		t.Fatal(err)
	}

	address, _ = startOn(t, ingress, file)
	for _, id := range []string{"kept", "clean"} {
		device := dial(t, address, 4)
		if present := device.connect(t, id, id == "clean"); present != (id == "kept") {
			t.Errorf("%s: session present %v after a restart", id, present)
		}
	}
	mqtttest.NewClient(t, address, "display", func(p *paho.Publish) { seen <- p.Topic })
	mqtttest.Publish(t, mqtttest.NewClient(t, address, "device", nil), &paho.Publish{Topic: "a/b", QoS: 1, Payload: []byte("1")})
	if got := mqtttest.Await(t, seen, "the message"); got != "a/b" {
		t.Errorf("seen %q, want a/b", got)
	}

	// One that ends its session leaves nothing.
	device := dial(t, address, 4)
	device.connect(t, "kept", true)
	if left := read(t, file); bytes.Contains(left, []byte("kept")) {
		t.Errorf("after a clean start the file still has the session: %s", left)
	}
}

// A power cut may leave a file that is empty or torn. It costs the sessions, and
// not the mesh; what was in it is kept for who wants to look.
func TestTornSessions(t *testing.T) {
	for _, torn := range []string{"", `[{"id":"kept","ver`} {
		ingress := mqtttest.NewIngress(t)
		file := filepath.Join(t.TempDir(), "sessions.json")
		if err := os.WriteFile(file, []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		address, stop := startOn(t, ingress, file)
		if got := string(read(t, file+".broken")); got != torn {
			t.Errorf("put aside %q, want %q", got, torn)
		}
		for _, present := range []bool{false, true} {
			device := dial(t, address, 4)
			if got := device.connect(t, "kept", false); got != present {
				t.Errorf("session present %v, want %v", got, present)
			}
			stop()
			address, stop = startOn(t, ingress, file)
		}
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Other clients see what is published, as with any MQTT broker.
func TestRouting(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	address, _ := start(t, ingress)
	seen := make(chan string, 10)
	display := mqtttest.NewClient(t, address, "display", func(p *paho.Publish) { seen <- p.Topic + " " + string(p.Payload) })
	ctx, cancel := context.WithTimeout(t.Context(), mqtttest.Patience)
	defer cancel()
	if ack, err := display.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "a/+", QoS: 1}}}); err != nil || ack.Reasons[0] != 0 {
		t.Fatalf("subscribe: %+v, %v; want QoS 0 granted", ack, err)
	}
	mqtttest.Publish(t, mqtttest.NewClient(t, address, "device", nil), &paho.Publish{Topic: "a/b", QoS: 0, Payload: []byte("1")})
	if got := mqtttest.Await(t, seen, "the message"); got != "a/b 1" {
		t.Errorf("seen %q, want a/b 1", got)
	}
	ingress.Await(t, 1)
}

// A Sparkplug node is asked for its births here, too, and what asks it is no
// message of a device.
func TestSparkplugRebirth(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	address, _ := start(t, ingress)
	asked := make(chan string, 10)
	node := mqtttest.NewClient(t, address, "node", func(p *paho.Publish) { asked <- p.Topic })
	ctx, cancel := context.WithTimeout(t.Context(), mqtttest.Patience)
	defer cancel()
	if _, err := node.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: "spBv1.0/g/NCMD/n"}}}); err != nil {
		t.Fatal(err)
	}
	mqtttest.Publish(t, node, &paho.Publish{Topic: "spBv1.0/g/NDATA/n", QoS: 1, Payload: mqtttest.Metric("", 5)})
	if got := mqtttest.Await(t, asked, "the request"); got != "spBv1.0/g/NCMD/n" {
		t.Errorf("asked %s", got)
	}
	mqtttest.Publish(t, node, &paho.Publish{Topic: "spBv1.0/g/NBIRTH/n", QoS: 1, Payload: mqtttest.Metric("temperature", 5)})
	if got := len(ingress.Messages()); got != 2 {
		t.Errorf("%d messages, want the data and the birth", got)
	}
}

// The last will is a message too: for Sparkplug B it is the death of a node.
func TestWill(t *testing.T) {
	ingress := mqtttest.NewIngress(t)
	address, _ := start(t, ingress)
	device := dial(t, address, 4)
	connect := packets.ConnectParams{ClientIdentifier: "device", Clean: true, Keepalive: 30, WillFlag: true, WillTopic: "gone", WillPayload: []byte("1")}
	device.write(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, Connect: connect})
	device.read(t)
	device.Close()
	if got := ingress.Await(t, 1)[0].Attributes["topic"]; got != "gone" {
		t.Errorf("topic %q, want gone", got)
	}
}

// raw is a client that sends again when it is told to. Its version is that of
// most devices.
type raw struct {
	net.Conn
	version byte
}

func dial(t *testing.T, address string, version byte) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(mqtttest.Patience)); err != nil {
		t.Fatal(err)
	}
	return &raw{conn, version}
}

func (r *raw) write(t *testing.T, p packets.Packet) {
	t.Helper()
	p.ProtocolVersion = r.version
	var b bytes.Buffer
	var err error
	if p.FixedHeader.Type == packets.Connect {
		p.Connect.ProtocolName = []byte("MQTT")
		err = p.ConnectEncode(&b)
	} else {
		err = p.PublishEncode(&b)
	}
	if err == nil {
		_, err = r.Write(b.Bytes())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// connect gives whether the MQTT broker knows the session.
func (r *raw) connect(t *testing.T, id string, clean bool) bool {
	t.Helper()
	r.write(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect: packets.ConnectParams{ClientIdentifier: id, Clean: clean, Keepalive: 30}})
	p := r.read(t)
	if p.FixedHeader.Type != packets.Connack || p.ReasonCode != 0 {
		t.Fatalf("answer to CONNECT: %+v", p)
	}
	return p.SessionPresent
}

func (r *raw) publish(t *testing.T, id uint16, again bool) {
	t.Helper()
	r.write(t, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1, Dup: again}, TopicName: "a", PacketID: id, Payload: []byte("1")})
}

// read reads the next packet, which is a short one.
func (r *raw) read(t *testing.T) packets.Packet {
	t.Helper()
	var header [2]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		t.Fatalf("read packet: %v", err)
	}
	p := packets.Packet{ProtocolVersion: r.version}
	if err := p.FixedHeader.Decode(header[0]); err != nil {
		t.Fatal(err)
	}
	p.FixedHeader.Remaining = int(header[1])
	body := make([]byte, header[1])
	if _, err := io.ReadFull(r, body); err != nil {
		t.Fatalf("read packet: %v", err)
	}
	var err error
	switch p.FixedHeader.Type {
	case packets.Connack:
		err = p.ConnackDecode(body)
	case packets.Puback:
		err = p.PubackDecode(body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}
