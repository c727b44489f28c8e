package main

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

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
	tables := []string{snapshotSQL,
		`SELECT reading_id, tenant_id, value, building, room, customer_name, last_action, minutes_since_action FROM iot_analytics.readings ORDER BY reading_id`,
		`FROM iot_metadata.placements ORDER BY ALL`, `FROM iot_actions.actions SELECT * EXCLUDE recorded_at ORDER BY ALL`, `FROM customers.customers ORDER BY ALL`}
	var want [][]string
	for _, sql := range tables {
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
			if out, err := cmd.CombinedOutput(); err != nil {
				if ctx.Err() == nil {
					t.Fatalf("a replay after a kill: %v\n%s", err, out)
				}
				killed++
			}
			cancel()
		}
		telemesh(t, append([]string{"replay", "--data", data}, args...)...)
		for i, sql := range tables {
			if diff := cmp.Diff(want[i], rows(t, data, sql)); diff != "" {
				t.Fatalf("after kills, %s (-left alone +killed):\n%s", sql, diff)
			}
		}
	}
	if killed < moments/2 {
		t.Errorf("%d of %d replays were killed before they ended: the test shows little", killed, moments)
	}
}

// What was accepted by a mesh that is killed is delivered by the next.
func TestKilledMeshKeepsWhatItAccepted(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	sent := map[string]bool{}
	for round := range 3 {
		cmd := command(t.Context(), t, "up", "--data", data, "--portal", "127.0.0.1:0", "--brokers", "127.0.0.1:0", "--ingest", "127.0.0.1:0")
		url := startUp(t, cmd)
		for i := range 20 {
			device := strings.Repeat("d", round+1) + "-" + string(rune('a'+i))
			postMessage(t, url, `{"device_id":"`+device+`","time":"2026-03-01T09:00:00Z","metrics":{"co2":500}}`)
			sent[device] = true
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
	}
	empty := write(t, filepath.Join(t.TempDir(), "none.ndjson"), "")
	telemesh(t, "replay", "--data", data, empty) // delivers what is left
	got := map[string]bool{}
	for _, device := range rows(t, data, "SELECT device_id FROM iot_telemetry.readings") {
		got[device] = true
	}
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Errorf("devices (-accepted +stored):\n%s", diff)
	}
}
