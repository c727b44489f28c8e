package repair_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/functions/analytics-repair/repair"
	"github.com/telemesh/telemesh/functions/output-port/port"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

// world is a warehouse, the output ports of the metadata over HTTP, and the
// functions that an event of analytics meets.
type world struct {
	*testing.T
	db       *duckdb.DB
	metadata *join.Metadata
	handlers map[string]function.Handler              // by the type of event that wakes them
	posted   func(context.Context, event.Event) error // what becomes of what a repair posts
	queue    []event.Event
	made     map[string]int // events so far, by type
	within   time.Duration  // that a part of a repair takes
	sent     int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db := duckdbtest.Open(t)
	t.Setenv("TABLES", "iot_metadata.placements,iot_actions.actions,customers.customers")
	ports := function.Ports{Client: http.DefaultClient, Warehouse: db, Log: slog.New(slog.DiscardHandler)}
	fn, err := port.Start(ports)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(fn.HTTP)
	t.Cleanup(server.Close)
	cfg := join.Config{PlacementsURL: server.URL + "/placements", ActionsURL: server.URL + "/actions", CustomersURL: server.URL + "/customers", Refresh: time.Hour}
	w := &world{T: t, db: db, made: map[string]int{}, metadata: cfg.Open(ports), within: time.Hour}
	store := sink.New(db, sink.Tables{}, nil)
	again := func(ctx context.Context, in event.Event) ([]event.Event, error) {
		return repair.New(w.metadata, db, w.within, func(ctx context.Context, e event.Event) error { return w.posted(ctx, e) })(ctx, in)
	}
	w.posted = func(_ context.Context, e event.Event) error { w.post(e); return nil }
	joins := join.New(cfg.Open(ports))
	w.handlers = map[string]function.Handler{
		mesh.PlacementsChanged: store, mesh.ActionsLogged: store, mesh.CustomersChanged: store,
		mesh.AnalyticsJoined: store, mesh.AnalyticsWithdrawn: store,
		mesh.PlacementsRecorded: again, mesh.ActionsRecorded: again, mesh.CustomersRecorded: again, mesh.AnalyticsOutdated: again,
		mesh.TelemetryEnriched: joins, mesh.TelemetryUnassigned: joins,
	}
	return w
}

func (w *world) post(e event.Event) {
	w.made[e.Type()]++
	w.queue = append(w.queue, e)
}

// send has the world take an event, and all that comes of it.
func (w *world) send(eventType string, data []byte) {
	w.Helper()
	w.sent++
	w.post(mesh.NewEvent(eventType, "/test", data, fmt.Sprint(w.sent)))
	w.settle()
}

func (w *world) settle() {
	w.Helper()
	for len(w.queue) > 0 {
		next := w.queue[0]
		w.queue = w.queue[1:]
		out, err := w.handlers[next.Type()](w.Context(), next)
		if err != nil {
			w.Fatalf("%s: %v", next.Type(), err)
		}
		for _, e := range out {
			w.post(e)
		}
		if w.made[next.Type()] > 1000 {
			w.Fatalf("the circle of storing and repairing does not end: %s", next.Type())
		}
	}
}

func (w *world) placements(rows ...mesh.Placement) {
	w.Helper()
	w.send(mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: rows}))
}

func (w *world) actions(rows ...mesh.Action) {
	w.Helper()
	w.send(mesh.ActionsLogged, mesh.Encode(mesh.Actions{Actions: rows}))
}

func (w *world) customers(rows ...mesh.Customer) {
	w.Helper()
	w.send(mesh.CustomersChanged, mesh.Encode(mesh.Customers{Customers: rows}))
}

// readings sends one reading of a device at each of the minutes.
func (w *world) readings(tenant, device string, minutes ...int) {
	w.Helper()
	var list []mesh.Reading
	for _, m := range minutes {
		at := minute(m)
		list = append(list, mesh.Reading{ReadingID: mesh.ReadingID(device, "co2", at), DeviceID: device, Metric: "co2", Value: float64(m),
			ObservedAt: at, ReceivedAt: at, EventSource: "/devices", EventID: fmt.Sprint(device, m), TenantID: tenant, AssignmentVersion: 1})
	}
	w.send(mesh.TelemetryEnriched, mesh.EncodeReadings(list))
}

