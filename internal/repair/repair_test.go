package repair_test

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

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/repair"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

// store has the sink store the data of an event.
func store(t testing.TB, w warehouse.Warehouse, eventType string, data []byte) {
	t.Helper()
	if _, err := sink.New(w, sink.Tables{}, nil)(t.Context(), mesh.NewEvent(eventType, "/test", data, string(data))); err != nil {
		t.Fatal(err)
	}
}

func reading(device, metric string, at mesh.Instant) mesh.JoinedReading {
	return mesh.JoinedReading{Reading: mesh.Reading{ReadingID: mesh.ReadingID(device, metric, at), DeviceID: device, Metric: metric,
		ObservedAt: at, ReceivedAt: at + 1}}
}

func collect(t testing.TB, rows func(func([]mesh.JoinedReading, error) bool)) (all []mesh.JoinedReading, groups int) {
	t.Helper()
	for group, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		groups++
		all = append(all, group...)
	}
	return all, groups
}

// What was stored is read as it was, from either table.
func TestRowsAreAsTheyWereStored(t *testing.T) {
	db := duckdbtest.Open(t)
	persons, co2 := int64(30), 420.5
	full := reading("a", "co2", 1)
	full.Value, full.ValueString, full.Unit, full.Quality = 412.5, "412.50", "ppm", mesh.QualityNoTime
	full.EventSource, full.EventID, full.Attributes = "/devices", "m1", `{"rssi":-80}`
	full.Revision, full.TenantID, full.AssignmentVersion = 2, "school", 7
	full.Building, full.Floor, full.Room, full.Persons, full.OutsideCO2 = "B", "1", "1.01", &persons, &co2
	full.CustomerName, full.LastAction, full.LastActionAt, full.JoinVersion = "School", "window_opened", 0, 9
	door, state := reading("a", "door", 2), reading("a", "state", 3)
	door.Kind, door.Value, door.TenantID = mesh.Boolean, 1, "school"
	state.Kind, state.TenantID = mesh.Text, "school"
	want := []mesh.JoinedReading{full, door, state}
	store(t, db, mesh.AnalyticsJoined, mesh.EncodeJoined(want))
	got, _ := collect(t, repair.Rows(t.Context(), db, repair.Analytics, ""))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("joined readings (-stored +read):\n%s", diff)
	}

	var bare []mesh.Reading
	for i := range want {
		bare = append(bare, want[i].Reading)
		want[i] = mesh.JoinedReading{Reading: want[i].Reading}
	}
	store(t, db, mesh.TelemetryEnriched, mesh.EncodeReadings(bare))
	got, _ = collect(t, repair.Rows(t.Context(), db, repair.Telemetry, ""))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("readings (-stored +read):\n%s", diff)
	}
}

// names are ids that SQL may trip over.
var names = []string{"a", "b", "it's", `back\slash`, `'; DROP TABLE x; --`, "line\nend\r\n", "nul\x00", "nul\x00\x00b", "\x00", `\000`, `\t`, "tab\t",
	"ü'日本\\", "--", "/*", "%s", "$1", "?", `"`, "`", "\x7f", " ", "a ", "A"}

