package duckdb_test

import (
	"fmt"
	"slices"
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
		warehouse.Null, warehouse.Null, warehouse.String("/telemesh/ingest/http"), warehouse.String(r.id), warehouse.Null)
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
func BenchmarkRevise(b *testing.B) { benchAgain(b, "iot_telemetry.readings", 12) }

// BenchmarkKnowMore stores rows that say what is there already and were made
// with more: each takes the place of one.
func BenchmarkKnowMore(b *testing.B) { benchAgain(b, "iot_analytics.readings", 26) }

// benchAgain stores b.N rows, and then each again with 2 for 1 in a column, in
// the order of the devices, by 64 callers: how much a transaction takes decides.
func benchAgain(b *testing.B, table string, column int) {
	w := openBench(b)
	rows := benchRows(table, 0, b.N)
	send(b, w, batchesOf(table, "/first", rows, 500), 16)
	again := make([]warehouse.Row, 0, len(rows))
	for device := range 1000 {
		for i := device * 5; i < len(rows); i += 5000 {
			for _, row := range rows[i:min(i+5, len(rows))] {
				again = append(again, changed{row, column})
			}
		}
	}
	batches := batchesOf(table, "/again", again, 500)
	b.ReportAllocs()
	b.ResetTimer()
	send(b, w, batches, 64)
	b.StopTimer()
	b.ReportMetric(float64(len(again))/b.Elapsed().Seconds(), "rows/s")
	if got := ask(b, w, fmt.Sprintf("SELECT count(*), min(%s) FROM %s", [...]string{12: "assignment_version", 26: "join_version"}[column], table)); got != fmt.Sprint(b.N, " 2") {
		b.Fatalf("rows and lowest version are %s, want %d 2", got, b.N)
	}
}

type changed struct {
	warehouse.Row
	column int
}

func (c changed) Cells(dst []warehouse.Cell) []warehouse.Cell {
	dst = c.Row.Cells(dst)
	dst[c.column] = warehouse.Int(2)
	return dst
}

func benchAppend(b *testing.B, table string, size, callers int) {
	w := openBench(b)
	batches := batchesOf(table, "/bench", benchRows(table, 0, b.N), size)
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	send(b, w, batches, callers)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/row")
	if got := ask(b, w, "SELECT count(*) FROM "+table); got != fmt.Sprint(b.N) {
		b.Fatalf("%s rows, want %d", got, b.N)
	}
}

func batchesOf(table, source string, rows []warehouse.Row, size int) []warehouse.Batch {
	var batches []warehouse.Batch
	for some := range slices.Chunk(rows, size) {
		batches = append(batches, warehouse.Batch{Table: table, EventSource: source, EventID: mesh.Hash(fmt.Sprint(len(batches))), Rows: some})
	}
	return batches
}

// send appends batches by several callers.
func send(b *testing.B, w warehouse.Warehouse, batches []warehouse.Batch, callers int) {
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
}

// cpuTime is what the process used, DuckDB's threads with it.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