// text gives the rows of a query, one a line.
func (w *world) text(sql string) string {
	w.Helper()
	rows, err := w.db.Query(w.Context(), sql)
	if err != nil {
		w.Fatal(err)
	}
	var lines []string
	for row, err := range rows.All {
		if err != nil {
			w.Fatal(err)
		}
		var cells []string
		for _, cell := range row {
			if cell == nil {
				cell = "-"
			}
			cells = append(cells, fmt.Sprint(cell))
		}
		lines = append(lines, strings.Join(cells, " "))
	}
	return strings.Join(lines, "\n")
}

// shows holds what the port shows of each reading against one line a reading:
// device, minute, customer, building, room, last action.
func (w *world) shows(what, want string) {
	w.Helper()
	got := w.text("SELECT device_id, value, customer_name, building, room, last_action FROM iot_analytics.readings ORDER BY device_id, observed_at")
	if diff := gocmp.Diff(lines(want), lines(got)); diff != "" {
		w.Errorf("%s: readings (-want +got):\n%s", what, diff)
	}
}

func lines(text string) (out []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func minute(m int) mesh.Instant { return mesh.Instant(1_767_225_600+60*m) * 1e6 } // of 2026

func until(m int) *mesh.Instant { at := minute(m); return &at }

// school is a school with two devices in rooms of the building B, which is
// there before any reading.
func school(t *testing.T) *world {
	w := newWorld(t)
	w.customers(mesh.Customer{CustomerID: "school", Name: "School", Version: 1}, mesh.Customer{CustomerID: "office", Name: "Office", Version: 1})
	w.placements(
		mesh.Placement{DeviceID: "d1", TenantID: "school", Building: "B", Room: "R1", ValidFrom: minute(0), Version: 1},
		mesh.Placement{DeviceID: "d2", TenantID: "school", Building: "B", Room: "R2", ValidFrom: minute(0), Version: 1})
	w.readings("school", "d1", 10, 20, 30)
	w.readings("school", "d2", 10, 20, 30)
	return w
}

func TestActionIsCorrected(t *testing.T) {
	w := school(t)
	a := mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1}
	w.actions(a)
	w.shows("late", `
		d1 10 School B R1 -
		d1 20 School B R1 window
		d1 30 School B R1 window
		d2 10 School B R2 -
		d2 20 School B R2 -
		d2 30 School B R2 -`)
	a.Action, a.Version = "door", 2
	w.actions(a)
	w.shows("other text", `
		d1 10 School B R1 -
		d1 20 School B R1 door
		d1 30 School B R1 door
		d2 10 School B R2 -
		d2 20 School B R2 -
		d2 30 School B R2 -`)
	a.TakenAt, a.Version = minute(25), 3
	w.actions(a)
	w.shows("later", `
		d1 10 School B R1 -
		d1 20 School B R1 -
		d1 30 School B R1 door
		d2 10 School B R2 -
		d2 20 School B R2 -
		d2 30 School B R2 -`)
	a.Room, a.TakenAt, a.Version = "R2", minute(5), 4
	w.actions(a)
	w.shows("other room, earlier", `
		d1 10 School B R1 -
		d1 20 School B R1 -
		d1 30 School B R1 -
		d2 10 School B R2 door
		d2 20 School B R2 door
		d2 30 School B R2 door`)
	w.actions(mesh.Action{ActionID: "2", DeviceID: "d2", Action: "cleaned", TakenAt: minute(18), Version: 1})
	w.shows("another one after it", `
		d1 10 School B R1 -
		d1 20 School B R1 -
		d1 30 School B R1 -
		d2 10 School B R2 door
		d2 20 School B R2 cleaned
		d2 30 School B R2 cleaned`)
	a.Deleted, a.Version = true, 5
	w.actions(a)
	w.shows("deleted", `
		d1 10 School B R1 -
		d1 20 School B R1 -
		d1 30 School B R1 -
		d2 10 School B R2 -
		d2 20 School B R2 cleaned
		d2 30 School B R2 cleaned`)
	w.actions(mesh.Action{ActionID: "2", TenantID: "office", DeviceID: "d2", Action: "cleaned", TakenAt: minute(18), Version: 2})
	w.shows("of another tenant", `
		d1 10 School B R1 -
		d1 20 School B R1 -
		d1 30 School B R1 -
		d2 10 School B R2 -
		d2 20 School B R2 -
		d2 30 School B R2 -`)
}

