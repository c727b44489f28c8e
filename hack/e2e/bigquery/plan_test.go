package bigquery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cloud.google.com/go/bigquery"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/option"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/cloud"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/products"
)

// wire is between the client and the emulator, and counts requests that write.
type wire struct {
	writes atomic.Int64
	before func(*http.Request) // nil, or called before a request goes on
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.before != nil {
		w.before(r)
	}
	// A query that reads is a POST as well; plans list rows instead.
	if r.Method != http.MethodGet {
		w.writes.Add(1)
	}
	return http.DefaultTransport.RoundTrip(r)
}

// deployment is a project that plans are made of.
type deployment struct {
	*emulator.Emulator
	wire   *wire
	client *bigquery.Client
	cloud.Config
}

// newDeployment gives an empty project of an emulator, of which some of the
// products are wanted, or all. Few are a fraction of the emulator's memory.
func newDeployment(t *testing.T, some ...string) *deployment {
	t.Helper()
	e := emulator.Start(t)
	d := &deployment{Emulator: e, wire: &wire{}}
	client, err := bigquery.NewClient(t.Context(), e.Project, option.WithEndpoint(e.URL), option.WithHTTPClient(&http.Client{Transport: d.wire}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	d.client = client
	d.Config = cloud.Config{Project: e.Project, Location: "EU", Products: load(t, some...), BigQuery: client,
		Access: &cloud.Access{Platform: []string{"ops@example.org"}, Tenants: map[string][]string{"linden-school": {"anna@example.org", "domain:linden.example"}}}}
	return d
}

func (d *deployment) plan(t *testing.T) *cloud.Plan {
	t.Helper()
	p, err := cloud.New(d.Config).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (d *deployment) apply(t *testing.T) *cloud.Plan {
	t.Helper()
	p := d.plan(t)
	if err := cloud.New(d.Config).Apply(t.Context(), p, func(cloud.Step) {}); err != nil {
		t.Fatal(err)
	}
	return p
}

func text(t *testing.T, p *cloud.Plan) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// The first plan lists everything, and once it is applied nothing is left to do.
func TestApplyTwice(t *testing.T) {
	d := newDeployment(t)
	first := text(t, d.plan(t))
	for _, want := range []string{
		"+ dataset telemesh_internal\n", "+ table iot_telemetry_internal.readings_appended\n", "+ view iot_telemetry.readings\n",
		"+ access iot_telemetry_internal: view iot_telemetry.readings\n", "+ access iot_telemetry: READER userByEmail anna@example.org\n",
		"+ member anna@example.org of linden-school\n", "+ contract iot_telemetry.readings\n",
	} {
		if !strings.Contains(first, want) {
			t.Errorf("the first plan has no line %q:\n%s", want, first)
		}
	}
	d.apply(t)
	t.Log(d.wire.writes.Load(), "writes")
	if again := d.plan(t); !again.Empty() || len(again.Left)+len(again.Refused)+len(again.Notes) > 1 {
		t.Fatalf("after apply the plan is:\n%s", text(t, again))
	}
	port, err := d.client.Dataset("iot_telemetry").Table("readings").Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range port.Schema {
		if f.Description == "" {
			t.Errorf("column %s of the output port has no description", f.Name)
		}
	}
	before := d.wire.writes.Load()
	d.apply(t)
	if writes := d.wire.writes.Load() - before; writes != 0 {
		t.Errorf("the second apply made %d writes", writes)
	}
}

// with is the same project with another thing wanted of it.
func (d *deployment) with(change func(*cloud.Config)) *deployment {
	other := *d
	change(&other.Config)
	return &other
}

// load reads the products anew, to be changed.
func load(t *testing.T, some ...string) []contract.Product {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(p contract.Product) bool { return len(some) > 0 && !slices.Contains(some, p.Name) })
}

// What somebody did by hand is shown, as what it was, and mended.
func TestDrift(t *testing.T) {
	ctx := t.Context()
	d := newDeployment(t, "iot-telemetry", "iot-metadata", "customers")
	d.apply(t)
	dataset := d.client.Dataset("iot_telemetry")
	labels := bigquery.DatasetMetadataToUpdate{Description: "mine"}
	labels.SetLabel("owner", "me")
	metadata, err := dataset.Update(ctx, labels, "")
	if err != nil {
		t.Fatal(err)
	}
	opened := append(metadata.Access, &bigquery.AccessEntry{Role: bigquery.ReaderRole, EntityType: bigquery.SpecialGroupEntity, Entity: "allAuthenticatedUsers"})
	if _, err := dataset.Update(ctx, bigquery.DatasetMetadataToUpdate{Access: opened}, ""); err != nil {
		t.Fatal(err)
	}
	internal := d.client.Dataset("iot_telemetry_internal")
	stored, err := internal.Metadata(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var closed []*bigquery.AccessEntry
	for _, a := range stored.Access {
		if a.EntityType != bigquery.ViewEntity || a.View.TableID != "readings" {
			closed = append(closed, a)
		}
	}
	if len(closed) == len(stored.Access) {
		t.Fatal("iot_telemetry.readings is not authorized")
	}
	if _, err := internal.Update(ctx, bigquery.DatasetMetadataToUpdate{Access: closed}, ""); err != nil {
		t.Fatal(err)
	}
	table := internal.Table("readings_appended")
	is, err := table.Metadata(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.Update(ctx, bigquery.TableMetadataToUpdate{Schema: append(is.Schema, &bigquery.FieldSchema{Name: "scratch", Type: bigquery.StringFieldType})}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := d.client.Dataset("iot_telemetry").Table("readings_as_of").Update(ctx, bigquery.TableMetadataToUpdate{ViewQuery: "SELECT 1 AS one"}, ""); err != nil {
		t.Fatal(err)
	}
	if err := d.client.Dataset("customers").Table("rejected_rows").Delete(ctx); err != nil {
		t.Fatal(err)
	}
	d.run(t, "INSERT INTO telemesh_internal.members (member, tenant_id) VALUES ('eve@example.org', '*')")
	d.run(t, "DELETE FROM telemesh_internal.members WHERE member = 'anna@example.org'")
	if err := d.client.Dataset("iot_metadata").Table("scratch").Create(ctx, &bigquery.TableMetadata{Schema: bigquery.Schema{{Name: "a", Type: bigquery.StringFieldType}}}); err != nil {
		t.Fatal(err)
	}

	got := text(t, d.plan(t))
	for _, want := range []string{
		"- access iot_telemetry: READER specialGroup allAuthenticatedUsers\n",
		"- member eve@example.org of *\n",
		"~ dataset iot_telemetry\n    description: mine → ",
		"    label owner: me → iot-team\n",
		"+ view customers.rejected_rows\n",
		"~ view iot_telemetry.readings_as_of\n    query, line 1: SELECT 1 AS one → ",
		"+ access iot_telemetry_internal: view iot_telemetry.readings\n",
		"+ member anna@example.org of linden-school\n",
		"note: table iot_telemetry_internal.readings_appended: column scratch is left",
		"note: table iot_metadata.scratch is left: Telemesh did not make it",
		// A view that changes has to be authorized again.
		"- access customers_internal: view customers.rejected_rows\n",
		"+ access customers_internal: view customers.rejected_rows\n",
		"\n8 to create, 2 to change, 7 to destroy\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the plan has no %q", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
	d.apply(t)
	if again := d.plan(t); !again.Empty() {
		t.Errorf("after apply the plan is:\n%s", text(t, again))
	}
}

func (d *deployment) run(t *testing.T, sql string) {
	t.Helper()
	job, err := d.client.Query(sql).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status, err := job.Wait(t.Context()); err != nil || status.Err() != nil {
		t.Fatalf("%s: %v %v", sql, err, status.Err())
	}
}

// A contract that takes a column away is refused; with a new major version the
// port loses the column, and storage keeps it for the rows that have it.
func TestBreakingChange(t *testing.T) {
	d := newDeployment(t, "customers")
	d.apply(t)
	without := func(version string) *deployment {
		return d.with(func(c *cloud.Config) {
			c.Products = load(t, "customers")
			customers := table(t, c.Products, "customers.customers")
			customers.Version = version
			customers.Columns = slices.DeleteFunc(customers.Columns, func(c contract.Column) bool { return c.Name == "name" || c.Name == "sector" })
		})
	}
	same := without("1.0.0")
	refused := same.plan(t)
	if got := text(t, refused); !strings.Contains(got, "column sector") || !strings.Contains(got, "raise the version of") || len(refused.Refused) == 0 {
		t.Errorf("a plan without the column is not refused:\n%s", got)
	}
	before := d.wire.writes.Load()
	if err := cloud.New(same.Config).Apply(t.Context(), refused, func(cloud.Step) {}); err == nil || d.wire.writes.Load() != before {
		t.Errorf("Apply of a refused plan = %v, and %d writes", err, d.wire.writes.Load()-before)
	}
	next := without("2.0.0")
	got := text(t, next.apply(t))
	for _, want := range []string{"column name: STRING REQUIRED → STRING", "~ view customers.customers\n", "column sector is left", "version: 1.0.0 → 2.0.0"} {
		if !strings.Contains(got, want) {
			t.Errorf("the plan of the major version has no %q:\n%s", want, got)
		}
	}
	if again := next.plan(t); !again.Empty() || len(again.Refused) > 0 {
		t.Errorf("after apply the plan is:\n%s", text(t, again))
	}
}

// What a view would have is asked of the warehouse.
func TestViewLosesColumns(t *testing.T) {
	d := newDeployment(t, "iot-telemetry", "iot-metadata")
	d.apply(t)
	with := func(query string) *deployment {
		return d.with(func(c *cloud.Config) {
			c.Products = load(t, "iot-telemetry", "iot-metadata")
			for i := range c.Products {
				for j := range c.Products[i].Views {
					if v := &c.Products[i].Views[j]; v.Name == "readings_as_of" {
						v.SQL = fmt.Sprintf(query, v.SQL)
					}
				}
			}
		})
	}
	if p := with("SELECT *, 1 AS one FROM (%s)").plan(t); len(p.Refused) > 0 || p.Empty() {
		t.Errorf("a view that gains a column is refused:\n%s", text(t, p))
	}
	got := strings.Join(with("SELECT * EXCEPT (metric) REPLACE (1 AS device_id) FROM (%s)").plan(t).Refused, "\n")
	for _, want := range []string{"iot_telemetry.readings_as_of: column removed: column metric", "iot_telemetry.readings_as_of: type changed: column device_id: INT64, was STRING"} {
		if !strings.Contains(got, want) {
			t.Errorf("refused: %q, want %q", got, want)
		}
	}
}

// BigQuery keeps the type of a column.
func TestRetypedColumn(t *testing.T) {
	d := newDeployment(t, "customers")
	d.apply(t)
	p := d.with(func(c *cloud.Config) {
		c.Products = load(t, "customers")
		customers := table(t, c.Products, "customers.customers")
		customers.Version = "2.0.0"
		for i, column := range customers.Columns {
			if column.Name == "name" {
				customers.Columns[i].Type = contract.Int64
			}
		}
	}).plan(t)
	if got := strings.Join(p.Refused, "\n"); !strings.Contains(got, "column name is STRING REQUIRED and in the contract INT64 REQUIRED; BigQuery cannot change that where there are rows") {
		t.Errorf("refused: %q", got)
	}
}

// Who is let in by somebody else between reading the access of a dataset and
// writing it stays.
func TestAccessThatOthersGiveMeanwhile(t *testing.T) {
	d := newDeployment(t, "customers")
	d.apply(t)
	d.Access.Tenants["linden-school"] = []string{"ben@linden.example"}
	other, err := d.Emulator.Config().NewClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	customers := other.Dataset("customers")
	meanwhile := sync.OnceFunc(func() {
		metadata, err := customers.Metadata(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		owner := &bigquery.AccessEntry{Role: bigquery.OwnerRole, EntityType: bigquery.UserEmailEntity, Entity: "boss@example.org"}
		if _, err := customers.Update(t.Context(), bigquery.DatasetMetadataToUpdate{Access: append(metadata.Access, owner)}, metadata.ETag); err != nil {
			t.Error(err)
		}
	})
	d.wire.before = func(r *http.Request) {
		if r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/datasets/customers") {
			meanwhile()
		}
	}
	d.apply(t)
	metadata, err := customers.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	who := map[string]bool{}
	for _, a := range metadata.Access {
		who[string(a.Role)+" "+a.Entity] = true
	}
	if !who["OWNER boss@example.org"] || !who["READER ben@linden.example"] || who["READER anna@example.org"] {
		t.Errorf("access is %v", who)
	}
}

// The command says by its exit code whether there is something to do, and asks
// before it does it.
func TestPlanAndApplyCommands(t *testing.T) {
	e := emulator.Start(t)
	command := telemesh(t)
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "products", "customers"), os.DirFS(filepath.Join(dataset.Root(t), "products", "customers"))); err != nil {
		t.Fatal(err)
	}
	run := func(exit int, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), command, append(args, "--products", filepath.Join(dir, "products"),
			"--warehouse", fmt.Sprintf("bigquery://%s?location=EU&endpoint=%s&storage=%s", e.Project, e.URL, e.Storage))...)
		out, err := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != exit {
			t.Fatalf("telemesh %v: exit code %d (%v), want %d\n%s", args, got, err, exit, out)
		}
		return string(out)
	}
	expect := func(out string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in:\n%s", want, out)
			}
		}
	}
	access := filepath.Join(dataset.Root(t), "docs", "sample", "access.yaml")
	expect(run(2, "plan", "--access", access), "+ dataset customers\n", "0 to change, 0 to destroy\n", "note: PUBSUB_EMULATOR_HOST is not set")
	expect(run(1, "apply", "--access", access), "hint: add --yes")
	run(0, "apply", "--dry-run")
	expect(run(2, "plan"), "+ dataset customers\n", "note: no access file")
	expect(run(0, "apply", "--access", access, "--yes"), "done: create dataset customers\n")
	expect(run(0, "plan", "--access", access), "no changes\n")
	expect(run(0, "plan"), "no changes\n") // members stay
	var plan struct{ Steps []any }
	if err := json.Unmarshal([]byte(run(0, "plan", "--access", access, "--format", "json")), &plan); err != nil || plan.Steps == nil {
		t.Errorf("the plan as JSON is %v, %v", plan, err)
	}
	expect(run(1, "plan", "--location", "US"), "refused: dataset customers is in EU and not in US", "hint: ")
}

