package bigquery_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bq "cloud.google.com/go/bigquery"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/iterator"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/products"
)

// applied makes what the products are in a project.
func applied(t testing.TB, e *emulator.Emulator) []contract.Product {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w, err := bigquery.Open(t.Context(), e.Config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Apply(t.Context(), list), w.Close()); err != nil {
		t.Fatal(err)
	}
	return list
}

func query(t testing.TB, e *emulator.Emulator, sql string) [][]bq.Value {
	t.Helper()
	c, err := e.Config().NewClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	it, err := c.Query(sql).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out [][]bq.Value
	for {
		var row []bq.Value
		err := it.Next(&row)
		if err == iterator.Done {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, row)
	}
}

type cells []warehouse.Cell

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, c...) }

func reading(device string, at mesh.Instant, value float64) warehouse.Row {
	return cells{
		warehouse.String(mesh.ReadingID(device, "co2", at)), warehouse.String("tenant-a"), warehouse.String(device), warehouse.String("co2"),
		warehouse.Float(value), warehouse.Null, warehouse.Null, warehouse.String("ppm"), warehouse.Instant(at), warehouse.Instant(at + 1e6),
		warehouse.Null, warehouse.Int(0), warehouse.Int(1), warehouse.Null, warehouse.Null,
		warehouse.String("/devices"), warehouse.String("m1"), warehouse.Null,
	}
}

func customer(id, name string, version int64) warehouse.Row {
	return cells{warehouse.String(id), warehouse.String(name), warehouse.Null, warehouse.Null, warehouse.Int(version), warehouse.Bool(false)}
}

// open gives the warehouse of a project.
func open(t testing.TB, e *emulator.Emulator, products []contract.Product) *bigquery.Warehouse {
	t.Helper()
	w, err := bigquery.Open(t.Context(), e.Config(), products)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return w
}

// deliver appends a batch as a broker has it done: again, until that succeeds or
// never will.
func deliver(t testing.TB, w warehouse.Warehouse, b warehouse.Batch) (version int64, err error) {
	t.Helper()
	for range 10 {
		if version, err = w.Append(t.Context(), b); err == nil || mesh.IsPermanent(err) {
			return version, err
		}
	}
	t.Errorf("event %s was never stored: %v", b.EventID, err)
	return version, err
}

const (
	readings  = "iot_telemetry.readings"
	customers = "customers.customers"
	joined    = "iot_analytics.readings"
)

func batch(table, id string, rows ...warehouse.Row) warehouse.Batch {
	return warehouse.Batch{Table: table, EventSource: "/test", EventID: id, Rows: rows}
}

func count(t testing.TB, e *emulator.Emulator, from string) int64 {
	t.Helper()
	return query(t, e, "SELECT COUNT(*) FROM "+from)[0][0].(int64)
}

// want says how often the row of each device stands in a table.
func want(t testing.TB, e *emulator.Emulator, table string, devices ...string) {
	t.Helper()
	var got []string
	for _, row := range query(t, e, "SELECT device_id FROM "+table+" ORDER BY device_id") {
		got = append(got, row[0].(string))
	}
	if diff := cmp.Diff(devices, got); diff != "" {
		t.Errorf("devices of %s: (-want +got)\n%s", table, diff)
	}
}

var noon = mesh.At(time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC))

// Each fault by itself: the append succeeds, and the row is there once.
func TestEachFault(t *testing.T) {
	e := emulator.Start(t)
	products := applied(t, e)
	faults := emulator.NewFaults(1)
	w := open(t, e.Behind(t, faults), products)
	var devices []string
	for _, kind := range []emulator.Fault{emulator.Reset, emulator.Unavailable, emulator.Exhausted, emulator.Aborted, emulator.Lost, emulator.Slow} {
		faults.Next(kind, 2)
		device := kind.String()
		devices = append(devices, device)
		if _, err := w.Append(t.Context(), batch(readings, device, reading(device, noon, 1))); err != nil {
			t.Errorf("%v: Append() = %v", kind, err)
		}
		if n := faults.Met(kind); n != 2 {
			t.Errorf("%v: %d requests met it, want 2", kind, n)
		}
	}
	slices.Sort(devices)
	want(t, e, "iot_telemetry_internal.readings", devices...)
	// What was acknowledged and not heard was appended again.
	if n := count(t, e, "iot_telemetry_internal.readings_appended WHERE device_id = 'Lost'"); n != 3 {
		t.Errorf("a row whose acknowledgement was lost twice was appended %d times, want 3", n)
	}
}

