package join_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/internal/mesh"
)

// source has value at hand, and newer once it is asked for.
type source[T any] struct {
	value T
	newer *T
	err   error
}

func (s source[T]) Get(context.Context) (T, error) { return s.value, s.err }

func (s source[T]) Fresh(ctx context.Context) (T, error) { return s.Newer(ctx) }

func (s source[T]) Newer(context.Context) (T, error) {
	if s.newer != nil {
		return *s.newer, s.err
	}
	return s.value, s.err
}

// The versions of the metadata in these tests.
const placementsVersion, actionsVersion, customersVersion = 100, 20, 3

func places(t testing.TB, placements ...mesh.Placement) *join.Places {
	t.Helper()
	x, err := join.NewPlaces(slog.New(slog.DiscardHandler))(placements, placementsVersion)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func actions(t testing.TB, list ...mesh.Action) *join.Actions {
	t.Helper()
	a, err := join.NewActions(list, actionsVersion)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func customers(t testing.TB, list ...mesh.Customer) *join.Customers {
	t.Helper()
	c, err := join.NewCustomers(list, customersVersion)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func metadata(places *join.Places, actions *join.Actions, customers *join.Customers) *join.Metadata {
	return &join.Metadata{Placements: source[*join.Places]{value: places}, Actions: source[*join.Actions]{value: actions},
		Customers: source[*join.Customers]{value: customers}}
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
	handle := join.New(metadata(places(t,
		mesh.Placement{DeviceID: "d", TenantID: "school", Building: "B", Floor: "1", Room: "R1", Persons: &persons, OutsideCO2: &outside, ValidTo: until(100 * minute)},
		mesh.Placement{DeviceID: "d", TenantID: "office", Building: "O", Room: "R9", ValidFrom: 100 * minute}),
		actions(t,
			mesh.Action{ActionID: "1", TenantID: "school", Building: "B", Room: "R1", Action: "window opened", TakenAt: 10 * minute},
			mesh.Action{ActionID: "2", TenantID: "school", Building: "B", Room: "R2", Action: "other room", TakenAt: 11 * minute},
			mesh.Action{ActionID: "3", TenantID: "school", Building: "A", Room: "R1", Action: "other building", TakenAt: 11 * minute},
			mesh.Action{ActionID: "4", TenantID: "school", DeviceID: "d", Action: "device cleaned", TakenAt: 20 * minute},
			mesh.Action{ActionID: "5", TenantID: "school", Building: "B", Room: "R1", Action: "window closed", TakenAt: 20 * minute}),
		customers(t, mesh.Customer{CustomerID: "school", Name: "The School"})))

	got := func(tenant string, at mesh.Instant) mesh.JoinedReading {
		t.Helper()
		out, err := handle(t.Context(), enriched(tenant, reading(tenant, "d", at)))
		if err != nil {
			t.Fatal(err)
		}
		if len(out) != 1 || out[0].Type() != mesh.AnalyticsJoined || out[0].Extensions()[mesh.ExtTenant] != tenant {
			t.Fatalf("events = %v, want one analytics.joined of %s", out, tenant)
		}
		if version, err := mesh.Version(out[0]); version != placementsVersion+actionsVersion+customersVersion || err != nil {
			t.Errorf("version of the event = %d, %v, want %d", version, err, placementsVersion+actionsVersion+customersVersion)
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
			test.want.JoinVersion = placementsVersion + actionsVersion + customersVersion
			if diff := cmp.Diff(test.want, got(test.tenant, test.at)); diff != "" {
				t.Errorf("joined (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewPlacementIsAskedFor(t *testing.T) {
	newer, names := places(t, mesh.Placement{DeviceID: "d", TenantID: "school", Room: "R1"}), customers(t, mesh.Customer{CustomerID: "school", Name: "The School"})
	handle := join.New(&join.Metadata{Placements: source[*join.Places]{value: places(t), newer: &newer},
		// The action is of who the newer placements say held the room.
		Actions:   source[*join.Actions]{value: actions(t, mesh.Action{ActionID: "1", Room: "R1", Action: "window opened"})},
		Customers: source[*join.Customers]{value: customers(t), newer: &names}})
	out, err := handle(t.Context(), enriched("school", reading("school", "d", 1)))
	if err != nil {
		t.Fatal(err)
	}
	joined, err := mesh.DecodeJoined(out[0].Data())
	if err != nil || joined[0].Room != "R1" || joined[0].CustomerName != "The School" || joined[0].LastAction != "window opened" {
		t.Errorf("joined = %+v, %v, want room R1 of The School, window opened", joined, err)
	}
}

// Readings that were stamped with later placements than are at hand are joined
// with those, also where the tenant's name for the room is the only change.
func TestLaterStampIsJoinedWithLaterPlacements(t *testing.T) {
	in := enriched("school", reading("school", "d", 1))
	for version, room := range map[int64]string{placementsVersion: "R1", placementsVersion + 1: "R2"} {
		newer, err := join.NewPlaces(slog.New(slog.DiscardHandler))([]mesh.Placement{{DeviceID: "d", TenantID: "school", Room: "R2"}}, version)
		if err != nil {
			t.Fatal(err)
		}
		known := metadata(nil, actions(t), customers(t, mesh.Customer{CustomerID: "school", Name: "The School"}))
		known.Placements = source[*join.Places]{value: places(t, mesh.Placement{DeviceID: "d", TenantID: "school", Room: "R1"}), newer: &newer}
		mesh.SetVersion(&in, version)
		out, err := join.New(known)(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		joined, err := mesh.DecodeJoined(out[0].Data())
		if err != nil || joined[0].Room != room {
			t.Errorf("stamped with version %d: %+v, %v, want room %s", version, joined, err, room)
		}
	}
}

// A redelivery makes the same event; once more is known it is another one, which
// nobody takes for the first.
func TestEventIsOfWhatIsKnown(t *testing.T) {
	more, err := join.NewActions(nil, actionsVersion+1)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, in := range []event.Event{enriched("school", reading("school", "d", 1)), unassigned(reading("", "d", 1))} {
		for what, known := range map[string]*join.Metadata{
			"first":      metadata(places(t), actions(t), customers(t)),
			"redelivery": metadata(places(t), actions(t), customers(t)),
			"more":       metadata(places(t), more, customers(t)),
		} {
			out, err := join.New(known)(t.Context(), in)
			if err != nil || len(out) != 1 {
				t.Fatalf("%d events, %v, want one", len(out), err)
			}
			ids[what] = out[0].ID()
		}
		if ids["first"] != ids["redelivery"] || ids["first"] == ids["more"] {
			t.Errorf("%s: ids = %v, want the redelivery's to be the first, and another one for who knows more", in.Type(), ids)
		}
	}
}

func unassigned(readings ...mesh.Reading) event.Event {
	e := mesh.NewEvent(mesh.TelemetryUnassigned, "/test", mesh.EncodeReadings(readings), "1")
	e.SetExtension(mesh.ExtWithdrawn, "true")
	return e
}

// What was a tenant's is withdrawn, without surroundings; what never was one's
// needs no withdrawal.
func TestWithdrawn(t *testing.T) {
	handle := join.New(metadata(places(t, mesh.Placement{DeviceID: "d", TenantID: "school", Room: "R1"}), actions(t), customers(t)))
	parked, gone := reading("", "d", 1), reading("", "d", 2)
	parked.AssignmentVersion, gone.AssignmentVersion = 0, 7
	out, err := handle(t.Context(), unassigned(parked, gone))
	if err != nil || len(out) != 1 || out[0].Type() != mesh.AnalyticsWithdrawn {
		t.Fatalf("events = %v, %v, want one analytics.withdrawn", out, err)
	}
	if tenant, ok := out[0].Extensions()[mesh.ExtTenant]; ok {
		t.Errorf("tenant = %v, want none", tenant)
	}
	const known = placementsVersion + actionsVersion + customersVersion
	if version, err := mesh.Version(out[0]); version != known || err != nil {
		t.Errorf("version of the event = %d, %v, want %d", version, err, known)
	}
	got, err := mesh.DecodeJoined(out[0].Data())
	if diff := cmp.Diff([]mesh.JoinedReading{{Reading: gone, JoinVersion: known}}, got); diff != "" || err != nil {
		t.Errorf("%v, withdrawn (-want +got):\n%s", err, diff)
	}
	if out, err := handle(t.Context(), unassigned(parked)); len(out) != 0 || err != nil {
		t.Errorf("parked: %d events, %v, want none", len(out), err)
	}
}

func TestErrorKinds(t *testing.T) {
	away := errors.New("port is away")
	handle := join.New(&join.Metadata{Placements: source[*join.Places]{value: places(t)}, Actions: source[*join.Actions]{err: away},
		Customers: source[*join.Customers]{value: customers(t)}})
	if _, err := handle(t.Context(), enriched("a", reading("a", "d", 1))); !errors.Is(err, away) || mesh.IsPermanent(err) {
		t.Errorf("no actions: %v, want an error that passes", err)
	}
	handle = join.New(metadata(places(t), actions(t), customers(t)))
	for _, in := range []event.Event{
		mesh.NewEvent(mesh.TelemetryEnriched, "/test", []byte("{}"), "1"),
		mesh.NewEvent(mesh.TelemetryUnassigned, "/test", []byte("{}"), "1"),
		mesh.NewEvent(mesh.TelemetryFlattened, "/test", mesh.EncodeReadings(nil), "1"),
	} {
		if _, err := handle(t.Context(), in); !mesh.IsPermanent(err) {
			t.Errorf("%s %s: %v, want a permanent error", in.Type(), in.Data(), err)
		}
	}
}

// joined gives the reading of a tenant's device with its surroundings.
func joined(t *testing.T, known *join.Known, tenant, device string, at mesh.Instant) mesh.JoinedReading {
	t.Helper()
	r := mesh.JoinedReading{Reading: reading(tenant, device, at)}
	known.Join(&r)
	return r
}

func get(t *testing.T, m *join.Metadata) *join.Known {
	t.Helper()
	known, err := m.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return known
}

// A room is handed over at 100; s2 stands in it for the school already, and s1
// for the office afterwards.
func TestActionIsItsHolders(t *testing.T) {
	placements := places(t,
		mesh.Placement{DeviceID: "s1", TenantID: "school", Building: "B", Room: "R", ValidTo: until(100)},
		mesh.Placement{DeviceID: "s1", TenantID: "office", Building: "B", Room: "R", ValidFrom: 100, ValidTo: until(200)},
		mesh.Placement{DeviceID: "s2", TenantID: "school", Building: "B", Room: "R", ValidTo: until(50)},
		mesh.Placement{DeviceID: "s2", TenantID: "school", Building: "B", Room: "R2", ValidFrom: 60},
		mesh.Placement{DeviceID: "s3", TenantID: "school", Room: "R"},
		mesh.Placement{DeviceID: "s4", TenantID: "office", Building: "B", Room: "R", ValidFrom: 10, ValidTo: until(20)},
		mesh.Placement{DeviceID: "s1", TenantID: "school", Building: "B", Room: "R", ValidFrom: 300})
	for _, test := range []struct {
		name   string
		action mesh.Action
		at     mesh.Instant
		want   map[string]string // device → tenant whose reading at 400, or at, has the action
	}{
		{"room, of its holder", mesh.Action{Building: "B", Room: "R", TakenAt: 99}, 99, map[string]string{"s1": "school"}},
		{"room, before it was handed over", mesh.Action{Building: "B", Room: "R", TakenAt: 99}, 150, map[string]string{}},
		{"room, handed back", mesh.Action{Building: "B", Room: "R", TakenAt: 99}, 400, map[string]string{"s1": "school"}},
		{"room, at the hand-over", mesh.Action{Building: "B", Room: "R", TakenAt: 100}, 150, map[string]string{"s1": "office"}},
		{"room, of both who held it", mesh.Action{Building: "B", Room: "R", TakenAt: 15}, 99, map[string]string{"s1": "school"}},
		{"room, of both who held it: the other one", mesh.Action{Building: "B", Room: "R", TakenAt: 15}, 150, map[string]string{"s1": "office"}},
		{"room, of a named one of both", mesh.Action{TenantID: "office", Building: "B", Room: "R", TakenAt: 15}, 99, map[string]string{}},
		{"room, held by another device of the tenant", mesh.Action{TenantID: "school", Building: "B", Room: "R", TakenAt: 40}, 400, map[string]string{"s1": "school"}},
		{"room, in a gap", mesh.Action{TenantID: "school", Building: "B", Room: "R", TakenAt: 250}, 400, map[string]string{}},
		{"room, of who held it not", mesh.Action{TenantID: "office", Building: "B", Room: "R", TakenAt: 99}, 400, map[string]string{}},
		{"room without building", mesh.Action{Room: "R", TakenAt: 99}, 400, map[string]string{"s3": "school"}},
		{"device", mesh.Action{DeviceID: "s1", TakenAt: 99}, 99, map[string]string{"s1": "school"}},
		{"device, handed over", mesh.Action{DeviceID: "s1", TakenAt: 99}, 150, map[string]string{}},
		{"device, handed back", mesh.Action{DeviceID: "s1", TakenAt: 99}, 400, map[string]string{"s1": "school"}},
		{"device, in a gap", mesh.Action{DeviceID: "s1", TakenAt: 250}, 400, map[string]string{}},
		{"device, of who held it not", mesh.Action{TenantID: "office", DeviceID: "s1", TakenAt: 99}, 400, map[string]string{}},
		{"device that stood elsewhere", mesh.Action{DeviceID: "s2", TakenAt: 40}, 400, map[string]string{"s2": "school"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.action.ActionID, test.action.Action = "1", "window opened"
			known := get(t, metadata(placements, actions(t, test.action), customers(t)))
			got := map[string]string{}
			for _, device := range []string{"s1", "s2", "s3", "s4"} {
				for _, tenant := range []string{"school", "office"} {
					if joined(t, known, tenant, device, test.at).LastAction != "" {
						got[device] = tenant
					}
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("readings at %d with the action, by device (-want +got):\n%s", test.at, diff)
			}
		})
	}
}

// The surroundings are those that a scan of placements and actions finds, also
// where placements of a device overlap: then nobody holds it.
func TestJoinEqualsScan(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(s ...string) string { return s[random.IntN(len(s))] }
	disputed, acted := 0, 0
	for range 500 {
		var placed []mesh.Placement
		for i := range random.IntN(10) {
			p := mesh.Placement{DeviceID: pick("d", "e", "f"), TenantID: pick("a", "b"), Building: pick("", "B"), Floor: fmt.Sprint(i), Room: pick("", "R", "S"),
				ValidFrom: mesh.Instant(random.IntN(20))}
			if random.IntN(4) > 0 {
				p.ValidTo = until(p.ValidFrom + mesh.Instant(random.IntN(12)))
			}
			placed = append(placed, p)
		}
		at := func(device string, t mesh.Instant) *mesh.Placement {
			var holder *mesh.Placement
			for i := range placed {
				if p := &placed[i]; p.DeviceID == device && p.ValidFrom <= t && (p.ValidTo == nil || t < *p.ValidTo) {
					if holder != nil {
						disputed++
						return nil
					}
					holder = p
				}
			}
			return holder
		}
		var done []mesh.Action
		for i := range random.IntN(12) {
			a := mesh.Action{ActionID: fmt.Sprintf("%02d", i), TenantID: pick("", "a", "b"), Action: fmt.Sprint(i), TakenAt: mesh.Instant(random.IntN(20))}
			switch random.IntN(3) {
			case 0:
				a.DeviceID = pick("d", "e", "f")
			case 1:
				a.Building, a.Room = pick("", "B"), pick("R", "S")
			case 2:
				a.DeviceID, a.Building, a.Room = pick("d", "e", "f"), pick("", "B"), pick("R", "S")
			}
			done = append(done, a)
		}
		known := get(t, metadata(places(t, slices.Clone(placed)...), actions(t, slices.Clone(done)...), customers(t)))
		for _, device := range []string{"d", "e", "f"} {
			for instant := mesh.Instant(-1); instant < 35; instant++ {
				for _, tenant := range []string{"a", "b"} {
					want := mesh.JoinedReading{Reading: reading(tenant, device, instant), JoinVersion: known.Version()}
					if p := at(device, instant); p != nil && p.TenantID == tenant {
						want.Building, want.Floor, want.Room = p.Building, p.Floor, p.Room
						var best *mesh.Action
						for i := range done {
							a := &done[i]
							held := func(device string) *mesh.Placement {
								if p := at(device, a.TakenAt); p != nil && p.TenantID == tenant {
									return p
								}
								return nil
							}
							here := a.DeviceID == device && held(device) != nil ||
								p.Room != "" && a.Room == p.Room && a.Building == p.Building &&
									slices.ContainsFunc([]string{"d", "e", "f"}, func(device string) bool {
										by := held(device)
										return by != nil && by.Building == a.Building && by.Room == a.Room
									})
							if here && (a.TenantID == "" || a.TenantID == tenant) && a.TakenAt <= instant &&
								(best == nil || a.TakenAt > best.TakenAt || a.TakenAt == best.TakenAt && a.ActionID > best.ActionID) {
								best = a
							}
						}
						if best != nil {
							acted++
							want.LastAction, want.LastActionAt = best.Action, best.TakenAt
						}
					}
					if diff := cmp.Diff(want, joined(t, known, tenant, device, instant)); diff != "" {
						t.Fatalf("reading of %s at %s at %d with placements %+v and actions %+v (-scan +join):\n%s", device, tenant, instant, placed, done, diff)
					}
				}
			}
		}
	}
	if disputed < 1000 || acted < 1000 {
		t.Errorf("%d disputed instants and %d readings after an action: too few to show anything", disputed, acted)
	}
}

// 500 messages of four metrics of one tenant's eight devices, with an action
// in every room every 50 messages.
func BenchmarkJoin(b *testing.B) {
	const messages, metrics = 500, 4
	persons, outside := int64(30), 425.0
	var placed []mesh.Placement
	var done []mesh.Action
	for d := range 8 {
		placed = append(placed, mesh.Placement{DeviceID: fmt.Sprint("sensor-", d), TenantID: "school", Building: "Main", Floor: "1",
			Room: fmt.Sprint("R", d), Persons: &persons, OutsideCO2: &outside})
		for i := range 10 {
			done = append(done, mesh.Action{ActionID: fmt.Sprint(d, "-", i), TenantID: "school", Building: "Main", Room: fmt.Sprint("R", d),
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
	handle := join.New(metadata(places(b, placed...), actions(b, done...), customers(b, mesh.Customer{CustomerID: "school", Name: "The School"})))
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