func TestRoomIsCorrected(t *testing.T) {
	w := school(t)
	w.actions(mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1})
	joined := w.made[mesh.AnalyticsJoined]
	persons := int64(30)
	p := mesh.Placement{DeviceID: "d2", TenantID: "school", Building: "B", Room: "R1", Persons: &persons, ValidFrom: minute(0), ValidTo: until(25), Version: 2}
	rest := mesh.Placement{DeviceID: "d2", TenantID: "school", Building: "B", Room: "R2", ValidFrom: minute(25), Version: 2}
	w.placements(p, rest)
	w.shows("another room for a time", `
		d1 10 School B R1 -
		d1 20 School B R1 window
		d1 30 School B R1 window
		d2 10 School B R1 -
		d2 20 School B R1 window
		d2 30 School B R2 -`)
	if made := w.made[mesh.AnalyticsJoined] - joined; made != 1 {
		t.Errorf("%d analytics.joined, want 1 with the two readings of the other room", made)
	}
	const internal = "SELECT count(*) FROM iot_analytics_internal.readings WHERE device_id = 'd2'"
	if got := w.text(internal); got != "5" {
		t.Errorf("%s rows of d2, want 5: three and two again", got)
	}
	if got := w.text("SELECT count(*) FROM iot_analytics.readings WHERE persons = 30"); got != "2" {
		t.Errorf("%s readings of a room for 30, want 2", got)
	}
	// Each attribute by itself.
	outside := 420.5
	for column, change := range map[string]func(){
		"building":    func() { p.Building = "C" },
		"floor":       func() { p.Floor = "1" },
		"room":        func() { p.Room = "R7" },
		"persons":     func() { p.Persons = nil },
		"outside_co2": func() { p.OutsideCO2 = &outside },
	} {
		sql := "SELECT " + column + " FROM iot_analytics.readings WHERE device_id = 'd2' AND value = 20"
		before := w.text(sql)
		change()
		p.Version++
		w.placements(p)
		if got := w.text(sql); got == before {
			t.Errorf("%s = %s after its correction, as before", column, got)
		}
	}
}

func TestCustomerIsRenamed(t *testing.T) {
	w := school(t)
	c := mesh.Customer{CustomerID: "school", Name: "It's a school", Version: 2}
	w.customers(c)
	const names = "SELECT DISTINCT customer_name FROM iot_analytics.readings"
	if got := w.text(names); got != c.Name {
		t.Errorf("names = %s, want %s", got, c.Name)
	}
	rows := w.text("SELECT count(*) FROM iot_analytics_internal.readings")
	c.Country, c.Version = "NL", 3
	w.customers(c)
	if got := w.text("SELECT count(*) FROM iot_analytics_internal.readings"); got != rows {
		t.Errorf("%s rows after a change of what no reading shows, want %s as before", got, rows)
	}
	c.Deleted, c.Version = true, 4
	w.customers(c)
	if got := w.text(names); got != "-" {
		t.Errorf("names = %s, want none", got)
	}
}

// Who held a room when an action was taken is said by the placements of any
// device: one that is corrected touches the readings of others.
func TestPlacementOfAnotherDevice(t *testing.T) {
	w := school(t)
	visitor := mesh.Placement{DeviceID: "v", TenantID: "office", Building: "B", Room: "R1", ValidFrom: minute(0), ValidTo: until(20), Version: 2}
	w.placements(visitor,
		mesh.Placement{DeviceID: "o", TenantID: "office", Building: "B", Room: "R1", ValidFrom: minute(20), Version: 2})
	w.actions(mesh.Action{ActionID: "0", Building: "B", Room: "R1", Action: "door", TakenAt: minute(5), Version: 1},
		mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1})
	w.readings("office", "o", 30, 40)
	const of = "SELECT value, last_action FROM iot_analytics.readings WHERE device_id = 'o' ORDER BY value"
	for i, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, "window"},
		{func() { visitor.Room = "R2" }, "-"},
		{func() { visitor.Room = "R1"; visitor.ValidTo = until(15) }, "door"},
		{func() { visitor.ValidTo = until(16) }, "window"},
		{func() { visitor.Deleted = true }, "-"},
		{func() { visitor.Deleted = false }, "window"},
		{func() { visitor.TenantID = "another" }, "-"},
	} {
		step.change()
		visitor.Version = int64(i + 3)
		w.placements(visitor)
		if got, want := w.text(of), fmt.Sprintf("30 %s\n40 %s", step.want, step.want); got != want {
			t.Errorf("step %d, %+v: readings %q, want %q", i, visitor, got, want)
		}
	}
	// The device's own actions belong to who held it, likewise.
	w.actions(mesh.Action{ActionID: "2", DeviceID: "o", Action: "cleaned", TakenAt: minute(25), Version: 1})
	if got, want := w.text(of), "30 cleaned\n40 cleaned"; got != want {
		t.Errorf("readings %q, want %q", got, want)
	}
	w.placements(mesh.Placement{DeviceID: "o", TenantID: "office", Building: "B", Room: "R1", ValidFrom: minute(20), ValidTo: until(22), Version: 20},
		mesh.Placement{DeviceID: "o", TenantID: "office", Building: "B", Room: "R1", ValidFrom: minute(28), Version: 20})
	if got, want := w.text(of), "30 -\n40 -"; got != want {
		t.Errorf("readings %q, want %q", got, want)
	}
}

