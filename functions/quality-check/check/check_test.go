package check_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/quality-check/check"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

var limits = check.Limits{Within: time.Minute, Statement: time.Minute}

var noon = time.Date(2026, 3, 10, 12, 0, 0, 123456789, time.UTC)

func load(t *testing.T) []contract.Product {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func tick(data string) event.Event {
	return mesh.NewEvent(topology.TickType, "/apis/v1/namespaces/platform/pingsources/quality-check", []byte(data), data)
}

// store has the sink of a product store what an event brings.
func store(t *testing.T, w warehouse.Warehouse, product string, e event.Event) {
	t.Helper()
	tables, err := sink.TablesOf(load(t), product)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.New(w, tables, nil)(t.Context(), e); err != nil {
		t.Fatalf("store %s: %v", e.Type(), err)
	}
}

func readings(at ...time.Time) event.Event {
	var all []mesh.Reading
	for i, at := range at {
		all = append(all, mesh.Reading{
			ReadingID: fmt.Sprintf("%032x", i), TenantID: "school", DeviceID: "d", Metric: "co2", Value: float64(i), Unit: "ppm",
			ObservedAt: mesh.At(at), ReceivedAt: mesh.At(at), AssignmentVersion: 1, EventSource: "/test", EventID: "e",
		})
	}
	all[0].ReadingID = "not hexadecimal"
	return mesh.NewEvent(mesh.TelemetryEnriched, "/test", mesh.EncodeReadings(all), "1")
}

func answer(t *testing.T, w warehouse.Warehouse, sql string) (all []string) {
	t.Helper()
	rows, err := w.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Trim(fmt.Sprintln(row...), "\n"))
	}
	return all
}

// Each output port has an event, whose rows the sink of the product stores as
// they are, and each rule has a row. Late readings are seen by the tick that looks
// further back. A tick that comes again adds nothing.
func TestResultsAreStored(t *testing.T) {
	db, all := duckdbtest.Open(t), load(t)
	store(t, db, "iot-telemetry", readings(noon.AddDate(0, 0, -20), noon, noon.Add(time.Second)))
	now := noon
	handle := check.New(all, db, limits, func() time.Time { return now })
	for range 2 {
		for _, data := range []string{`{"days": 2}`, `{"days": 35}`, ""} {
			events, err := handle(t.Context(), tick(data))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Type() != mesh.QualityChecked || e.Subject() == "" {
					t.Errorf("made %s about %q", e.Type(), e.Subject())
				}
				store(t, db, "mesh-metrics", e)
			}
			now = now.Add(time.Hour)
		}
	}
	got := answer(t, db, `SELECT rule, counted, rows_checked, wanted, kept, error, CAST(window_from AS VARCHAR), product, contract_version, checked_at
		FROM mesh_metrics.quality_results WHERE port = 'iot_telemetry.readings' AND rule = 'reading_id.pattern' ORDER BY checked_at`)
	want := []string{
		"reading_id.pattern 0 2 0 true <nil> 2026-03-09 00:00:00 iot-telemetry 1.0.0 2026-03-10 12:00:00.123456 +0000 UTC",
		"reading_id.pattern 1 3 0 false <nil> 2026-02-04 00:00:00 iot-telemetry 1.0.0 2026-03-10 13:00:00.123456 +0000 UTC",
		"reading_id.pattern 1 3 0 false <nil> <nil> iot-telemetry 1.0.0 2026-03-10 14:00:00.123456 +0000 UTC",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("results (-want +got)\n%s", diff)
	}
	var rules []string
	for _, p := range all {
		for _, table := range p.Tables {
			for _, r := range table.Quality {
				if table.Schema == p.Schema {
					rules = append(rules, table.FullName()+" "+r.ID+" 3")
				}
			}
		}
	}
	slices.Sort(rules)
	got = answer(t, db, "SELECT port, rule, COUNT(*) FROM mesh_metrics.quality_results GROUP BY ALL ORDER BY port, rule")
	slices.Sort(got)
	if diff := cmp.Diff(rules, got); diff != "" {
		t.Errorf("rules with results (-want +got)\n%s", diff)
	}
	if bad := answer(t, db, "SELECT port, rule, error FROM mesh_metrics.quality_results WHERE kept IS NOT TRUE AND rule <> 'reading_id.pattern'"); bad != nil {
		t.Errorf("not kept: %v", bad)
	}
}

// failing fails statements that say a word.
type failing struct {
	warehouse.Warehouse
	word string
	err  error
}

func (f failing) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	if strings.Contains(sql, f.word) {
		return nil, f.err
	}
	return f.Warehouse.Query(ctx, sql)
}

// A rule by which it cannot be counted has a row that says why; a warehouse that is away is
// a passing error.
func TestWhatCannotBeCounted(t *testing.T) {
	db := duckdbtest.Open(t)
	clock := func() time.Time { return noon }
	refused := errors.New("no such function: " + strings.Repeat("é", 2000))
	handle := check.New(load(t), failing{db, "REGEXP_REPLACE", mesh.Permanent(refused)}, limits, clock)
	events, err := handle(t.Context(), tick(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		store(t, db, "mesh-metrics", e)
	}
	got := answer(t, db, "SELECT DISTINCT rule, counted, kept, LENGTH(error) < 600, starts_with(error, 'no such function') FROM mesh_metrics.quality_results WHERE kept IS NOT TRUE ORDER BY rule")
	if diff := cmp.Diff([]string{"reading_id.pattern <nil> <nil> true true"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	away := errors.New("connection refused")
	if events, err := check.New(load(t), failing{db, "", away}, limits, clock)(t.Context(), tick("")); !errors.Is(err, away) || mesh.IsPermanent(err) || events != nil {
		t.Errorf("of a warehouse that is away: %d events, %v", len(events), err)
	}

	short := limits
	short.Within = time.Nanosecond
	if events, err := check.New(load(t), db, short, clock)(t.Context(), tick("")); err == nil || mesh.IsPermanent(err) {
		t.Errorf("without time: %d events, %v", len(events), err)
	}
}

func TestWhatIsNoTick(t *testing.T) {
	db := duckdbtest.Open(t)
	handle := check.New(load(t), db, limits, time.Now)
	for _, in := range []event.Event{mesh.NewEvent(mesh.TelemetryEnriched, "/test", nil, "1"), tick("two"), tick(`{"days": -1}`)} {
		if events, err := handle(t.Context(), in); !mesh.IsPermanent(err) || events != nil {
			t.Errorf("%s %q = %v, want a permanent error", in.Type(), in.Data(), err)
		}
	}
}
