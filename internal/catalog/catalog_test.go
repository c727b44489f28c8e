package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/brokers"
	"github.com/telemesh/telemesh/config"
	"github.com/telemesh/telemesh/internal/access"
	"github.com/telemesh/telemesh/internal/catalog"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/lineage"
	"github.com/telemesh/telemesh/internal/manifest"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/topology"
	"github.com/telemesh/telemesh/internal/topology/manifests"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
	"github.com/telemesh/telemesh/triggers"
)

func load(t *testing.T) []contract.Product {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func shipped(t *testing.T) *catalog.Catalog {
	t.Helper()
	m, err := manifests.Read(manifests.Folder{FS: brokers.FS}, manifests.Folder{FS: triggers.FS}, manifests.Folder{FS: config.FS})
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.New(load(t), m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Every output port of the descriptors is there, with its columns, and each of
// them can be subscribed to.
func TestEveryPort(t *testing.T) {
	c := shipped(t)
	n := 0
	for _, p := range c.Products {
		for _, port := range p.Ports {
			n++
			if c.Port(port.Name) != port || port.Purpose == "" || port.Product != p {
				t.Errorf("port %s: %+v", port.Name, port)
			}
			if (len(port.Columns) > 0) != (port.Kind != catalog.Event) || (port.SQL("") == "") != (port.Kind == catalog.Event) {
				t.Errorf("port %s of kind %s has %d columns and the query %q", port.Name, port.Kind, len(port.Columns), port.SQL(""))
			}
			if port.Kind == catalog.Event && len(port.Brokers) == 0 {
				t.Errorf("events %s pass no Broker", port.Name)
			}
			for _, column := range port.Columns {
				if column.Classification == "" || port.Kind == catalog.Table && column.Purpose == "" {
					t.Errorf("column %s of %s: %+v", column.Name, port.Name, column)
				}
			}
		}
	}
	if n < 20 {
		t.Errorf("%d ports", n)
	}
	if c.Port("iot_telemetry_internal.rejected") != nil || c.Product("nothing") != nil {
		t.Error("what is no output port or no product is there")
	}
	if internal := c.Product("iot-telemetry").Internal(); len(internal) != 1 || internal[0].Name != "rejected" {
		t.Errorf("kept for itself: %v", internal)
	}
}

func TestConsumers(t *testing.T) {
	c := shipped(t)
	for port, want := range map[string][]string{
		"iot_actions.actions":                {"function iot/iot-actions-port", "product iot-analytics", "view iot_analytics.actions_placed", "view iot_analytics.actions_timeline", "view iot_analytics.co2_with_actions"},
		"dev.telemesh.telemetry.enriched.v1": {"Trigger analytics/analytics-join", "Trigger iot/analytics", "Trigger iot/iot-telemetry-sink"},
		"iot_analytics.co2_evolution":        {"view iot_analytics.co2_with_actions"},
		"event_log.events":                   nil,
	} {
		var got []string
		for _, consumer := range c.Port(port).Consumers {
			got = append(got, consumer.By+" "+consumer.Name)
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("consumers of %s (-want +got)\n%s", port, diff)
		}
	}
	for _, in := range c.Product("iot-telemetry").Inputs {
		if known := in.Port != nil; known != (in.Name == "iot-metadata.placements") {
			t.Errorf("input %s: %v", in.Name, in.Port)
		}
	}
	enriched := c.Port("dev.telemesh.telemetry.enriched.v1")
	if len(enriched.Stored) != 1 || enriched.Stored[0].FullName() != "iot_telemetry.readings" || len(enriched.Makers) != 2 {
		t.Errorf("enriched readings are made by %v and kept in %v", enriched.Makers, enriched.Stored)
	}
}

// A view says of a column what is said of the one that it shows, and is as
// confidential as what its own are made of.
func TestColumnsOfViews(t *testing.T) {
	port := shipped(t).Port("iot_analytics.co2_with_actions")
	columns := map[string]catalog.Column{}
	for _, column := range port.Columns {
		columns[column.Name] = column
	}
	room := columns["room"] // of co2_evolution, which has it of readings
	if room.Purpose != "Room of the building." || room.Type != contract.String || room.Classification != "confidential" {
		t.Errorf("room: %+v", room)
	}
	if co2 := columns["co2_at_action"]; co2.Purpose != "" || co2.Classification != "confidential" || len(co2.Made.From) == 0 {
		t.Errorf("co2_at_action: %+v", co2)
	}
	if actions := columns["actions"]; actions.Classification != "internal" || actions.Made.Same != (lineage.Column{}) {
		t.Errorf("actions: %+v", actions)
	}
	if port.Owned != "tenant_id" {
		t.Errorf("rows are owned by %q", port.Owned)
	}
}

func TestSearch(t *testing.T) {
	c := shipped(t)
	names := func(hits []catalog.Hit) (all []string) {
		for _, hit := range hits {
			if hit.Port == nil {
				all = append(all, hit.Product.Name)
			} else {
				all = append(all, hit.Port.Name)
			}
		}
		return all
	}
	for query, want := range map[string]string{ // the best hit
		"placements":           "iot_metadata.placements",
		"co2_evolution":        "iot_analytics.co2_evolution",
		"CO2 Evolution":        "iot_analytics.co2_evolution",
		"telemetry enriched":   "dev.telemesh.telemetry.enriched.v1",
		"tenancy.repaired":     "dev.telemesh.tenancy.repaired.v1",
		"minutes_since_action": "iot_analytics.readings",
		"iot-analytics":        "iot-analytics",
		"crm-team":             "customers",
		"event log":            "event-log",
	} {
		hits := names(c.Search(query))
		if len(hits) == 0 || hits[0] != want {
			// A product and its port may be as good.
			if len(hits) < 2 || hits[1] != want && hits[0] != want {
				t.Errorf("%q finds %v, want %s first", query, hits, want)
			}
		}
	}
	for _, query := range []string{"", "  ", "...", "placements xyzzy"} {
		if hits := c.Search(query); hits != nil {
			t.Errorf("%q finds %v", query, names(hits))
		}
	}
	for _, hit := range c.Search("outside_co2") {
		if hit.Port != nil && hit.Port.Name == "iot_metadata.placements" {
			if len(hit.Columns) == 0 || !slices.ContainsFunc(hit.Columns, func(c catalog.Column) bool { return c.Name == "outside_co2" }) {
				t.Errorf("columns %v", hit.Columns)
			}
			return
		}
	}
	t.Error("outside_co2 does not find the placements")
}

// What the page offers to copy is taken by a cluster as it is, and takes the
// events that it says.
func TestSubscriptionsAreTriggers(t *testing.T) {
	c := shipped(t)
	n := 0
	for _, p := range c.Products {
		for _, port := range p.Ports {
			for _, broker := range port.Brokers {
				for _, tenant := range []string{"", "o'ffice: \"north\"\n# \\x"} {
					n++
					text := port.Subscription("my-function", broker, tenant, topology.Ref{Namespace: "other", Name: "my-function"})
					files := fstest.MapFS{"a.yaml": {Data: []byte(text)}}
					set, err := manifest.Load(manifest.Folder{Name: "copied", FS: files})
					if err != nil || len(set.Triggers) != 1 {
						t.Errorf("%s: %v\n%s", port.Name, err, text)
						continue
					}
					m, err := set.Topology()
					if err != nil {
						t.Fatal(err)
					}
					trigger := m.Triggers[0]
					attributes := map[string]string{"type": port.Name, "tenantid": tenant}
					takes := func(name, value string) topology.Verdict {
						changed := map[string]string{}
						for k, v := range attributes {
							changed[k] = v
						}
						changed[name] = value
						return trigger.Takes(topology.Event{Attributes: changed, All: true}, nil)
					}
					ofTenant := port.Port.Tenant != "" && tenant != ""
					if trigger.Broker != broker || takes("type", port.Name) != topology.Yes || takes("type", "other") != topology.No || (takes("tenantid", "another") == topology.No) != ofTenant {
						t.Errorf("%s of %q takes other events than these:\n%s", port.Name, tenant, text)
					}
				}
			}
		}
	}
	if n == 0 {
		t.Error("no port has events")
	}
}

// row has cells by the names of their columns.
type row struct {
	table *contract.Table
	cells map[string]warehouse.Cell
}

func (r row) Cells(dst []warehouse.Cell) []warehouse.Cell {
	for _, c := range r.table.Cells() {
		cell, ok := r.cells[c.Name]
		if !ok && c.Required && c.Name != contract.RecordedAt {
			cell = map[contract.Type]warehouse.Cell{
				contract.String: warehouse.String("x"), contract.Int64: warehouse.Int(1), contract.Bool: warehouse.Bool(false), contract.Timestamp: warehouse.Instant(0),
			}[c.Type]
		}
		dst = append(dst, cell)
	}
	return dst
}

func store(t *testing.T, c *catalog.Catalog, w warehouse.Warehouse, table, event string, rows ...map[string]warehouse.Cell) {
	t.Helper()
	b := warehouse.Batch{Table: table, EventSource: "/test", EventID: event}
	for _, cells := range rows {
		b.Rows = append(b.Rows, row{c.Port(table).Table, cells})
	}
	if _, err := w.Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func reading(id, tenant string, received time.Time) map[string]warehouse.Cell {
	return map[string]warehouse.Cell{
		"reading_id": warehouse.String(id), "tenant_id": warehouse.String(tenant), "device_id": warehouse.String("device of " + tenant),
		"metric": warehouse.String("co2"), "value": warehouse.Float(500),
		"observed_at": warehouse.Instant(mesh.At(received)), "received_at": warehouse.Instant(mesh.At(received)),
	}
}

var (
	admin  = access.Viewer{Role: access.Admin}
	school = access.Viewer{Role: access.Tenant, Tenants: []string{"school"}}
)

func TestFactsAreOfTheViewer(t *testing.T) {
	c, db, now := shipped(t), duckdbtest.Open(t), time.Now()
	live := catalog.NewLive(access.New(db, load(t)), time.Now)
	port := c.Port("iot_telemetry.readings")
	store(t, c, db, port.Name, "1", reading("r1", "school", now.Add(-2*time.Second)), reading("r2", "office", now.Add(-2*time.Second)), reading("r3", "office", now.Add(-4*time.Second)))
	for _, test := range []struct {
		viewer access.Viewer
		rows   int64
	}{{admin, 3}, {school, 1}, {access.Viewer{Role: access.Tenant, Tenants: []string{"nobody"}}, 0}} {
		facts := live.Facts(t.Context(), test.viewer, port)
		if facts.Rows.Err != nil || facts.Rows.Value != test.rows {
			t.Errorf("%+v sees %d rows, %v; want %d", test.viewer, facts.Rows.Value, facts.Rows.Err, test.rows)
		}
		r := facts.Recent
		if r.Err != nil || r.Value.Timed != test.rows || r.Value.Newest.IsZero() != (test.rows == 0) || r.Value.By != "recorded_at" {
			t.Errorf("%+v: %+v", test.viewer, r)
		}
		if test.rows > 0 && (r.Value.P50 < time.Second || r.Value.P50 > time.Minute || r.Value.P95 < r.Value.P50) {
			t.Errorf("%+v: rows took %s and %s", test.viewer, r.Value.P50, r.Value.P95)
		}
		sample := live.Sample(t.Context(), test.viewer, port)
		if sample.Err != nil || int64(len(sample.Value.Rows)) != test.rows || strings.Contains(fmt.Sprint(sample.Value.Rows), "office") != (test.rows == 3) {
			t.Errorf("%+v sees the sample %v, %v", test.viewer, sample.Value.Rows, sample.Err)
		}
	}
	// The log is nobody's of the tenants.
	facts := live.Facts(t.Context(), school, c.Port("event_log.events"))
	if !errors.Is(facts.Rows.Err, access.ErrForbidden) || !errors.Is(facts.Recent.Err, access.ErrForbidden) {
		t.Errorf("a tenant is told of the log: %+v", facts)
	}
}

// All that stands on the pages to copy, and all facts, are of SQL that runs.
func TestEveryQueryRuns(t *testing.T) {
	c, db := shipped(t), duckdbtest.Open(t)
	live := catalog.NewLive(access.New(db, load(t)), time.Now)
	for _, p := range c.Products {
		for _, port := range p.Ports {
			if port.Kind == catalog.Event {
				continue
			}
			for _, tenant := range []string{"", "o'ffice"} {
				rows, err := db.Query(t.Context(), port.SQL(tenant))
				if err != nil {
					t.Errorf("%s\n%v", port.SQL(tenant), err)
					continue
				}
				if len(rows.Columns) != len(port.Columns) {
					t.Errorf("%s gives %d columns, want %d", port.Name, len(rows.Columns), len(port.Columns))
				}
				for i, column := range rows.Columns {
					if of := port.Columns[i]; of.Name != column.Name || of.Type != "" && of.Type != column.Type {
						t.Errorf("%s: column %s %s, want %s %s", port.Name, column.Name, column.Type, of.Name, of.Type)
					}
				}
			}
			facts, sample := live.Facts(t.Context(), admin, port), live.Sample(t.Context(), admin, port)
			if facts.Rows.Err != nil || facts.Recent.Err != nil || sample.Err != nil {
				t.Errorf("%s: %v, %v, %v", port.Name, facts.Rows.Err, facts.Recent.Err, sample.Err)
			}
			results, err := live.Check(t.Context(), admin, port)
			if err != nil || len(results.All) != len(port.Rules()) {
				t.Fatalf("%s: %v, %v", port.Name, results, err)
			}
			for _, r := range results.All {
				if r.Err != nil || !r.Kept() {
					t.Errorf("%s, without rows: %s: %v, %v", port.Name, r.Rule.Purpose, r.Number, r.Err)
				}
			}
		}
	}
}

func TestRulesThatAreBroken(t *testing.T) {
	c, db, now := shipped(t), duckdbtest.Open(t), time.Now()
	clock := now
	live := catalog.NewLive(access.New(db, load(t)), func() time.Time { return clock })
	port := c.Port("iot_telemetry.readings")
	good, odd := reading("0123456789abcdef0123456789abcdef", "school", now), reading("not hexadecimal", "school", now)
	odd["quality"] = warehouse.String("strange")
	delete(odd, "value")
	store(t, c, db, port.Name, "1", good, odd)
	want := map[string]float64{
		"Each key comes once, whatever was sent twice, late or out of order.": 0,
		"No reading is without a value.":                                      1,
		"32 hexadecimal digits.":                                              1,
		"Only the flags above.":                                               1,
	}
	results, err := live.Check(t.Context(), admin, port)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results.All {
		if number, ok := want[r.Rule.Purpose]; !ok || r.Err != nil || r.Number != number || r.Kept() != (number == 0) {
			t.Errorf("%s: %v, %v, kept: %v; want %v", r.Rule.Purpose, r.Number, r.Err, r.Kept(), number)
		}
	}
	if len(results.All) != len(want) || !results.At.Equal(now) {
		t.Errorf("%d results at %s", len(results.All), results.At)
	}
	// Asked again at once it is the same; a minute later it is counted again.
	if again, err := live.Check(t.Context(), admin, port); err != nil || again != results || live.Checked(admin, port) != results {
		t.Errorf("counted again at once: %v", err)
	}
	clock = clock.Add(2 * time.Minute)
	if again, err := live.Check(t.Context(), admin, port); err != nil || again == results || !again.At.Equal(clock) {
		t.Errorf("not counted again: %v", err)
	}
	// The numbers are of all tenants.
	if _, err := live.Check(t.Context(), school, port); !errors.Is(err, access.ErrForbidden) || live.Checked(school, port) != nil {
		t.Errorf("a tenant has rules counted: %v", err)
	}
}

// The newest verdicts of each rule are known to who sees the rows of all tenants.
func TestHistory(t *testing.T) {
	c, db, now := shipped(t), duckdbtest.Open(t), time.Now().UTC().Truncate(time.Second)
	live := catalog.NewLive(access.New(db, load(t)), func() time.Time { return now })
	const port, rule, other = "iot_telemetry.readings", "reading_id.pattern", "quality.validValues"
	verdict := func(rule string, hours int, kept any) map[string]warehouse.Cell {
		cells := map[string]warehouse.Cell{"port": warehouse.String(port), "rule": warehouse.String(rule), "checked_at": warehouse.Instant(mesh.At(now.Add(-time.Duration(hours) * time.Hour)))}
		switch kept := kept.(type) {
		case bool:
			cells["kept"], cells["counted"] = warehouse.Bool(kept), warehouse.Float(float64(hours))
		case string:
			cells["error"] = warehouse.String(kept)
		}
		return cells
	}
	rows := []map[string]warehouse.Cell{verdict(other, 1, true), verdict(other, 2, false), verdict("gone", 1, false), verdict(rule, 24*40, true)}
	for hours := range 30 {
		rows = append(rows, verdict(rule, hours, hours >= 3)) // the last three did not keep it
	}
	rows = append(rows, verdict("table.duplicateValues.reading_id", 2, "no answer"))
	store(t, c, db, "mesh_metrics.quality_results", "1", rows...)

	history := live.History(t.Context(), admin)
	if history.Err != nil {
		t.Fatal(history.Err)
	}
	got := history.Value[port]
	if n := len(got[rule]); n != catalog.MostVerdicts {
		t.Errorf("%d verdicts of a rule, want %d", n, catalog.MostVerdicts)
	}
	if diff := cmp.Diff([]catalog.Verdict{{Rule: other, At: now.Add(-time.Hour), Number: 1, Kept: true}, {Rule: other, At: now.Add(-2 * time.Hour), Number: 2}}, got[other]); diff != "" {
		t.Errorf("verdicts (-want +got)\n%s", diff)
	}
	broken := []string{}
	for _, b := range c.Broken(history.Value) {
		broken = append(broken, fmt.Sprintf("%s %s %v %q since %s", b.Port.Name, b.Rule.ID, b.Verdict.Number, b.Verdict.Err, now.Sub(b.Since)))
	}
	slices.Sort(broken)
	if diff := cmp.Diff([]string{port + ` reading_id.pattern 0 "" since 2h0m0s`, port + ` table.duplicateValues.reading_id 0 "no answer" since 2h0m0s`}, broken); diff != "" {
		t.Errorf("rules that are not kept (-want +got)\n%s", diff)
	}
	if kept, checked, at := c.Port(port).Kept(got); kept != 1 || checked != 3 || !at.Equal(now.Add(-2*time.Hour)) {
		t.Errorf("%d of %d rules kept, the oldest at %s", kept, checked, at)
	}
	one, err := admin.As("school")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []access.Viewer{school, one} {
		if h := live.History(t.Context(), v); !errors.Is(h.Err, access.ErrForbidden) || h.Value != nil {
			t.Errorf("who sees rows of a tenant knows %v, %v", h.Value, h.Err)
		}
	}
}

// slow answers nothing until it is told to.
type slow struct {
	warehouse.Warehouse
	asked  chan string
	answer chan struct{}
}

func (s *slow) Query(ctx context.Context, sql string) (*warehouse.Rows, error) {
	s.asked <- sql
	select {
	case <-s.answer:
		return &warehouse.Rows{All: func(yield func([]any, error) bool) { yield([]any{int64(7)}, nil) }}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Who leaves is not waited for, and what was asked goes on for the next.
func TestFactsOutliveWhoAsked(t *testing.T) {
	c := shipped(t)
	w := &slow{asked: make(chan string, 10), answer: make(chan struct{})}
	live := catalog.NewLive(access.New(w, load(t)), time.Now)
	port := c.Port("customers.customers") // nothing says when a row came: one query
	gone, leave := context.WithCancel(t.Context())
	left := make(chan catalog.Facts)
	go func() { left <- live.Facts(gone, admin, port) }()
	<-w.asked
	leave()
	if facts := <-left; !errors.Is(facts.Rows.Err, context.Canceled) {
		t.Errorf("who left got %+v", facts)
	}
	next := make(chan catalog.Facts)
	go func() { next <- live.Facts(t.Context(), admin, port) }()
	close(w.answer)
	if facts := <-next; facts.Rows.Err != nil || facts.Rows.Value != 7 {
		t.Errorf("the next got %+v", facts)
	}
	if len(w.asked) != 0 {
		t.Errorf("the warehouse was asked again: %s", <-w.asked)
	}
}
