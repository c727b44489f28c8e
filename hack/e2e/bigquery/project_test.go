package bigquery_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/impersonate"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/telemesh/telemesh/internal/cloud"
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
	ctx := t.Context()
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
	row := func(tenant string) warehousetest.Row {
		return warehousetest.Row{
			"reading_id": warehouse.String(mesh.ReadingID(tenant, "co2", at)), "tenant_id": warehouse.String(tenant),
			"device_id": warehouse.String(tenant), "metric": warehouse.String("co2"), "value": warehouse.Float(400), "unit": warehouse.String("ppm"),
			"observed_at": warehouse.Instant(at), "received_at": warehouse.Instant(at), "revision": warehouse.Int(0),
			"assignment_version": warehouse.Int(1), "event_source": warehouse.String("/test"), "event_id": warehouse.String("1")}
	}
	suite.Add("iot_telemetry.readings", row("tenant-a"), row("tenant-b"))
	suite.Add("iot_telemetry.readings", row("tenant-a"), row("tenant-b"))

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
	access("tenant-b")
	sees("tenant-b")
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