// Readings that were joined before a change and stored after its repair are told
// of it when they are stored. What is known by then is joined; what is the same
// makes no event, and the circle ends.
func TestOutdated(t *testing.T) {
	w := school(t)
	w.actions(mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1})
	outdated := w.made[mesh.AnalyticsOutdated]
	// The join goes on with its copies for the refresh interval of an hour.
	w.readings("school", "d1", 40)
	w.readings("school", "d2", 40)
	w.shows("joined without the action", `
		d1 10 School B R1 -
		d1 20 School B R1 window
		d1 30 School B R1 window
		d1 40 School B R1 window
		d2 10 School B R2 -
		d2 20 School B R2 -
		d2 30 School B R2 -
		d2 40 School B R2 -`)
	if got := w.made[mesh.AnalyticsOutdated] - outdated; got != 2 {
		t.Errorf("%d analytics.outdated, want one for each of the two events", got)
	}
	if got := w.text("SELECT device_id, count(*) FROM iot_analytics_internal.readings WHERE value = 40 GROUP BY device_id ORDER BY device_id"); got != "d1 2\nd2 1" {
		t.Errorf("rows of the readings at 40 = %q, want two for d1 and one for d2, which the action does not touch", got)
	}
}

// What is nobody's any more, or another tenant's, is not joined again: the one is
// gone, the other comes from iot-telemetry with its new tenant.
func TestOthersAreLeft(t *testing.T) {
	w := school(t)
	gone := mesh.JoinedReading{Reading: mesh.Reading{ReadingID: mesh.ReadingID("d1", "co2", minute(10)), DeviceID: "d1", Metric: "co2", Value: 10,
		ObservedAt: minute(10), ReceivedAt: minute(10), EventSource: "/devices", EventID: "d110", AssignmentVersion: 7}, JoinVersion: 1}
	w.send(mesh.AnalyticsWithdrawn, mesh.EncodeJoined([]mesh.JoinedReading{gone}))
	w.placements(mesh.Placement{DeviceID: "d1", TenantID: "school", Building: "B", Room: "R1", ValidFrom: minute(0), ValidTo: until(25), Version: 2},
		mesh.Placement{DeviceID: "d1", TenantID: "office", Building: "B", Room: "R9", ValidFrom: minute(25), Version: 2})
	rows := w.text("SELECT count(*) FROM iot_analytics_internal.readings")
	w.customers(mesh.Customer{CustomerID: "school", Name: "School", Version: 2})
	w.actions(mesh.Action{ActionID: "1", DeviceID: "d1", Action: "window", TakenAt: minute(5), Version: 1})
	w.shows("withdrawn, and handed over", `
		d1 20 School B R1 window
		d1 30 School B R1 -
		d2 10 School B R2 -
		d2 20 School B R2 -
		d2 30 School B R2 -`)
	if got := w.text("SELECT count(*) FROM iot_analytics_internal.readings"); rows != "7" || got != "8" {
		t.Errorf("%s rows, then %s, want 7, and one more for the reading before the action", rows, got)
	}
}

// Of a reading that came with several values each is joined again, as it came
// first, with the revision it was measured with.
func TestEveryValueIsJoined(t *testing.T) {
	w := school(t)
	at := minute(10)
	list := []mesh.Reading{{ReadingID: mesh.ReadingID("d1", "co2", at), DeviceID: "d1", Metric: "co2", Value: 11, ObservedAt: at, ReceivedAt: at + 5,
		EventSource: "/devices", EventID: "late", TenantID: "school", AssignmentVersion: 1}}
	w.send(mesh.TelemetryEnriched, mesh.EncodeReadings(list))
	list[0].Value, list[0].EventID, list[0].ReceivedAt = 10, "again", at+9
	w.send(mesh.TelemetryEnriched, mesh.EncodeReadings(list))
	w.actions(mesh.Action{ActionID: "1", DeviceID: "d1", Action: "window", TakenAt: minute(5), Version: 1})
	got := w.text("SELECT value, quality, last_action, event_id FROM iot_analytics.readings WHERE device_id = 'd1' AND observed_at = TIMESTAMP '2026-01-01 00:10:00'")
	if want := "11 conflict window late"; got != want {
		t.Errorf("the port shows %q, want %q", got, want)
	}
	got = w.text("SELECT value, revision, event_id FROM iot_analytics_internal.readings WHERE last_action = 'window' AND observed_at = TIMESTAMP '2026-01-01 00:10:00' ORDER BY value")
	if want := "10 0 d110\n11 0 late"; got != want {
		t.Errorf("rows with the action = %q, want %q", got, want)
	}
}

