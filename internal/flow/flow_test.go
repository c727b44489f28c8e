package flow_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/flow"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/topology/manifests"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

// store appends rows, each given by the cells that it has.
func store(t *testing.T, w warehouse.Warehouse, table string, rows ...map[string]warehouse.Cell) {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		for i := range p.Tables {
			if p.Tables[i].FullName() != table {
				continue
			}
			b := warehouse.Batch{Table: table, EventSource: "/test", EventID: table}
			for _, cells := range rows {
				b.Rows = append(b.Rows, row{&p.Tables[i], cells})
			}
			if _, err := w.Append(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type row struct {
	table *contract.Table
	cells map[string]warehouse.Cell
}

func (r row) Cells(dst []warehouse.Cell) []warehouse.Cell {
	for _, c := range r.table.Cells() {
		cell, ok := r.cells[c.Name]
		if !ok && c.Required && c.Name != contract.RecordedAt {
			cell = map[contract.Type]warehouse.Cell{
				contract.String: warehouse.String("x"), contract.Int64: warehouse.Int(0), contract.Bool: warehouse.Bool(false),
			}[c.Type]
		}
		dst = append(dst, cell)
	}
	return dst
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// logged is an event in the log.
func logged(broker, function, eventType, id string, ago time.Duration, extensions string) map[string]warehouse.Cell {
	cells := map[string]warehouse.Cell{
		"event_id": warehouse.String(id), "source": warehouse.String(mesh.Source(function)), "type": warehouse.String(eventType),
		"broker": warehouse.String(broker), "received_at": warehouse.Instant(mesh.At(now.Add(-ago))),
	}
	if extensions != "" {
		cells["extensions"] = warehouse.String(extensions)
	}
	return cells
}

func open(t *testing.T, w warehouse.Warehouse, clock func() time.Time) *flow.Log {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	return flow.NewLog(access.New(w, all), func() *topology.Mesh { return &m }, clock)
}

func ref(namespace, name string) topology.Ref { return topology.Ref{Namespace: namespace, Name: name} }

func TestRates(t *testing.T) {
	db := duckdbtest.Open(t)
	cause := func(function, id string) string {
		return fmt.Sprintf(`{"causesource":%q,"causeid":%q}`, mesh.Source(function), id)
	}
	var rows []map[string]warehouse.Cell
	// Ten messages a minute apart, each flattened so many milliseconds later.
	for i := range 10 {
		id, ago := fmt.Sprint(i), time.Duration(i)*time.Minute+30*time.Second
		rows = append(rows,
			logged("iot/iot", "telemetry-ingest", mesh.TelemetryReceived, "r"+id, ago, ""),
			logged("iot/iot", "telemetry-flatten", mesh.TelemetryFlattened, "f"+id, ago-time.Duration(100*i)*time.Millisecond, cause("telemetry-ingest", "r"+id)))
	}
	rows = append(rows,
		// Only what was a tenant's goes on to analytics.
		logged("iot/iot", "tenant-enrich", mesh.TelemetryUnassigned, "u1", time.Minute, ""),
		logged("iot/iot", "tenancy-repair", mesh.TelemetryUnassigned, "u2", 2*time.Minute, `{"withdrawn":"true"}`),
		// With these tenancy-repair goes on with its own work.
		logged("iot/iot", "tenancy-repair", mesh.PlacementsRecorded, "p1", 20*time.Minute, ""),
		logged("iot/iot", "warehouse-sink", mesh.PlacementsRecorded, "p2", 21*time.Minute, ""),
		// Of somebody who is no function, of another Broker, and of yesterday.
		logged("iot/iot", "stranger", mesh.TelemetryEnriched, "s1", time.Minute, ""),
		logged("analytics/analytics", "x", mesh.TelemetryEnriched, "s1", time.Minute, ""),
		logged("iot/iot", "telemetry-ingest", mesh.TelemetryReceived, "old", 25*time.Hour, ""),
	)
	store(t, db, "event_log.events", rows...)
	letter := func(id, namespace, trigger string, part int64) map[string]warehouse.Cell {
		return map[string]warehouse.Cell{
			"letter_id": warehouse.String(id), "event_id": warehouse.String(id), "part": warehouse.Int(part), "namespace": warehouse.String(namespace),
			"trigger": warehouse.String(trigger), "received_at": warehouse.Instant(mesh.At(time.Now().Add(-3 * time.Hour))),
		}
	}
	store(t, db, "event_log_internal.dead_letters", letter("l1", "iot", "tenant-enrich", 0), letter("l1", "iot", "tenant-enrich", 1), letter("l2", "iot", "tenant-enrich", 0))

	r, err := open(t, db, func() time.Time { return now }).Rates(t.Context(), access.Viewer{Role: access.Analyst})
	if err != nil {
		t.Fatal(err)
	}
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	if diff := cmp.Diff(map[topology.Ref]flow.Rate{
		ref("iot", "iot"):             {Recent: 5 + 5 + 3, Long: 25, Last: at(30 * time.Second)},
		ref("analytics", "analytics"): {Recent: 1, Long: 1, Last: at(time.Minute)},
	}, r.Brokers); diff != "" {
		t.Errorf("Brokers (-want +got)\n%s", diff)
	}
	for trigger, want := range map[topology.Ref]flow.Rate{
		ref("iot", "telemetry-flatten"):       {Recent: 5, Long: 10, Last: at(30 * time.Second)},
		ref("iot", "tenant-enrich"):           {Recent: 5, Long: 10, Last: at(30 * time.Second)},
		ref("iot", "iot-telemetry-sink"):      {Recent: 3, Long: 3, Last: at(time.Minute)},
		ref("iot", "analytics"):               {Recent: 2, Long: 3, Last: at(time.Minute)}, // s1, u2 and p2
		ref("iot", "tenancy-repair"):          {Long: 2, Last: at(20 * time.Minute)},
		ref("iot", "event-log"):               r.Brokers[ref("iot", "iot")],
		ref("iot", "iot-actions-sink"):        {},
		ref("analytics", "analytics-join"):    {Recent: 1, Long: 1, Last: at(time.Minute)},
		ref("analytics", "iot-telemetry-bad"): {},
	} {
		if diff := cmp.Diff(want, r.Triggers[trigger]); diff != "" {
			t.Errorf("Trigger %s (-want +got)\n%s", trigger, diff)
		}
	}
	if got := r.Taken[flow.Taken{Trigger: ref("iot", "analytics"), Type: mesh.TelemetryUnassigned}]; got.Long != 1 {
		t.Errorf("of unassigned readings the Trigger analytics takes %+v", got)
	}
	for made, want := range map[flow.Made]int64{
		{Function: ref("iot", "telemetry-flatten"), Type: flow.Type{Broker: ref("iot", "iot"), Type: mesh.TelemetryFlattened}}:  10,
		{Function: ref("iot", "tenancy-repair"), Type: flow.Type{Broker: ref("iot", "iot"), Type: mesh.TelemetryUnassigned}}:    1,
		{Function: ref("iot", "tenant-enrich"), Type: flow.Type{Broker: ref("iot", "iot"), Type: mesh.TelemetryUnassigned}}:     1,
		{Function: ref("iot", "tenant-enrich"), Type: flow.Type{Broker: ref("iot", "iot"), Type: mesh.TelemetryEnriched}}:       0,
		{Function: ref("iot", "iot-metadata-sink"), Type: flow.Type{Broker: ref("iot", "iot"), Type: mesh.PlacementsRecorded}}:  1,
		{Function: ref("iot", "iot-telemetry-sink"), Type: flow.Type{Broker: ref("iot", "iot"), Type: mesh.PlacementsRecorded}}: 0,
	} {
		if got := r.Made[made].Long; got != want {
			t.Errorf("%+v: %d, want %d", made, got, want)
		}
	}
	took := r.Took[ref("iot", "telemetry-flatten")]
	if took.Events != 10 || (took.P50-400*time.Millisecond).Abs() > 10*time.Millisecond || (took.P95-900*time.Millisecond).Abs() > 25*time.Millisecond {
		t.Errorf("flattening took %+v", took)
	}
	if _, known := r.Took[ref("iot", "tenant-enrich")]; known {
		t.Error("of tenant-enrich no reply has a cause, and yet its time is known")
	}
	// Rows are recorded when they are written here, which is long after.
	if logged := r.Logged[ref("iot", "iot")]; logged.Events != 25 || logged.P95 < time.Hour {
		t.Errorf("logging took %+v", logged)
	}
	if len(r.Unknown) > 0 || r.Partial {
		t.Errorf("unknown: %v, partial: %v", r.Unknown, r.Partial)
	}
	// Letters are recorded when the warehouse stores them: these are of now.
	later, err := open(t, db, time.Now).Rates(t.Context(), access.Viewer{Role: access.Admin})
	if err != nil {
		t.Fatal(err)
	}
	if got := later.Letters[ref("iot", "tenant-enrich")]; got.Given != 2 || got.Long != 2 || time.Since(got.Last) > time.Minute {
		t.Errorf("dead letters %+v, want 2", got)
	}
}

// What has a reply does not wait, nor what was given up, nor what a function need
// not say anything of.
func TestWaiting(t *testing.T) {
	db := duckdbtest.Open(t)
	cause := func(function, id string) string {
		return fmt.Sprintf(`{"causesource":%q,"causeid":%q}`, mesh.Source(function), id)
	}
	var rows []map[string]warehouse.Cell
	// Of six events the first four are enriched, but for the second; the third, twice.
	for i, makes := range [][]string{{mesh.TelemetryEnriched}, nil, {mesh.TelemetryEnriched, mesh.TelemetryUnassigned}, {mesh.TelemetryUnassigned}, nil, nil} {
		id, ago := fmt.Sprint(i), time.Duration(10-i)*time.Minute
		rows = append(rows,
			logged("iot/iot", "telemetry-ingest", mesh.TelemetryReceived, "r"+id, ago, ""),
			logged("iot/iot", "telemetry-flatten", mesh.TelemetryFlattened, "f"+id, ago, ""))
		for _, eventType := range makes {
			rows = append(rows, logged("iot/iot", "tenant-enrich", eventType, eventType+id, ago, cause("telemetry-flatten", "f"+id)))
		}
	}
	// Another function's answer is none, nor is one to another source's event.
	rows = append(rows,
		logged("iot/iot", "stranger", mesh.TelemetryEnriched, "s", time.Minute, cause("telemetry-flatten", "f1")),
		logged("iot/iot", "tenant-enrich", mesh.TelemetryEnriched, "o", time.Minute, cause("stranger", "f1")),
		// The message before it was a join.
		logged("iot/iot", "telemetry-flatten", mesh.TelemetryRejected, "x", 8*time.Minute, cause("telemetry-ingest", "r2")),
		logged("analytics/analytics", "tenant-enrich", mesh.TelemetryEnriched, "e", time.Minute, ""),
		logged("analytics/analytics", "analytics-join", mesh.AnalyticsJoined, "j", time.Minute, cause("tenant-enrich", "e")))
	store(t, db, "event_log.events", rows...)
	store(t, db, "event_log_internal.dead_letters", map[string]warehouse.Cell{
		"letter_id": warehouse.String("l"), "event_id": warehouse.String("f5"), "source": warehouse.String(mesh.Source("telemetry-flatten")), "namespace": warehouse.String("iot"),
		"trigger": warehouse.String("tenant-enrich"), "received_at": warehouse.Instant(mesh.At(now.Add(-5 * time.Minute))),
	})
	r, err := open(t, db, func() time.Time { return now }).Rates(t.Context(), access.Viewer{Role: access.Analyst})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[topology.Ref]flow.Waiting{
		ref("iot", "telemetry-flatten"):    {Events: 3, Oldest: now.Add(-7 * time.Minute)},
		ref("iot", "tenant-enrich"):        {Events: 2, Oldest: now.Add(-9 * time.Minute)},
		ref("analytics", "analytics-join"): {},
	}, r.Waiting); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The log is of all tenants.
func TestRatesAreForTheTeam(t *testing.T) {
	log := open(t, duckdbtest.Open(t), time.Now)
	admin := access.Viewer{Role: access.Admin}
	if _, err := log.Rates(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	one, err := admin.As("school")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []access.Viewer{{Role: access.Tenant, Tenants: []string{"school"}}, one, {}} {
		if _, err := log.Rates(t.Context(), v); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("%+v: %v, want that it is forbidden", v, err)
		}
	}
}

// counted counts what a warehouse is asked.
type counted struct {
	warehouse.Warehouse
	asked atomic.Int64
}

func (c *counted) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	c.asked.Add(1)
	return &warehouse.Rows{All: func(func([]any, error) bool) {}}, ctx.Err()
}

// Many who watch ask the warehouse once, and one who leaves spoils nothing.
func TestRatesAreAskedOnce(t *testing.T) {
	w, clock := &counted{}, now
	log := open(t, w, func() time.Time { return clock })
	gone, leave := context.WithCancel(t.Context())
	leave()
	analyst := access.Viewer{Role: access.Analyst}
	first, err := log.Rates(gone, analyst)
	if err != nil {
		t.Fatal(err)
	}
	asked := w.asked.Load()
	if again, err := log.Rates(t.Context(), analyst); err != nil || again != first || w.asked.Load() != asked {
		t.Errorf("at once: %v, asked %d times more", err, w.asked.Load()-asked)
	}
	clock = clock.Add(time.Minute)
	if again, err := log.Rates(t.Context(), analyst); err != nil || again == first || w.asked.Load() == asked {
		t.Errorf("a minute later: %v, asked %d times more", err, w.asked.Load()-asked)
	}
}
