package duckdb_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// The rows are those of a fleet of 1,000 devices with five metrics each, one
// message a minute, in order; values, ids and events differ as real ones do.
// A batch is what one event brings. Ids are made beforehand, cells when asked
// for: a million rows of cells would be half a gigabyte for the collector.

type benchRow struct {
	number   int
	id       string
	analytic bool
}

var (
	benchMetrics = [...]string{"co2", "temperature", "relative_humidity", "pressure", "battery"}
	benchUnits   = [...]string{"ppm", "Cel", "%", "hPa", "V"}
	benchDevices = func() (names [1000]string) {
		for i := range names {
			names[i] = fmt.Sprintf("office-%04d/bme680", i)
		}
		return names
	}()
)

func (r *benchRow) Cells(dst []warehouse.Cell) []warehouse.Cell {
	observed := mesh.Instant(1_700_000_000_000_000) + mesh.Instant(r.number/5000)*60e6
	metric := r.number % 5
	dst = append(dst,
		warehouse.String(r.id), warehouse.String("tenant-a"),
		warehouse.String(benchDevices[r.number/5%1000]), warehouse.String(benchMetrics[metric]),
		warehouse.Float(float64(r.number*7919%100000)/100), warehouse.Null, warehouse.Null, warehouse.String(benchUnits[metric]),
		warehouse.Instant(observed), warehouse.Instant(observed+1234567), warehouse.Null, warehouse.Int(0), warehouse.Int(1),
		warehouse.Null, warehouse.String("/telemesh/ingest/http"), warehouse.String(r.id), warehouse.Null)
	if !r.analytic {
		return dst
	}
	return append(dst, warehouse.String("Main building"), warehouse.String("2"), warehouse.String("2.04"), warehouse.Int(30),
		warehouse.Float(420), warehouse.String("Windesheim"), warehouse.String("window_opened"),
		warehouse.Instant(observed-600e6), warehouse.Float(10), warehouse.Int(1), warehouse.Bool(false))
}

func benchRows(table string, from, n int) []warehouse.Row {
	stored := make([]benchRow, n)
	rows := make([]warehouse.Row, n)
	for i := range stored {
		stored[i] = benchRow{number: from + i, id: mesh.Hash(table, fmt.Sprint(from+i)), analytic: table == "iot_analytics.readings"}
		rows[i] = &stored[i]
	}
	return rows
}

func openBench(b *testing.B) warehouse.Warehouse {
	w := open(b)
	b.Cleanup(func() { w.Close() })
	apply(b, w)
	return w
}

// BenchmarkAppend stores batches of 500 rows by 16 callers.
func BenchmarkAppend(b *testing.B) {
	for _, table := range []string{"iot_telemetry.readings", "iot_analytics.readings"} {
		b.Run(table, func(b *testing.B) { benchAppend(b, table, 500, 16) })
	}
}

// BenchmarkAppendSingle stores events of one row by 64 callers: what a mesh
// without micro-batches asks of the store.
func BenchmarkAppendSingle(b *testing.B) {
	benchAppend(b, "iot_telemetry.readings", 1, 64)
}

// BenchmarkRevise stores rows that are there already under a higher
// assignment_version, as a repair does: each moves the row that counted.
func BenchmarkRevise(b *testing.B) {
	w := openBench(b)
	const size = 500
	b.ReportAllocs()
	for from := 0; from < b.N; from += size {
		b.StopTimer()
		rows := benchRows("iot_telemetry.readings", from, size)
		if _, err := w.Append(b.Context(), warehouse.Batch{Table: "iot_telemetry.readings", EventSource: "/s", EventID: fmt.Sprint(from), Rows: rows}); err != nil {
			b.Fatal(err)
		}
		for i := range rows {
			rows[i] = repaired{rows[i]}
		}
		b.StartTimer()
		if _, err := w.Append(b.Context(), warehouse.Batch{Table: "iot_telemetry.readings", EventSource: "/r", EventID: fmt.Sprint(from), Rows: rows}); err != nil {
			b.Fatal(err)
		}
	}
}

type repaired struct{ warehouse.Row }

func (r repaired) Cells(dst []warehouse.Cell) []warehouse.Cell {
	dst = r.Row.Cells(dst)
	dst[12] = warehouse.Int(2)
	return dst
}

func benchAppend(b *testing.B, table string, size, callers int) {
	w := openBench(b)
	batches := make([]warehouse.Batch, (b.N+size-1)/size)
	for i := range batches {
		batches[i] = warehouse.Batch{Table: table, EventSource: "/bench", EventID: mesh.Hash(fmt.Sprint(i)), Rows: benchRows(table, i*size, size)}
	}
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	var next atomic.Int64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(batches) {
					return
				}
				if _, err := w.Append(b.Context(), batches[i]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(len(batches)*size)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(cpuTime(b)-before)/float64(len(batches)*size), "cpu-ns/row")
	rows, err := w.Query(b.Context(), "SELECT count(*) FROM "+table)
	if err != nil {
		b.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil || row[0] != int64(len(batches)*size) {
			b.Fatalf("%v rows, %v, want %d", row, err, len(batches)*size)
		}
	}
}

// cpuTime is what the process used, DuckDB's threads with it.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
