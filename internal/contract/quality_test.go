package contract_test

import (
	"testing"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
)

// row has cells by the names of their columns.
type row struct {
	table *contract.Table
	cells map[string]warehouse.Cell
}

func (r row) Cells(dst []warehouse.Cell) []warehouse.Cell {
	for _, c := range r.table.Cells() {
		cell, ok := r.cells[c.Name]
		if !ok && c.Required && c.Name != contract.RecordedAt {
			cell = map[contract.Type]warehouse.Cell{
				contract.String: warehouse.String("x"), contract.Int64: warehouse.Int(1), contract.Bool: warehouse.Bool(false), contract.Timestamp: warehouse.Instant(0), contract.Float64: warehouse.Float(0),
			}[c.Type]
		}
		dst = append(dst, cell)
	}
	return dst
}

// The queries of the rules are 0 over rows that are as they should be, and more
// over each that is not.
func TestQueriesOfRules(t *testing.T) {
	type cells = map[string]warehouse.Cell
	text, hour := warehouse.String, func(h int) warehouse.Cell { return warehouse.Instant(mesh.Instant(h * 3600e6)) }
	reading := map[bool]cells{
		true:  {"reading_id": text("r1"), "value": warehouse.Float(1)},
		false: {"reading_id": text("r2")},
	}
	joined := map[bool]cells{
		true:  {"reading_id": text("r1"), "tenant_id": text("t"), "value_string": text("")},
		false: {"reading_id": text("r2"), "tenant_id": text("t")},
	}
	for _, test := range []struct {
		table     string
		query     int // which of the queries of the table
		good, bad []cells
	}{
		{"iot_telemetry.readings", 0, []cells{reading[true]}, []cells{reading[false]}},
		{"iot_analytics.readings", 0, []cells{joined[true]}, []cells{joined[false]}},
		{"iot_actions.actions", 0, []cells{{"action_id": text("a1"), "device_id": text("d")}, {"action_id": text("a2"), "room": text("1")}},
			[]cells{{"action_id": text("a3")}}},
		{"iot_metadata.placements", 0, []cells{{"device_id": text("d1"), "valid_to": hour(2)}, {"device_id": text("d1"), "valid_from": hour(2)}, {"device_id": text("d2")}},
			[]cells{{"device_id": text("d1"), "valid_from": hour(1), "valid_to": hour(3)}}},
		{"iot_metadata.placements", 1, []cells{{"device_id": text("d1"), "valid_to": hour(2)}, {"device_id": text("d2")}},
			[]cells{{"device_id": text("d3"), "valid_from": hour(2), "valid_to": hour(2)}}},
		{"mesh_metrics.quality_results", 0, []cells{{"rule": text("a"), "kept": warehouse.Bool(true)}, {"rule": text("b"), "error": text("no answer")}}, []cells{{"rule": text("c")}}},
		{"mesh_metrics.service_levels", 0, []cells{{"level": text("a"), "good": warehouse.Int(2), "total": warehouse.Int(2)}, {"level": text("b")}},
			[]cells{{"level": text("c"), "good": warehouse.Int(3), "total": warehouse.Int(2)}}},
		{"mesh_metrics.reads", 0, []cells{{"report": text("a")}}, []cells{{"report": text("b"), "times": warehouse.Int(0)}}},
	} {
		db := duckdbtest.Open(t)
		table := find(t, test.table)
		var queries []contract.Rule
		for _, r := range table.Quality {
			if r.Query != "" {
				queries = append(queries, r)
			}
		}
		rule := queries[test.query]
		count := func(event string, rows []cells) (n int64) {
			t.Helper()
			batch := warehouse.Batch{Table: table.FullName(), EventSource: "/test", EventID: event}
			for _, c := range rows {
				batch.Rows = append(batch.Rows, row{&table, c})
			}
			if _, err := db.Append(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			answer, err := db.Query(t.Context(), rule.Query)
			if err != nil {
				t.Fatalf("%s: %v", rule.Query, err)
			}
			for cells, err := range answer.All {
				if err != nil {
					t.Fatal(err)
				}
				n = cells[0].(int64)
			}
			return n
		}
		if n := count("good", test.good); n != 0 {
			t.Errorf("%s: %s counts %d over good rows", test.table, rule.Query, n)
		}
		if n := count("bad", test.bad); n == 0 {
			t.Errorf("%s: %s counts 0 with a bad row", test.table, rule.Query)
		}
	}
	n := 0
	for _, p := range load(t) {
		for _, table := range p.Tables {
			for _, r := range table.Quality {
				if r.Query != "" {
					n++
				}
			}
		}
	}
	if n != 8 {
		t.Errorf("the contracts have %d queries, and 8 are tested", n)
	}
}
