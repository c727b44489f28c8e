package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/cmd/microbit-gateway/gateway"
	"github.com/telemesh/telemesh/internal/microbit"
	"github.com/telemesh/telemesh/internal/microbit/bluetest"
)

// gatewayClock names the file that has the clock of a gateway that a test starts.
const gatewayClock = "TELEMESH_TEST_GATEWAY_CLOCK"

// fileClock is a machine whose test writes how long it runs and, once that is
// known to it, what time it is.
type fileClock string

// clockOfTest is the clock of a gateway that a test starts.
func clockOfTest() gateway.Clock {
	if file := os.Getenv(gatewayClock); file != "" {
		return fileClock(file)
	}
	return gateway.SystemClock
}

func (c fileClock) read() (up time.Duration, now time.Time) {
	text, err := os.ReadFile(string(c))
	if err != nil {
		panic(err)
	}
	uptime, set, _ := strings.Cut(string(text), " ")
	if up, err = time.ParseDuration(uptime); err != nil {
		panic(err)
	}
	if set != "" {
		if now, err = time.Parse(time.RFC3339, set); err != nil {
			panic(err)
		}
	}
	return up, now
}

func (c fileClock) Boot() (string, time.Duration) {
	up, _ := c.read()
	return "boot", up
}

func (c fileClock) Now() time.Time {
	up, now := c.read()
	if now.IsZero() { // as it is where nothing keeps the time: that of the last shutdown
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(up)
	}
	return now
}

func (c fileClock) Set() bool {
	_, now := c.read()
	return !now.IsZero()
}

// set says what the machine knows; the process reads it whole or not yet.
func (c fileClock) set(t *testing.T, up time.Duration, now string) {
	t.Helper()
	write(t, string(c)+".new", strings.TrimSpace(up.String()+" "+now))
	if err := os.Rename(string(c)+".new", string(c)); err != nil {
		t.Fatal(err)
	}
}

// microbitGateway is telemesh-microbit as a process of its own.
func microbitGateway(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(ctx, executable(t), args...)
	cmd.Env = append(os.Environ(), asGateway+"=1")
	return cmd
}

// A gateway that has neither network nor clock for an hour, and is killed twice,
// brings every reading that it took into the table, once, with the time when the
// micro:bit told it.
func TestKilledGatewayBringsAnHourOffline(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	z := bluetest.Start(t)
	const uart = microbit.UARTText
	bit := z.Add(bluetest.MicroBit{Address: "C8:2E:11:22:33:44", Paired: true})
	clock, state, address := fileClock(filepath.Join(t.TempDir(), "clock")), t.TempDir(), freeAddress(t)
	clock.set(t, 0, "")

	// start starts the gateway and waits until it hears the micro:bit. It gives the
	// lines of its log.
	start := func() (*exec.Cmd, <-chan string) {
		t.Helper()
		cmd := microbitGateway(t.Context(), t, "run", "--ingest", "http://"+address+"/", "--spool", state, "--device", "zuvig=desk-1", "--linger", "0", "--batch", "7")
		cmd.Env = append(cmd.Env, gatewayClock+"="+string(clock), "DBUS_SYSTEM_BUS_ADDRESS="+z.Address)
		log, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		lines := make(chan string, 1000)
		go func() {
			defer close(lines)
			for in := bufio.NewScanner(log); in.Scan(); {
				lines <- in.Text()
			}
		}()
		await(t, lines, "msg=connected")
		return cmd, lines
	}
	kill := func(cmd *exec.Cmd) {
		t.Helper()
		cmd.Process.Kill()
		cmd.Wait()
		z.Await("the end of the gateway on the bus", func() bool { return !bit.Notifying(uart) })
	}
	var want []string
	tell := func(minute int, degrees byte) (text string, readings []string) {
		t.Helper()
		clock.set(t, time.Duration(minute)*time.Minute, "")
		text = fmt.Sprintf("steps:%d", 100*minute)
		if !bit.Notify(microbit.TemperatureData, degrees) || !bit.Say(text+"#") {
			t.Fatalf("nobody hears the micro:bit in minute %d", minute)
		}
		at := time.Date(2026, 3, 2, 9, minute, 0, 0, time.UTC).Format(time.RFC3339)
		return text, []string{fmt.Sprintf("desk-1,temperature,%d,%s", degrees, at), fmt.Sprintf("desk-1,steps,%d,%s", 100*minute, at)}
	}
	kept := func(from, to int) {
		t.Helper()
		for minute := from; minute < to; minute++ {
			text, readings := tell(minute, byte(minute))
			// With the text all before it is on disk, and time goes on.
			waitFor(t, func() bool { return onDisk(t, state, text) })
			want = append(want, readings...)
		}
	}

	cmd, _ := start()
	kept(0, 20)
	// Killed with readings on their way: what it took is there, the rest nobody has.
	text, readings := tell(20, 99)
	kill(cmd)
	if onDisk(t, state, string(rune(99))) {
		want = append(want, readings[0])
	}
	if onDisk(t, state, text) {
		want = append(want, readings[1])
	}
	cmd, log := start()
	kept(25, 50)
	// It learns what time it is before it reaches ingest, and is killed then.
	clock.set(t, time.Hour, "2026-03-02T10:00:00Z")
	await(t, log, "connection refused")
	kill(cmd)

	data := t.TempDir()
	startUp(t, command(t.Context(), t, up(data, "--ingest", address)...))
	cmd, _ = start()
	query := "SELECT device_id, metric, value::INT, observed_at FROM iot_telemetry.readings ORDER BY observed_at, metric DESC"
	waitFor(t, func() bool { return len(rows(t, data, query)) >= len(want) })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted, it ends with %v", err)
	}
	if diff := cmp.Diff(want, rows(t, data, query)); diff != "" {
		t.Errorf("readings (-want +got):\n%s", diff)
	}
}

