package repair_test

import (
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
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/telemesh/telemesh/functions/assignment-port/port"
	"github.com/telemesh/telemesh/functions/tenancy-repair/repair"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

var quiet = slog.New(slog.DiscardHandler)

// servePort gives the address of the lookup port of iot-metadata.
func servePort(t testing.TB, db *duckdb.DB) string {
	server := httptest.NewServer(port.New(db, quiet))
	t.Cleanup(server.Close)
	return server.URL + "/assignments"
}

// world is a warehouse, a port of its placements, and the functions that the
// events of a test go through.
type world struct {
	t      testing.TB
	db     *duckdb.DB
	served *httptest.Server // db, for the repair
	port   *tenancy.Client
	sink   function.Handler
	repair function.Handler
	queue  []event.Event // that nobody was given yet
	done   []mesh.Repaired
	events int // of placements
	post   func(context.Context, event.Event) error
	within time.Duration // that a part of a repair takes
}

func newWorld(t testing.TB) *world {
	t.Helper()
	db := duckdbtest.Open(t)
	w := &world{t: t, db: db, sink: sink.New(db, sink.Tables{}, nil), within: time.Hour}
	w.port = tenancy.NewClient(http.DefaultClient, servePort(t, db), time.Hour, quiet)
	w.served = httptest.NewServer(remote.Handler(db, ""))
	t.Cleanup(w.served.Close)
	post := func(ctx context.Context, e event.Event) error {
		if w.post != nil {
			return w.post(ctx, e)
		}
		w.queue = append(w.queue, e)
		return nil
	}
	w.repair = func(ctx context.Context, in event.Event) ([]event.Event, error) {
		return repair.New(w.port, remote.Open(w.served.URL, w.served.Client(), ""), w.within, post)(ctx, in)
	}
	return w
}

func (w *world) all(sql string) (out [][]any) {
	w.t.Helper()
	rows, err := w.db.Query(w.t.Context(), sql)
	if err != nil {
		w.t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, slices.Clone(row))
	}
	return out
}

func (w *world) count(sql string) int64 {
	w.t.Helper()
	return w.all("SELECT COUNT(*) FROM " + sql)[0][0].(int64)
}

// deliver gives an event to who takes it, and puts the replies in the queue.
func (w *world) deliver(e event.Event) {
	w.t.Helper()
	var out []event.Event
	var err error
	switch e.Type() {
	case mesh.PlacementsRecorded, mesh.TelemetryOutdated:
		out, err = w.repair(w.t.Context(), e)
	case mesh.TenancyRepaired:
		var done mesh.Repaired
		done, err = mesh.Decode[mesh.Repaired](e.Data())
		w.done = append(w.done, done)
	default:
		out, err = w.sink(w.t.Context(), e)
	}
	if err != nil {
		w.t.Fatalf("%s: %v", e.Type(), err)
	}
	w.queue = append(w.queue, out...)
}

// settle delivers until nothing is left.
func (w *world) settle() {
	w.t.Helper()
	for len(w.queue) > 0 {
		e := w.queue[0]
		w.queue = w.queue[1:]
		w.deliver(e)
	}
}

// place has placements change.
func (w *world) place(placements ...mesh.Placement) event.Event {
	w.events++
	return mesh.NewEvent(mesh.PlacementsChanged, "/test", mesh.Encode(mesh.Placements{Placements: placements}), fmt.Sprint(w.events))
}

