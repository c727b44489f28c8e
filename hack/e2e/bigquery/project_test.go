package bigquery_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/impersonate"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/cloud"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	store "github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
)

// TestProject shows in a project of Google Cloud what an emulator cannot show:
// who sees what. The names of the datasets are those of the products, so the
// project has to be one that has none of them; it has none afterwards. The service
// accounts of the six products (iot-telemetry and so on, as docs/deploy-bigquery.md
// makes them) must exist in it: BigQuery lets in nobody who does not.
//
//	TELEMESH_BIGQUERY_PROJECT   the project; the application default credentials may administer BigQuery there
//	TELEMESH_BIGQUERY_LOCATION  where the datasets are made; EU if not set
//	TELEMESH_BIGQUERY_READER    a service account with roles/bigquery.jobUser in the project, and nothing else there,
//	                            which the credentials may impersonate (roles/iam.serviceAccountTokenCreator)
func TestProject(t *testing.T) {
	config := store.Config{Project: os.Getenv("TELEMESH_BIGQUERY_PROJECT"), Location: cmp.Or(os.Getenv("TELEMESH_BIGQUERY_LOCATION"), "EU")}
	reader := os.Getenv("TELEMESH_BIGQUERY_READER")
	if config.Project == "" || reader == "" {
		t.Skip("no project: set TELEMESH_BIGQUERY_PROJECT to one without datasets of Telemesh, and TELEMESH_BIGQUERY_READER to a service account that may run queries there")
	}
	ctx, begin := t.Context(), time.Now().Add(-time.Minute) // by another clock
	client, err := config.NewClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	token, err := impersonate.CredentialsTokenSource(ctx, impersonate.CredentialsConfig{
		TargetPrincipal: reader, Scopes: []string{bigquery.Scope}})
	if err != nil {
		t.Fatal(err)
	}
	others, err := bigquery.NewClient(ctx, config.Project, option.WithTokenSource(token))
	if err != nil {
		t.Fatal(err)
	}
	defer others.Close()
	others.Location = config.Location

	products := load(t)
	datasets, err := schema.Of(config.Project, products)
	if err != nil {
		t.Fatal(err)
	}
	isCode := func(err error, code int) bool {
		e, ok := errors.AsType[*googleapi.Error](err)
		return ok && e.Code == code
	}
	for _, d := range datasets {
		if _, err := client.Dataset(d.Name).Metadata(ctx); !isCode(err, http.StatusNotFound) {
			t.Fatalf("project %s has a dataset %s (%v), which this test would delete: use another project", config.Project, d.Name, err)
		}
	}
	defer func() {
		for _, d := range datasets {
			if err := client.Dataset(d.Name).DeleteWithContents(ctx); err != nil && !isCode(err, http.StatusNotFound) {
				t.Errorf("dataset %s is left behind: %v", d.Name, err)
			}
		}
	}()

	me, err := values(t, client, "SELECT SESSION_USER()")
	if err != nil || len(me) != 1 {
		t.Fatalf("SESSION_USER() = %v, %v", me, err)
	}
	access := func(tenant string) {
		t.Helper()
		c := cloud.Config{Project: config.Project, Location: config.Location, Products: products, BigQuery: client,
			Access: &cloud.Access{Platform: me, Tenants: map[string][]string{tenant: {reader}}}}
		plan, err := cloud.New(c).Plan(ctx)
		if err == nil {
			err = cloud.New(c).Apply(ctx, plan, func(cloud.Step) {})
		}
		if err != nil {
			t.Fatal(err)
		}
		if plan, err = cloud.New(c).Plan(ctx); err != nil || !plan.Empty() {
			t.Errorf("the plan after apply is %v, %v, want an empty one", plan, err)
		}
	}
	access("tenant-a")

	w, err := store.Open(ctx, config, products)
	if err != nil {
		t.Fatal(err)
	}
	suite := warehousetest.New(t, w)
	at := mesh.At(time.Now().Truncate(time.Second))
	row := func(tenant string, at mesh.Instant, value float64) warehousetest.Row {
		return warehousetest.Row{
			"reading_id": warehouse.String(mesh.ReadingID(tenant, "co2", at)), "tenant_id": warehouse.String(tenant),
			"device_id": warehouse.String(tenant), "metric": warehouse.String("co2"), "value": warehouse.Float(value), "unit": warehouse.String("ppm"),
			"observed_at": warehouse.Instant(at), "received_at": warehouse.Instant(at), "revision": warehouse.Int(0),
			"assignment_version": warehouse.Int(1), "event_source": warehouse.String("/test"), "event_id": warehouse.String("1")}
	}
	for range 2 {
		suite.Add(readings, row("tenant-a", at, 400), row("tenant-b", at, 500))
	}

	const port = "SELECT tenant_id FROM iot_telemetry.readings ORDER BY tenant_id"
	if diff := gocmp.Diff([]string{"tenant-a", "tenant-b"}, suite.All(port)); diff != "" {
		t.Errorf("the platform sees: (-want +got)\n%s", diff)
	}
	// It may take minutes until a change of access counts.
	sees := func(want string) {
		t.Helper()
		deadline := time.After(7 * time.Minute)
		again := time.NewTicker(5 * time.Second)
		defer again.Stop()
		for {
			got, err := values(t, others, port)
			if err == nil && gocmp.Equal(got, []string{want}) {
				return
			}
			select {
			case <-deadline:
				t.Fatalf("the reader sees %v, %v, want %s", got, err, want)
			case <-again.C:
			}
		}
	}
	sees("tenant-a")
	for _, d := range datasets {
		for _, o := range d.Objects {
			if d.Port {
				continue
			}
			if _, err := values(t, others, "SELECT 'x' FROM `"+o.FullName()+"` LIMIT 1"); !isCode(err, http.StatusForbidden) {
				t.Errorf("the reader reads %s: %v, want 403", o.FullName(), err)
			}
		}
	}
	// Whether a filter that fails on the row of another tenant tells of it: 500 is
	// there, 600 is not.
	for _, value := range []int{500, 600} {
		_, err := values(t, others, fmt.Sprintf("SELECT tenant_id FROM %s WHERE 1 / (value - %d) < 1", readings, value))
		t.Logf("the reader filters by what fails where a value is %d, which it does not see: %v", value, err)
	}
	access("tenant-b")
	sees("tenant-b")

	t.Run("transactions", func(t *testing.T) { testTransactions(t, config, products) })
	t.Run("windows", func(t *testing.T) { testWindows(t, client) })
	t.Run("days", func(t *testing.T) {
		for i, years := range []int{2010 - time.Now().Year(), 2} {
			_, err := w.Append(t.Context(), batch(readings, fmt.Sprint("days-", i),
				suite.Rows(readings, row("far", mesh.At(time.Now().AddDate(years, 0, 0).Truncate(time.Second)), 1))...))
			t.Logf("a row of %+d years: %v", years, err)
			if err != nil && !mesh.IsPermanent(err) {
				t.Errorf("a row of %+d years would be sent for ever", years)
			}
		}
	})
	t.Run("jobs", func(t *testing.T) { testJobs(t, client, begin) })
}