// The same for a table whose rows are recorded in transactions. The version
// that rows made from it get is how many distinct rows were recorded.
func TestEachFaultOfRecording(t *testing.T) {
	e := emulator.Start(t)
	products := applied(t, e)
	faults := emulator.NewFaults(1)
	w := open(t, e.Behind(t, faults), products)
	if _, err := w.Append(t.Context(), batch(customers, "first", customer("c", "One", 0))); err != nil {
		t.Fatal(err) // from now on an append is one request, and a transaction another
	}
	recorded := int64(1)
	for _, kind := range []emulator.Fault{emulator.Reset, emulator.Unavailable, emulator.Exhausted, emulator.Aborted, emulator.Lost, emulator.Slow} {
		for place := range 2 {
			faults.Next(emulator.Slow, place)
			faults.Next(kind, 1)
			id := fmt.Sprint(kind, place)
			if _, err := w.Append(t.Context(), batch(customers, id, customer(id, "One", 1), customer(id, "Two", 2), customer(id, "One", 1))); err != nil {
				t.Errorf("%s: Append() = %v", id, err)
			}
			recorded += 2
			if version, err := w.Append(t.Context(), batch(joined, id)); err != nil || version != recorded {
				t.Errorf("%s: version %d, %v, want %d", id, version, err, recorded)
			}
		}
	}
	if n := count(t, e, "customers_internal.customers"); n != recorded {
		t.Errorf("%d rows are recorded, want %d", n, recorded)
	}
	// Each transaction has a time of its own, and all of its rows have it.
	times := query(t, e, "SELECT COUNT(*), COUNT(DISTINCT recorded_at) FROM customers_internal.customers")[0]
	if times[1].(int64) != (recorded-1)/2+1 {
		t.Errorf("%d rows have %d times", times[0], times[1])
	}
}

// Many events through a network that fails all the time, each delivered more
// than once and in another order, by two processes: no row is lost, none is
// there twice, and versions only say what was recorded.
func TestManyEventsThroughFaults(t *testing.T) {
	const events, rowsOfEach, workers = 60, 25, 8
	e := emulator.Start(t)
	products := applied(t, e)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	faults := emulator.NewFaults(seed)
	seen := e.Behind(t, faults)
	processes := []*bigquery.Warehouse{open(t, seen, products), open(t, seen, products)}
	kinds := []emulator.Fault{emulator.Reset, emulator.Unavailable, emulator.Exhausted, emulator.Aborted, emulator.Lost, emulator.Slow}
	for _, kind := range kinds {
		faults.Next(kind, 1) // each of them, whatever is random
	}
	faults.Randomly(0.12, kinds...)
	random := rand.New(rand.NewPCG(seed, 1))
	type delivery struct {
		process int
		batch   warehouse.Batch
	}
	var deliveries []delivery
	for i := range events {
		b := batch(readings, fmt.Sprint("e", i))
		for j := range rowsOfEach {
			b.Rows = append(b.Rows, reading(fmt.Sprint("d", j), noon+mesh.Instant(i)*60e6, float64(i)))
		}
		if i%10 == 0 {
			b = batch(customers, fmt.Sprint("e", i), customer(fmt.Sprint("c", i), "One", 1), customer("shared", "Two", int64(i/20)))
		}
		for range 1 + random.IntN(2) {
			deliveries = append(deliveries, delivery{random.IntN(len(processes)), b})
		}
	}
	random.Shuffle(len(deliveries), func(i, j int) { deliveries[i], deliveries[j] = deliveries[j], deliveries[i] })
	var mu sync.Mutex
	stored := map[string]bool{} // ids of customers that were recorded before
	queue := make(chan delivery)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for d := range queue {
				if _, err := deliver(t, processes[d.process], d.batch); err != nil {
					t.Errorf("event %s: %v", d.batch.EventID, err)
				}
				if d.batch.Table != customers {
					continue
				}
				mu.Lock()
				stored[d.batch.EventID] = true
				least := int64(len(stored))
				mu.Unlock()
				version, err := deliver(t, processes[1-d.process], batch(joined, "asks-"+d.batch.EventID))
				if err != nil || version < least {
					t.Errorf("version %d, %v, after %d batches were recorded", version, err, least)
				}
			}
		})
	}
	for _, d := range deliveries {
		queue <- d
	}
	close(queue)
	all.Wait()
	faults.Randomly(0)
	for _, kind := range kinds {
		if faults.Met(kind) == 0 {
			t.Errorf("no request met %v", kind)
		}
	}
	const wantReadings, wantCustomers = events * 9 / 10 * rowsOfEach, events/10 + events/20
	got := query(t, e, "SELECT COUNT(*), COUNT(DISTINCT reading_id) FROM iot_telemetry_internal.readings")[0]
	if diff := cmp.Diff([]bq.Value{int64(wantReadings), int64(wantReadings)}, got); diff != "" {
		t.Errorf("readings: (-want +got)\n%s", diff)
	}
	member(t, e)
	if n := count(t, e, readings); n != wantReadings {
		t.Errorf("the output port shows %d readings, want %d", n, wantReadings)
	}
	if n := count(t, e, "customers_internal.customers"); n != wantCustomers {
		t.Errorf("%d customers are recorded, want %d", n, wantCustomers)
	}
	version, err := processes[0].Append(t.Context(), batch(joined, "last"))
	if err != nil || version != wantCustomers {
		t.Errorf("version %d, %v, want %d", version, err, wantCustomers)
	}
	appended := count(t, e, "iot_telemetry_internal.readings_appended")
	if appended < wantReadings {
		t.Errorf("%d readings were appended, want %d or more", appended, wantReadings)
	}
	t.Logf("%d readings were appended %d times", wantReadings, appended)
}