func (w *world) index() *tenancy.Index {
	w.t.Helper()
	x, err := w.port.Fresh(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// enrich stamps readings as of an index, in events of up to 500.
func (w *world) enrich(x *tenancy.Index, readings ...mesh.Reading) (out []event.Event) {
	w.t.Helper()
	for part := range slices.Chunk(readings, 500) {
		data := mesh.EncodeReadings(part)
		entries, err := mesh.DecodeEntries(data)
		if err != nil {
			w.t.Fatal(err)
		}
		stamps, _ := x.Stamps(entries)
		in := mesh.NewEvent(mesh.TelemetryFlattened, "/test", data, string(data))
		out = append(out, tenancy.Events(in, "tenant-enrich", "", entries, stamps, x.Version())...)
	}
	return out
}

func (w *world) do(events ...event.Event) {
	w.t.Helper()
	w.queue = append(w.queue, events...)
	w.settle()
}

// shown gives "device@instant tenant value quality event" of the port's rows.
func (w *world) shown() (out []string) {
	w.t.Helper()
	for _, row := range w.all("SELECT device_id, epoch_us(observed_at), coalesce(tenant_id, 'nobody'), assignment_version, value, coalesce(quality, 'ok'), event_id " +
		"FROM iot_telemetry.readings ORDER BY ALL") {
		out = append(out, strings.TrimSuffix(fmt.Sprintln(row...), "\n"))
	}
	return out
}

func (w *world) want(name string, want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.shown()); diff != "" {
		w.t.Errorf("%s: rows of the port (-want +got):\n%s", name, diff)
	}
}

func until(at mesh.Instant) *mesh.Instant { return &at }

func reading(device string, at mesh.Instant) mesh.Reading {
	return mesh.Reading{ReadingID: mesh.ReadingID(device, "co2", at), DeviceID: device, Metric: "co2", Value: float64(at), ObservedAt: at, ReceivedAt: at + 100,
		EventSource: "/devices", EventID: "m"}
}

// Exactly the readings in the changed interval are written again: a placement
// that is added, shortened, moved and deleted.
func TestRepairWritesTheChangedIntervalAlone(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", ValidFrom: 10, Version: 1}, mesh.Placement{DeviceID: "e", TenantID: "a", ValidFrom: 0, Version: 1}))
	for _, device := range []string{"d", "e", "unknown"} {
		for at := mesh.Instant(0); at < 50; at += 10 {
			w.do(w.enrich(w.index(), reading(device, at))...)
		}
	}
	// written checks which rows a change adds, and what the repair says of them.
	written := func(name string, version int64, moves []mesh.Move, placements ...mesh.Placement) {
		t.Helper()
		before := w.count("iot_telemetry_internal.readings")
		w.done = nil
		w.do(w.place(placements...))
		var rows int64
		for _, m := range moves {
			rows += m.Rows
		}
		devices := min(rows, 1)
		if diff := cmp.Diff([]mesh.Repaired{{Version: version, Devices: devices, Rows: rows, Moves: moves}}, w.done, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: the repair says (-want +got):\n%s", name, diff)
		}
		if n := w.count("iot_telemetry_internal.readings") - before; n != rows {
			t.Errorf("%s: %d rows were written, want %d", name, n, rows)
		}
	}
	rest := []string{"e 0 a 2 0 ok m", "e 10 a 2 10 ok m", "e 20 a 2 20 ok m", "e 30 a 2 30 ok m", "e 40 a 2 40 ok m",
		"unknown 0 nobody 0 0 ok m", "unknown 10 nobody 0 10 ok m", "unknown 20 nobody 0 20 ok m", "unknown 30 nobody 0 30 ok m", "unknown 40 nobody 0 40 ok m"}
	w.want("at first", append([]string{"d 0 nobody 0 0 ok m", "d 10 a 2 10 ok m", "d 20 a 2 20 ok m", "d 30 a 2 30 ok m", "d 40 a 2 40 ok m"}, rest...)...)

	written("shortened, and moved", 4, []mesh.Move{{From: "a", To: "b", Rows: 2}},
		mesh.Placement{DeviceID: "d", TenantID: "a", ValidFrom: 10, ValidTo: until(30), Version: 2}, mesh.Placement{DeviceID: "d", TenantID: "b", ValidFrom: 30, Version: 2})
	w.want("moved", append([]string{"d 0 nobody 0 0 ok m", "d 10 a 2 10 ok m", "d 20 a 2 20 ok m", "d 30 b 4 30 ok m", "d 40 b 4 40 ok m"}, rest...)...)

	written("shortened", 5, []mesh.Move{{From: "a", Rows: 1}},
		mesh.Placement{DeviceID: "d", TenantID: "a", ValidFrom: 10, ValidTo: until(20), Version: 3})
	w.want("shortened", append([]string{"d 0 nobody 0 0 ok m", "d 10 a 2 10 ok m", "d 20 nobody 5 20 ok m", "d 30 b 4 30 ok m", "d 40 b 4 40 ok m"}, rest...)...)

	written("deleted", 6, []mesh.Move{{From: "b", Rows: 2}},
		mesh.Placement{DeviceID: "d", TenantID: "b", ValidFrom: 30, Version: 3, Deleted: true})
	w.want("deleted", append([]string{"d 0 nobody 0 0 ok m", "d 10 a 2 10 ok m", "d 20 nobody 5 20 ok m", "d 30 nobody 6 30 ok m", "d 40 nobody 6 40 ok m"}, rest...)...)

	written("released", 7, []mesh.Move{{To: "c", Rows: 1}},
		mesh.Placement{DeviceID: "d", TenantID: "c", ValidFrom: 0, ValidTo: until(10), Version: 4})
	w.want("released", append([]string{"d 0 c 7 0 ok m", "d 10 a 2 10 ok m", "d 20 nobody 5 20 ok m", "d 30 nobody 6 30 ok m", "d 40 nobody 6 40 ok m"}, rest...)...)

	written("another room", 8, nil,
		mesh.Placement{DeviceID: "d", TenantID: "a", Room: "2.02", ValidFrom: 10, ValidTo: until(20), Version: 5})

	w.do(w.place(mesh.Placement{DeviceID: "unknown", TenantID: "z", ValidFrom: 0, Version: 1}))
	if n := w.count("iot_telemetry.readings WHERE device_id = 'unknown' AND tenant_id = 'z'"); n != 5 {
		t.Errorf("%d parked readings were released, want 5", n)
	}
}

// Withdrawn readings are told as such, and each event is of who holds the device
// now.
func TestEventsOfARepair(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	var readings []mesh.Reading
	for at := range mesh.Instant(1200) {
		readings = append(readings, reading("d", at))
	}
	w.do(w.enrich(w.index(), readings...)...)
	var posted []event.Event
	w.post = func(_ context.Context, e event.Event) error { posted = append(posted, e); return nil }
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "b", ValidTo: until(600), Version: 2}))
	sizes := map[string][]int{}
	for _, e := range posted {
		list, err := mesh.DecodeReadings(e.Data())
		if err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint(e.Type(), " ", e.Extensions()[mesh.ExtTenant], " ", e.Extensions()[mesh.ExtWithdrawn], " ", e.Extensions()[mesh.ExtVersion])
		sizes[key] = append(sizes[key], len(list))
	}
	want := map[string][]int{mesh.TelemetryEnriched + " b <nil> 2": {500, 100}, mesh.TelemetryUnassigned + " <nil> true 2": {500, 100}}
	if diff := cmp.Diff(want, sizes); diff != "" {
		t.Errorf("readings in events (-want +got):\n%s", diff)
	}
}

