package bigquery_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/disorder"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// Readings are flagged in both products, by questions about any time, and late ones
// take a flag back, in BigQuery as in DuckDB.
func TestJudgements(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	want := judged(t, duckdbtest.Open(t))
	if diff := cmp.Diff(want, judged(t, openProducts(t, emulator.Start(t), all))); diff != "" {
		t.Errorf("flags (-DuckDB +BigQuery):\n%s", diff)
	}
	if len(want) != 3 || want[0][0] != "[suspect:spike 1] [suspect:stuck 30]" || want[1][0] != want[0][0] || want[2][0] != "[suspect:stuck 30]" {
		t.Errorf("flags %q, want a spike and what is stuck, the same after a redelivery, and no spike in the end", want)
	}
}

// judged gives what the two products show, of flags and their number: judged, sent
// again, and with late readings.
func judged(t *testing.T, store warehouse.Warehouse) (shown [][]string) {
	const minute = mesh.Instant(60e6)
	m := newMesh(t, store, nil, func(string, int) int { return 0 }, "telemetry-ingest", "event-log")
	n := 0
	post := func(eventType string, data []byte) {
		t.Helper()
		n++
		m.Post(disorder.Named("iot"), mesh.NewEvent(eventType, "/test", data, fmt.Sprint(n)))
		if err := m.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	from := mesh.At(time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC))
	reading := func(at mesh.Instant, value float64) mesh.Reading {
		return mesh.Reading{ReadingID: mesh.ReadingID("it's", "co2", at), DeviceID: "it's", Metric: "co2", Unit: "ppm", Value: value, ObservedAt: at, ReceivedAt: at + minute}
	}
	var readings, late []mesh.Reading
	for i := range 80 {
		value := math.Round(600 + 200*math.Sin(float64(i)/20))
		switch {
		case i == 20:
			value = 2600
		case i >= 45 && i < 75:
			value = 555
		}
		readings = append(readings, reading(from+mesh.Instant(i)*10*minute, value))
	}
	for i := range mesh.Instant(8) {
		late = append(late, reading(from+(196+i)*minute+minute/2, 2600))
	}
	show := func() {
		t.Helper()
		var both []string
		for _, port := range []string{"iot_telemetry.readings", "iot_analytics.readings"} {
			both = append(both, "")
			for _, row := range readRows(t, store, "SELECT quality, COUNT(*) AS n FROM "+port+" WHERE quality IS NOT NULL AND tenant_id = 'school' GROUP BY quality ORDER BY quality") {
				if last := &both[len(both)-1]; *last == "" {
					*last = fmt.Sprint(row)
				} else {
					*last += " " + fmt.Sprint(row)
				}
			}
		}
		if both[0] != both[1] {
			t.Errorf("iot_telemetry has %s, iot_analytics %s", both[0], both[1])
		}
		shown = append(shown, both)
	}
	ask := func(q mesh.Question) { t.Helper(); post(mesh.TelemetryQuestioned, mesh.Encode(q)) }

	post(mesh.PlacementsChanged, mesh.Encode(mesh.Placements{Placements: []mesh.Placement{{DeviceID: "it's", TenantID: "school", Room: "1.01", ValidFrom: from, Version: 1}}}))
	post(mesh.TelemetryFlattened, mesh.EncodeReadings(readings))
	until, since := from+24*60*minute, mesh.At(time.Now().Add(-time.Hour))
	ask(mesh.Question{ObservedFrom: &from, ObservedTo: &until})
	show()
	post(mesh.TelemetryFlattened, mesh.EncodeReadings(readings))
	ask(mesh.Question{RecordedSince: &since})
	show()
	post(mesh.TelemetryFlattened, mesh.EncodeReadings(late))
	ask(mesh.Question{RecordedSince: &since, ObservedFrom: &from, AfterDevice: "a", AfterMetric: "co2"})
	show()
	return shown
}
