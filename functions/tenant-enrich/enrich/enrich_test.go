package enrich_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/tenant-enrich/enrich"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
)

// assignments has index at hand, and newer once it is asked for.
type assignments struct {
	index, newer *tenancy.Index
	err          error
	asked        int
}

func (a *assignments) Get(context.Context) (*tenancy.Index, error) { return a.index, a.err }

func (a *assignments) Newer(context.Context) (*tenancy.Index, error) {
	a.asked++
	if a.newer == nil {
		return a.index, nil
	}
	return a.newer, nil
}

// index is of the greatest version of the assignments.
func index(t testing.TB, assignments ...mesh.Assignment) *tenancy.Index {
	t.Helper()
	version := int64(0)
	for _, a := range assignments {
		version = max(version, a.Version)
	}
	x, err := tenancy.NewIndex(assignments, version)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func until(t mesh.Instant) *mesh.Instant { return &t }

func flattened(readings ...mesh.Reading) event.Event {
	return mesh.NewEvent(mesh.TelemetryFlattened, "/test", mesh.EncodeReadings(readings), "1")
}

func reading(device string, at mesh.Instant) mesh.Reading {
	return mesh.Reading{ReadingID: mesh.ReadingID(device, "co2", at), DeviceID: device, Metric: "co2", Value: float64(at), ObservedAt: at, ReceivedAt: 99}
}

// stamps gives "device@instant tenant version" of every reading, sorted, and
// checks that each event is of one tenant and says so.
func stamps(t *testing.T, events []event.Event) []string {
	t.Helper()
	var all []string
	for _, e := range events {
		readings, err := mesh.DecodeReadings(e.Data())
		if err != nil {
			t.Fatal(err)
		}
		tenant, _ := e.Extensions()[mesh.ExtTenant].(string)
		if want := map[bool]string{true: mesh.TelemetryUnassigned, false: mesh.TelemetryEnriched}[tenant == ""]; e.Type() != want {
			t.Errorf("event of tenant %q has type %s, want %s", tenant, e.Type(), want)
		}
		for _, r := range readings {
			if r.TenantID != tenant {
				t.Errorf("reading of tenant %q in an event of tenant %q", r.TenantID, tenant)
			}
			all = append(all, fmt.Sprintf("%s@%d %s %d", r.DeviceID, r.ObservedAt, r.TenantID, r.AssignmentVersion))
		}
	}
	slices.Sort(all)
	return all
}

func TestTenantOfTheInstant(t *testing.T) {
	a := &assignments{index: index(t,
		mesh.Assignment{DeviceID: "d", TenantID: "school", ValidFrom: 10, ValidTo: until(20), Version: 1},
		mesh.Assignment{DeviceID: "d", TenantID: "office", ValidFrom: 20, Version: 2},
		mesh.Assignment{DeviceID: "e", TenantID: "school", ValidFrom: 0, Version: 1})}
	out, err := enrich.New(a)(t.Context(), flattened(reading("d", 9), reading("d", 10), reading("d", 19), reading("d", 20), reading("e", 20), reading("x", 10)))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"d@10 school 1", "d@19 school 1", "d@20 office 2", "d@9  0", "e@20 school 1", "x@10  0"}
	if diff := cmp.Diff(want, stamps(t, out)); diff != "" {
		t.Errorf("stamps (-want +got):\n%s", diff)
	}
	if len(out) != 3 {
		t.Errorf("%d events, want one per tenant and one unassigned", len(out))
	}
	ids := map[string]bool{}
	for _, e := range out {
		ids[e.ID()] = true
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
	}
	if len(ids) != len(out) {
		t.Errorf("%d ids for %d events", len(ids), len(out))
	}
}

// What a reading says of its tenant beforehand counts for nothing.
func TestStampIsReplaced(t *testing.T) {
	r := reading("x", 10)
	r.TenantID, r.AssignmentVersion = "intruder", 7
	out, err := enrich.New(&assignments{index: index(t)})(t.Context(), flattened(r))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x@10  0"}, stamps(t, out)); diff != "" {
		t.Errorf("stamps (-want +got):\n%s", diff)
	}
}