// TestTransactions has the emulator run what TestProject has a project do. There
// transactions do not conflict.
func TestTransactions(t *testing.T) {
	e := emulator.Start(t)
	testTransactions(t, e.Config(), applied(t, e))
}

// testTransactions has two processes record rows of one table at the same time.
// Each row is recorded once, in the order in which it was appended, and no
// instant is of two transactions.
func testTransactions(t *testing.T, config store.Config, products []contract.Product) {
	const processes, callers, batches = 2, 4, 10
	var all sync.WaitGroup
	for p := range processes {
		w, err := store.Open(t.Context(), config, products)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := w.Close(); err != nil {
				t.Errorf("Close() = %v", err)
			}
		}()
		for c := range callers {
			all.Go(func() {
				for i := range batches {
					id := fmt.Sprint(p, "-", c, "-", i)
					b := batch(customers, id, customer(id, fmt.Sprint(p), int64(i)), customer("shared", "x", int64(i)), customer(id, fmt.Sprint(p), int64(i)))
					if _, err := w.Append(t.Context(), b); err != nil {
						t.Errorf("Append() = %v", err)
					}
				}
			})
		}
	}
	all.Wait()
	client, err := config.NewClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const log = "customers_internal.customers"
	for sql, want := range map[string]int{
		"SELECT COUNT(*) FROM " + log: processes*callers*batches + batches,
		"SELECT COUNT(DISTINCT CONCAT(customer_id, ' ', CAST(version AS STRING))) FROM " + log: processes*callers*batches + batches,
		// Each instant is of one process: what is shared is recorded by any.
		"SELECT COUNT(*) FROM (SELECT 1 FROM " + log + " WHERE customer_id <> 'shared' GROUP BY UNIX_MICROS(recorded_at) HAVING COUNT(DISTINCT name) > 1)": 0,
		// A caller appends when what it appended before is recorded.
		"SELECT COUNT(*) FROM (SELECT recorded_at <= LAG(recorded_at) OVER (PARTITION BY REGEXP_EXTRACT(customer_id, r'^\\d+-\\d+') ORDER BY version) AS back FROM " +
			log + " WHERE customer_id <> 'shared') WHERE back": 0,
	} {
		if got, err := values(t, client, sql); err != nil || !slices.Equal(got, []string{fmt.Sprint(want)}) {
			t.Errorf("%s: %v, %v, want %d", sql, got, err, want)
		}
	}
}

