package usage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/usage"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

func load(t *testing.T) []contract.Product {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func first(t *testing.T, w warehouse.Warehouse, sql string) any {
	t.Helper()
	rows, err := w.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	var cell any
	for row, err := range rows.All {
		if err != nil {
			t.Fatal(err)
		}
		cell = row[0]
	}
	return cell
}

// What viewers read is in mesh_metrics.reads, by consumer, however often the
// reports come; what the portal asks for itself is not.
func TestReadsAreRows(t *testing.T) {
	all, w := load(t), duckdbtest.Open(t)
	tables, err := sink.TablesOf(all, "mesh-metrics")
	if err != nil {
		t.Fatal(err)
	}
	store := sink.New(w, tables, nil)
	var reports []event.Event
	counter := usage.New("portal", func(ctx context.Context, e event.Event) error {
		reports = append(reports, e)
		_, err := store(ctx, e)
		return err
	}, time.Now)
	plain := access.New(w, all)
	data := plain.CountedBy(func(v access.Viewer, ports []string) { counter.Count(usage.Portal, v.Consumer(), ports...) })

	analyst, school := access.Viewer{ID: "anna", Name: "anna", Role: access.Analyst}, access.Viewer{ID: "bert", Name: "bert", Role: access.Tenant, Tenants: []string{"school"}}
	query := func(d *access.Data, v access.Viewer, sql string) {
		t.Helper()
		if _, err := d.Query(t.Context(), v, sql); err != nil {
			t.Fatal(err)
		}
	}
	query(data, analyst, "SELECT 1 FROM {iot_telemetry.readings}, {iot_analytics.co2_evolution}, {iot_telemetry.readings}")
	query(data, analyst, "SELECT 1 FROM {iot_telemetry_internal.rejected}") // no port
	query(data, school, "SELECT 1 FROM {iot_analytics.readings}")
	query(data, school, "SELECT 2 FROM {iot_analytics.readings}")
	query(plain, analyst, "SELECT COUNT(*) FROM {customers.customers}")
	if _, err := data.Query(t.Context(), school, "SELECT 1 FROM {event_log.events}"); err == nil {
		t.Fatal("a tenant reads the log")
	}
	admin := access.Viewer{Role: access.Admin}
	for _, sql := range []string{"SELECT 1 FROM iot_actions.actions", "FROM iot_actions.actions SELECT 1"} { // the second is DuckDB's alone
		if _, err := data.Whole(t.Context(), admin, sql); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // of nothing there is no report
		if err := counter.Report(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(reports) != 1 {
		t.Fatalf("%d reports", len(reports))
	}
	if _, err := store(t.Context(), reports[0]); err != nil { // delivered again
		t.Fatal(err)
	}
	const want = "admin iot_actions.actions 2, analyst iot_analytics.co2_evolution 1, analyst iot_telemetry.readings 1, tenant/school iot_analytics.readings 2"
	if got := first(t, w, "SELECT string_agg(consumer || ' ' || port || ' ' || times, ', ' ORDER BY consumer, port) FROM mesh_metrics.reads"); got != want {
		t.Errorf("reads: %v, want %s", got, want)
	}
	for _, e := range reports {
		for _, person := range []string{"anna", "bert"} {
			if bytes.Contains(e.Data(), []byte(person)) {
				t.Errorf("a report names %s: %s", person, e.Data())
			}
		}
	}
}

// A report that is not taken is sent again as it was, and what is counted
// meanwhile comes in the next one.
func TestReportAgain(t *testing.T) {
	var sent []event.Event
	away := errors.New("away")
	failing := true
	counter := usage.New("portal", func(_ context.Context, e event.Event) error {
		sent = append(sent, e)
		if failing {
			return away
		}
		return nil
	}, func() time.Time { return time.Date(2026, 3, 1, 10, 59, 0, 0, time.UTC) })
	counter.Count(usage.Portal, "analyst", "a.b")
	if err := counter.Report(t.Context()); !errors.Is(err, away) {
		t.Fatal(err)
	}
	counter.Count(usage.Portal, "analyst", "a.b")
	failing = false
	if err := counter.Report(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 3 || sent[0].ID() != sent[1].ID() || sent[1].ID() == sent[2].ID() || string(sent[0].Data()) != string(sent[1].Data()) {
		t.Errorf("sent %v", sent)
	}
	var data struct {
		Rows []struct {
			Times int64
			Hour  mesh.Instant
		}
	}
	if err := json.Unmarshal(sent[2].Data(), &data); err != nil || len(data.Rows) != 1 || data.Rows[0].Times != 1 || data.Rows[0].Hour.String() != "2026-03-01T10:00:00Z" {
		t.Errorf("%s, %v", sent[2].Data(), err)
	}
	var none *usage.Counter
	none.Count(usage.CLI, "telemesh", "a.b")
}