// What is stored of an event is compared with what was recorded since: it says
// what its maker knew. Once the placements have changed the same event makes
// others, which nobody may take for those before.
func TestEventsSayWhatTheyKnow(t *testing.T) {
	held := mesh.Assignment{DeviceID: "d", TenantID: "school", ValidFrom: 10, ValidTo: until(20), Version: 1}
	withdrawn := mesh.Assignment{DeviceID: "w", ValidFrom: 10, Version: 2}
	in := flattened(reading("d", 15), reading("w", 15), reading("x", 15))
	ids := map[string]bool{}
	for version := int64(2); version < 5; version++ {
		x, err := tenancy.NewIndex([]mesh.Assignment{held, withdrawn}, version)
		if err != nil {
			t.Fatal(err)
		}
		out, err := enrich.New(&assignments{index: x})(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range out {
			ids[e.ID()] = true
			if got, err := mesh.Version(e); err != nil || got != version {
				t.Errorf("%s: version %d, %v, want %d", e.Type(), got, err, version)
			}
		}
		if diff := cmp.Diff([]string{"d@15 school 1", "w@15  2", "x@15  0"}, stamps(t, out)); diff != "" {
			t.Errorf("stamps (-want +got):\n%s", diff)
		}
	}
	if len(ids) != 6 {
		t.Errorf("%d ids of two events with three versions, want 6", len(ids))
	}
}

// Only what was a tenant's, or might have been, has to be taken from somebody.
func TestWithdrawn(t *testing.T) {
	handle := enrich.New(&assignments{index: index(t,
		mesh.Assignment{DeviceID: "w", ValidFrom: 10, Version: 2}, mesh.Assignment{DeviceID: "d", TenantID: "a", Version: 1})})
	for _, test := range []struct {
		readings []mesh.Reading
		want     any
	}{
		{[]mesh.Reading{reading("x", 15), reading("w", 9)}, nil},
		{[]mesh.Reading{reading("x", 15), reading("w", 10)}, "true"},
		{[]mesh.Reading{reading("d", 15)}, nil},
	} {
		out, err := handle(t.Context(), flattened(test.readings...))
		if err != nil || len(out) != 1 {
			t.Fatalf("%d events, %v, want one", len(out), err)
		}
		if got := out[0].Extensions()[mesh.ExtWithdrawn]; got != test.want {
			t.Errorf("%v: withdrawn %v, want %v", test.readings, got, test.want)
		}
	}
}

func TestUnknownDeviceIsAskedForOnce(t *testing.T) {
	a := &assignments{index: index(t), newer: index(t, mesh.Assignment{DeviceID: "d", TenantID: "school", Version: 3})}
	out, err := enrich.New(a)(t.Context(), flattened(reading("d", 1), reading("x", 1), reading("y", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"d@1 school 3", "x@1  0", "y@1  0"}, stamps(t, out)); diff != "" || a.asked != 1 {
		t.Errorf("asked %d times, want 1; stamps (-want +got):\n%s", a.asked, diff)
	}
	for _, e := range out {
		if version, err := mesh.Version(e); err != nil || version != 3 {
			t.Errorf("%s: version %d, %v, want the one of the newer index", e.Type(), version, err)
		}
	}
	// A device that was taken from somebody may have been given to somebody.
	a = &assignments{index: index(t, mesh.Assignment{DeviceID: "d", Version: 1}), newer: a.newer}
	if out, err = enrich.New(a)(t.Context(), flattened(reading("d", 1))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"d@1 school 3"}, stamps(t, out)); diff != "" {
		t.Errorf("stamps (-want +got):\n%s", diff)
	}
}

func TestErrorKinds(t *testing.T) {
	away := errors.New("port is away")
	if _, err := enrich.New(&assignments{err: away})(t.Context(), flattened(reading("d", 1))); !errors.Is(err, away) || mesh.IsPermanent(err) {
		t.Errorf("no assignments: %v, want an error that passes", err)
	}
	broken := mesh.NewEvent(mesh.TelemetryFlattened, "/test", []byte(`{"readings":5}`), "1")
	if _, err := enrich.New(&assignments{index: index(t)})(t.Context(), broken); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), broken.ID()) {
		t.Errorf("broken data: %v, want a permanent error that names the event", err)
	}
	other := mesh.NewEvent(mesh.TelemetryReceived, "/test", nil, "1")
	if _, err := enrich.New(&assignments{index: index(t)})(t.Context(), other); !mesh.IsPermanent(err) {
		t.Errorf("another type: %v, want a permanent error", err)
	}
}