func TestErrorKinds(t *testing.T) {
	w := newWorld(t)
	for _, eventType := range []string{mesh.PlacementsRecorded, mesh.ActionsRecorded, mesh.CustomersRecorded, mesh.AnalyticsOutdated} {
		if _, err := w.handlers[eventType](t.Context(), mesh.NewEvent(eventType, "/test", []byte("{}"), "1")); !mesh.IsPermanent(err) {
			t.Errorf("%s without rows: %v, want a permanent error", eventType, err)
		}
	}
	again := w.handlers[mesh.CustomersRecorded]
	if _, err := again(t.Context(), mesh.NewEvent(mesh.AnalyticsJoined, "/test", []byte("{}"), "1")); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), mesh.AnalyticsJoined) {
		t.Errorf("an event of another type: %v, want a permanent error that names it", err)
	}
	w.db.Close()
	in := mesh.NewEvent(mesh.CustomersRecorded, "/test", mesh.Encode(mesh.Customers{Customers: []mesh.Customer{{CustomerID: "c"}}}), "1")
	if _, err := again(t.Context(), in); err == nil || mesh.IsPermanent(err) {
		t.Errorf("a warehouse that is away: %v, want an error that passes", err)
	}
}

// fill stores n readings of the school's device d1, one a second, after those it has.
func (w *world) fill(n int) {
	w.Helper()
	const batch = 5000 // as no source sends them: to be stored sooner
	for from := 0; from < n; from += batch {
		var list []mesh.Reading
		for i := from; i < min(from+batch, n); i++ {
			at := minute(100) + mesh.Instant(i)*1e6
			list = append(list, mesh.Reading{ReadingID: mesh.ReadingID("d1", "co2", at), DeviceID: "d1", Metric: "co2", Value: float64(i), ObservedAt: at, ReceivedAt: at,
				EventSource: "/devices", EventID: fmt.Sprint(i / 4), TenantID: "school", AssignmentVersion: 1})
		}
		w.send(mesh.TelemetryEnriched, mesh.EncodeReadings(list))
	}
}

// A name on 100,000 readings is corrected in memory that their number does not
// determine, while the events are stored.
func TestMemoryIsBounded(t *testing.T) {
	const readings = 100_000
	w := school(t)
	w.fill(readings)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most, joined := heap(), uint64(0), 0
	w.posted = func(ctx context.Context, e event.Event) error {
		list, err := mesh.DecodeJoined(e.Data())
		if err != nil {
			return err
		}
		if joined += len(list); joined%10_000 == 0 {
			most = max(most, heap())
		}
		out, err := w.handlers[mesh.AnalyticsJoined](ctx, e)
		if len(out) > 0 {
			t.Errorf("%s after a repair, want nothing", out[0].Type())
		}
		return err
	}
	w.customers(mesh.Customer{CustomerID: "school", Name: "College", Version: 2})
	if joined != readings+6 {
		t.Errorf("%d readings joined again, want %d", joined, readings+6)
	}
	if got := w.text("SELECT count(*) FROM iot_analytics.readings WHERE customer_name = 'College'"); got != fmt.Sprint(joined) {
		t.Errorf("%s readings of the new name, want %d", got, joined)
	}
	if grown := int64(most) - int64(before); grown > 24<<20 || most == 0 {
		t.Errorf("the repair holds %d MB, want less than 24", grown>>20)
	}
}