// Values that contradict each other do so for the new tenant, too; what came
// twice is shown as it came first.
func TestRepairKeepsWhatWasMeasured(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	x := w.index()
	low, high, again, corrected := reading("d", 1), reading("d", 1), reading("d", 2), reading("d", 3)
	low.Value, low.EventID = 5, "low"
	high.Value, high.EventID, high.ReceivedAt = 7, "high", 200
	again.ReceivedAt, again.EventID = 500, "later"
	corrected.Revision, corrected.Value, corrected.EventID = 1, 1, "corrected"
	w.do(w.enrich(x, low)...)
	w.do(w.enrich(x, high)...)
	w.do(w.enrich(x, again)...)
	w.do(w.enrich(x, reading("d", 2))...)
	w.do(w.enrich(x, reading("d", 3))...)
	w.do(w.enrich(x, corrected)...)
	w.want("before", "d 1 a 1 7 conflict high", "d 2 a 1 2 ok m", "d 3 a 1 1 ok corrected")
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	w.want("after", "d 1 b 2 7 conflict high", "d 2 b 2 2 ok m", "d 3 b 2 1 ok corrected")
	before := w.count("iot_telemetry_internal.readings")
	w.events = 0 // the same event again
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}), w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	if n := w.count("iot_telemetry_internal.readings"); n != before || w.done[len(w.done)-1].Rows != 0 {
		t.Errorf("a repair that was done wrote %d rows and told of %d", n-before, w.done[len(w.done)-1].Rows)
	}
}

