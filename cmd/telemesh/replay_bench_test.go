package main

import (
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/telemesh/telemesh/internal/feed"
	"github.com/telemesh/telemesh/internal/simulate"
)

// The whole mesh in one process: feed, ingest, broker, flatten, enrich, both
// sinks, join. Each round begins with an empty data folder; opening it, the
// sheets and the last checkpoint are not counted.
func BenchmarkReplay(b *testing.B) {
	for _, test := range []struct {
		batch   int
		devices int
	}{{500, 48}, {1, 3}} {
		b.Run(fmt.Sprintf("messages=%d", test.batch), func(b *testing.B) {
			o := simulate.Sample()
			o.Devices, o.Timeless, o.Skewed, o.Relocations = test.devices, 0, 0, 0
			fleet, err := simulate.New(o)
			if err != nil {
				b.Fatal(err)
			}
			dir := b.TempDir()
			if err := fleet.WriteFiles(dir); err != nil {
				b.Fatal(err)
			}
			var readings int64
			for b.Loop() {
				b.StopTimer()
				run := options{data: b.TempDir(), set: []string{fmt.Sprintf("telemetry-ingest.BATCH_MAX_MESSAGES=%d", test.batch)}}
				in, err := run.open(b.Context(), sheets{
					placements: filepath.Join(dir, "placements.csv"), actions: filepath.Join(dir, "actions.csv"), customers: filepath.Join(dir, "customers.csv"),
				})
				if err != nil {
					b.Fatal(err)
				}
				feeds, err := openFeeds([]string{filepath.Join(dir, "messages.ndjson")}, feed.Columns{})
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := in.replay(b.Context(), feeds, io.Discard); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				stored, err := in.tally(b.Context())
				if err != nil || stored.stored < int64(test.devices)*2016*3 {
					b.Fatal(stored, err)
				}
				readings += stored.stored
				if err := in.close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(readings)/b.Elapsed().Seconds(), "readings/s")
		})
	}
}
