package quality_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/quality"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

const (
	benchDays   = 30
	benchPerDay = 20_000
)

// measured is a row of iot_telemetry.readings.
type measured struct {
	table *contract.Table
	n     int
}

func (m measured) Cells(dst []warehouse.Cell) []warehouse.Cell {
	at := warehouse.Instant(mesh.At(noon.AddDate(0, 0, -(m.n / benchPerDay)).Add(time.Duration(m.n%benchPerDay) * time.Second)))
	for _, c := range m.table.Cells() {
		cell := warehouse.Null
		switch {
		case c.Name == "reading_id":
			cell = warehouse.String(fmt.Sprintf("%032x", m.n))
		case c.Name == "value":
			cell = warehouse.Float(400 + float64(m.n%1000))
		case c.Required && c.Type == contract.String:
			cell = warehouse.String(c.Name)
		case c.Required && c.Type == contract.Int64:
			cell = warehouse.Int(1)
		case c.Required && c.Type == contract.Timestamp:
			cell = at
		}
		dst = append(dst, cell)
	}
	return dst
}

// Six rules that look at rows one by one, over 600,000 readings of 30 days: in one
// pass, each by itself, and in one pass over two days.
func BenchmarkCheck(b *testing.B) {
	all, err := contract.Load(products.FS)
	if err != nil {
		b.Fatal(err)
	}
	var table contract.Table
	for _, p := range all {
		for _, t := range p.Tables {
			if t.FullName() == "iot_telemetry.readings" {
				table = t
			}
		}
	}
	db := duckdbtest.Open(b)
	for day := range benchDays {
		batch := warehouse.Batch{Table: table.FullName(), EventSource: "/bench", EventID: fmt.Sprint(day)}
		for n := range benchPerDay {
			batch.Rows = append(batch.Rows, measured{&table, day*benchPerDay + n})
		}
		if _, err := db.Append(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	zero := 0.0
	table.Quality = []contract.Rule{
		{ID: "a", Column: "reading_id", Metric: "invalidValues", Pattern: "^[0-9a-f]{32}$"},
		{ID: "b", Column: "quality", Metric: "invalidValues", Values: []string{"no_time", "conflict"}},
		{ID: "c", Column: "device_id", Metric: "nullValues"},
		{ID: "d", Column: "value", Metric: "invalidValues", Least: "0", Most: "10000"},
		{ID: "e", Column: "unit", Metric: "missingValues", Missing: []string{""}},
		{ID: "f", Metric: "rowCount"},
	}
	for i := range table.Quality[:5] {
		table.Quality[i].Max = &zero
	}
	apart := make([]contract.Table, len(table.Quality))
	for i := range apart {
		apart[i] = table
		apart[i].Quality = table.Quality[i : i+1]
	}
	check := func(b *testing.B, rows int64, w quality.Window, tables ...*contract.Table) {
		for b.Loop() {
			for _, t := range tables {
				results, err := quality.Checker{Query: quality.Of(db)}.Check(context.Background(), t, w)
				if err != nil {
					b.Fatal(err)
				}
				for _, r := range results {
					if r.Err != nil || r.Rows != rows && r.Rule.Metric != "rowCount" {
						b.Fatalf("%s: %d rows, %v", r.Rule.ID, r.Rows, r.Err)
					}
				}
			}
		}
	}
	b.Run("one pass", func(b *testing.B) { check(b, benchDays*benchPerDay, quality.Window{}, &table) })
	b.Run("each", func(b *testing.B) {
		var tables []*contract.Table
		for i := range apart {
			tables = append(tables, &apart[i])
		}
		check(b, benchDays*benchPerDay, quality.Window{}, tables...)
	})
	b.Run("two days", func(b *testing.B) { check(b, 2*benchPerDay, quality.Window{Days: 2, Now: noon}, &table) })
}
