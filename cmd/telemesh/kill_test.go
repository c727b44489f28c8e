package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// storedTables is what a data folder says, but for when it was told.
var storedTables = []string{
	snapshotSQL,
	`SELECT reading_id, tenant_id, value, building, room, customer_name, last_action, minutes_since_action FROM iot_analytics.readings ORDER BY reading_id`,
	`FROM iot_metadata.placements ORDER BY ALL`,
	`FROM iot_actions.actions SELECT * EXCLUDE recorded_at ORDER BY ALL`,
	`FROM customers.customers ORDER BY ALL`,
	// Which messages share an event differs; none is logged twice.
	`SELECT count(*) > 0, (SELECT count(*) FROM (FROM event_log.events SELECT 1 GROUP BY broker, source, event_id HAVING count(*) > 1)) FROM event_log.events`,
}

// A replay that is killed at any moment and started again ends with the table
// of one that was left alone.
func TestKilledReplayEndsTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("kills 20 processes")
	}
	// Without a clock a message that comes again is another one; see the README.
	args := sample(t, "--timeless", "0", "--duration", "48h")
	whole := t.TempDir()
	began := time.Now()
	telemesh(t, append([]string{"replay", "--data", whole}, args...)...)
	alone := time.Since(began)
	var want [][]string
	for _, sql := range storedTables {
		want = append(want, rows(t, whole, sql))
	}

	random := rand.New(rand.NewPCG(1, 2))
	const moments, folders = 20, 5
	killed := 0
	for range folders {
		data := filepath.Join(t.TempDir(), "data")
		for range moments / folders {
			// Kills fall into start, load, replay and stop alike.
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(alone))))
			cmd := command(ctx, t, append([]string{"replay", "--data", data}, args...)...)
			began := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				if ctx.Err() == nil {
					t.Fatalf("a replay after a kill: %v\n%s", err, out)
				}
				killed++
			} else {
				// It had less to do, or the machine has: the next kills come sooner.
				alone = min(alone, time.Since(began))
			}
			cancel()
		}
		telemesh(t, append([]string{"replay", "--data", data}, args...)...)
		for i, sql := range storedTables {
			if diff := cmp.Diff(want[i], rows(t, data, sql)); diff != "" {
				t.Fatalf("after kills, %s (-left alone +killed):\n%s", sql, diff)
			}
		}
	}
	if killed < moments/2 {
		t.Errorf("%d of %d replays were killed before they ended: the test shows little", killed, moments)
	}
}

// A mesh that is killed at any moment while messages come in keeps those it
// accepted; sent again by who got no answer, they make the table of a mesh that
// was left alone.
func TestKilledMeshEndsTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("kills 10 processes")
	}
	args := sample(t, "--timeless", "0", "--duration", "12h")
	sheets, messages := args[:len(args)-1], args[len(args)-1]
	whole := t.TempDir()
	telemesh(t, append([]string{"replay", "--data", whole}, args...)...)
	lines := strings.SplitAfter(strings.TrimSuffix(read(t, messages), "\n"), "\n")

	random := rand.New(rand.NewPCG(3, 4))
	data := filepath.Join(t.TempDir(), "data")
	const kills = 10
	accepted := 0
	for range kills {
		cmd := command(t.Context(), t, up(data, sheets...)...)
		url := startUp(t, cmd)
		kill := time.AfterFunc(time.Duration(random.Int64N(int64(200*time.Millisecond))), func() { cmd.Process.Kill() })
		for accepted < len(lines) {
			next := min(accepted+1+random.IntN(100), len(lines))
			resp, err := http.Post(url, "application/x-ndjson", strings.NewReader(strings.Join(lines[accepted:next], "")))
			if err != nil {
				break // killed
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusAccepted {
				accepted = next
			}
		}
		kill.Stop()
		cmd.Process.Kill()
		cmd.Wait()
	}
	if accepted == 0 {
		t.Fatal("no message was accepted: the test shows nothing")
	}
	rest := write(t, filepath.Join(t.TempDir(), "rest.ndjson"), strings.Join(lines[accepted:], ""))
	telemesh(t, append(append([]string{"replay", "--data", data}, sheets...), rest)...)
	for _, sql := range storedTables {
		if diff := cmp.Diff(rows(t, whole, sql), rows(t, data, sql)); diff != "" {
			t.Fatalf("after kills, %s (-left alone +killed):\n%s", sql, diff)
		}
	}
}