// Whatever the size of the pages, each reading comes once, with all its rows,
// in order.
func TestPagesJoinUp(t *testing.T) {
	db := duckdbtest.Open(t)
	random := rand.New(rand.NewPCG(4, 2))
	var stored []mesh.Reading
	for range 400 {
		r := reading(names[random.IntN(len(names))], fmt.Sprint("m", random.IntN(3)), mesh.Instant(random.IntN(12)))
		r.Value, r.TenantID, r.AssignmentVersion = float64(random.IntN(3)), "school", int64(random.IntN(3))
		stored = append(stored, r.Reading)
	}
	// Rows of one reading that are equal in all else differ in recorded_at.
	for rest := stored; len(rest) > 0; {
		n := 1
		for n < len(rest) && !slices.ContainsFunc(rest[:n], func(r mesh.Reading) bool { return r.ReadingID == rest[n].ReadingID }) {
			n++
		}
		store(t, db, mesh.TelemetryEnriched, mesh.EncodeReadings(rest[:n]))
		rest = rest[n:]
	}
	want, readings := collect(t, repair.Rows(t.Context(), db, repair.Telemetry, ""))
	ids := map[string]bool{}
	for _, r := range stored {
		ids[r.ReadingID] = true
	}
	if readings != len(ids) || len(want) < readings+20 {
		t.Fatalf("%d readings with %d rows in one page, want %d readings, many with several rows", readings, len(want), len(ids))
	}
	if !slices.IsSortedFunc(want, func(a, b mesh.JoinedReading) int {
		return slices.Compare([]string{a.DeviceID, fmt.Sprintf("%09d", a.ObservedAt), a.ReadingID}, []string{b.DeviceID, fmt.Sprintf("%09d", b.ObservedAt), b.ReadingID})
	}) {
		t.Error("rows are not ordered by device_id, observed_at, reading_id")
	}
	for _, limit := range []int{1, 7, 50, len(want), len(want) + 1} {
		got, groups := collect(t, repair.Paged(t.Context(), db, repair.Telemetry, "", limit))
		if diff := cmp.Diff(want, got); diff != "" || groups != readings {
			t.Errorf("pages of %d: %d readings, want %d; rows (-in one page +in pages):\n%s", limit, groups, readings, diff)
		}
	}
}

