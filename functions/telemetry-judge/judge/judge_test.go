package judge_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/telemetry-judge/judge"
	"github.com/telemesh/telemesh/functions/tenant-enrich/enrich"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/tenancy"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// fixed are placements that do not change.
type fixed struct{ index *tenancy.Index }

func (f fixed) Get(context.Context) (*tenancy.Index, error)   { return f.index, nil }
func (f fixed) Newer(context.Context) (*tenancy.Index, error) { return f.index, nil }

// world is a warehouse and the functions between a reading and its row.
type world struct {
	t      testing.TB
	db     *duckdb.DB
	asked  warehouse.Warehouse
	enrich function.Handler
	sink   function.Handler
	within time.Duration
	posted []event.Event
	n      int
}

func newWorld(t testing.TB) *world {
	t.Helper()
	index, err := tenancy.NewIndex([]mesh.Assignment{{DeviceID: "d", TenantID: "school", ValidFrom: 0, Version: 1}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	db := duckdbtest.Open(t)
	served := httptest.NewServer(remote.Handler(db, ""))
	t.Cleanup(served.Close)
	return &world{t: t, db: db, asked: remote.Open(served.URL, served.Client(), ""),
		enrich: enrich.New(fixed{index}), sink: sink.New(db, sink.Tables{}, nil), within: time.Hour}
}

// deliver gives readings without a tenant to who takes them, until they are stored.
func (w *world) deliver(in event.Event) {
	w.t.Helper()
	enriched, err := w.enrich(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range enriched {
		if _, err := w.sink(w.t.Context(), e); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) measure(readings ...mesh.Reading) {
	w.t.Helper()
	w.n++
	w.deliver(mesh.NewEvent(mesh.TelemetryFlattened, "/test", mesh.EncodeReadings(readings), fmt.Sprint(w.n)))
}

// judge handles an event; what it posts waits in posted.
func (w *world) judge(in event.Event) ([]event.Event, error) {
	rules, err := judge.ReadRules()
	if err != nil {
		w.t.Fatal(err)
	}
	return judge.New(rules, w.asked, w.within, func(_ context.Context, e event.Event) error {
		w.posted = append(w.posted, e)
		return nil
	})(w.t.Context(), in)
}

func tick(data string) event.Event {
	e := mesh.NewEvent("dev.knative.sources.ping", "/apis/v1/namespaces/iot/pingsources/telemetry-judge", []byte(data), data)
	e.SetTime(time.Now())
	return e
}

func question(q mesh.Question) event.Event {
	data := mesh.Encode(q)
	return mesh.NewEvent(mesh.TelemetryQuestioned, "/test", data, string(data))
}

// settle judges by an event and what it asks for besides, and stores what comes of it.
func (w *world) settle(in event.Event) (parts int) {
	w.t.Helper()
	queue := []event.Event{in}
	for ; len(queue) > 0; parts++ {
		out, err := w.judge(queue[0])
		if err != nil {
			w.t.Fatal(err)
		}
		queue = append(queue[1:], out...)
	}
	for _, e := range w.posted {
		w.deliver(e)
	}
	w.posted = nil
	return parts
}

// shown gives what the port shows of readings that are not as they should be.
func (w *world) shown(where string) (lines []string) {
	w.t.Helper()
	rows, err := w.db.Query(w.t.Context(), "SELECT device_id, metric, epoch_us(observed_at) // 60000000, value, coalesce(quality, 'ok'), tenant_id FROM iot_telemetry.readings WHERE "+where+" ORDER BY 1, 2, 3")
	if err != nil {
		w.t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			w.t.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintln(row...)))
	}
	return lines
}

const minute = mesh.Instant(60e6)

// series is air-like readings of co2, ten minutes apart.
func series(device string, from mesh.Instant, n int, seed uint64) []mesh.Reading {
	random := rand.New(rand.NewPCG(seed, 1))
	rows := make([]mesh.Reading, n)
	for i := range rows {
		at := from + mesh.Instant(i)*10*minute
		rows[i] = mesh.Reading{ReadingID: mesh.ReadingID(device, "co2", at), DeviceID: device, Metric: "co2", Unit: "ppm", ObservedAt: at, ReceivedAt: at + 1e6,
			Value: math.Round(600 + 200*math.Sin(float64(i)/20) + 12*random.NormFloat64()), EventSource: "/test", EventID: fmt.Sprint("m", i)}
	}
	return rows
}

func TestTickFlags(t *testing.T) {
	w := newWorld(t)
	now := mesh.At(time.Now().Truncate(time.Minute)) - 12*60*minute
	rows := series("d", now, 60, 1)
	rows[20].Value = 2600
	for i := 30; i < 60; i++ {
		rows[i].Value = 555
	}
	parked := series("nobody", now, 60, 2)
	parked[20].Value = 2600
	other := mesh.Reading{ReadingID: mesh.ReadingID("d", "uptime", now), DeviceID: "d", Metric: "uptime", ObservedAt: now, ReceivedAt: now, Value: 7}
	w.measure(append(append(rows, parked...), other)...)
	w.settle(tick(`{"recorded": "1h", "observed": "168h"}`))

	minutes := int64(now / minute)
	want := []string{fmt.Sprint("d co2 ", minutes+200, " 2600 suspect:spike school")}
	for i := range int64(30) {
		want = append(want, fmt.Sprint("d co2 ", minutes+300+10*i, " 555 suspect:stuck school"))
	}
	want = append(want, fmt.Sprint("nobody co2 ", minutes+200, " 2600 suspect:spike <nil>"))
	got := w.shown("quality IS NOT NULL")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}
	// What says the same is not posted again, and what was measured changes nothing.
	out, err := w.judge(tick(`{"recorded": "2h"}`))
	if err != nil || len(out) > 0 || len(w.posted) > 0 {
		t.Errorf("another tick makes %v, posts %v, %v", out, w.posted, err)
	}
	w.n = 100
	w.measure(append(rows, parked...)...)
	if diff := cmp.Diff(want, w.shown("quality IS NOT NULL")); diff != "" {
		t.Errorf("after a redelivery (-want +got):\n%s", diff)
	}
	// Late readings take the spike back: the room was full for an hour.
	w.measure(func() (late []mesh.Reading) {
		for i := range 8 {
			r := rows[20]
			r.ObservedAt += mesh.Instant(i-4)*minute + minute/2
			r.ReadingID, r.Value = mesh.ReadingID("d", "co2", r.ObservedAt), 2600+float64(i)
			late = append(late, r)
		}
		return late
	}()...)
	w.settle(tick(`{"recorded": "1h"}`))
	if got := w.shown("device_id = 'd' AND quality = 'suspect:spike'"); len(got) > 0 {
		t.Errorf("still suspect: %v", got)
	}
	if got := w.shown("device_id = 'd' AND value = 2600 AND metric = 'co2' AND epoch_us(observed_at) % 60000000 = 0"); len(got) != 1 || !strings.HasSuffix(got[0], " ok school") {
		t.Errorf("%v, want that it is ok", got)
	}
}

// A tick looks at what was recorded and measured lately, a question at what it says.
func TestWhatIsAskedFor(t *testing.T) {
	w := newWorld(t)
	old := series("d", mesh.At(time.Date(2022, 10, 6, 0, 0, 0, 0, time.UTC)), 60, 1)
	old[20].Value = 2600
	w.measure(old...)
	w.settle(tick(`{"recorded": "1h", "observed": "168h"}`))
	if got := w.shown("quality IS NOT NULL"); len(got) > 0 {
		t.Errorf("a tick for a week found %v", got)
	}
	later := old[50].ObservedAt
	w.settle(question(mesh.Question{ObservedFrom: &later}))
	if got := w.shown("quality IS NOT NULL"); len(got) > 0 {
		t.Errorf("a question about what is later found %v", got)
	}
	until := old[25].ObservedAt
	w.settle(question(mesh.Question{ObservedFrom: &old[0].ObservedAt, ObservedTo: &until}))
	if got := w.shown("quality = 'suspect:spike'"); len(got) != 1 {
		t.Errorf("a question found %v, want one", got)
	}
	other := newWorld(t)
	other.measure(old...)
	other.settle(tick(`{"recorded": "26h"}`))
	if got := other.shown("quality = 'suspect:spike'"); len(got) != 1 {
		t.Errorf("a tick of the night found %v, want one", got)
	}
}

// Whatever the order, the ticks between and the deliveries that are repeated, the port
// shows in the end what it shows of who had all at once.
func TestFlagsDoNotDependOnOrder(t *testing.T) {
	from := mesh.At(time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC))
	rows := append(series("d", from, 90, 1), series("e", from, 90, 2)...)
	for _, i := range []int{10, 47, 120} {
		rows[i].Value += 1500
	}
	for i := 60; i < 90; i++ {
		rows[i].Value = rows[60].Value
	}
	conflict := rows[120]
	conflict.Value++
	rows = append(rows, conflict)
	atOnce := newWorld(t)
	atOnce.measure(rows...)
	atOnce.settle(tick(`{"recorded": "1h"}`))
	want := atOnce.shown("TRUE")
	if n := len(atOnce.shown("quality LIKE 'suspect:%'")); n != 32 {
		t.Fatalf("%d suspects, want 32", n)
	}
	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t)
		w.within = time.Duration(random.IntN(2)) * time.Hour
		arriving := append(slices.Clone(rows), rows[:40]...)
		random.Shuffle(len(arriving), func(i, j int) { arriving[i], arriving[j] = arriving[j], arriving[i] })
		for len(arriving) > 0 || len(w.posted) > 0 {
			if n := min(len(arriving), 1+random.IntN(60)); n > 0 {
				w.measure(arriving[:n]...)
				arriving = arriving[n:]
			}
			random.Shuffle(len(w.posted), func(i, j int) { w.posted[i], w.posted[j] = w.posted[j], w.posted[i] })
			for n := random.IntN(len(w.posted) + 1); n > 0; n-- {
				w.deliver(w.posted[0])
				if random.IntN(4) > 0 { // else it comes again
					w.posted = w.posted[1:]
				}
			}
			if len(arriving) > 0 {
				if _, err := w.judge(tick(fmt.Sprintf(`{"recorded": "%dh"}`, 1+len(arriving)))); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.settle(tick(`{"recorded": "500h"}`))
		if diff := cmp.Diff(want, w.shown("TRUE")); diff != "" {
			t.Errorf("seed %d (-all at once +in parts):\n%s", seed, diff)
		}
	}
}