// A repair that is killed while it posts may have told iot-telemetry alone: done
// again, it tells everybody of all readings, and writes none twice.
func TestKilledRepairTellsAllAgain(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	var readings []mesh.Reading
	for at := range mesh.Instant(700) {
		readings = append(readings, reading("d", at))
	}
	w.do(w.enrich(w.index(), readings...)...)
	recorded, err := w.sink(t.Context(), w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	if err != nil {
		t.Fatal(err)
	}
	killed := errors.New("killed")
	w.post = func(ctx context.Context, e event.Event) error {
		_, err := w.sink(ctx, e)
		return errors.Join(err, killed)
	}
	if _, err := w.repair(t.Context(), recorded[0]); !errors.Is(err, killed) {
		t.Fatalf("the first attempt: %v, want that it was killed", err)
	}
	if n := w.count("iot_telemetry.readings WHERE tenant_id = 'b'"); n != 500 {
		t.Fatalf("%d readings are the other tenant's after the first attempt, want those of one event", n)
	}
	told := map[string]bool{}
	w.post = func(ctx context.Context, e event.Event) error {
		list, err := mesh.DecodeReadings(e.Data())
		for _, r := range list {
			told[r.ReadingID] = r.TenantID == "b"
		}
		w.queue = append(w.queue, e)
		return err
	}
	w.do(recorded...)
	if len(told) != len(readings) || slices.Contains(slices.Collect(maps.Values(told)), false) {
		t.Errorf("%d readings were told again, want all %d as the other tenant's", len(told), len(readings))
	}
	if rows, done := w.count("iot_telemetry_internal.readings"), w.done[len(w.done)-1].Rows; rows != 1400 || done != 200 {
		t.Errorf("%d rows are stored and %d told as corrected, want 1400 and the 200 that were not before", rows, done)
	}
}

// Of what came twice, the first is shown also where the second one was stored
// with the new tenant before the repair had run.
func TestRepairOvertaken(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	again := reading("d", 1)
	again.ReceivedAt, again.EventID = 500, "later"
	w.do(w.enrich(w.index(), reading("d", 1))...)
	recorded, err := w.sink(t.Context(), w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	if err != nil {
		t.Fatal(err)
	}
	w.do(w.enrich(w.index(), again)...)
	w.want("overtaken", "d 1 b 2 1 ok later")
	w.do(recorded...)
	w.want("repaired", "d 1 b 2 1 ok m")
}

// A reading that knows of no change, and is stored after the repair of that
// change has run, is repaired when it is stored.
func TestLateReadingOfOldAssignments(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}, mesh.Placement{DeviceID: "e", TenantID: "a", Version: 1}))
	late := w.enrich(w.index(), reading("d", 1), reading("e", 1), reading("f", 1))
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}), w.place(mesh.Placement{DeviceID: "f", TenantID: "c", Version: 1}))
	before := w.count("iot_telemetry_internal.readings")
	w.do(late...)
	w.want("stored late", "d 1 b 3 1 ok m", "e 1 a 2 1 ok m", "f 1 c 4 1 ok m")
	if n := w.count("iot_telemetry_internal.readings") - before; n != 5 {
		t.Errorf("%d rows were written, want the three and a correction of two", n)
	}
}