// Conditions hold for the readings in the ranges and for no other.
func TestConditionsHoldInTheRanges(t *testing.T) {
	db := duckdbtest.Open(t)
	var stored []mesh.Reading
	for _, name := range names {
		for at := range mesh.Instant(10) {
			r := reading(name, "m", at-5)
			r.TenantID = "school"
			stored = append(stored, r.Reading)
		}
	}
	store(t, db, mesh.TelemetryEnriched, mesh.EncodeReadings(stored))
	random := rand.New(rand.NewPCG(1, 1))
	for round := range 8 {
		var ranges []repair.Range
		for _, name := range names {
			from := mesh.Instant(random.IntN(12) - 6)
			r := repair.Range{Device: name, From: from, To: from + mesh.Instant(random.IntN(4))}
			switch random.IntN(4) {
			case 0:
				continue
			case 1:
				r.To = repair.Forever
			case 2:
				r.From = repair.Always
			}
			ranges = append(ranges, r)
		}
		var want []string
		for _, s := range stored {
			if slices.ContainsFunc(ranges, func(r repair.Range) bool {
				return r.Device == s.DeviceID && r.From <= s.ObservedAt && s.ObservedAt < r.To
			}) {
				want = append(want, s.ReadingID)
			}
		}
		var got []string
		for where := range repair.Conditions(ranges) {
			rows, _ := collect(t, repair.Paged(t.Context(), db, repair.Telemetry, where, 20))
			for _, r := range rows {
				got = append(got, r.ReadingID)
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("round %d: readings (-in the ranges +read):\n%s", round, diff)
		}
	}
}

// Devices of the same interval share a part, and no condition is too long.
func TestConditionsAreBounded(t *testing.T) {
	var ranges []repair.Range
	for i := range 10_000 {
		ranges = append(ranges, repair.Range{Device: fmt.Sprint("same-", i), From: 0, To: repair.Forever},
			repair.Range{Device: fmt.Sprint("own-", i), From: mesh.Instant(i), To: mesh.Instant(i + 1)})
	}
	n, names := 0, 0
	for where := range repair.Conditions(ranges) {
		n++
		in, intervals, _ := strings.Cut(where, "EXISTS")
		names += strings.Count(in, "'same-") + strings.Count(in, "'own-")
		if len(where) > 256<<10 || strings.Count(intervals, "SELECT") > 251 {
			t.Errorf("a condition of %d bytes with %d intervals", len(where), strings.Count(intervals, "SELECT"))
		}
	}
	if names != len(ranges) || n != 45 {
		t.Errorf("%d names in %d conditions, want %d names in 45: 40 of 250 and 5 of 2000", names, n, len(ranges))
	}
}

func TestRowsEndsWithTheError(t *testing.T) {
	db := duckdbtest.Open(t)
	for range 2 {
		var last error
		for _, err := range repair.Rows(t.Context(), db, repair.Telemetry, "no_such_column = 1") {
			if last = err; err == nil {
				t.Fatal("rows for a condition that is no SQL")
			}
		}
		if !mesh.IsPermanent(last) || !strings.Contains(last.Error(), repair.Telemetry) {
			t.Errorf("error = %v, want a permanent one that names the table", last)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range repair.Rows(ctx, db, repair.Telemetry, "") {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want that of the context", err)
		}
	}
}

// Each event is of one tenant and says so, none has more than 500 readings, all
// readings are in one, and what waits is bounded.
func TestEvents(t *testing.T) {
	in := mesh.NewEvent(mesh.PlacementsRecorded, "/test", nil, "1")
	make := func(version int64, change string) (posted []event.Event) {
		t.Helper()
		e := repair.Events{In: in, Function: "f", Version: version, Held: mesh.TelemetryEnriched, Nobody: mesh.TelemetryUnassigned,
			Post: func(_ context.Context, e event.Event) error { posted = append(posted, e); return nil }}
		for i := range 3000 {
			r := reading("d", "m", mesh.Instant(i))
			r.ValueString = change
			if i%4 != 0 {
				r.TenantID = fmt.Sprint("t", i%4/2)
			}
			if err := e.Add(t.Context(), &r); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		return posted
	}
	posted := make(7, "")
	ids, readings := map[string]bool{}, map[string]bool{}
	for _, e := range posted {
		if err := e.Validate(); err != nil {
			t.Error(err)
		}
		ids[e.ID()] = true
		list, err := mesh.DecodeReadings(e.Data())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 500 {
			t.Errorf("an event of %d readings", len(list))
		}
		tenant, _ := e.Extensions()[mesh.ExtTenant].(string)
		if nobody := e.Extensions()[mesh.ExtWithdrawn] == "true"; nobody != (tenant == "") || nobody != (e.Type() == mesh.TelemetryUnassigned) {
			t.Errorf("event of type %s, tenant %q, withdrawn %v", e.Type(), tenant, nobody)
		}
		if version, err := mesh.Version(e); version != 7 || err != nil {
			t.Errorf("version = %d, %v, want 7", version, err)
		}
		for _, r := range list {
			readings[r.ReadingID] = true
			if r.TenantID != tenant {
				t.Errorf("reading of %q in an event of %q", r.TenantID, tenant)
			}
		}
	}
	if len(readings) != 3000 || len(posted) != 7 || len(ids) != 7 {
		t.Errorf("%d readings in %d events with %d ids, want 3000 in 7 (750, 750 and 1500 readings)", len(readings), len(posted), len(ids))
	}
	if diff := cmp.Diff(posted, make(7, "")); diff != "" {
		t.Errorf("the same readings made other events (-first +second):\n%s", diff)
	}
	for _, other := range [][]event.Event{make(8, ""), make(7, "x")} {
		for _, e := range other {
			if ids[e.ID()] {
				t.Errorf("event of another version or content has the id %s, too", e.ID())
			}
		}
	}
}

// Many tenants, each with less than fills an event, do not pile up.
func TestEventsThatWaitAreBounded(t *testing.T) {
	posted := 0
	e := repair.Events{Held: mesh.TelemetryEnriched, Nobody: mesh.TelemetryUnassigned,
		Post: func(_ context.Context, e event.Event) error { posted += len(e.Data()); return nil }}
	added := 0
	for i := range 2000 {
		r := reading("d", "m", mesh.Instant(i))
		r.TenantID = fmt.Sprint("t", i)
		r.Attributes = `"` + strings.Repeat("x", 50_000) + `"`
		added += len(r.Attributes)
		if err := e.Add(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		if added-posted > 20<<20 {
			t.Fatalf("%d bytes wait after %d readings", added-posted, i)
		}
	}
}
