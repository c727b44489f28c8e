package bigquery_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/functions/warehouse-sink/sink"
	"github.com/telemesh/telemesh/hack/e2e/analyse"
	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/usage"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

// The emulator has no INFORMATION_SCHEMA.JOBS: a table has what the documentation says
// of the view, and takes its place in the statement, which GoogleSQL analyses as it is.
const (
	jobsView  = "`example-project.region-eu.INFORMATION_SCHEMA.JOBS`"
	jobsTable = "jobs_log.jobs"
)

func TestWhoReadsInBigQuery(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	e := emulator.Start(t)
	w := openProducts(t, e, all)
	client, err := e.Config().NewClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	run := func(sql string) {
		t.Helper()
		if _, err := client.Query(sql).Read(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, sql)
		}
	}
	if err := client.Dataset("jobs_log").Create(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	run("CREATE TABLE " + jobsTable + ` (creation_time TIMESTAMP, end_time TIMESTAMP, job_id STRING, job_type STRING, statement_type STRING, state STRING, user_email STRING,
		error_result STRUCT<reason STRING, location STRING, debug_info STRING, message STRING>, cache_hit BOOL,
		referenced_tables ARRAY<STRUCT<project_id STRING, dataset_id STRING, table_id STRING>>)`)
	const (
		anna     = "anna@example.org"
		joined   = "iot-analytics@example-project.iam.gserviceaccount.com"
		stranger = "report@other-project.iam.gserviceaccount.com"
	)
	job := func(id, began, ended, kind, statement, state, failed, who string, tables ...string) {
		t.Helper()
		var list []string
		for _, name := range tables {
			part := strings.Split(name, ".")
			list = append(list, "STRUCT('"+part[0]+"' AS project_id, '"+part[1]+"' AS dataset_id, '"+part[2]+"' AS table_id)")
		}
		referenced := "[" + strings.Join(list, ", ") + "]"
		if len(list) == 0 {
			referenced = "NULL"
		}
		run("INSERT INTO " + jobsTable + " (creation_time, end_time, job_id, job_type, statement_type, state, user_email, error_result, cache_hit, referenced_tables) VALUES (TIMESTAMP '2026-03-01 " + began + "+00', TIMESTAMP '2026-03-01 " + ended +
			"+00', '" + id + "', '" + kind + "', '" + statement + "', '" + state + "', '" + who + "', " + failed + ", FALSE, " + referenced + ")")
	}
	const (
		good     = "NULL"
		bad      = "STRUCT('quotaExceeded' AS reason, '' AS location, '' AS debug_info, 'no' AS message)"
		readings = "example-project.iot_telemetry_internal.readings"
		port     = "example-project.iot_telemetry.readings"
	)
	job("1", "09:00:00", "09:00:05", "QUERY", "SELECT", "DONE", good, anna, readings, port, "example-project.telemesh_internal.members")
	job("2", "09:30:00", "09:30:05", "QUERY", "SELECT", "DONE", good, "bert@example.org", readings)
	job("3", "09:59:59", "10:00:00", "QUERY", "SELECT", "DONE", good, joined, readings, "example-project.iot_metadata_internal.placements")
	job("4", "10:10:00", "10:10:05", "QUERY", "SELECT", "DONE", good, stranger, readings)
	// What reads nothing, is no query, failed, is of another project, or is to come.
	job("5", "10:10:00", "10:10:05", "QUERY", "SELECT", "DONE", good, anna)
	job("6", "10:10:00", "10:10:05", "QUERY", "INSERT", "DONE", good, anna, readings)
	job("7", "10:10:00", "10:10:05", "COPY", "", "DONE", good, anna, readings)
	job("8", "10:10:00", "10:10:05", "QUERY", "SELECT", "DONE", bad, anna, readings)
	job("9", "10:10:00", "10:10:05", "QUERY", "SELECT", "DONE", good, anna, "other-project.iot_telemetry.readings", "example-project.theirs.readings")
	job("10", "10:59:00", "11:00:00", "QUERY", "SELECT", "DONE", good, anna, readings)

	var asked []string
	jobs, err := usage.NewJobs("service-levels", func(ctx context.Context, sql string) (*warehouse.Rows, error) {
		asked = append(asked, sql)
		return w.Query(ctx, strings.ReplaceAll(sql, jobsView, jobsTable))
	}, all, "example-project", "region-eu")
	if err != nil {
		t.Fatal(err)
	}
	at := func(clock string) time.Time {
		t.Helper()
		when, err := time.Parse(time.DateTime, "2026-03-01 "+clock)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	report := func(clock string) []event.Event {
		t.Helper()
		events, err := jobs.Report(t.Context(), at(clock))
		if err != nil {
			t.Fatal(err)
		}
		return events
	}
	type read struct {
		Port, Kind, Consumer string
		Times                int
		Hour                 string
	}
	rows := func(events []event.Event) (all []read) {
		t.Helper()
		for _, e := range events {
			var data struct{ Rows []read }
			if err := json.Unmarshal(e.Data(), &data); err != nil {
				t.Fatal(err)
			}
			if e.Type() != mesh.PortRead || strings.Contains(string(e.Data()), "anna") || strings.Contains(string(e.Data()), "bert") {
				t.Errorf("%s %s", e.Type(), e.Data())
			}
			all = append(all, data.Rows...)
		}
		return all
	}
	ids := func(events []event.Event) (all []string) {
		for _, e := range events {
			all = append(all, e.ID())
		}
		return all
	}

	first := report("10:15:00")
	nine := []read{{"iot_telemetry.readings", "bigquery", "person", 2, "2026-03-01T09:00:00Z"}}
	if diff := cmp.Diff(nine, rows(first)); diff != "" {
		t.Errorf("at a quarter past ten (-want +got):\n%s", diff)
	}
	// The hour that was not stored comes again as the same event; the next one is there
	// a quarter after its end.
	if again := report("11:14:59"); !slices.Equal(ids(again), ids(first)) {
		t.Errorf("before eleven has settled: %v, want %v", rows(again), nine)
	}
	second := report("11:15:00")
	ten := []read{
		{"iot_metadata.placements", "bigquery", "iot-analytics", 1, "2026-03-01T10:00:00Z"},
		{"iot_telemetry.readings", "bigquery", "iot-analytics", 1, "2026-03-01T10:00:00Z"},
		{"iot_telemetry.readings", "bigquery", "person", 1, "2026-03-01T10:00:00Z"},
	}
	if diff := cmp.Diff(append(nine, ten...), rows(second)); diff != "" {
		t.Errorf("at a quarter past eleven (-want +got):\n%s", diff)
	}
	if len(second) != 2 || second[0].ID() != first[0].ID() {
		t.Errorf("events %v and %v: an hour is an event", ids(first), ids(second))
	}
	tables, err := sink.TablesOf(all, "mesh-metrics")
	if err != nil {
		t.Fatal(err)
	}
	store := sink.New(w, tables, nil)
	for _, e := range []event.Event{first[0], second[1], second[0]} {
		if _, err := store(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if more := report("11:30:00"); len(more) != 0 {
		t.Errorf("hours that are stored come again: %v", rows(more))
	}
	if got := readRows(t, w, "SELECT COUNT(*) AS n, SUM(times) AS times FROM mesh_metrics.reads WHERE kind = 'bigquery'"); len(got) != 1 || got[0][0] != int64(4) || got[0][1] != int64(5) {
		t.Errorf("stored: %v", got)
	}

	catalog, err := analyse.Of("example-project", all)
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.AddJobs("region-eu"); err != nil {
		t.Fatal(err)
	}
	for _, sql := range asked {
		if _, err := catalog.Query(sql); err != nil {
			t.Errorf("%v\n%s", err, sql)
		}
	}
}

// runJobs has the statements of reads in BigQuery recorded, of which none runs here.
func runJobs(t *testing.T, w *recording, all []contract.Product) {
	jobs, err := usage.NewJobs("service-levels", func(ctx context.Context, sql string) (*warehouse.Rows, error) {
		if !strings.Contains(sql, "INFORMATION_SCHEMA") {
			return w.Query(ctx, sql)
		}
		w.keep(sql)
		return &warehouse.Rows{All: func(func([]any, error) bool) {}}, nil
	}, all, "my-project", "region-eu")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jobs.Report(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
}