// A repair that is cut off at any event, or loses its connection to the Broker
// there, is gone on with: in the end each row was added once.
func TestRepairIsGoneOnWith(t *testing.T) {
	const readings = 2500
	w := school(t)
	w.fill(readings)
	w.actions(mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1})
	random := rand.New(rand.NewPCG(4, 4))
	for round := range 4 {
		name := fmt.Sprint("name ", round)
		store := w.handlers[mesh.CustomersChanged]
		out, err := store(t.Context(), mesh.NewEvent(mesh.CustomersChanged, "/test",
			mesh.Encode(mesh.Customers{Customers: []mesh.Customer{{CustomerID: "school", Name: name, Version: int64(round + 2)}}}), name))
		if err != nil || len(out) != 1 {
			t.Fatalf("%d events, %v, want one", len(out), err)
		}
		attempts := 0
		for done := false; !done; attempts++ {
			ctx, cancel := context.WithCancel(t.Context())
			left, lost := random.IntN(5), random.IntN(2) == 0
			w.posted = func(ctx context.Context, e event.Event) error {
				if left--; left < 0 && attempts < 4 {
					if lost {
						return errors.New("the Broker is away")
					}
					cancel()
				}
				w.post(e)
				return ctx.Err()
			}
			_, err := w.handlers[mesh.CustomersRecorded](ctx, out[0])
			cancel()
			if done = err == nil; !done && mesh.IsPermanent(err) {
				t.Fatalf("cut off: %v, want an error that passes", err)
			}
			if random.IntN(2) == 0 {
				w.settle() // else the next attempt finds them not stored yet
			}
		}
		w.settle()
		if round == 0 && attempts == 1 {
			t.Error("the repair was not cut off")
		}
		if got := w.text("SELECT DISTINCT customer_name FROM iot_analytics.readings"); got != name {
			t.Errorf("round %d: names = %s, want %s", round, got, name)
		}
		if got := w.text(fmt.Sprintf("SELECT count(*), count(DISTINCT reading_id) FROM iot_analytics_internal.readings WHERE customer_name = '%s'", name)); got != fmt.Sprintf("%d %[1]d", readings+6) {
			t.Errorf("round %d: rows and readings of the name = %s, want %d of each", round, got, readings+6)
		}
	}
}

// A repair that takes longer than it may goes on in deliveries of its own,
// whatever has changed: each does what is left.
func TestRepairInParts(t *testing.T) {
	w := school(t)
	w.within = 0 // one instant of a device in a part
	for _, test := range []struct {
		recorded string
		change   func()
		parts    int
	}{
		{mesh.CustomersRecorded, func() { w.customers(mesh.Customer{CustomerID: "school", Name: "College", Version: 2}) }, 6},
		{mesh.ActionsRecorded, func() {
			w.actions(mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1})
		}, 2},
		{mesh.PlacementsRecorded, func() {
			w.placements(mesh.Placement{DeviceID: "d2", TenantID: "school", Building: "B", Room: "R1", ValidFrom: minute(0), ValidTo: until(25), Version: 2},
				mesh.Placement{DeviceID: "d2", TenantID: "school", Building: "B", Room: "R2", ValidFrom: minute(25), Version: 2})
		}, 2},
	} {
		parts, joined := w.made[test.recorded], w.made[mesh.AnalyticsJoined]
		test.change()
		parts, joined = w.made[test.recorded]-parts, w.made[mesh.AnalyticsJoined]-joined
		if parts != test.parts || joined != test.parts {
			t.Errorf("%d %s and %d analytics.joined, want %d of each", parts, test.recorded, joined, test.parts)
		}
	}
	w.shows("in parts", `
		d1 10 College B R1 -
		d1 20 College B R1 window
		d1 30 College B R1 window
		d2 10 College B R1 -
		d2 20 College B R1 window
		d2 30 College B R2 -`)
}

// However placements, actions and customers change, and in whatever order events
// come, late and twice: in the end the port shows of each reading what is joined
// with what is known then.
func TestAnyHistoryEndsRight(t *testing.T) {
	for seed := range uint64(2) { // internal/disorder tries more
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := &history{world: newWorld(t), Rand: rand.New(rand.NewPCG(seed, 7)), held: map[string]holder{}}
			if seed == 1 {
				h.within = 0 // one instant of a device in a part
			}
			store := h.handlers[mesh.PlacementsChanged]
			h.handlers[mesh.PlacementsChanged] = func(ctx context.Context, in event.Event) ([]event.Event, error) {
				out, err := store(ctx, in)
				if err == nil {
					h.recorded()
				}
				return out, err
			}
			for range 40 {
				h.step()
				for range h.IntN(6) {
					h.deliver()
				}
			}
			for len(h.queue) > 0 {
				h.deliver()
			}
			h.check()
		})
	}
}