// However placements and readings come, with whatever the readings were
// enriched with, in whatever order and how often events are delivered: the port
// shows in the end what it would if all had been known from the start.
func TestRepairEndsAsIfAllHadBeenKnown(t *testing.T) {
	for seed := range 2 { // internal/disorder tries more
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(seed), 1))
			w := newWorld(t)
			if seed == 1 {
				w.within = 0 // one instant of a device in a part
			}
			indexes := []*tenancy.Index{w.index()}
			versions := map[string]int64{}
			deliver := func() {
				at := random.IntN(len(w.queue))
				e := w.queue[at]
				if random.IntN(4) > 0 { // else it is delivered again
					w.queue = slices.Delete(w.queue, at, at+1)
				}
				w.deliver(e)
			}
			var readings []mesh.Reading
			for i := range 60 {
				for i == 30 && len(w.queue) > 0 { // what is stored now, only a repair finds
					deliver()
				}
				switch random.IntN(5) {
				case 0:
					var changes []mesh.Placement
					for range 1 + random.IntN(3) {
						from := mesh.Instant(random.IntN(4) * 10)
						p := mesh.Placement{DeviceID: fmt.Sprint("d", random.IntN(3)), TenantID: fmt.Sprint("t", random.IntN(3)), ValidFrom: from,
							ValidTo: until(from + 1 + mesh.Instant(random.IntN(10))), Deleted: random.IntN(4) == 0}
						key := fmt.Sprint(p.DeviceID, p.ValidFrom)
						versions[key]++
						p.Version = versions[key]
						changes = append(changes, p)
					}
					w.queue = append(w.queue, w.place(changes...))
				case 1, 2:
					var some []mesh.Reading
					for i := range 1 + random.IntN(6) {
						r := reading(fmt.Sprint("d", random.IntN(4)), mesh.Instant(random.IntN(45)))
						r.Value, r.ReceivedAt, r.EventID = float64(random.IntN(2)), mesh.Instant(100+random.IntN(5)), fmt.Sprint("m", random.IntN(5), i)
						some = append(some, r)
					}
					readings = append(readings, some...)
					w.queue = append(w.queue, w.enrich(indexes[random.IntN(len(indexes))], some...)...)
				default:
					if len(w.queue) > 0 {
						deliver()
						indexes = append(indexes, w.index())
					}
				}
			}
			for len(w.queue) > 0 {
				deliver()
			}

			known := newWorld(t)
			known.do(known.enrich(w.index(), readings...)...)
			if diff := cmp.Diff(known.shown(), w.shown()); diff != "" {
				t.Errorf("rows of the port (-all known +repaired):\n%s", diff)
			}
		})
	}
}

