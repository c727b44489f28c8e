package catalog_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

// Of a level the last measurement counts, and of reads the sum; who does not see
// all tenants' rows is told neither.
func TestMeasuredAndRead(t *testing.T) {
	all, w := load(t), duckdbtest.Open(t)
	tables, err := sink.TablesOf(all, "mesh-metrics")
	if err != nil {
		t.Fatal(err)
	}
	store := func(e event.Event) {
		t.Helper()
		if _, err := sink.New(w, tables, nil)(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UTC().Truncate(time.Hour)
	for i, kept := range []bool{false, true} {
		at := now.Add(time.Duration(i-2) * time.Hour).Format(time.RFC3339)
		store(mesh.NewEvent(mesh.LevelsMeasured, "/test", fmt.Appendf(nil, `{"rows":[{"port":"iot_telemetry.readings","level":"latency","product":"iot-telemetry","contract_version":"1.0.0",
			"unit":"s","target":10,"actual":%d.5,"kept":%t,"objective":99,"budget_left":40,"window_from":%q,"window_to":%[3]q,"measured_at":%[3]q}]}`, i, kept, at), at))
		store(mesh.NewEvent(mesh.PortRead, "/test", fmt.Appendf(nil, `{"rows":[{"port":"iot_telemetry.readings","kind":"portal","consumer":"analyst","report":%q,"times":%d,"hour":%[1]q}]}`, at, i+1), at))
	}
	live := catalog.NewLive(access.New(w, all), time.Now)
	analyst, tenant := access.Viewer{Role: access.Analyst}, access.Viewer{Role: access.Tenant, Tenants: []string{"school"}}
	measured := live.Measured(t.Context(), analyst)
	if m := measured.Value["iot_telemetry.readings"]["latency"]; measured.Err != nil || m.Actual == nil || *m.Actual != 1.5 || !*m.Kept || *m.Left != 40 {
		t.Errorf("measured: %+v, %v", m, measured.Err)
	}
	read := live.Usage(t.Context(), analyst)
	if u := read.Value["iot_telemetry.readings"]; read.Err != nil || len(u) != 1 || u[0] != (catalog.Usage{Kind: "portal", Consumer: "analyst", Reads: 3}) {
		t.Errorf("read: %+v, %v", u, read.Err)
	}
	port := shipped(t).Port("iot_telemetry.readings")
	known, err := live.Now(t.Context(), analyst, []*catalog.Port{port})
	if err != nil {
		t.Fatal(err)
	}
	text := port.Text(known, true)
	if want := []catalog.ReadsText{{Consumer: "analyst", By: "portal", Reads: 3}}; !slices.Equal(text.Reads, want) {
		t.Errorf("reads as text: %+v, want %+v", text.Reads, want)
	}
	for _, level := range text.Levels {
		switch l := level.Last; level.Property {
		case "latency":
			if *level.Seconds != 10 || l == nil || *l.Actual != 1.5 || !*l.Kept || *l.BudgetLeft != 40 {
				t.Errorf("latency as text: %+v, measured %+v", level, l)
			}
		case "completeness":
			if level.Seconds != nil || *level.Percent != 95 || l != nil {
				t.Errorf("completeness as text: %+v", level)
			}
		}
	}

	// A mesh without the product knows nothing of it, which is no fault.
	var others []contract.Product
	for _, p := range all {
		if p.Name != "mesh-metrics" {
			others = append(others, p)
		}
	}
	if known, err := catalog.NewLive(access.New(w, others), time.Now).Now(t.Context(), analyst, nil); err != nil || known.Measured != nil || known.Usage != nil || known.Verdicts != nil {
		t.Errorf("without mesh-metrics: %+v, %v", known, err)
	}

	if err := live.Measured(t.Context(), tenant).Err; !errors.Is(err, access.ErrForbidden) {
		t.Errorf("a tenant is told of service levels: %v", err)
	}
	if err := live.Usage(t.Context(), tenant).Err; !errors.Is(err, access.ErrForbidden) {
		t.Errorf("a tenant is told of reads: %v", err)
	}
}
