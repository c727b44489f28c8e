package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
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

// publishUntilAcknowledged publishes message i as often as it needs: a client
// whose session is gone with the process does not send again by itself.
func publishUntilAcknowledged(ctx context.Context, client *autopaho.ConnectionManager, i int) error {
	for {
		if err := client.AwaitConnection(ctx); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := client.Publish(attempt, measured(i))
		cancel()
		if err == nil {
			return nil
		}
	}
}

// killing keeps `telemesh up` running and kills it at random moments while done
// grows to the number of messages.
func killing(t *testing.T, done *atomic.Int64, args []string) {
	t.Helper()
	random := rand.New(rand.NewPCG(5, 6))
	for n := range kills {
		cmd := command(t.Context(), t, args...)
		started(t, cmd)
		// In the part of the messages that is this kill's.
		after := int64(published/kills*n) + 1 + random.Int64N(published/kills-1)
		waitFor(t, func() bool { return done.Load() >= after })
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// allOnce holds the table against the messages.
func allOnce(t *testing.T, data string) {
	t.Helper()
	waitFor(t, func() bool {
		count := rows(t, data, "SELECT count(DISTINCT reading_id) FROM iot_telemetry.readings")
		return len(count) == 1 && count[0] == fmt.Sprint(published)
	})
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

	var acknowledged atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var devices sync.WaitGroup
	const clients = 10
	for c := range clients {
		devices.Go(func() {
			client := mqtttest.Connect(t, address, fmt.Sprintf("device-%d", c), nil)
			for i := c; i < published; i += clients {
				if err := publishUntilAcknowledged(ctx, client, i); err != nil {
					t.Errorf("message %d: %v", i, err)
					return
				}
				acknowledged.Add(1)
			}
		})
	}
	killing(t, &acknowledged, args)
	started(t, command(t.Context(), t, args...))
	devices.Wait()
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

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var sent atomic.Int64
	var device sync.WaitGroup
	device.Go(func() {
		client := mqtttest.Connect(t, server.Address, "device", nil)
		session, _ := server.Clients.Get("telemesh")
		for i := range published {
			// An MQTT broker keeps as much as it likes for who is away, this one
			// 8,192 messages.
			for ctx.Err() == nil && session.State.Inflight.Len() > 1000 {
				session, _ = server.Clients.Get("telemesh")
			}
			if err := publishUntilAcknowledged(ctx, client, i); err != nil {
				t.Errorf("message %d: %v", i, err)
				return
			}
			sent.Add(1)
		}
	})
	killing(t, &sent, args)
	started(t, command(t.Context(), t, args...))
	device.Wait()
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
