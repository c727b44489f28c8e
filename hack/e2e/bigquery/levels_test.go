package bigquery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/service-levels/measure"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/access"
	catalogue "github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/levels"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/openlineage"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// BigQuery says of service levels, of reads and of what was recorded in a window what
// DuckDB says, but for how long it took to store the rows.
func TestServiceLevels(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().UTC().Truncate(time.Second)
	var said [][]string
	for _, w := range []warehouse.Warehouse{duckdbtest.Open(t), openProducts(t, emulator.Start(t), all)} {
		said = append(said, levelsOf(t, w, all, began))
	}
	if diff := gocmp.Diff(said[0], said[1]); diff != "" || len(said[0]) == 0 {
		t.Errorf("%d lines; (-DuckDB +BigQuery)\n%s", len(said[0]), diff)
	}
}

func levelsOf(t *testing.T, w warehouse.Warehouse, all []contract.Product, began time.Time) (said []string) {
	t.Helper()
	store := func(product string, e event.Event) {
		t.Helper()
		tables, err := sink.TablesOf(all, product)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sink.New(w, tables, nil)(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	var batch []mesh.Reading
	for i := range 90 { // in quarters of an hour; three are missing, and all came a day late
		at := mesh.At(began.Add(time.Duration(i-95) * 15 * time.Minute))
		if i%30 != 5 {
			batch = append(batch, mesh.Reading{ReadingID: mesh.ReadingID("d", "co2", at), DeviceID: "d", Metric: "co2", Value: 1, TenantID: "school", AssignmentVersion: 1,
				ObservedAt: at, ReceivedAt: mesh.At(began.Add(-24 * time.Hour)), EventSource: "/test", EventID: "e"})
		}
	}
	e := mesh.NewEvent(mesh.TelemetryEnriched, "/test", mesh.EncodeReadings(batch), "1")
	e.SetExtension(mesh.ExtTenant, "school")
	store("iot-telemetry", e)
	hour := began.Truncate(time.Hour).Format(time.RFC3339)
	store("mesh-metrics", mesh.NewEvent(mesh.PortRead, "/test", fmt.Appendf(nil, `{"rows":[{"port":"iot_telemetry.readings","kind":"portal","consumer":"analyst","report":"r","times":3,"hour":%q}]}`, hour), "2"))
	store("mesh-metrics", mesh.NewEvent(mesh.QualityChecked, "/test", fmt.Appendf(nil, `{"rows":[{"port":"iot_telemetry.readings","rule":"reading_id.pattern","product":"iot-telemetry","contract_version":"1.0.0",
		"column_name":"reading_id","metric":"invalidValues","counted":2,"wanted":"0","kept":false,"took_ms":1,"checked_at":%q}]}`, began.Format(time.RFC3339)), "3"))

	meter, err := levels.New(w.Query, all, 99)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // the second one reads what the first one found
		tick := mesh.NewEvent(topology.TickType, "/test", nil, fmt.Sprint("tick", i))
		tick.SetTime(time.Now())
		events, err := measure.New(meter, nil, nil)(t.Context(), tick)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			said = append(said, e.Type())
			if e.Type() == mesh.LevelsMeasured {
				store("mesh-metrics", e)
			}
		}
	}
	for _, row := range readRows(t, w, "SELECT port, level, good, total, kept, budget_left, devices, irregular, error FROM mesh_metrics.service_levels ORDER BY measured_at, port, level") {
		said = append(said, strings.Trim(fmt.Sprintln(row...), "\n"))
	}
	for _, row := range readRows(t, w, "SELECT actual FROM mesh_metrics.service_levels WHERE level = 'completeness' OR level = 'latency' AND actual > 80000 ORDER BY level, measured_at") {
		actual, _ := row[0].(float64)
		said = append(said, fmt.Sprintf("%.0f", actual/100))
	}
	live := catalogue.NewLive(access.New(w, all), time.Now)
	admin := access.Viewer{Role: access.Admin}
	measured, read := live.Measured(t.Context(), admin), live.Usage(t.Context(), admin)
	if measured.Err != nil || read.Err != nil {
		t.Fatal(measured.Err, read.Err)
	}
	said = append(said, fmt.Sprint(read.Value["iot_telemetry.readings"], len(measured.Value)))
	window := openlineage.Window{From: began.Truncate(time.Hour), To: began.Truncate(time.Hour).Add(2 * time.Hour)}
	found, err := openlineage.Find(t.Context(), w.Query, all, window)
	if err != nil {
		t.Fatal(err)
	}
	for port, rows := range found.Rows {
		if port != levels.Table {
			said = append(said, fmt.Sprint(port, rows, found.Assertions[port]))
		}
	}
	slices.Sort(said)
	return said
}