// testWindows shows that a filter on the port of readings is applied before its
// rows are compared: BigQuery reads the days alone, and compares the rows of the
// device alone.
func testWindows(t *testing.T, client *bigquery.Client) {
	const days, devices, rows = 20, 10, 5000 // of a day
	// Not appended: what BigQuery buffers of appended rows is of no day yet.
	if _, err := client.Query(fmt.Sprintf("INSERT INTO iot_telemetry_internal.readings_appended (reading_id, device_id, metric, value, "+
		"observed_at, received_at, recorded_at, revision, assignment_version, content_digest, origin_digest) "+
		"SELECT CONCAT('w', CAST(day AS STRING), '-', CAST(n AS STRING)), CONCAT('window-', CAST(MOD(n, %d) AS STRING)), 'co2', n, "+
		"observed_at, observed_at, observed_at, 0, 0, n, n "+
		"FROM UNNEST(GENERATE_ARRAY(0, %d)) AS day, UNNEST(GENERATE_ARRAY(1, %d)) AS n, "+
		"UNNEST([TIMESTAMP_ADD(TIMESTAMP '2026-01-01 00:00:00+00', INTERVAL day * 86400 + n SECOND)]) AS observed_at",
		devices, days-1, rows)).Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	run := func(where string, dry bool) *bigquery.JobStatistics {
		t.Helper()
		q := client.Query("SELECT SUM(value) FROM " + readings + " WHERE " + where)
		q.DryRun, q.DisableQueryCache = dry, true
		job, err := q.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		status := job.LastStatus()
		if !dry {
			if status, err = job.Wait(t.Context()); err == nil {
				err = status.Err()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("WHERE %s: %d bytes, dry run %v", where, status.Statistics.TotalBytesProcessed, dry)
		return status.Statistics
	}
	const all, day, device = "TRUE", "observed_at >= '2026-01-05' AND observed_at < '2026-01-06'", "device_id = 'window-3' AND metric = 'co2'"
	if all, one := run(all, true).TotalBytesProcessed, run(day, true).TotalBytesProcessed; one == 0 || one > all/2 {
		t.Errorf("a query of one day of %d reads %d bytes of %d", days, one, all)
	}
	// A table of this size is in few blocks, so what tells is how many rows leave
	// the stage that reads them.
	leave := func(s *bigquery.JobStatistics) (most int64) {
		for _, stage := range s.Details.(*bigquery.QueryStatistics).QueryPlan {
			most = max(most, stage.RecordsWritten)
		}
		return most
	}
	if all, one := leave(run(all, false)), leave(run(device, false)); one == 0 || one > all/2 {
		t.Errorf("a query of one device of %d compares %d rows of %d", devices, one, all)
	}
}

// testJobs looks at what the warehouses asked since begin: a version is billed
// nothing, and what BigQuery said of a conflict is logged.
func testJobs(t *testing.T, client *bigquery.Client, begin time.Time) {
	versions, conflicts := 0, 0
	jobs := client.Jobs(t.Context())
	jobs.MinCreationTime, jobs.State = begin, bigquery.Done
	for {
		job, err := jobs.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		config, err := job.Config()
		if err != nil {
			t.Fatal(err)
		}
		query, ok := config.(*bigquery.QueryConfig)
		if !ok {
			continue
		}
		status := job.LastStatus()
		switch {
		case strings.HasPrefix(query.Q, "SELECT (SELECT COUNT(*) FROM "):
			versions++
			if details, ok := status.Statistics.Details.(*bigquery.QueryStatistics); !ok || details.TotalBytesBilled != 0 {
				t.Errorf("%s: %+v, want 0 bytes billed", query.Q, details)
			}
		case strings.HasPrefix(query.Q, "BEGIN TRANSACTION") && status.Err() != nil:
			conflicts++
			t.Logf("a transaction: %v", status.Err())
		}
	}
	if versions == 0 {
		t.Error("no version was asked for")
	}
	t.Logf("%d versions, %d transactions that failed", versions, conflicts)
}

// values runs a statement whose answer is one column.
func values(t *testing.T, client *bigquery.Client, sql string) (list []string, err error) {
	it, err := client.Query(sql).Read(t.Context())
	for err == nil {
		var row []bigquery.Value
		if err = it.Next(&row); err == nil {
			list = append(list, fmt.Sprint(row[0]))
		}
	}
	if errors.Is(err, iterator.Done) {
		err = nil
	}
	return list, err
}