// history is a random one of a world, whose tenancy is that of the placements
// recorded so far.
type history struct {
	*world
	*rand.Rand
	readings []mesh.Reading
	held     map[string]holder // by device and instant
	version  int64             // of the rows of a source
}

type holder struct {
	tenant  string
	version int64
}

func (h *history) pick(of ...string) string { return of[h.IntN(len(of))] }

// step sends what somebody might.
func (h *history) step() {
	h.sent++
	h.version++
	var eventType string
	var data []byte
	switch h.IntN(5) {
	case 0: // the start is the key: a row is corrected, or deleted
		p := mesh.Placement{DeviceID: h.pick("d", "e", "f"), TenantID: h.pick("school", "office"), Building: h.pick("", "B"), Room: h.pick("", "R", "S"),
			Floor: h.pick("", "1"), ValidFrom: minute(10 * h.IntN(6)), Version: h.version, Deleted: h.IntN(5) == 0}
		if h.IntN(3) > 0 {
			to := p.ValidFrom + minute(10*(1+h.IntN(3))) - minute(0)
			p.ValidTo = &to
		}
		eventType, data = mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: []mesh.Placement{p}})
	case 1, 2:
		a := mesh.Action{ActionID: h.pick("1", "2", "3", "4"), TenantID: h.pick("", "", "school", "office"), Action: h.pick("window", "door", "it's"),
			TakenAt: minute(5 * h.IntN(12)), Version: h.version, Deleted: h.IntN(5) == 0}
		if h.IntN(2) == 0 {
			a.DeviceID = h.pick("d", "e", "f")
		} else {
			a.Building, a.Room = h.pick("", "B"), h.pick("R", "S")
		}
		eventType, data = mesh.ActionsLogged, mesh.Encode(mesh.Actions{Actions: []mesh.Action{a}})
	case 3:
		c := mesh.Customer{CustomerID: h.pick("school", "office"), Name: h.pick("A", "B", `C\`), Version: h.version, Deleted: h.IntN(5) == 0}
		eventType, data = mesh.CustomersChanged, mesh.Encode(mesh.Customers{Customers: []mesh.Customer{c}})
	case 4:
		device := h.pick("d", "e", "f")
		for range 1 + h.IntN(5) {
			at := minute(h.IntN(70))
			r := mesh.Reading{ReadingID: mesh.ReadingID(device, "co2", at), DeviceID: device, Metric: "co2", Value: float64(at % 7), ObservedAt: at, ReceivedAt: at}
			h.readings = append(h.readings, r)
			h.measured(r)
		}
		return
	}
	h.post(mesh.NewEvent(eventType, "/test", data, fmt.Sprint(h.sent)))
}

// measured brings a reading with its tenant, as tenant-enrich does.
func (h *history) measured(r mesh.Reading) {
	by := h.held[fmt.Sprint(r.DeviceID, r.ObservedAt)]
	r.TenantID, r.AssignmentVersion = by.tenant, by.version
	h.sent++
	eventType := mesh.TelemetryEnriched
	if by.tenant == "" {
		eventType = mesh.TelemetryUnassigned
	}
	h.post(mesh.NewEvent(eventType, "/test", mesh.EncodeReadings([]mesh.Reading{r}), fmt.Sprint(h.sent)))
}

// recorded replays what a row of the placements changed, and brings the readings
// that it touches again, as tenancy-repair does.
func (h *history) recorded() {
	h.Helper()
	version := int64(len(lines(h.text("SELECT version FROM iot_metadata_internal.placements"))))
	type interval struct {
		device, tenant string
		from, to       mesh.Instant
	}
	var placed []interval
	for _, line := range lines(h.text("SELECT device_id, tenant_id, epoch_us(valid_from), coalesce(epoch_us(valid_to), 9223372036854775807) FROM iot_metadata.placements")) {
		var p interval
		if _, err := fmt.Sscan(line, &p.device, &p.tenant, &p.from, &p.to); err != nil {
			h.Fatal(err)
		}
		placed = append(placed, p)
	}
	for _, device := range []string{"d", "e", "f"} {
		for m := range 70 {
			at, tenant, covering := minute(m), "", 0
			for _, p := range placed {
				if p.device == device && p.from <= at && at < p.to {
					tenant = p.tenant
					covering++
				}
			}
			if covering > 1 {
				tenant = ""
			}
			if key := fmt.Sprint(device, at); h.held[key].tenant != tenant {
				h.held[key] = holder{tenant, version}
				for _, r := range h.readings {
					if r.DeviceID == device && r.ObservedAt == at {
						h.measured(r)
					}
				}
			}
		}
	}
}

// deliver hands any of the events that wait over, and mostly forgets it then.
func (h *history) deliver() {
	h.Helper()
	if len(h.queue) == 0 {
		return
	}
	i := h.IntN(len(h.queue))
	next := h.queue[i]
	if h.IntN(8) > 0 {
		h.queue = slices.Delete(h.queue, i, i+1)
	}
	out, err := h.handlers[next.Type()](h.Context(), next)
	if err != nil {
		h.Fatalf("%s: %v", next.Type(), err)
	}
	for _, e := range out {
		h.post(e)
	}
	if h.made[mesh.AnalyticsOutdated] > 5000 {
		h.Fatal("the circle of storing and repairing does not end")
	}
}

func (h *history) check() {
	h.Helper()
	known, err := h.metadata.Fresh(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	want := map[string]bool{}
	for _, r := range h.readings {
		if r.TenantID = h.held[fmt.Sprint(r.DeviceID, r.ObservedAt)].tenant; r.TenantID == "" {
			continue
		}
		j := mesh.JoinedReading{Reading: r}
		if !known.Join(&j) {
			h.Fatalf("reading of %s at %s: %s does not hold the device by the port", r.DeviceID, r.ObservedAt, r.TenantID)
		}
		text := func(s string) string { return cmp.Or(s, "-") }
		at := "-"
		if j.LastAction != "" {
			at = fmt.Sprint(int64(j.LastActionAt))
		}
		want[strings.Join([]string{r.DeviceID, fmt.Sprint(int64(r.ObservedAt)), r.TenantID, text(j.CustomerName), text(j.Building), text(j.Floor), text(j.Room), text(j.LastAction), at}, " ")] = true
	}
	got := lines(h.text("SELECT device_id, epoch_us(observed_at), tenant_id, customer_name, building, floor, room, last_action, epoch_us(last_action_at) FROM iot_analytics.readings ORDER BY ALL"))
	if diff := gocmp.Diff(slices.Sorted(maps.Keys(want)), got); diff != "" {
		h.Errorf("readings (-joined with what is known at the end +shown):\n%s", diff)
	}
}

// An action at the device takes the place of one in the room at the same
// instant, if its id is the greater one and once it is its tenant's.
func TestActionsOfOneInstant(t *testing.T) {
	w := school(t)
	w.actions(mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1},
		mesh.Action{ActionID: "2", DeviceID: "v", Action: "cleaned", TakenAt: minute(15), Version: 1})
	w.placements(mesh.Placement{DeviceID: "v", TenantID: "school", Building: "B", Room: "R1", ValidFrom: minute(20), Version: 2})
	w.readings("school", "v", 30)
	const of = "SELECT last_action FROM iot_analytics.readings WHERE device_id = 'v'"
	if got := w.text(of); got != "window" {
		t.Errorf("last action = %s, want window: the device was nobody's", got)
	}
	w.placements(mesh.Placement{DeviceID: "v", TenantID: "school", Building: "B", Room: "R2", ValidFrom: minute(15), ValidTo: until(20), Version: 3})
	if got := w.text(of); got != "cleaned" {
		t.Errorf("last action = %s, want cleaned: the device was the school's", got)
	}
}

// A placement that claims a device which another one has takes what was done
// then from both.
func TestOverlapIsNobodys(t *testing.T) {
	w := school(t)
	w.placements(mesh.Placement{DeviceID: "v", TenantID: "office", Building: "B", Room: "R1", ValidFrom: minute(0), Version: 2},
		mesh.Placement{DeviceID: "o", TenantID: "office", Building: "B", Room: "R1", ValidFrom: minute(20), Version: 2})
	w.actions(mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1})
	w.readings("office", "o", 30)
	const of = "SELECT last_action FROM iot_analytics.readings WHERE device_id = 'o'"
	if got := w.text(of); got != "window" {
		t.Errorf("last action = %s, want window", got)
	}
	claim := mesh.Placement{DeviceID: "v", TenantID: "school", Building: "B", Room: "R2", ValidFrom: minute(10), Version: 3}
	w.placements(claim)
	if got := w.text(of); got != "-" {
		t.Errorf("last action = %s while two claim the device, want none", got)
	}
	claim.Deleted, claim.Version = true, 4
	w.placements(claim)
	if got := w.text(of); got != "window" {
		t.Errorf("last action = %s once the claim is gone, want window", got)
	}
}