// A repair that takes longer than it may goes on in deliveries of its own: each
// does what is left, tells what it did, and the event of its rest is another one.
func TestRepairInParts(t *testing.T) {
	w := newWorld(t)
	devices := []string{"a", "b%20 \x01é", "c"}
	var before, after []mesh.Placement
	for _, device := range devices {
		before = append(before, mesh.Placement{DeviceID: device, TenantID: "x", Version: 1})
		after = append(after, mesh.Placement{DeviceID: device, TenantID: "x", ValidTo: until(10), Version: 2},
			mesh.Placement{DeviceID: device, TenantID: "y", ValidFrom: 20, ValidTo: until(30), Version: 2})
	}
	w.do(w.place(before...))
	var readings []mesh.Reading
	for _, device := range devices {
		for at := mesh.Instant(5); at < 35; at += 5 {
			of := reading(device, at)
			of.Metric, of.ReadingID = "temperature", mesh.ReadingID(device, "temperature", at)
			readings = append(readings, reading(device, at), of)
		}
	}
	w.do(w.enrich(w.index(), readings...)...)
	stored := w.count("iot_telemetry_internal.readings")
	recorded, err := w.sink(t.Context(), w.place(after...))
	if err != nil {
		t.Fatal(err)
	}
	w.within = 0
	ids := map[string]bool{}
	parts := 0
	for in := recorded[0]; ; parts++ {
		if err := in.Validate(); err != nil {
			t.Fatal(err)
		}
		if parts == 100 {
			t.Fatalf("the parts do not end: the last one is from %v", in.Extensions()["repairfrom"])
		}
		if ids[in.ID()] {
			t.Fatalf("part %d has the id of another one", parts)
		}
		ids[in.ID()] = true
		out, err := w.repair(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.repair(t.Context(), in)
		if diff := cmp.Diff(out, again); err != nil || diff != "" {
			t.Fatalf("part %d, delivered again, %v (-first +second):\n%s", parts, err, diff)
		}
		w.do(out[len(out)-1])
		if len(out) == 1 {
			break
		}
		if out[0].Type() != mesh.PlacementsRecorded || len(out) != 2 {
			t.Fatalf("part %d = %v, want placements.recorded and tenancy.repaired", parts, out)
		}
		// A part knows nothing of what was done before but where it begins.
		in = out[0]
	}
	w.settle()
	if want := 5*len(devices) - 1; parts != want {
		t.Errorf("%d parts and a last one, want one for each of %d instants", parts, want)
	}
	var rows int64
	for _, done := range w.done[len(w.done)-parts-1:] {
		rows += done.Rows
		if done.Rows != 2 || done.Devices != 1 {
			t.Errorf("a part tells of %+v, want 2 rows of 1 device", done)
		}
	}
	if n := w.count("iot_telemetry_internal.readings") - stored; n != rows || rows != int64(10*len(devices)) {
		t.Errorf("%d rows were written and %d told of, want %d of each", n, rows, 10*len(devices))
	}
	if n := w.count("iot_telemetry.readings WHERE tenant_id = 'y' AND epoch_us(observed_at) BETWEEN 20 AND 29 OR tenant_id = 'x' AND epoch_us(observed_at) < 10 OR " +
		"tenant_id IS NULL AND (epoch_us(observed_at) BETWEEN 10 AND 19 OR epoch_us(observed_at) >= 30)"); n != int64(len(readings)) {
		t.Errorf("%d readings are whose they should be, want %d", n, len(readings))
	}
}

// A repair that is cut off goes on at the redelivery, also by another instance,
// and leaves what is stored.
func TestRepairGoesOn(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	const n = 20_000
	var readings []mesh.Reading
	for at := range mesh.Instant(n) {
		readings = append(readings, reading("d", at))
	}
	w.do(w.enrich(w.index(), readings...)...)
	out, err := w.sink(t.Context(), w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	if err != nil {
		t.Fatal(err)
	}
	recorded := out[0]

	ids := map[string]bool{}
	for attempt := 1; ; attempt++ {
		ctx, cancel := context.WithCancel(t.Context())
		posted := 0
		w.post = func(ctx context.Context, e event.Event) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			ids[e.ID()] = true
			if _, err := w.sink(t.Context(), e); err != nil {
				return err
			}
			if posted++; posted == 15 {
				cancel()
			}
			return nil
		}
		out, err := w.repair(ctx, recorded)
		cancel()
		if err == nil {
			w.do(out...)
			if attempt != 3 {
				t.Errorf("done at attempt %d, want 3", attempt)
			}
			break
		}
		if !errors.Is(err, context.Canceled) || mesh.IsPermanent(err) {
			t.Fatalf("cut off: %v, want an error that passes", err)
		}
	}
	if len(ids) != n/500 {
		t.Errorf("%d events, want %d", len(ids), n/500)
	}
	if stored, of := w.count("iot_telemetry_internal.readings"), w.count("iot_telemetry.readings WHERE tenant_id = 'b'"); stored != 2*n || of != n {
		t.Errorf("%d rows are stored, %d shown of the new tenant, want %d and %d", stored, of, 2*n, n)
	}
	// Each attempt sends the last event of the one before again.
	if rows := w.done[len(w.done)-1].Rows; rows != n-(15+14)*500 {
		t.Errorf("the last attempt tells of %d rows, want %d", rows, n-(15+14)*500)
	}
}

// Memory does not grow with the readings of a change.
func TestMemoryOfARepairIsBounded(t *testing.T) {
	w := newWorld(t)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	const n = 100_000
	fill(t, w, n)
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most, posted := live(), uint64(0), 0
	w.post = func(_ context.Context, e event.Event) error {
		if posted++; posted%50 == 0 {
			most = max(most, live())
		}
		return nil
	}
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	if posted != n/500 {
		t.Errorf("%d events, want %d", posted, n/500)
	}
	if grown := int64(most) - int64(before); grown > 32<<20 {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
}

// fill stores readings of device d, one a second.
func fill(t testing.TB, w *world, n int) {
	t.Helper()
	var part []mesh.Reading
	const batch = 5000 // as no source sends them: to be stored sooner
	for i := range n {
		r := reading("d", mesh.Instant(i)*1e6)
		r.Unit, r.EventID, r.Attributes = "ppm", mesh.Hash(fmt.Sprint(i)), `{"rssi":-80}`
		r.TenantID, r.AssignmentVersion = "a", 1
		if part = append(part, r); len(part) == batch || i == n-1 {
			data := mesh.EncodeReadings(part)
			in := mesh.NewEvent(mesh.TelemetryEnriched, "/test", data, fmt.Sprint("fill", i))
			mesh.SetVersion(&in, 1)
			w.do(in)
			part = part[:0]
		}
	}
}

func TestErrorKinds(t *testing.T) {
	w := newWorld(t)
	from := mesh.NewEvent(mesh.PlacementsRecorded, "/test", mesh.Encode(mesh.Placements{Placements: []mesh.Placement{{DeviceID: "d"}}}), "1")
	from.SetExtension("repairfrom", "nowhere")
	for name, in := range map[string]event.Event{
		"another type":  mesh.NewEvent(mesh.TelemetryEnriched, "/test", mesh.EncodeReadings(nil), "1"),
		"no placements": mesh.NewEvent(mesh.PlacementsRecorded, "/test", []byte(`{}`), "1"),
		"no place":      from,
		"no readings":   mesh.NewEvent(mesh.TelemetryOutdated, "/test", []byte(`{}`), "1"),
	} {
		if _, err := w.repair(t.Context(), in); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), in.Type()) {
			t.Errorf("%s: %v, want a permanent error that names the type", name, err)
		}
	}
	in := w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1})
	in.SetType(mesh.PlacementsRecorded)
	mesh.SetVersion(&in, 3)
	if _, err := w.repair(t.Context(), in); err == nil || mesh.IsPermanent(err) {
		t.Errorf("a port that shows less than was recorded: %v, want an error that passes", err)
	}
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	mesh.SetVersion(&in, 1)
	w.served.Close()
	if _, err := w.repair(t.Context(), in); err == nil || mesh.IsPermanent(err) {
		t.Errorf("a closed warehouse: %v, want an error that passes", err)
	}
}

