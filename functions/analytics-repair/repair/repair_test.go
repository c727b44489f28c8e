package repair_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/functions/analytics-repair/repair"
	"github.com/telemesh/telemesh/functions/output-port/port"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/products"
)

// world is a warehouse, the output ports of the metadata over HTTP, and the
// functions that an event of analytics meets.
type world struct {
	*testing.T
	db       *duckdb.DB
	handlers map[string]function.Handler // by the type of event that wakes them
	queue    []event.Event
	made     map[string]int // events so far, by type
	sent     int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	db, err := duckdb.Open(filepath.Join(t.TempDir(), "test.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := db.Apply(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TABLES", "iot_metadata.placements,iot_actions.actions,customers.customers")
	ports := function.Ports{Client: http.DefaultClient, Warehouse: db, Log: slog.New(slog.DiscardHandler)}
	fn, err := port.Start(ports)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(fn.HTTP)
	t.Cleanup(server.Close)
	cfg := join.Config{PlacementsURL: server.URL + "/placements", ActionsURL: server.URL + "/actions", CustomersURL: server.URL + "/customers", Refresh: time.Hour}
	w := &world{T: t, db: db, made: map[string]int{}}
	store := sink.New(db)
	again := repair.New(cfg.Open(ports), db, func(_ context.Context, e event.Event) error { w.post(e); return nil })
	w.handlers = map[string]function.Handler{
		mesh.PlacementsChanged: store, mesh.ActionsLogged: store, mesh.CustomersChanged: store,
		mesh.AnalyticsJoined: store, mesh.AnalyticsWithdrawn: store,
		mesh.PlacementsRecorded: again, mesh.ActionsRecorded: again, mesh.CustomersRecorded: again, mesh.AnalyticsOutdated: again,
		mesh.TelemetryEnriched: join.New(cfg.Open(ports)),
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
		if w.made[mesh.AnalyticsOutdated] > 1000 {
			w.Fatal("the circle of storing and repairing does not end")
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
	if diff := cmp.Diff(lines(want), lines(got)); diff != "" {
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
	w.actions(mesh.Action{ActionID: "1", Building: "B", Room: "R1", Action: "window", TakenAt: minute(15), Version: 1})
	w.readings("office", "o", 30, 40)
	const of = "SELECT value, last_action FROM iot_analytics.readings WHERE device_id = 'o' ORDER BY value"
	for i, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, "window"},
		{func() { visitor.Room = "R2" }, "-"},
		{func() { visitor.Room = "R1"; visitor.ValidTo = until(15) }, "-"},
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
