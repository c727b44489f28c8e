package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/mqtt/mqtttest"
)

const (
	published = 10_000 // messages, of 10 devices
	kills     = 6
)

// measured is message i: it tells its time, so that it is the same reading
// however often it comes.
func measured(i int) *paho.Publish {
	at := time.Date(2026, 3, 1, 0, 0, i, 0, time.UTC).Format(time.RFC3339)
	return &paho.Publish{Topic: fmt.Sprintf("air/desk-%d", i%10), QoS: 1, Payload: fmt.Appendf(nil, `{"time":"%s","co2":%d}`, at, i)}
}

// publish publishes message i once and waits for the acknowledgement: whenever
// the connection is lost, the client sends it again by itself.
func publish(ctx context.Context, client *autopaho.ConnectionManager, i int) error {
	for {
		if err := client.AwaitConnection(ctx); err != nil {
			return err
		}
		_, err := client.Publish(ctx, measured(i))
		if !errors.Is(err, autopaho.ConnectionDownError) && !errors.Is(err, session.ErrNoConnection) { // not sent at all
			return err
		}
	}
}

// killing keeps `telemesh up` running while messages are done, kills it at random
// moments between them, and stops it after the last one.
func killing(t *testing.T, done <-chan error, args []string) {
	t.Helper()
	random := rand.New(rand.NewPCG(5, 6))
	cmd := command(t.Context(), t, args...)
	started(t, cmd)
	count := 0
	until := func(n int) {
		for ; count < n; count++ {
			if err := mqtttest.Await(t, done, "the next message"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range kills {
		until(published/kills*n + 1 + random.IntN(published/kills-1))
		cmd.Process.Kill()
		cmd.Wait()
		cmd = command(t.Context(), t, args...)
		started(t, cmd)
	}
	until(published)
	stop(t, cmd)
}

// allOnce holds the table against the messages.
func allOnce(t *testing.T, data string) {
	t.Helper()
	telemesh(t, "replay", "--data", data, write(t, filepath.Join(t.TempDir(), "none.ndjson"), "")) // waits for the end
	got := rows(t, data, `SELECT count(*), count(DISTINCT (device_id, observed_at)), count(DISTINCT value), sum(value)::BIGINT FROM iot_telemetry.readings`)
	want := fmt.Sprintf("%d,%d,%d,%d", published, published, published, published*(published-1)/2)
	if !cmp.Equal(got, []string{want}) {
		t.Errorf("readings, times, values, their sum: %v, want %s", got, want)
	}
	if devices := rows(t, data, "SELECT DISTINCT device_id FROM iot_telemetry.readings ORDER BY ALL"); len(devices) != 10 || devices[0] != "desk-0" {
		t.Errorf("devices %v, want desk-0 to desk-9", devices)
	}
	if rejected := rows(t, data, "SELECT count(*) FROM iot_telemetry_internal.rejected"); !cmp.Equal(rejected, []string{"0"}) {
		t.Errorf("%v messages were rejected", rejected)
	}
}

const airTopics = "mqtt-source.MQTT_TOPICS=air/{device_id}"

// What the mesh's own MQTT broker has acknowledged survives kills of the
// process.
func TestKilledMeshKeepsWhatIsPublished(t *testing.T) {
	if testing.Short() {
		t.Skip("kills 6 processes")
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	data := filepath.Join(t.TempDir(), "data")
	args := up(data, "--mqtt", address, "--set", airTopics)

	const clients = 10
	acknowledged := make(chan error, published)
	for c := range clients {
		go func() {
			client := mqtttest.Connect(t, address, fmt.Sprintf("device-%d", c), nil)
			for i := c; i < published; i += clients {
				acknowledged <- publish(t.Context(), client, i)
			}
		}()
	}
	killing(t, acknowledged, args)
	allOnce(t, data)
}

// What another MQTT broker has not seen acknowledged by a mesh that was killed,
// it sends again.
func TestKilledMeshTakesAllOfAnotherBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("kills 6 processes")
	}
	server := mqtttest.NewServer(t, "127.0.0.1:0")
	t.Cleanup(func() { server.Close() })
	data := filepath.Join(t.TempDir(), "data")
	args := up(data, "--mqtt", "", "--set", "mqtt-source.MQTT_URL=tcp://"+server.Address, "--set", airTopics)

	// The session begins before the first message.
	first := command(t.Context(), t, args...)
	started(t, first)
	mqtttest.Await(t, server.Subscribed, "the subscription")
	stop(t, first)

	// What is published while the mesh is down comes when it is up; see
	// mqtttest.NewServer.
	random := rand.New(rand.NewPCG(7, 8))
	client := mqtttest.NewClient(t, server.Address, "device", nil)
	acknowledged := 0
	for n := range kills + 1 {
		for i := n * published / (kills + 1); i < (n+1)*published/(kills+1); i++ {
			if err := publish(t.Context(), client, i); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, func() bool { // it routes after it has acknowledged
			session, _ := server.Clients.Get("telemesh")
			return session.State.Inflight.Len() == (n+1)*published/(kills+1)-acknowledged
		})
		cmd := command(t.Context(), t, args...)
		started(t, cmd)
		until := acknowledged + random.IntN((n+1)*published/(kills+1)-acknowledged)
		if n == kills {
			until = published
		}
		server.AwaitAcks(t, "telemesh", until-acknowledged)
		if n == kills {
			stop(t, cmd)
			break
		}
		cmd.Process.Kill()
		cmd.Wait()
		// Acknowledgements go on coming until the connection is seen to be gone.
		waitFor(t, func() bool {
			session, _ := server.Clients.Get("telemesh")
			return session.Closed()
		})
		session, _ := server.Clients.Get("telemesh")
		acknowledged = (n+1)*published/(kills+1) - session.State.Inflight.Len()
		for len(server.Acknowledged) > 0 {
			<-server.Acknowledged
		}
	}
	allOnce(t, data)
}

func stop(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v, want exit 0", err)
	}
}

// What the README publishes by hand is a reading.
func TestPublishByHand(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	address := strings.TrimPrefix(started(t, command(t.Context(), t, up(data)...))["mqtt"], "mqtt://")
	mqtttest.Publish(t, mqtttest.NewClient(t, address, "hand", nil), &paho.Publish{Topic: "desk-1/co2", QoS: 1, Payload: []byte("812")})
	waitFor(t, func() bool {
		return cmp.Equal(rows(t, data, "SELECT device_id, metric, value, unit FROM iot_telemetry.readings"), []string{"desk-1,co2,812,ppm"})
	})
}

// The MQTT broker asks nobody who he is.
func TestMQTTOnlyForThisMachine(t *testing.T) {
	for _, address := range []string{"0.0.0.0:1883", ":1883", "192.0.2.1:1883", "example.org:1883", "1883"} {
		out, err := command(t.Context(), t, up(t.TempDir(), "--mqtt", address)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--mqtt") || !strings.Contains(string(out), "hint: ") {
			t.Errorf("--mqtt %s: %v, %s; want a refusal with a hint", address, err, out)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	out, err := command(t.Context(), t, up(t.TempDir(), "--mqtt", taken.Addr().String())...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "mqtt-source.MQTT_URL=mqtt://"+taken.Addr().String()) {
		t.Errorf("an address that is taken: %v, %s; want a hint how to take the messages from there", err, out)
	}
}