// The stamps do not depend on how readings are cut into events, on their
// order or on how often they come; and the same event makes the same events.
func TestOrderAndDuplicatesChangeNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var held []mesh.Assignment
	for d := range 5 {
		for i := range 4 {
			from := mesh.Instant(i*25 + random.IntN(5))
			held = append(held, mesh.Assignment{DeviceID: fmt.Sprint(d), TenantID: fmt.Sprint("t", random.IntN(3)),
				ValidFrom: from, ValidTo: until(from + 20), Version: int64(i + 1)})
		}
	}
	handle := enrich.New(&assignments{index: index(t, held...)})
	var readings []mesh.Reading
	for range 300 {
		readings = append(readings, reading(fmt.Sprint(random.IntN(6)), mesh.Instant(random.IntN(110))))
	}
	once, err := handle(t.Context(), flattened(readings...))
	if err != nil {
		t.Fatal(err)
	}
	again, err := handle(t.Context(), flattened(readings...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(once, again); diff != "" {
		t.Fatalf("a redelivered event made other events (-first +second):\n%s", diff)
	}
	want := slices.Compact(stamps(t, once))
	twice := append(slices.Clone(readings), readings...)
	random.Shuffle(len(twice), func(i, j int) { twice[i], twice[j] = twice[j], twice[i] })
	var got []string
	for part := range slices.Chunk(twice, 7) {
		out, err := handle(t.Context(), flattened(part...))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, stamps(t, out)...)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
		t.Errorf("stamps (-in one event +shuffled and doubled):\n%s", diff)
	}
}

// 500 messages of four metrics from 24 devices at three tenants, a tenth of
// them after a move.
func BenchmarkEnrich(b *testing.B) {
	const messages, metrics = 500, 4
	var held []mesh.Assignment
	for d := range 24 {
		device := fmt.Sprintf("sensor-%03d", d)
		held = append(held,
			mesh.Assignment{DeviceID: device, TenantID: fmt.Sprint("tenant-", d%3), ValidTo: until(450), Version: 1},
			mesh.Assignment{DeviceID: device, TenantID: fmt.Sprint("tenant-", (d+1)%3), ValidFrom: 450, Version: 2})
	}
	var readings []mesh.Reading
	for i := range messages {
		device := fmt.Sprintf("sensor-%03d", i%24)
		for _, metric := range [metrics]string{"co2", "temperature", "relative_humidity", "occupancy"} {
			readings = append(readings, mesh.Reading{ReadingID: mesh.ReadingID(device, metric, mesh.Instant(i)), DeviceID: device, Metric: metric,
				Value: 400.5 + float64(i), Unit: "ppm", ObservedAt: mesh.Instant(i), ReceivedAt: 1.7e15,
				EventSource: "/telemesh/telemetry-ingest", EventID: mesh.Hash(device)})
		}
	}
	handle := enrich.New(&assignments{index: index(b, held...)})
	in := flattened(readings...)
	b.SetBytes(int64(len(in.Data())))
	b.ReportAllocs()
	for b.Loop() {
		out, err := handle(b.Context(), in)
		if err != nil || len(out) != 3 {
			b.Fatal(len(out), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(readings)), "ns/reading")
}
