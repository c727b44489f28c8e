package cloud

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"cloud.google.com/go/bigquery"
	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
)

func apply(t *testing.T, p *Project) *Plan {
	t.Helper()
	plan := planOf(t, p)
	if err := p.Apply(t.Context(), plan, func(Step) {}); err != nil {
		t.Fatal(err)
	}
	return plan
}

func planOf(t *testing.T, p *Project) *Plan {
	t.Helper()
	plan, err := p.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// An apply that breaks at any of its writes, before or after it took effect,
// shows nobody more than the state before or the state after does, and no view
// with another query than it was authorized with; the next apply ends what it
// began.
func TestApplyBreaksAnywhere(t *testing.T) {
	f := newFake(t)
	client := f.client(t)
	some := func() []contract.Product {
		return slices.DeleteFunc(load(t), func(p contract.Product) bool { return p.Name != "iot-metadata" })
	}
	before := New(Config{Project: "acme", Location: "EU", Products: some(), BigQuery: client, Access: &Access{
		Platform: []string{"ops@example.org"},
		Tenants:  map[string][]string{"linden-school": {"anna@example.org", "domain:linden.example"}}}})
	after := New(Config{Project: "acme", Location: "EU", Products: some(), BigQuery: client, Access: &Access{
		Platform: []string{"carol@example.org"},
		Tenants:  map[string][]string{"harbour-offices": {"anna@example.org", "ops@example.org"}, "linden-school": {"ben@linden.example"}}}})
	const port = "iot_metadata.placements"
	for _, product := range after.config.Products {
		for i := range product.Tables {
			if c := &product.Tables[i]; c.FullName() == port {
				c.Purpose += " Checked by hand."
				last := len(c.Columns) - 1 // another query of the view
				c.Columns[last], c.Columns[last-1] = c.Columns[last-1], c.Columns[last]
			}
		}
	}
	people := []string{"anna@example.org", "ben@linden.example", "carol@example.org", "ops@example.org", "eve@example.org"}
	type sight map[string]map[string]bool
	state := func() (*state, sight) {
		w, err := before.want()
		if err != nil {
			t.Fatal(err)
		}
		s, err := before.read(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		seen := sight{}
		for _, person := range people {
			seen[person] = shown(facts(s), person, "iot_metadata")
		}
		return s, seen
	}
	apply(t, before)
	_, first := state()
	wrote := f.writes
	apply(t, after)
	count := f.writes - wrote
	_, last := state()
	if count < 10 || cmp.Equal(first, last) {
		t.Fatalf("%d writes, and people see %v and then %v: there is little to break", count, first, last)
	}
	if wrote = f.writes; !planOf(t, after).Empty() || f.writes != wrote {
		t.Fatalf("a plan after apply is not empty, or writes")
	}
	// There and back again, each write once with its effect and once without.
	from, to, target := after, before, first
	for n := 1; n <= count; n++ {
		for _, late := range []bool{false, true, false, true} {
			was, _ := state()
			f.fail, f.late = f.writes+n, late
			err := to.Apply(t.Context(), planOf(t, to), func(Step) {})
			if stopped := new(Error); !errors.As(err, &stopped) || stopped.Left == 0 {
				t.Fatalf("write %d of %d fails, and Apply = %v", n, count, err)
			}
			now, seen := state()
			for person, tenants := range seen {
				if !within(tenants, first[person]) && !within(tenants, last[person]) {
					t.Errorf("write %d of %d failed (late: %v): %s sees %v, before %v and after %v", n, count, late, person, tenants, first[person], last[person])
				}
			}
			authorized := now.access["iot_metadata_internal"][entry{Kind: kindView, Name: port}]
			if is, old := now.tables[port].ViewQuery, was.tables[port].ViewQuery; is != old && authorized &&
				slices.ContainsFunc(planOf(t, to).Steps, func(s Step) bool { return s.Phase < Authorize }) {
				t.Errorf("write %d of %d failed: the view is authorized before all that it could show is narrowed and built", n, count)
			}
			apply(t, to)
			if _, seen := state(); !cmp.Equal(target, seen) {
				t.Errorf("write %d failed, and after the next apply people see (-want +got):\n%s", n, cmp.Diff(target, seen))
			}
			if plan := planOf(t, to); !plan.Empty() {
				t.Errorf("write %d failed, and after the next apply there is left to do: %v", n, names(plan))
			}
			if from, to, target = to, from, first; to == after {
				target = last
			}
		}
	}
}

// A view is closed while it has another query than before.
func TestViewIsClosedWhileItChanges(t *testing.T) {
	f := newFake(t)
	p := New(Config{Project: "acme", Location: "EU", Products: load(t), BigQuery: f.client(t)})
	apply(t, p)
	view := f.objects["datasets/iot_analytics/tables/readings"]["view"].(map[string]any)
	view["query"] = "SELECT 1"
	var got []string
	for _, step := range planOf(t, p).Steps {
		for _, c := range step.Changes {
			got = append(got, step.Phase.String()+" "+c.Kind+" "+c.Name)
		}
	}
	want := []string{
		"narrow access telemesh_internal: view iot_analytics.readings",
		"narrow access iot_analytics_internal: view iot_analytics.readings",
		"show view iot_analytics.readings",
		"authorize access telemesh_internal: view iot_analytics.readings",
		"authorize access iot_analytics_internal: view iot_analytics.readings",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// What was set by hand to go by itself is kept.
func TestNothingExpires(t *testing.T) {
	f := newFake(t)
	p := New(Config{Project: "acme", Location: "EU", Products: load(t), BigQuery: f.client(t)})
	apply(t, p)
	const dataset = "datasets/iot_metadata_internal"
	f.objects[dataset]["defaultTableExpirationMs"], f.objects[dataset]["defaultPartitionExpirationMs"] = "86400000", "172800000"
	f.objects[dataset+"/tables/placements"]["expirationTime"] = "1800000000000"
	f.objects["datasets/iot_telemetry_internal/tables/readings_appended"]["requirePartitionFilter"] = true
	f.objects["datasets/iot_metadata/tables/placements"]["expirationTime"] = "1800000000000"
	want := []string{
		"change dataset iot_metadata_internal, new tables kept: 1 days → for ever, new partitions kept: 2 days → for ever",
		"change table iot_metadata_internal.placements, goes at: 2027-01-15T08:00:00Z → never",
		"change table iot_telemetry_internal.readings_appended, partition filter required: true → false",
		"change view iot_metadata.placements, goes at: 2027-01-15T08:00:00Z → never",
		"change access telemesh_internal: view iot_metadata.placements, authorized: before the view changed → again",
		"change access iot_metadata_internal: view iot_metadata.placements, authorized: before the view changed → again",
	}
	if diff := cmp.Diff(want, names(apply(t, p))); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if again := planOf(t, p); !again.Empty() {
		t.Errorf("after apply there is left to do: %v", names(again))
	}
}

// The log of a table that nothing is made from any more is not to be dropped.
func TestTableWhereAViewIsWanted(t *testing.T) {
	p := project(t, nil)
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	have := *w.state
	have.tables = maps.Clone(w.tables)
	log := *w.tables["iot_metadata_internal.placements"]
	log.Type = bigquery.RegularTable
	have.tables["iot_telemetry_internal.readings"] = &log
	have.tables["iot_metadata_internal.placements"] = w.tables["iot_telemetry_internal.readings"]
	refused := compared(t, p, &have).Refused
	slices.Sort(refused)
	want := []string{
		"iot_metadata_internal.placements is there and is no table but a view, which has no rows: drop it",
		"iot_telemetry_internal.readings is there and is no view but a table: rename it, which keeps its rows: ALTER TABLE iot_telemetry_internal.readings RENAME TO readings_before",
	}
	if diff := cmp.Diff(want, refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

// A dataset that somebody else has put a table into is not destroyed.
func TestDatasetThatOthersUse(t *testing.T) {
	f := newFake(t)
	p := New(Config{Project: "acme", Location: "EU", Products: load(t), BigQuery: f.client(t)})
	apply(t, p)
	f.objects["datasets/customers/tables/mine"] = object{"tableReference": object{"projectId": "acme", "datasetId": "customers", "tableId": "mine"}}
	p.config.Products = slices.DeleteFunc(p.config.Products, func(p contract.Product) bool { return p.Name != "event-log" })
	p.config.Destroy = true
	plan := planOf(t, p)
	got := names(plan)
	if slices.Contains(got, "destroy dataset customers") || !slices.Contains(got, "destroy dataset customers_internal") {
		t.Errorf("the plan is %q", got)
	}
	if !strings.Contains(strings.Join(plan.Notes, "\n"), "dataset customers is left") {
		t.Errorf("the notes %q do not name the dataset", plan.Notes)
	}
}

// What a product says as a whole is told once, whatever tables it has, and a
// contract is named where something of it differs.
func TestChangesOfAProduct(t *testing.T) {
	f := newFake(t)
	p := New(Config{Project: "acme", Location: "EU", Products: load(t), BigQuery: f.client(t)})
	apply(t, p)
	customers := &p.config.Products[slices.IndexFunc(p.config.Products, func(p contract.Product) bool { return p.Name == "customers" })]
	customers.Version, customers.Owner = "1.1.0", "sales-team"
	customers.Events = append(customers.Events, "dev.telemesh.customers.merged.v1")
	customers.Tables[0].Latency *= 2
	said := func(plan *Plan) (lines []string) {
		for _, step := range plan.Steps {
			for _, c := range step.Changes {
				for _, field := range c.Fields {
					if step.Phase == Record {
						lines = append(lines, fmt.Sprintf("%s %s %s: %s: %s", c.Action, c.Kind, c.Name, field.Name, field.New))
					}
				}
			}
		}
		return lines
	}
	want := []string{
		"change product customers: version: 1.1.0",
		"change product customers: owner: sales-team",
		"change product customers: output port added: dev.telemesh.customers.merged.v1",
		"change contract customers.customers: service level changed: latency 2m0s, was 1m0s",
	}
	if diff := cmp.Diff(want, said(apply(t, p))); diff != "" {
		t.Errorf("what is said of contracts (-want +got):\n%s", diff)
	}
	customers.Tables[0].Columns[1], customers.Tables[0].Columns[2] = customers.Tables[0].Columns[2], customers.Tables[0].Columns[1]
	want = []string{"change contract customers.customers: recorded: again: nothing differs that readers rely on"}
	if diff := cmp.Diff(want, said(apply(t, p))); diff != "" {
		t.Errorf("what is said of columns in another order (-want +got):\n%s", diff)
	}
	if again := planOf(t, p); !again.Empty() {
		t.Errorf("after apply there is left to do: %v", names(again))
	}
}

// A view that loses columns is refused, as far as BigQuery tells what it will
// have, unless it says so by its version.
func TestViewLosesColumns(t *testing.T) {
	f := newFake(t)
	p := New(Config{Project: "acme", Location: "EU", Products: load(t), BigQuery: f.client(t)})
	apply(t, p)
	const name = "iot_analytics.co2_evolution"
	columns := func(pairs ...string) object {
		var fields []any
		for pair := range slices.Chunk(pairs, 2) {
			fields = append(fields, object{"name": pair[0], "type": pair[1]})
		}
		return object{"fields": fields}
	}
	f.objects["datasets/iot_analytics/tables/co2_evolution"]["schema"] = columns("tenant_id", "STRING", "co2", "FLOAT", "room", "STRING")
	var view *contract.View
	for _, product := range p.config.Products {
		for i := range product.Views {
			if product.Views[i].FullName() == name {
				view = &product.Views[i]
			}
		}
	}
	view.SQL += "\n-- otherwise"
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	// What it reads may have to be changed first.
	if plan := planOf(t, p); len(plan.Refused) > 0 {
		t.Errorf("without an answer the plan is refused: %q", plan.Refused)
	}
	query := w.tables[name].ViewQuery
	f.dry = map[string]object{query: columns("tenant_id", "STRING", "co2", "FLOAT64", "room", "STRING", "floor", "STRING")}
	if plan := planOf(t, p); len(plan.Refused) > 0 {
		t.Errorf("a view that gains a column is refused: %q", plan.Refused)
	}
	f.dry[query] = columns("tenant_id", "STRING", "co2", "INTEGER")
	refused := strings.Join(planOf(t, p).Refused, "\n")
	for _, want := range []string{name + ": type changed: column co2: INT64, was FLOAT64", name + ": column removed: column room",
		"raise the version of iot-analytics/product.odps.yaml, output port " + name + " from 1.0.0 to 2.0.0"} {
		if !strings.Contains(refused, want) {
			t.Errorf("refused: %q, want %q", refused, want)
		}
	}
	view.Version = "2.0.0"
	if plan := planOf(t, p); len(plan.Refused) > 0 {
		t.Errorf("a major version is refused: %q", plan.Refused)
	}
	// What somebody did to the view by hand is no promise.
	view.Version, view.SQL = "1.0.0", strings.TrimSuffix(view.SQL, "\n-- otherwise")
	f.objects["datasets/iot_analytics/tables/co2_evolution"]["view"].(map[string]any)["query"] = "SELECT 1 AS room"
	if w, err = p.want(); err != nil {
		t.Fatal(err)
	}
	f.dry[w.tables[name].ViewQuery] = columns("tenant_id", "STRING")
	if plan := planOf(t, p); len(plan.Refused) > 0 || plan.Empty() {
		t.Errorf("a view that was changed by hand is refused: %q", plan.Refused)
	}
}

// Rows go with Destroy alone.
func TestShorterRetention(t *testing.T) {
	f := newFake(t)
	p := New(Config{Project: "acme", Location: "EU", Products: load(t), BigQuery: f.client(t)})
	apply(t, p)
	for _, product := range p.config.Products {
		for i := range product.Tables {
			if c := &product.Tables[i]; c.FullName() == "event_log.events" {
				c.Version = "2.0.0"
				c.Retention /= 2
			}
		}
	}
	const table = "datasets/event_log_internal/tables/events_appended"
	kept := func() any { return f.objects[table]["timePartitioning"].(map[string]any)["expirationMs"] }
	was := kept()
	if plan := apply(t, p); len(plan.Left) != 1 || kept() != was {
		t.Errorf("without Destroy, left is %v, and rows are kept for %v and then %v ms", plan.Left, was, kept())
	}
	p.config.Destroy = true
	if apply(t, p); kept() == was {
		t.Errorf("with Destroy rows are kept for %v ms as before", was)
	}
}

// A product that breaks its promise is refused, and what it says of it is shown.
func TestContractsAreHeld(t *testing.T) {
	f := newFake(t)
	p := New(Config{Project: "acme", Location: "EU", Products: load(t), BigQuery: f.client(t)})
	apply(t, p)
	for _, product := range p.config.Products {
		for i := range product.Tables {
			if c := &product.Tables[i]; c.FullName() == "customers.customers" {
				c.Columns = slices.DeleteFunc(c.Columns, func(c contract.Column) bool { return c.Name == "sector" })
			}
		}
	}
	plan := planOf(t, p)
	if len(plan.Refused) != 1 || !strings.Contains(plan.Refused[0], "sector") {
		t.Errorf("refused: %q", plan.Refused)
	}
	var said []string
	for _, step := range plan.Steps {
		for _, c := range step.Changes {
			for _, field := range c.Fields {
				if c.Kind == "contract" {
					said = append(said, c.Name+": "+field.Name)
				}
			}
		}
	}
	if diff := cmp.Diff([]string{"customers.customers: column removed"}, said); diff != "" {
		t.Errorf("what the plan says of contracts (-want +got):\n%s", diff)
	}
}
