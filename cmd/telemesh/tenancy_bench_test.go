package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/prove"
	"github.com/telemesh/telemesh/internal/sheet"
	"github.com/telemesh/telemesh/products"
)

// scale is a mesh of devices that move, and whose moves are corrected later.
type scale struct {
	devices, readings, relocations, corrections int // readings and relocations in all
}

// figures is what a scale came to.
type figures struct {
	feed, correct, batch time.Duration
	corrected            int64 // readings that changed hands by the corrections
	one                  int64 // by one more correction
	oneTook              time.Duration
}

const step = mesh.Instant(10 * time.Minute / time.Microsecond)

var scaleBegan = mesh.At(time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC))

func (s scale) run(t testing.TB) (f figures) {
	ctx := t.Context()
	in, err := (&options{data: t.TempDir()}).open(ctx, sheets{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := in.close(); err != nil {
			t.Error(err)
		}
	}()
	r := &running{warehouse: in.warehouse, client: in.mesh.Client(), brokers: "http://" + manifest.IngressHost + "/", idle: in.mesh.Idle}
	placements := s.placements()
	file := filepath.Join(t.TempDir(), "placements.csv")
	apply := func() (took time.Duration, moved int64) {
		t.Helper()
		var text bytes.Buffer
		if err := sheet.Placements.Write(&text, placements); err != nil {
			t.Fatal(err)
		}
		write(t, file, text.String())
		p, err := planPlacements(ctx, in.warehouse, file, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range p.Moves {
			moved += m.Rows
		}
		before := s.stored(t, in)
		began := time.Now()
		if err := r.applyPlacements(ctx, file, nil, io.Discard); err != nil {
			t.Fatal(err)
		}
		took = time.Since(began)
		// Each reading inside the changed intervals is written once more, and no other.
		if got := s.stored(t, in) - before; got != moved {
			t.Errorf("%d rows were written for %d readings whose tenant changed", got, moved)
		}
		return took, moved
	}
	apply()

	messages := s.messages()
	began := time.Now()
	if err := in.feed(ctx, messages); err != nil {
		t.Fatal(err)
	}
	if err := in.mesh.Idle(ctx); err != nil {
		t.Fatal(err)
	}
	f.feed = time.Since(began)

	// Corrections: what was told of the instant of a move was wrong.
	random := rand.New(rand.NewPCG(3, 4))
	each := s.relocations/s.devices + 1
	correct := func(device int) {
		n := device*each + 1 + random.IntN(each-1)
		shift := step * mesh.Instant(1+random.IntN(3))
		placements[n].ValidFrom += shift
		at := placements[n].ValidFrom
		placements[n-1].ValidTo = &at
	}
	for _, device := range random.Perm(s.devices)[:s.corrections] {
		correct(device)
	}
	f.correct, f.corrected = apply()
	correct(0)
	f.oneTook, f.one = apply()
	if f.corrected == 0 || f.one == 0 {
		t.Errorf("the corrections touched %d and %d readings: nothing is shown", f.corrected, f.one)
	}

	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	report, err := prove.Run(ctx, in.warehouse, all, "")
	if err != nil {
		t.Fatal(err)
	}
	if !report.Holds || len(report.Relocations) < s.relocations {
		var text strings.Builder
		report.Relocations = report.Relocations[:min(len(report.Relocations), 10)]
		if err := report.Write(&text); err != nil {
			t.Fatal(err)
		}
		t.Errorf("after %d corrections:\n%s", s.corrections, &text)
	}
	began = time.Now()
	n, err := scalar(ctx, in.warehouse, `SELECT count(h) FROM (
		SELECT DISTINCT hash(r.reading_id, r.value, p.tenant_id, p.room) AS h FROM iot_telemetry.readings AS r LEFT JOIN iot_metadata.placements AS p
			ON p.device_id = r.device_id AND p.valid_from <= r.observed_at AND r.observed_at < coalesce(p.valid_to, TIMESTAMP '9999-12-31 23:59:59.999999'))`)
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	f.batch = time.Since(began)
	return f
}

// stored counts the rows of readings that were ever written.
func (s scale) stored(t testing.TB, in *instance) int64 {
	t.Helper()
	n, err := scalar(t.Context(), in.warehouse, "SELECT count(*) FROM iot_telemetry_internal.readings")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// placements gives each device as many tenants as it has relocations and one
// more, evenly over the time of its readings.
func (s scale) placements() (out []mesh.Placement) {
	each := s.relocations/s.devices + 1
	span := step * mesh.Instant(s.readings/s.devices/2/each)
	for device := range s.devices {
		for n := range each {
			p := mesh.Placement{
				DeviceID: fmt.Sprintf("device-%d", device), TenantID: fmt.Sprintf("tenant-%d", (device+n)%7),
				Building: "B", Room: fmt.Sprint(device % 50), ValidFrom: scaleBegan + span*mesh.Instant(n),
			}
			if n+1 < each {
				to := p.ValidFrom + span
				p.ValidTo = &to
			}
			out = append(out, p)
		}
	}
	return out
}

// messages are of two readings each, in the order of time.
func (s scale) messages() (out [][]byte) {
	for i := range s.readings / s.devices / 2 {
		for device := range s.devices {
			out = append(out, fmt.Appendf(nil, `{"device_id":"device-%d","time":%q,"metrics":{"co2":%d,"temperature":%d}}`,
				device, scaleBegan+step*mesh.Instant(i), 400+(i*7+device)%900, 15+(i+device)%10))
		}
	}
	return out
}

// What 1,000,000 readings come to is what 20,000 do.
func TestTenancyAtScale(t *testing.T) {
	scale{devices: 100, readings: 20_000, relocations: 500, corrections: 50}.run(t)
}

// 1,000,000 readings of 1,000 devices with 5,000 relocations, fed, and corrected
// 500 times at once and once more; beside the time of one batch join over them.
func BenchmarkTenancy(b *testing.B) {
	for b.Loop() {
		f := scale{devices: 1000, readings: 1_000_000, relocations: 5000, corrections: 500}.run(b)
		b.ReportMetric(1e6/f.feed.Seconds(), "fed/s")
		b.ReportMetric(float64(f.corrected), "corrected")
		b.ReportMetric(float64(f.corrected)/f.correct.Seconds(), "corrected/s")
		b.ReportMetric(f.correct.Seconds(), "correct-s")
		b.ReportMetric(float64(f.one), "of-one")
		b.ReportMetric(f.oneTook.Seconds(), "one-s")
		b.ReportMetric(f.batch.Seconds(), "batch-join-s")
		b.ReportMetric(peakMemory(b), "peak-MiB")
	}
}

// peakMemory is the most that the process has held so far, in MiB; 0 where it
// cannot be told.
func peakMemory(t testing.TB) float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib / 1024
		}
	}
	return 0
}
