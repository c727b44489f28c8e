package cloud

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/option"
	"pgregory.net/rapid"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

func load(t testing.TB) []contract.Product {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// project is one that plans are made for; nothing is reached.
func project(t testing.TB, access *Access) *Project {
	t.Helper()
	client, err := bigquery.NewClient(t.Context(), "acme", option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return New(Config{Project: "acme", Location: "EU", Products: load(t), Access: access, BigQuery: client})
}

func compared(t testing.TB, p *Project, have *state) *Plan {
	t.Helper()
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := p.compare(w, have)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestNothingToDo(t *testing.T) {
	p := project(t, &Access{Platform: []string{"ops@example.org"}})
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	if plan := compared(t, p, w.state); !plan.Empty() || len(plan.Refused) > 0 {
		t.Errorf("a project that is as wanted has the plan %+v", plan)
	}
}

// shown is whose rows a person sees: those of the tenants of the person and of
// the person's domain, where a dataset with output ports lets the person in.
func shown(facts map[string]bool, person, dataset string) map[string]bool {
	_, domain, _ := strings.Cut(person, "@")
	in := facts["access "+dataset+": READER userByEmail "+person] || facts["access "+dataset+": READER domain "+domain] ||
		facts["access "+dataset+": READER specialGroup allAuthenticatedUsers"]
	tenants := map[string]bool{}
	for fact := range facts {
		who, ok := strings.CutPrefix(fact, "member ")
		name, tenant, _ := strings.Cut(who, " of ")
		if ok && in && (name == person || name == "domain:"+domain) {
			tenants[tenant] = true
		}
	}
	return tenants
}

func within(a, b map[string]bool) bool {
	for x := range a {
		if !b[x] {
			return false
		}
	}
	return true
}

// facts are the access entries and members of a state, as changes name them.
func facts(s *state) map[string]bool {
	all := map[string]bool{}
	for dataset, entries := range s.access {
		for e := range entries {
			all["access "+dataset+": "+e.String()] = true
		}
	}
	for m := range s.members {
		all["member "+m.Member+" of "+m.Tenant] = true
	}
	return all
}

// Wherever an apply ends, nobody sees more than before it or than after the
// whole of it: somebody who changes tenant never sees the rows of both.
func TestNobodySeesMoreInBetween(t *testing.T) {
	people := []string{"a@x.example", "b@x.example", "c@y.example"}
	members := append([]string{"domain:x.example", "domain:y.example"}, people...)
	tenants := []string{"one", "two", "three"}
	some := rapid.SliceOfNDistinct(rapid.SampledFrom(members), 0, 3, rapid.ID[string])
	access := rapid.Custom(func(r *rapid.T) *Access {
		a := &Access{Tenants: map[string][]string{}, Platform: some.Draw(r, "platform")}
		for _, tenant := range tenants {
			a.Tenants[tenant] = some.Draw(r, tenant)
		}
		return a
	})
	base := project(t, nil)
	rapid.Check(t, func(r *rapid.T) {
		p := *base
		p.config.Access = access.Draw(r, "before")
		before, err := p.want()
		if err != nil {
			r.Fatal(err)
		}
		have := before.state
		for _, by := range some.Draw(r, "let in by hand") {
			have.access["iot_analytics"][entry{"READER", kindUser, by}] = true
			have.members[member{by, rapid.SampledFrom(tenants).Draw(r, "to")}] = true
		}
		if rapid.Bool().Draw(r, "opened by hand") {
			have.access["iot_analytics"][entry{"READER", kindSpecial, "allAuthenticatedUsers"}] = true
		}
		now := facts(have)
		p.config.Access = access.Draw(r, "after")
		after, err := p.want()
		if err != nil {
			r.Fatal(err)
		}
		plan, err := p.compare(after, have)
		if err != nil {
			r.Fatal(err)
		}
		first, last := maps.Clone(now), facts(after.state)
		for _, step := range plan.Steps {
			for _, c := range step.Changes {
				switch c.Action {
				case Create:
					now[c.Kind+" "+c.Name] = true
				case Destroy:
					delete(now, c.Kind+" "+c.Name)
				}
			}
			for _, person := range people {
				got := shown(now, person, "iot_analytics")
				if !within(got, shown(first, person, "iot_analytics")) && !within(got, shown(last, person, "iot_analytics")) {
					r.Errorf("after %v, %s sees %v", step.Changes, person, slices.Sorted(maps.Keys(got)))
				}
			}
		}
		for _, person := range people {
			if diff := cmp.Diff(shown(last, person, "iot_analytics"), shown(now, person, "iot_analytics")); diff != "" {
				r.Errorf("at the end %s sees (-want +got):\n%s", person, diff)
			}
		}
	})
}

// Without an access file people stay as they are, but nobody gets to storage who
// does not see every row.
func TestWithoutAccessFile(t *testing.T) {
	p := project(t, nil)
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	people := entry{"READER", kindUser, "anna@example.org"}
	w.access["iot_telemetry"][people] = true
	w.access["iot_telemetry_internal"][people] = true
	w.access["iot_telemetry"][entry{"READER", kindSpecial, "projectReaders"}] = true
	w.access["iot_telemetry"][entry{"READER", kindMember, "serviceAccount:robot@other.iam.gserviceaccount.com"}] = true
	w.access["iot_telemetry"][entry{"READER", kindMember, "allUsers"}] = true
	w.access["iot_telemetry_internal"][entry{"READER", kindMember, "serviceAccount:robot@other.iam.gserviceaccount.com"}] = true
	w.access["iot_telemetry_internal"][entry{"READER", kindUser, ServiceAccount("customers", "acme")}] = true
	w.access["iot_telemetry_internal"][entry{"READER", kindUser, "ops@example.org"}] = true
	w.access["iot_telemetry_internal"][entry{"READER", kindDomain, "platform.example"}] = true
	w.access["iot_telemetry_internal"][entry{"READER", kindGroup, "platform@example.org"}] = true
	w.access["telemesh_internal"][entry{"READER", kindUser, "ops@example.org"}] = true
	w.members[member{"ops@example.org", everyone}] = true
	w.members[member{"domain:platform.example", everyone}] = true
	w.access["iot_telemetry"][entry{"OWNER", kindSpecial, "projectOwners"}] = true
	w.access["iot_telemetry"][entry{"OWNER", kindUser, "boss@example.org"}] = true
	w.access["iot_telemetry"][entry{"roles/bigquery.metadataViewer", kindUser, "audit@example.org"}] = true
	w.members[member{"anna@example.org", "linden-school"}] = true
	plan := compared(t, p, w.state)
	var got []string
	for _, step := range plan.Steps {
		for _, c := range step.Changes {
			got = append(got, fmt.Sprint(step.Phase, " ", c.Action, " ", c.Kind, " ", c.Name))
		}
	}
	slices.Sort(got)
	want := []string{
		"narrow destroy access iot_telemetry: READER iamMember allUsers",
		"narrow destroy access iot_telemetry: READER specialGroup projectReaders",
		"narrow destroy access iot_telemetry_internal: READER iamMember serviceAccount:robot@other.iam.gserviceaccount.com",
		"narrow destroy access iot_telemetry_internal: READER userByEmail anna@example.org",
		"narrow destroy access iot_telemetry_internal: READER userByEmail customers@acme.iam.gserviceaccount.com",
		"narrow destroy access telemesh_internal: READER userByEmail ops@example.org",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	notes := strings.Join(plan.Notes, "\n")
	for _, left := range []string{"roles/bigquery.metadataViewer userByEmail audit@example.org", "OWNER userByEmail boss@example.org"} {
		if !strings.Contains(notes, left+" is left") {
			t.Errorf("the notes do not name %s, which is left: %q", left, plan.Notes)
		}
	}
	if strings.Contains(notes, "projectOwners") {
		t.Errorf("the notes name those whom a dataset is made with: %q", plan.Notes)
	}
}

// A tenant gets to no dataset without rows of tenants.
func TestTenantsGetToTheirPortsAlone(t *testing.T) {
	p := project(t, &Access{Platform: []string{"ops@example.org"}, Tenants: map[string][]string{"a": {"anna@example.org"}}})
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	lets := func(dataset, who string) bool { return w.access[dataset][entry{"READER", kindUser, who}] }
	for _, d := range w.schema {
		if !d.Port && lets(d.Name, "anna@example.org") {
			t.Errorf("a tenant is let into %s", d.Name)
		}
		if got, want := lets(d.Name, "ops@example.org"), d.Name != "telemesh_internal"; got != want {
			t.Errorf("the platform gets to %s: %t, want %t", d.Name, got, want)
		}
	}
	if !lets("iot_analytics", "anna@example.org") || lets("event_log", "anna@example.org") {
		t.Error("a tenant gets to iot_analytics, and not to event_log")
	}
	analytics := "iot-analytics@acme.iam.gserviceaccount.com"
	for _, dataset := range []string{"iot_telemetry", "iot_metadata", "iot_metadata_internal", "iot_actions_internal", "customers"} {
		if !lets(dataset, analytics) {
			t.Errorf("%s does not get to %s", analytics, dataset)
		}
	}
	if lets("iot_telemetry_internal", analytics) || lets("event_log", analytics) {
		t.Errorf("%s gets to what it does not read", analytics)
	}
}

// A contract's id says nothing of where its table is.
func TestReadersOfAContract(t *testing.T) {
	p := project(t, nil)
	for i, product := range p.config.Products {
		for j := range product.Tables {
			if product.Tables[j].FullName() == "customers.customers" {
				product.Tables[j].ID = "who-we-serve"
			}
		}
		if product.Name == "event-log" {
			p.config.Products[i].Inputs = []string{"who-we-serve", "iot-actions.nothing"}
		}
	}
	w, err := p.want()
	if err != nil {
		t.Fatal(err)
	}
	account := entry{"READER", kindUser, ServiceAccount("event-log", "acme")}
	if !w.access["customers"][account] || w.access["iot_actions"][account] {
		t.Errorf("event-log gets to customers: %t, and to iot_actions: %t", w.access["customers"][account], w.access["iot_actions"][account])
	}
}

func TestServiceAccount(t *testing.T) {
	for project, want := range map[string]string{"acme": "customers@acme.iam.gserviceaccount.com",
		"example.com:acme": "customers@acme.example.com.iam.gserviceaccount.com"} {
		if got := ServiceAccount("customers", project); got != want {
			t.Errorf("ServiceAccount(customers, %s) = %s, want %s", project, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	const day = 24 * time.Hour
	table := func(change func(*bigquery.TableMetadata)) *bigquery.TableMetadata {
		m := &bigquery.TableMetadata{
			Description: "d", Labels: map[string]string{"owner": "iot"},
			Schema: bigquery.Schema{{Name: "k", Type: "STRING", Required: true}, {Name: "v", Type: "FLOAT", Description: "value"},
				{Name: "at", Type: "TIMESTAMP", Required: true}},
			TimePartitioning: &bigquery.TimePartitioning{Type: "DAY", Field: "at", Expiration: 30 * day},
			Clustering:       &bigquery.Clustering{Fields: []string{"k"}},
			TableConstraints: &bigquery.TableConstraints{PrimaryKey: &bigquery.PrimaryKey{Columns: []string{"k"}}},
		}
		change(m)
		return m
	}
	same := func(*bigquery.TableMetadata) {}
	field := func(f *bigquery.FieldSchema) func(*bigquery.TableMetadata) {
		return func(m *bigquery.TableMetadata) { m.Schema = append(m.Schema, f) }
	}
	for name, tt := range map[string]struct {
		have, want func(*bigquery.TableMetadata)
		old        *contract.Table
		fields     []Field
		columns    string // of the update
		expire     *Field
		refused    string
		note       string
	}{
		"same":                 {have: same, want: same},
		"other names of types": {have: func(m *bigquery.TableMetadata) { m.Schema[1].Type = "FLOAT64" }, want: same},
		"labels of others":     {have: func(m *bigquery.TableMetadata) { m.Labels = map[string]string{"owner": "iot", "cost": "x"} }, want: same},
		"label": {have: func(m *bigquery.TableMetadata) { m.Labels = map[string]string{"owner": "me"} }, want: same,
			fields: []Field{{"label owner", "me", "iot"}}},
		"description of a column": {have: func(m *bigquery.TableMetadata) { m.Schema[1].Description = "x" }, want: same,
			fields: []Field{{"column v description", "x", "value"}}, columns: "k! v at!"},
		"new column": {have: same, want: field(&bigquery.FieldSchema{Name: "n", Type: "INTEGER", Required: true}),
			fields: []Field{{"column n", "", "INT64"}}, columns: "k! v at! n"},
		"column by hand": {have: field(&bigquery.FieldSchema{Name: "n", Type: "STRING"}), want: same, note: "column n is left"},
		"required column by nobody": {have: field(&bigquery.FieldSchema{Name: "n", Type: "STRING", Required: true}), want: same,
			refused: "column n is REQUIRED, and no contract that was applied has it"},
		"column that the contract dropped": {have: field(&bigquery.FieldSchema{Name: "n", Type: "STRING", Required: true}), want: same,
			old:  &contract.Table{Columns: []contract.Column{{Name: "n"}}},
			note: "n is left", fields: []Field{{"column n", "STRING REQUIRED", "STRING"}}, columns: "k! v at! n"},
		"retyped": {have: func(m *bigquery.TableMetadata) { m.Schema[1].Type = "STRING" }, want: same,
			refused: "column v is STRING and in the contract FLOAT64"},
		"may be NULL now": {have: same, want: func(m *bigquery.TableMetadata) { m.Schema[0].Required = false },
			fields: []Field{{"column k", "STRING REQUIRED", "STRING"}}, columns: "k v at!"},
		"may be NULL no more": {have: func(m *bigquery.TableMetadata) { m.Schema[0].Required = false }, want: same, note: "column k may be NULL"},
		"kept longer": {have: same, want: func(m *bigquery.TableMetadata) { m.TimePartitioning.Expiration = 60 * day },
			fields: []Field{{"rows kept", "30 days", "60 days"}}},
		"kept for ever": {have: same, want: func(m *bigquery.TableMetadata) { m.TimePartitioning.Expiration = 0 },
			fields: []Field{{"rows kept", "30 days", "for ever"}}},
		"kept shorter": {have: func(m *bigquery.TableMetadata) { m.TimePartitioning.Expiration = 0 }, want: same,
			expire: &Field{"rows kept", "for ever", "30 days"}},
		"other partition": {have: func(m *bigquery.TableMetadata) { m.TimePartitioning.Field = "" }, want: same,
			refused: "it is partitioned by the time of arrival and not by DAY of at"},
		"clustered": {have: same, want: func(m *bigquery.TableMetadata) { m.Clustering.Fields = []string{"k", "v"} },
			fields: []Field{{"clustered by", "k", "k, v"}}},
		"expires": {have: func(m *bigquery.TableMetadata) { m.ExpirationTime = time.Unix(1800000000, 0) }, want: same,
			fields: []Field{{"goes at", "2027-01-15T08:00:00Z", "never"}}},
		"partition filter": {have: func(m *bigquery.TableMetadata) { m.RequirePartitionFilter = true }, want: same,
			fields: []Field{{"partition filter required", "true", "false"}}},
		"key": {have: func(m *bigquery.TableMetadata) { m.TableConstraints = nil }, want: same,
			fields: []Field{{"primary key", "", "k"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &tableChange{name: "d.t", have: table(tt.have), want: table(tt.want), old: tt.old}
			c.compare()
			if diff := cmp.Diff(tt.fields, c.fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.expire, c.expire); diff != "" {
				t.Errorf("expire (-want +got):\n%s", diff)
			}
			var columns []string
			for _, f := range c.update.Schema {
				columns = append(columns, f.Name+map[bool]string{true: "!"}[f.Required])
			}
			if got := strings.Join(columns, " "); got != tt.columns {
				t.Errorf("columns of the update: %q, want %q", got, tt.columns)
			}
			for what, list := range map[string][2]string{"refused": {strings.Join(c.refused, "\n"), tt.refused}, "notes": {strings.Join(c.notes, "\n"), tt.note}} {
				if !strings.Contains(list[0], list[1]) || list[0] != "" && list[1] == "" {
					t.Errorf("%s: %q, want %q", what, list[0], list[1])
				}
			}
		})
	}
}

func TestWrite(t *testing.T) {
	p := &Plan{
		Steps: []Step{{Phase: Narrow, Changes: []Change{{Destroy, "member", "a@b.c of x", nil}}},
			{Phase: Build, Changes: []Change{{Create, "dataset", "d", []Field{{"location", "", "EU"}}},
				{Modify, "table", "d.t", []Field{{"column n", "", "INT64"}, {"label owner", "me", "iot"}, {"primary key", "k", ""}}}}},
			{Phase: Show, Changes: []Change{{Modify, "view", "d.v", []Field{{"query", "SELECT a\nFROM t", "SELECT a\nFROM \x1b[31mu"}}}}}},
		Left:  []Change{{Destroy, "table", "d.old", nil}, {Modify, "table", "d.t", []Field{{"rows kept", "for ever", "30 days"}}}},
		Notes: []string{"n"},
	}
	written := func() string {
		var out bytes.Buffer
		if err := p.Write(&out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := `- member a@b.c of x
+ dataset d
    location: EU
~ table d.t
    column n: + INT64
    label owner: me → iot
    primary key: - k
~ view d.v
    query, line 2: FROM t → FROM  [31mu
left: table d.old: would be destroyed with --destroy
left: table d.t: rows kept for ever → 30 days, and the rows beyond it would be destroyed, with --destroy
note: n
`
	if diff := cmp.Diff(want+"\n1 to create, 2 to change, 1 to destroy\n", written()); diff != "" {
		t.Errorf("Write (-want +got):\n%s", diff)
	}
	p.Refused = []string{"one\ntwo"}
	if diff := cmp.Diff(want+"refused: one\n    two\n", written()); diff != "" {
		t.Errorf("Write of a refused plan (-want +got):\n%s", diff)
	}
}

// Of a long line that part is printed in which it differs.
func TestWriteLongLine(t *testing.T) {
	long := strings.Repeat("a, ", 100)
	p := &Plan{Steps: []Step{{Phase: Show, Changes: []Change{{Modify, "view", "d.v", []Field{{"query", "SELECT " + long + "x FROM t", "SELECT " + long + "y FROM t"}}}}}}}
	var out bytes.Buffer
	if err := p.Write(&out); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "a, x FROM t → …") || !strings.Contains(got, "a, y FROM t\n") || len(got) > 300 {
		t.Errorf("Write: %s", got)
	}
}

// What was deployed is read back from the records as it was.
func TestRecords(t *testing.T) {
	list := load(t)
	all, err := records(list)
	if err != nil {
		t.Fatal(err)
	}
	back, err := deployed(all)
	if err != nil {
		t.Fatal(err)
	}
	if changes := contract.Compare(back, list); len(changes) > 0 {
		t.Errorf("what was recorded differs from what was loaded: %v", changes)
	}
	for name := range all {
		all[name] = record{"1.0.0", gone}
	}
	if back, err := deployed(all); err != nil || len(back) > 0 {
		t.Errorf("deployed of what is gone = %v, %v", back, err)
	}
}