func TestStart(t *testing.T) {
	w := newWorld(t)
	var posted int
	broker := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		posted++
		rw.WriteHeader(http.StatusAccepted)
	}))
	defer broker.Close()
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	w.do(w.enrich(w.index(), reading("d", 1))...)
	out, err := w.sink(t.Context(), w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	if err != nil {
		t.Fatal(err)
	}
	ports := function.Ports{Client: http.DefaultClient, Warehouse: warehouse.Warehouse(w.db), Log: quiet}
	t.Setenv("ASSIGNMENTS_URL", servePort(t, w.db))
	if _, err := repair.Start(ports); err == nil || !strings.Contains(err.Error(), "K_SINK") {
		t.Errorf("Start() without a sink = %v, want an error that names K_SINK", err)
	}
	t.Setenv("K_SINK", broker.URL)
	fn, err := repair.Start(ports)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := fn.Handler(t.Context(), out[0]); err != nil || len(out) != 1 || posted != 1 {
		t.Errorf("handler = %v, %v with %d events posted, want one event and one posted", out, err, posted)
	}
}

// A million readings of one device that goes to another tenant: reading and
// encoding alone, then with the store.
func BenchmarkRepair(b *testing.B) {
	w := newWorld(b)
	w.do(w.place(mesh.Placement{DeviceID: "d", TenantID: "a", Version: 1}))
	const n = 1_000_000
	fill(b, w, n)
	in, err := w.sink(b.Context(), w.place(mesh.Placement{DeviceID: "d", TenantID: "b", Version: 2}))
	if err != nil {
		b.Fatal(err)
	}
	rates := func(b *testing.B) {
		b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "rows/s")
	}
	b.Run("read", func(b *testing.B) {
		w.post = func(context.Context, event.Event) error { return nil }
		for b.Loop() {
			if _, err := w.repair(b.Context(), in[0]); err != nil {
				b.Fatal(err)
			}
		}
		rates(b)
	})
	b.Run("store", func(b *testing.B) {
		w.post = func(ctx context.Context, e event.Event) error { _, err := w.sink(ctx, e); return err }
		for b.Loop() {
			if _, err := w.repair(b.Context(), in[0]); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			tenant := fmt.Sprint("t", b.N)
			if in, err = w.sink(b.Context(), w.place(mesh.Placement{DeviceID: "d", TenantID: tenant, Version: int64(w.events + 1)})); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		rates(b)
	})
}
