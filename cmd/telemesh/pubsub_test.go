package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"github.com/telemesh/telemesh/internal/pubsub/pubsubtest"
)

// puller is the Pub/Sub source as a process of its own.
func puller(t *testing.T, server *pubsubtest.Server, sink string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(executable(t))
	cmd.Env = append(os.Environ(), asPuller+"=1", "PORT=0", "K_SINK="+sink,
		"PUBSUB_EMULATOR_HOST="+server.Addr, "PUBSUB_SUBSCRIPTION="+pubsubtest.Subscription)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// awaitPulled looks at the server of this process, which needs the processor
// that a loop without pauses would take.
func awaitPulled(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !ok(); <-tick.C {
		if time.Since(began) > 2*time.Minute {
			t.Fatal("gave up after two minutes")
		}
	}
}

// A puller that is killed at any moment loses no message and makes no reading
// twice: what it had not acknowledged comes again, and what the broker had
// accepted of it makes the same readings.
func TestKilledPullerLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("kills 10 processes")
	}
	const messages, kills, devices = 100_000, 10, 1000
	server := pubsubtest.New(t)
	var some []*pubsubpb.PubsubMessage
	base := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	for i := range messages {
		data := fmt.Appendf(nil, `{"device_id":"d%d","time":%q,"metrics":{"pulses":%d}}`, i%devices, base.Add(time.Duration(i)*time.Second).Format(time.RFC3339), i)
		if some = append(some, &pubsubpb.PubsubMessage{Data: data}); len(some) == 1000 {
			server.Publish(t, some...)
			some = nil
		}
	}
	data := filepath.Join(t.TempDir(), "data")
	at := started(t, command(t.Context(), t, "up", "--data", data, "--portal", "127.0.0.1:0", "--brokers", "127.0.0.1:0", "--ingest", "127.0.0.1:0"))
	sink := strings.TrimSuffix(at["brokers"], "NAMESPACE/BROKER") + "iot/iot"

	random := rand.New(rand.NewPCG(5, 6))
	began := time.Now()
	amid := 0
	for k := range kills {
		// A kill falls into any moment after so many acks, also before the next.
		enough := messages/(kills+1)*k + random.IntN(messages/(kills+1))
		cmd := puller(t, server, sink)
		awaitPulled(t, func() bool { return server.Acked() >= enough })
		<-time.After(time.Duration(random.Int64N(int64(150 * time.Millisecond))))
		if server.Held() > 0 {
			amid++
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	last := puller(t, server, sink)
	awaitPulled(t, func() bool { return server.Acked() >= messages && server.Unacked() == 0 })
	pulled := time.Since(began)
	if err := last.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := last.Wait(); err != nil {
		t.Errorf("the puller ends with %v", err)
	}
	again := 0
	for _, m := range server.Messages() {
		if m.Acks == 0 {
			t.Fatalf("message %s is not acknowledged", m.Data)
		}
		if m.Deliveries > 1 {
			again++
		}
	}
	if amid < kills/2 || again == 0 {
		t.Errorf("%d of %d pullers held messages when they were killed, %d came again: the test shows little", amid, kills, again)
	}

	var got []string
	waitFor(t, func() bool {
		got = rows(t, data, `SELECT count(*), count(DISTINCT reading_id), count(DISTINCT value),
			count(*) FILTER (device_id = 'd' || (value::BIGINT % 1000) AND observed_at = TIMESTAMPTZ '2026-03-01 09:00:00Z' + to_seconds(value) AND quality IS NULL)
			FROM iot_telemetry.readings`)
		return len(got) == 1 && strings.HasPrefix(got[0], fmt.Sprint(messages, ","))
	})
	if want := strings.TrimSuffix(strings.Repeat(fmt.Sprint(messages, ","), 4), ","); got[0] != want {
		t.Errorf("readings, different ids, different values, as they were sent: %s, want %s", got[0], want)
	}
	t.Logf("%d messages in %s with %d kills, %d of them amid messages; %d came again", messages, pulled.Round(time.Millisecond), kills, amid, again)
}