// member has queries see the rows of all tenants.
func member(t testing.TB, e *emulator.Emulator) {
	t.Helper()
	query(t, e, fmt.Sprintf("INSERT INTO %s (member, tenant_id) VALUES ('%s', '%s')", schema.Members, emulator.User, schema.Everyone))
}

// The rows that BigQuery refuses are named with its cause; the others are
// stored, those that went in the same request as well.
func TestRowsThatBigQueryRefuses(t *testing.T) {
	e := emulator.Start(t)
	products := applied(t, e)
	faults := emulator.NewFaults(1)
	faults.Refuse(func(row protoreflect.Message) string {
		for _, name := range []protoreflect.Name{"device_id", "name"} {
			field := row.Descriptor().Fields().ByName(name)
			if field != nil && strings.HasPrefix(row.Get(field).String(), "bad") {
				return "no such " + string(name)
			}
		}
		return ""
	})
	w := open(t, e.Behind(t, faults), products)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			b := batch(readings, fmt.Sprint(i), reading(fmt.Sprint("bad", i), noon, 1), reading(fmt.Sprint("good", i), noon, 1),
				reading(fmt.Sprint("nan", i), noon, math.NaN()), reading(fmt.Sprint("bad", i), noon+1, 1))
			if i%2 == 0 {
				b.Rows = b.Rows[1:2]
			}
			_, err := w.Append(t.Context(), b)
			if i%2 == 0 {
				if err != nil {
					t.Errorf("Append() of good rows = %v", err)
				}
				return
			}
			rejected, _ := errors.AsType[warehouse.Rejected](err)
			var got []string
			for _, row := range rejected {
				got = append(got, fmt.Sprint(row.Row, " ", row.Err))
			}
			if diff := cmp.Diff([]string{"0 BigQuery: no such device_id", "2 column value: NaN is no finite number", "3 BigQuery: no such device_id"}, got); diff != "" || !mesh.IsPermanent(err) {
				t.Errorf("Append() = %v, rejects (-want +got)\n%s", err, diff)
			}
		})
	}
	all.Wait()
	var devices []string
	for i := range 20 {
		devices = append(devices, fmt.Sprint("good", i))
	}
	slices.Sort(devices)
	want(t, e, "iot_telemetry_internal.readings", devices...)

	bad := batch(customers, "bad", customer("c1", "One", 1), customer("c2", "bad", 1))
	if _, err := w.Append(t.Context(), bad); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), "row 1: BigQuery: no such name") {
		t.Errorf("Append() = %v, want a permanent error with the row and the cause", err)
	}
	if n := count(t, e, "customers_internal.customers"); n != 0 {
		t.Errorf("%d rows of a batch with a bad one are recorded, want none", n)
	}
	// What was not stored whole is not remembered.
	faults.Refuse(nil)
	if _, err := w.Append(t.Context(), bad); err != nil {
		t.Errorf("Append() = %v", err)
	}
	if n := count(t, e, "customers_internal.customers"); n != 2 {
		t.Errorf("%d customers are recorded, want 2", n)
	}
}