// A part ends after a device's metric, and the next one begins there.
func TestParts(t *testing.T) {
	w := newWorld(t)
	var all []mesh.Reading
	for i := range 5 {
		rows := series(fmt.Sprint("d", i), 0, 40, uint64(i))
		rows[20].Value = 2600
		all = append(all, rows...)
	}
	w.measure(all...)
	w.within = 0
	if parts := w.settle(question(mesh.Question{})); parts != 5 {
		t.Errorf("%d parts, want 5", parts)
	}
	if got := w.shown("quality = 'suspect:spike'"); len(got) != 5 {
		t.Errorf("found %v, want one of each device", got)
	}
}

// More rows than are held at once are judged as they come, by the same windows.
func TestManyRows(t *testing.T) {
	if testing.Short() {
		t.Skip("100,000 rows")
	}
	w := newWorld(t)
	rows := series("d", 0, 100_000, 1)
	want := 0
	for i := 500; i+500 < len(rows); i += 997 {
		rows[i].Value += 3000
		want++
	}
	for part := range slices.Chunk(rows, 5000) {
		w.measure(part...)
	}
	w.settle(question(mesh.Question{}))
	if got := w.shown("quality = 'suspect:spike' AND value > 3000"); len(got) != want {
		t.Errorf("%d spikes found, want %d", len(got), want)
	}
	if got := w.shown("quality IS NOT NULL AND value < 3000"); len(got) > 0 {
		t.Errorf("flagged without a reason: %v", got)
	}
}

// away is a warehouse that does not answer.
type away struct{ warehouse.Warehouse }

var errAway = errors.New("away")

func (away) Query(context.Context, string) (*warehouse.Rows, error) { return nil, errAway }

func TestErrors(t *testing.T) {
	w := newWorld(t)
	for _, in := range []event.Event{
		mesh.NewEvent(mesh.TelemetryFlattened, "/test", []byte(`{}`), "1"),
		tick(``), tick(`{}`), tick(`{"recorded": "soon"}`), tick(`{"recorded": "1h", "observed": "long"}`), tick(`[]`),
		mesh.NewEvent(mesh.TelemetryQuestioned, "/test", []byte(`{"observed_from": "yesterday"}`), "1"),
	} {
		if out, err := w.judge(in); !mesh.IsPermanent(err) || len(out) > 0 {
			t.Errorf("%s %s: %v, %v, want a permanent error", in.Type(), in.Data(), out, err)
		}
	}
	w.asked = away{}
	if _, err := w.judge(tick(`{"recorded": "1h"}`)); !errors.Is(err, errAway) || mesh.IsPermanent(err) {
		t.Errorf("warehouse away: %v, want that error, which passes", err)
	}
}
