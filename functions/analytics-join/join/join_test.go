package join_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
)

// source has value at hand, and newer once it is asked for.
type source[T any] struct {
	value T
	newer *T
	err   error
}

func (s source[T]) Get(context.Context) (T, error) { return s.value, s.err }

func (s source[T]) Newer(context.Context) (T, error) {
	if s.newer != nil {
		return *s.newer, nil
	}
	return s.value, nil
}

func index(t testing.TB, placements ...mesh.Placement) *tenancy.Index {
	t.Helper()
	x, err := tenancy.NewIndex(placements)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func logbook(t testing.TB, actions ...mesh.Action) *join.Logbook {
	t.Helper()
	l, err := join.NewLogbook(actions)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func until(t mesh.Instant) *mesh.Instant { return &t }

func reading(tenant, device string, at mesh.Instant) mesh.Reading {
	return mesh.Reading{ReadingID: mesh.ReadingID(device, "co2", at), DeviceID: device, Metric: "co2", Value: 1, ObservedAt: at, ReceivedAt: 9, TenantID: tenant, AssignmentVersion: 1}
}

func enriched(tenant string, readings ...mesh.Reading) event.Event {
	e := mesh.NewEvent(mesh.TelemetryEnriched, "/test", mesh.EncodeReadings(readings), "1")
	e.SetExtension(mesh.ExtTenant, tenant)
	return e
}

const minute = mesh.Instant(60e6)

func TestJoin(t *testing.T) {
	persons, outside := int64(30), 425.0
	placements := index(t,
		mesh.Placement{DeviceID: "d", TenantID: "school", Building: "B", Floor: "1", Room: "R1", Persons: &persons, OutsideCO2: &outside, ValidTo: until(100 * minute)},
		mesh.Placement{DeviceID: "d", TenantID: "office", Building: "O", Room: "R9", ValidFrom: 100 * minute})
	actions := logbook(t,
		mesh.Action{ActionID: "1", TenantID: "school", Building: "B", Room: "R1", Action: "window opened", TakenAt: 10 * minute},
		mesh.Action{ActionID: "2", TenantID: "school", Building: "B", Room: "R2", Action: "other room", TakenAt: 11 * minute},
		mesh.Action{ActionID: "3", TenantID: "school", Building: "A", Room: "R1", Action: "other building", TakenAt: 11 * minute},
		mesh.Action{ActionID: "4", TenantID: "school", DeviceID: "d", Action: "device cleaned", TakenAt: 20 * minute},
		mesh.Action{ActionID: "5", TenantID: "school", Building: "B", Room: "R1", Action: "window closed", TakenAt: 20 * minute})
	handle := join.New(source[*tenancy.Index]{value: placements}, source[*join.Logbook]{value: actions},
		source[join.Customers]{value: join.Customers{"school": "The School"}})

	got := func(tenant string, at mesh.Instant) mesh.JoinedReading {
		t.Helper()
		out, err := handle(t.Context(), enriched(tenant, reading(tenant, "d", at)))
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != 1 || out[0].Type() != mesh.AnalyticsJoined || out[0].Extensions()[mesh.ExtTenant] != tenant {
			t.Fatalf("events = %v, want one analytics.joined of %s", out, tenant)
		}
		joined, err := mesh.DecodeJoined(out[0].Data())
		if err != nil {
			t.Fatal(err)
		}
		return joined[0]
	}
	school := mesh.JoinedReading{Building: "B", Floor: "1", Room: "R1", Persons: &persons, OutsideCO2: &outside, CustomerName: "The School"}
	acted := func(action string, at mesh.Instant) mesh.JoinedReading {
		j := school
		j.LastAction, j.LastActionAt = action, at
		return j
	}
	for _, test := range []struct {
		name   string
		tenant string
		at     mesh.Instant
		want   mesh.JoinedReading
	}{
		{"before any action", "school", 10*minute - 1, school},
		{"at the instant of one", "school", 10 * minute, acted("window opened", 10*minute)},
		{"after actions elsewhere", "school", 15 * minute, acted("window opened", 10*minute)},
		{"two at one instant: the greater id", "school", 20 * minute, acted("window closed", 20*minute)},
		{"after a move: no action of the former tenant", "office", 100 * minute, mesh.JoinedReading{Building: "O", Room: "R9"}},
		{"placement of another tenant: no place", "school", 100 * minute, mesh.JoinedReading{CustomerName: "The School"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.want.Reading = reading(test.tenant, "d", test.at)
			if diff := cmp.Diff(test.want, got(test.tenant, test.at)); diff != "" {
				t.Errorf("joined (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewPlacementIsAskedFor(t *testing.T) {
	newer := index(t, mesh.Placement{DeviceID: "d", TenantID: "school", Room: "R1"})
	names := join.Customers{"school": "The School"}
	handle := join.New(source[*tenancy.Index]{value: index(t), newer: &newer}, source[*join.Logbook]{value: logbook(t)}, source[join.Customers]{newer: &names})
	out, err := handle(t.Context(), enriched("school", reading("school", "d", 1)))
	if err != nil {
		t.Fatal(err)
	}
	joined, err := mesh.DecodeJoined(out[0].Data())
	if err != nil || joined[0].Room != "R1" || joined[0].CustomerName != "The School" {
		t.Errorf("joined = %+v, %v, want room R1 of The School", joined, err)
	}
}

func TestErrorKinds(t *testing.T) {
	away := errors.New("port is away")
	good := source[*tenancy.Index]{value: index(t)}
	handle := join.New(good, source[*join.Logbook]{err: away}, source[join.Customers]{})
	if _, err := handle(t.Context(), enriched("a", reading("a", "d", 1))); !errors.Is(err, away) || mesh.IsPermanent(err) {
		t.Errorf("no actions: %v, want an error that passes", err)
	}
	handle = join.New(good, source[*join.Logbook]{value: logbook(t)}, source[join.Customers]{})
	for _, in := range []event.Event{
		mesh.NewEvent(mesh.TelemetryEnriched, "/test", []byte("{}"), "1"),
		mesh.NewEvent(mesh.TelemetryFlattened, "/test", mesh.EncodeReadings(nil), "1"),
	} {
		if _, err := handle(t.Context(), in); !mesh.IsPermanent(err) {
			t.Errorf("%s %s: %v, want a permanent error", in.Type(), in.Data(), err)
		}
	}
}

// The last action is the one a scan of the logbook finds.
func TestLastEqualsScan(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(s ...string) string { return s[random.IntN(len(s))] }
	for range 300 {
		var actions []mesh.Action
		for i := range random.IntN(12) {
			a := mesh.Action{ActionID: fmt.Sprintf("%02d", i), TenantID: pick("a", "b"), Action: fmt.Sprint(i), TakenAt: mesh.Instant(random.IntN(20))}
			switch random.IntN(3) {
			case 0:
				a.DeviceID = pick("d", "e")
			case 1:
				a.Building, a.Room = pick("", "B"), pick("R", "S")
			case 2:
				a.DeviceID, a.Building, a.Room = pick("d", "e"), pick("", "B"), pick("R", "S")
			}
			actions = append(actions, a)
		}
		l := logbook(t, actions...)
		p := &mesh.Placement{DeviceID: pick("d", "e"), TenantID: pick("a", "b"), Building: pick("", "B"), Room: pick("", "R", "S")}
		for at := mesh.Instant(-1); at < 22; at++ {
			want := ""
			var best mesh.Action
			for _, a := range actions {
				here := a.DeviceID == p.DeviceID || p.Room != "" && a.Room == p.Room && a.Building == p.Building
				if a.TenantID == p.TenantID && here && a.TakenAt <= at &&
					(want == "" || a.TakenAt > best.TakenAt || a.TakenAt == best.TakenAt && a.ActionID > best.ActionID) {
					want, best = a.Action, a
				}
			}
			got := ""
			if a := l.Last(p, at); a != nil {
				got = a.Action
			}
			if got != want {
				t.Fatalf("Last(%+v, %d) of %+v = %q, want %q", p, at, actions, got, want)
			}
		}
	}
}

// 500 messages of four metrics of one tenant's eight devices, with an action
// in every room every 50 messages.
func BenchmarkJoin(b *testing.B) {
	const messages, metrics = 500, 4
	persons, outside := int64(30), 425.0
	var placements []mesh.Placement
	var actions []mesh.Action
	for d := range 8 {
		placements = append(placements, mesh.Placement{DeviceID: fmt.Sprint("sensor-", d), TenantID: "school", Building: "Main", Floor: "1",
			Room: fmt.Sprint("R", d), Persons: &persons, OutsideCO2: &outside})
		for i := range 10 {
			actions = append(actions, mesh.Action{ActionID: fmt.Sprint(d, "-", i), TenantID: "school", Building: "Main", Room: fmt.Sprint("R", d),
				Action: "window opened", TakenAt: mesh.Instant(i * 50)})
		}
	}
	var readings []mesh.Reading
	for i := range messages {
		device := fmt.Sprint("sensor-", i%8)
		for _, metric := range [metrics]string{"co2", "temperature", "relative_humidity", "occupancy"} {
			readings = append(readings, mesh.Reading{ReadingID: mesh.ReadingID(device, metric, mesh.Instant(i)), DeviceID: device, Metric: metric,
				Value: 400.5 + float64(i), Unit: "ppm", ObservedAt: mesh.Instant(i), ReceivedAt: 1.7e15,
				EventSource: "/telemesh/telemetry-ingest", EventID: mesh.Hash(device), TenantID: "school", AssignmentVersion: 1})
		}
	}
	handle := join.New(source[*tenancy.Index]{value: index(b, placements...)}, source[*join.Logbook]{value: logbook(b, actions...)},
		source[join.Customers]{value: join.Customers{"school": "The School"}})
	in := enriched("school", readings...)
	b.SetBytes(int64(len(in.Data())))
	b.ReportAllocs()
	for b.Loop() {
		out, err := handle(b.Context(), in)
		if err != nil || len(out) != 1 {
			b.Fatal(len(out), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(readings)), "ns/reading")
}