// A replay that is killed at any moment while it sends, and started again, brings
// each frame into the table once, with its time.
func TestKilledGatewayReplays(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	const n = 3600
	var frames strings.Builder
	first := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	for i := range n {
		f := microbit.Frame{Device: "desk-1", Characteristic: microbit.TemperatureData, At: first.Add(time.Duration(i) * time.Second), Value: []byte{byte(i % 50)}}
		if err := microbit.Record(&frames, f); err != nil {
			t.Fatal(err)
		}
	}
	file, data, state := write(t, filepath.Join(t.TempDir(), "frames.ndjson"), frames.String()), t.TempDir(), t.TempDir()
	ingest := startUp(t, command(t.Context(), t, up(data)...))
	args := []string{"replay", file, "--ingest", ingest, "--spool", state, "--batch", "20"}
	random := rand.New(rand.NewPCG(5, 6))
	const kills = 8
	killed := 0
	for range kills {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(400*time.Millisecond))))
		if out, err := microbitGateway(ctx, t, args...).CombinedOutput(); ctx.Err() != nil {
			killed++
		} else if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		cancel()
	}
	if out, err := microbitGateway(t.Context(), t, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if killed == 0 {
		t.Error("none was killed: the test shows nothing")
	}
	query := "SELECT count(*), count(DISTINCT observed_at), min(observed_at), max(observed_at), bool_and(value = (epoch_us(observed_at) // 1000000 - epoch_us(TIMESTAMPTZ '2026-03-02T09:00:00Z') // 1000000) % 50) FROM iot_telemetry.readings"
	want := []string{"3600,3600,2026-03-02T09:00:00Z,2026-03-02T09:59:59Z,true"}
	waitFor(t, func() bool { return slices.Equal(rows(t, data, query), want) })
}

// onDisk says whether the value of a reading stands in the files of a spool.
func onDisk(t *testing.T, spool, value string) bool {
	t.Helper()
	record := []byte(`"v":"` + base64.StdEncoding.EncodeToString([]byte(value)) + `"`)
	files, err := filepath.Glob(filepath.Join(spool, "spool.db*"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && bytes.Contains(text, record)
	})
}

// await reads lines until one has a text.
func await(t *testing.T, lines <-chan string, text string) {
	t.Helper()
	var said []string
	for line := range lines {
		if said = append(said, line); strings.Contains(line, text) {
			return
		}
	}
	t.Fatalf("it ended without saying %q:\n%s", text, strings.Join(said, "\n"))
}
