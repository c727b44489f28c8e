package measure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/usage"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/service-levels/measure"
	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/levels"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// rig is the function, the sink of its table, and the table between them.
type rig struct {
	t       *testing.T
	w       warehouse.Warehouse
	measure func(event.Event) ([]event.Event, error)
	store   func(event.Event)
	fault   func(context.Context, string) error // of a statement; nil: none has one
}

func newRig(t *testing.T) *rig {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w := duckdbtest.Open(t)
	r := &rig{t: t, w: w}
	meter, err := levels.New(func(ctx context.Context, sql string) (*warehouse.Rows, error) {
		if r.fault != nil {
			if err := r.fault(ctx, sql); err != nil {
				return nil, err
			}
		}
		return w.Query(ctx, sql)
	}, all, 99)
	if err != nil {
		t.Fatal(err)
	}
	meter.Within = 10 * time.Second
	tables, err := sink.TablesOf(all, "mesh-metrics")
	if err != nil {
		t.Fatal(err)
	}
	handle, stores := measure.New(meter, nil, nil), sink.New(w, tables, nil)
	r.measure = func(e event.Event) ([]event.Event, error) { return handle(t.Context(), e) }
	r.store = func(e event.Event) {
		t.Helper()
		if _, err := stores(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func tick(at time.Time) event.Event {
	e := event.New()
	e.SetID(at.String())
	e.SetSource("/apis/v1/namespaces/platform/pingsources/service-levels")
	e.SetType(topology.TickType)
	e.SetTime(at)
	return e
}

// readings stores one of a device at each instant, received then.
func (r *rig) readings(device string, at ...time.Time) {
	r.t.Helper()
	var batch []mesh.Reading
	for _, one := range at {
		reading := mesh.Reading{DeviceID: device, Metric: "co2", Kind: mesh.Number, Value: 1, ObservedAt: mesh.At(one), ReceivedAt: mesh.At(one), TenantID: "school", AssignmentVersion: 1,
			EventSource: "/test", EventID: fmt.Sprint(device, one)}
		reading.ReadingID = mesh.ReadingID(reading.DeviceID, reading.Metric, reading.ObservedAt)
		batch = append(batch, reading)
	}
	e := mesh.NewEvent(mesh.TelemetryEnriched, "/test", mesh.EncodeReadings(batch), device, fmt.Sprint(at))
	e.SetExtension(mesh.ExtTenant, "school")
	r.store(e)
}

// of gives the rows of a measurement of one port by their level.
func of(t *testing.T, events []event.Event, port string) map[string]levels.Row {
	t.Helper()
	out := map[string]levels.Row{}
	for _, e := range events {
		if e.Type() != mesh.LevelsMeasured {
			continue
		}
		var data struct{ Rows []levels.Row }
		if err := json.Unmarshal(e.Data(), &data); err != nil {
			t.Fatal(err)
		}
		for _, row := range data.Rows {
			if row.Port == port {
				out[row.Level] = row
			}
		}
	}
	return out
}

func types(events []event.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, strings.TrimSuffix(strings.TrimPrefix(e.Type(), "dev.telemesh.slo."), ".v1"))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// A level that is missed is told of once, and once when it is kept again; both
// are known from the table alone. A tick that comes again makes the same events.
func TestBreach(t *testing.T) {
	r := newRig(t)
	// The warehouse stamps rows with its own time: this one took an hour.
	r.readings("late", time.Now().Add(-time.Hour))
	now := time.Now()
	first, err := r.measure(tick(now))
	if err != nil {
		t.Fatal(err)
	}
	if got := types(first); got != "breached measured" {
		t.Fatalf("a late row makes %s: %s", got, first[0].Data())
	}
	row := of(t, first, "iot_telemetry.readings")["latency"]
	if *row.Kept || *row.Good != 0 || *row.Total != 1 || *row.Left != -9900 || *row.P95 < 3500 || *row.P95 > 3700 {
		t.Errorf("latency: %+v", row)
	}
	var change levels.Change
	if err := json.Unmarshal(first[0].Data(), &change); err != nil || change.Port != "iot_telemetry.readings" || change.Owner != "iot-team" || change.Level != "latency" || *change.Target != 10 {
		t.Errorf("breach: %s, %v", first[0].Data(), err)
	}
	again, err := r.measure(tick(now))
	if err != nil {
		t.Fatal(err)
	}
	for i := range first {
		if first[i].ID() != again[i].ID() || string(first[i].Data()) != string(again[i].Data()) {
			t.Errorf("the tick that came again makes %s, made %s", again[i], first[i])
		}
	}
	r.store(first[1])
	r.store(first[1])

	// Nothing came: nothing is judged, and nothing told.
	second, err := r.measure(tick(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if got := types(second); got != "measured" {
		t.Errorf("a measurement of no rows makes %s", got)
	}
	if row := of(t, second, "iot_telemetry.readings")["latency"]; row.Kept != nil || row.Actual != nil || *row.Left != -9900 {
		t.Errorf("latency of no rows: %+v", row)
	}
	r.store(second[0])

	var quick []time.Time
	for i := range 202 {
		quick = append(quick, time.Now().Add(time.Duration(-i)*time.Millisecond))
	}
	r.readings("quick", quick...)
	third, err := r.measure(tick(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if got := types(third); got != "measured restored" {
		t.Errorf("rows in time make %s", got)
	}
	if row := of(t, third, "iot_telemetry.readings")["latency"]; !*row.Kept || *row.Left != 50.74 { // 1 of 203 is bad, 2.03 may be
		t.Errorf("latency: kept %v of %d, %g of the budget left", *row.Kept, *row.Total, *row.Left)
	}
}

// The silence of a device is missing readings by its own interval; a device
// without one is not judged.
func TestCompleteness(t *testing.T) {
	r := newRig(t)
	end := time.Now().Truncate(time.Second)
	to := end.Add(-15 * time.Minute)
	var whole, half, odd []time.Time
	for i := range 96 { // a day of quarters of an hour
		at := to.Add(-time.Duration(i)*15*time.Minute - time.Minute)
		whole = append(whole, at)
		if i >= 24 && (i < 48 || i >= 60) { // silent for the last six hours, and for three before
			half = append(half, at)
		}
		if i%10 == 0 {
			odd = append(odd, to.Add(-time.Duration(i*i)*5*time.Second-time.Minute))
		}
	}
	r.readings("whole", whole...)
	r.readings("half", half...)
	r.readings("odd", odd...)
	events, err := r.measure(tick(end.Add(time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	row := of(t, events, "iot_telemetry.readings")["completeness"]
	if row.Error != nil {
		t.Fatal(*row.Error)
	}
	if *row.Devices != 2 || *row.Irregular != 1 {
		t.Errorf("%d devices are judged and %d not", *row.Devices, *row.Irregular)
	}
	// 36 of 192 are missing; the bucket of an interval is 5% wide.
	if got, want := *row.Actual, 100*float64(156)/192; got < want-1 || got > want+1 || *row.Kept {
		t.Errorf("%g percent are there, want about %g", got, want)
	}
}

// A port is behind where the Broker accepted what brings rows and no row came;
// silence is no fault.
func TestFreshness(t *testing.T) {
	r := newRig(t)
	now := time.Now()
	r.readings("d", now)
	after := now.Add(10 * time.Minute)
	fresh := func() levels.Row {
		t.Helper()
		events, err := r.measure(tick(after))
		if err != nil {
			t.Fatal(err)
		}
		return of(t, events, "iot_telemetry.readings")["freshness"]
	}
	if row := fresh(); row.Kept != nil || *row.Actual < 590 || *row.Actual > 610 {
		t.Errorf("nothing came: %+v", row)
	}
	logged := func(broker, id string, at time.Time) {
		t.Helper()
		e := mesh.NewEvent(mesh.TelemetryEnriched, "/test", nil, id)
		e.SetTime(at)
		e.SetExtension(eventlog.ExtArrival, at.UTC().Format(time.RFC3339Nano))
		if _, err := sink.NewLog(r.w, nil)(function.WithPath(t.Context(), broker), e); err != nil {
			t.Fatal(err)
		}
	}
	logged("/iot/iot", "stored", now)
	logged("/analytics/analytics", "stored", now.Add(5*time.Second)) // a Trigger brought it there
	if row := fresh(); row.Kept == nil || !*row.Kept {
		t.Errorf("what came is stored, and has come to another Broker since: %+v", row)
	}
	logged("/iot/iot", "new", after.Add(-5*time.Second)) // it may still be on its way
	if row := fresh(); row.Kept == nil || !*row.Kept {
		t.Errorf("what has just come is judged: %+v", row)
	}
	logged("/iot/iot", "late", after.Add(-time.Minute))
	if row := fresh(); row.Kept == nil || *row.Kept || *row.Good != 0 {
		t.Errorf("what came a minute ago is not stored: %+v", row)
	}
}

// What cannot be measured is measured by the next tick, from where this one began,
// and keeps nothing else from being measured. A warehouse that is away is an error.
func TestWhatCannotBeMeasured(t *testing.T) {
	r := newRig(t)
	r.readings("d", time.Now().Add(-time.Hour)) // and is late
	refused := errors.New("the statement reads too much")
	r.fault = func(_ context.Context, sql string) error {
		if strings.Contains(sql, "AS took") || strings.Contains(sql, levels.Log) || strings.Contains(sql, "MAX(t.recorded_at)") {
			return refused
		}
		return nil
	}
	began := time.Now()
	events, err := r.measure(tick(began))
	if err != nil {
		t.Fatal(err)
	}
	rows := of(t, events, "iot_telemetry.readings")
	if row := rows["latency"]; row.Error == nil || *row.Error != refused.Error() || row.Kept != nil {
		t.Errorf("latency: %+v", row)
	}
	if row := rows["completeness"]; row.Error != nil || row.Irregular == nil {
		t.Errorf("completeness: %+v", row)
	}
	r.store(events[len(events)-1])

	r.fault = nil
	if events, err = r.measure(tick(began.Add(time.Minute))); err != nil {
		t.Fatal(err)
	}
	if row := of(t, events, "iot_telemetry.readings")["latency"]; row.Total == nil || *row.Total != 1 || *row.Kept {
		t.Errorf("latency of the row that was there before: %+v", row)
	}
	r.store(events[len(events)-1])
	if events, err = r.measure(tick(began.Add(2 * time.Minute))); err != nil {
		t.Fatal(err)
	}
	if row := of(t, events, "iot_telemetry.readings")["latency"]; row.Total != nil {
		t.Errorf("a row is judged twice: %+v", row)
	}

	r.fault = func(_ context.Context, sql string) error {
		if strings.Contains(sql, levels.Table+" WHERE measured_at") { // what was measured before
			return nil
		}
		return refused
	}
	if events, err := r.measure(tick(began.Add(3 * time.Minute))); !errors.Is(err, refused) || mesh.IsPermanent(err) {
		t.Errorf("of a warehouse that answers nothing: %d events, %v", len(events), err)
	}
}

// A level that takes too long is given up, and the others are measured.
func TestSlow(t *testing.T) {
	r := newRig(t)
	r.fault = func(ctx context.Context, sql string) error {
		if !strings.Contains(sql, "LAG(seen)") {
			return nil
		}
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a statement may take for ever")
		}
		return fmt.Errorf("query: %w", context.DeadlineExceeded)
	}
	events, err := r.measure(tick(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	rows := of(t, events, "iot_telemetry.readings")
	if row := rows["completeness"]; row.Error == nil || *row.Error != "the warehouse did not answer in 10s" {
		t.Errorf("completeness: %+v", row)
	}
	if row := rows["latency"]; row.Error != nil {
		t.Errorf("latency: %s", *row.Error)
	}
}

func TestTicksAlone(t *testing.T) {
	r := newRig(t)
	e := tick(time.Now())
	e.SetType("dev.telemesh.telemetry.received.v1")
	if _, err := r.measure(e); !mesh.IsPermanent(err) {
		t.Errorf("an event that is no tick: %v", err)
	}
}

// A log of jobs that cannot be read is told, and levels are measured.
func TestJobsAway(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	w := duckdbtest.Open(t)
	meter, err := levels.New(w.Query, all, 99)
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := usage.NewJobs("service-levels", w.Query, all, "my-project", "region-eu") // DuckDB has no such log
	if err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	events, err := measure.New(meter, jobs, slog.New(slog.NewTextHandler(&told, nil)))(t.Context(), tick(time.Now()))
	if err != nil || types(events) != "measured" {
		t.Errorf("made %s, %v", types(events), err)
	}
	if !strings.Contains(told.String(), "my-project.region-eu.INFORMATION_SCHEMA.JOBS") {
		t.Errorf("told %s", &told)
	}
}

func TestJobsTakeBigQuery(t *testing.T) {
	for url, region := range map[string]string{"http://warehouse": "region-eu", "bigquery://my-project?location=EU": "EU"} {
		t.Setenv("WAREHOUSE_URL", url)
		t.Setenv("BIGQUERY_JOBS", region)
		if _, err := measure.Start(function.Ports{Warehouse: duckdbtest.Open(t), Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "BIGQUERY_JOBS") {
			t.Errorf("WAREHOUSE_URL %s, BIGQUERY_JOBS %s: %v", url, region, err)
		}
	}
}