// A table is made, and gains a column, while a process appends to it.
func TestSchemaChange(t *testing.T) {
	e := emulator.Start(t)
	products := applied(t, e)
	client, err := e.Config().NewClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const name = "readings_appended"
	table := client.Dataset("iot_telemetry_internal").Table(name)
	before, err := table.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := open(t, e, products)
	passing := func(w *bigquery.Warehouse, id string) {
		t.Helper()
		if _, err := w.Append(t.Context(), batch(readings, id, reading(id, noon, 1))); err == nil || mesh.IsPermanent(err) ||
			!strings.Contains(err.Error(), "telemesh apply") {
			t.Errorf("Append() = %v, want a passing error that says what to do", err)
		}
	}
	stored := func(w *bigquery.Warehouse, id string, row warehouse.Row) {
		t.Helper()
		if _, err := w.Append(t.Context(), batch(readings, id, row)); err != nil {
			t.Errorf("Append() = %v", err)
		}
	}
	passing(old, "no table")
	if err := table.Create(t.Context(), &bq.TableMetadata{Schema: before.Schema}); err != nil {
		t.Fatal(err)
	}
	stored(old, "no table", reading("d1", noon, 1))

	// The next version of the contract has a column more.
	wider := slices.Clone(products)
	for i := range wider {
		wider[i].Tables = slices.Clone(wider[i].Tables)
		for j := range wider[i].Tables {
			if t := &wider[i].Tables[j]; t.FullName() == readings {
				t.Columns = append(slices.Clone(t.Columns), contract.Column{Name: "battery", Type: contract.Float64})
			}
		}
	}
	w := open(t, e, wider)
	wide := func(device string) warehouse.Row {
		return append(reading(device, noon, 1).(cells), warehouse.Float(3.3))
	}
	if _, err := w.Append(t.Context(), batch(readings, "wide", wide("d2"))); err == nil || mesh.IsPermanent(err) ||
		!strings.Contains(err.Error(), "lacks a column") {
		t.Errorf("Append() = %v, want a passing error that says what to do", err)
	}
	update := bq.TableMetadataToUpdate{Schema: append(before.Schema[:len(before.Schema):len(before.Schema)],
		&bq.FieldSchema{Name: "battery", Type: bq.FloatFieldType})}
	if _, err := table.Update(t.Context(), update, ""); err != nil {
		t.Fatal(err)
	}
	stored(w, "wide", wide("d2"))
	stored(old, "narrow", reading("d3", noon, 1))
	got := query(t, e, "SELECT device_id, battery FROM iot_telemetry_internal.readings_appended ORDER BY device_id")
	if diff := cmp.Diff([][]bq.Value{{"d1", nil}, {"d2", 3.3}, {"d3", nil}}, got); diff != "" {
		t.Errorf("rows: (-want +got)\n%s", diff)
	}
}

// What is cancelled before it is sent is not stored, and what a batch brings is
// stored whole however large it is.
func TestCancelledAndLarge(t *testing.T) {
	e := emulator.Start(t)
	w := open(t, e, applied(t, e))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Append(ctx, batch(readings, "cancelled", reading("d", noon, 1))); !errors.Is(err, context.Canceled) {
		t.Errorf("Append() = %v, want %v", err, context.Canceled)
	}
	large := batch(readings, "large")
	text := strings.Repeat("x", 2000)
	for i := range 3000 {
		row := reading(fmt.Sprint("d", i), noon, 1).(cells)
		row[len(row)-1] = warehouse.String(`"` + text + `"`)
		large.Rows = append(large.Rows, row)
	}
	large.Rows = append(large.Rows, cells(append(reading("huge", noon, 1).(cells)[:16:16], warehouse.String(`"`+strings.Repeat("x", 10_000_000)+`"`))))
	_, err := w.Append(t.Context(), large)
	if rejected, _ := errors.AsType[warehouse.Rejected](err); len(rejected) != 1 || rejected[0].Row != 3000 || len(err.Error()) > 1000 {
		t.Errorf("Append() = %.500v, want row 3000 rejected", err)
	}
	if n := count(t, e, "iot_telemetry_internal.readings"); n != 3000 {
		t.Errorf("%d rows are stored, want 3000", n)
	}
}