func table(t *testing.T, list []contract.Product, name string) *contract.Table {
	t.Helper()
	for i := range list {
		for j := range list[i].Tables {
			if list[i].Tables[j].FullName() == name {
				return &list[i].Tables[j]
			}
		}
	}
	t.Fatalf("no table %s", name)
	return nil
}

// What no product names any more goes with Destroy alone.
func TestDestroy(t *testing.T) {
	d := newDeployment(t, "event-log", "customers")
	d.apply(t)
	less := d.with(func(c *cloud.Config) { c.Products = load(t, "customers") })
	p := less.apply(t)
	var left []string
	for _, c := range p.Left {
		left = append(left, c.Kind+" "+c.Name)
	}
	want := []string{
		"view event_log.events",
		"view event_log_internal.dead_letter_outcomes", "table event_log_internal.dead_letter_outcomes_appended",
		"view event_log_internal.dead_letters", "table event_log_internal.dead_letters_appended",
		"view event_log_internal.events", "table event_log_internal.events_appended",
		"dataset event_log", "dataset event_log_internal",
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	if _, err := d.client.Dataset("event_log_internal").Table("events_appended").Metadata(t.Context()); err != nil {
		t.Errorf("without Destroy the table is gone: %v", err)
	}
	less.Destroy = true
	less.apply(t)
	if _, err := d.client.Dataset("event_log_internal").Metadata(t.Context()); err == nil {
		t.Error("with Destroy the dataset stays")
	}
	if again := less.plan(t); !again.Empty() || len(again.Left) > 0 {
		t.Errorf("after apply the plan is:\n%s", text(t, again))
	}
}

// A dataset that Telemesh did not make is not taken over.
func TestDatasetOfOthers(t *testing.T) {
	d := newDeployment(t, "customers")
	if err := d.client.Dataset("customers").Create(t.Context(), &bigquery.DatasetMetadata{Location: "EU"}); err != nil {
		t.Fatal(err)
	}
	p := d.plan(t)
	if len(p.Refused) != 1 || !strings.Contains(p.Refused[0], "dataset customers is there and has no label managed-by=telemesh") {
		t.Errorf("refused: %q", p.Refused)
	}
}
