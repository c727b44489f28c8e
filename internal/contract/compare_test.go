package contract_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
)

// at gives a table of products.
func at(t *testing.T, list []contract.Product, name string) *contract.Table {
	t.Helper()
	for i := range list {
		for j := range list[i].Tables {
			if table := &list[i].Tables[j]; table.FullName() == name {
				return table
			}
		}
	}
	t.Fatalf("no table %s", name)
	return nil
}

// kinds gives what the changes are about; a breaking one has a mark.
func kinds(changes []contract.Change) (all []string) {
	for _, c := range changes {
		kind := c.What
		if c.Breaking {
			kind += "!"
		}
		all = append(all, kind)
	}
	return all
}

// Each change is seen, and so is its reverse. What breaks is refused until the
// major version is raised, in the file that the error names.
func TestCompare(t *testing.T) {
	const (
		customers  = "customers.customers"
		readings   = "iot_telemetry.readings"
		joined     = "iot_analytics.readings"
		log        = "event_log.events"
		file       = "customers/customers.odcs.yaml"
		descriptor = "customers/product.odps.yaml"
	)
	column := func(table *contract.Table, name string) *contract.Column {
		i := slices.IndexFunc(table.Columns, func(c contract.Column) bool { return c.Name == name })
		return &table.Columns[i]
	}
	zero, one, two := 0.0, 1.0, 2.0
	rule := func(table *contract.Table, metric string) *contract.Rule {
		i := slices.IndexFunc(table.Quality, func(r contract.Rule) bool { return r.Metric == metric })
		return &table.Quality[i]
	}
	for _, test := range []struct {
		name, table    string
		change         func(*contract.Table)
		there, back    []string // what is found on the way there and back
		file, backFile string   // the file whose version has to be raised; empty: none
	}{
		{"nothing", customers, func(*contract.Table) {}, nil, nil, "", ""},
		{"column removed", customers, func(c *contract.Table) { c.Columns = slices.Delete(c.Columns, 2, 3) },
			[]string{"column removed!"}, []string{"column added"}, file, ""},
		{"required column", customers, func(c *contract.Table) {
			c.Columns = append(c.Columns, contract.Column{Name: "city", Type: contract.String, Required: true})
		}, []string{"required added!"}, []string{"column removed!"}, file, file},
		{"renamed", customers, func(c *contract.Table) { column(c, "sector").Name = "branch" },
			[]string{"column removed!", "column added"}, []string{"column removed!", "column added"}, file, file},
		{"type", customers, func(c *contract.Table) { column(c, "sector").Type = contract.JSON },
			[]string{"type changed!"}, []string{"type changed!"}, file, file},
		{"wider type", customers, func(c *contract.Table) { column(c, "version").Type = contract.Float64 },
			[]string{"type changed!"}, []string{"type changed!"}, file, file},
		{"unit", customers, func(c *contract.Table) { column(c, "version").Unit = "s" },
			[]string{"unit changed"}, []string{"unit changed!"}, "", file},
		{"another unit", "iot_metadata.placements", func(c *contract.Table) { column(c, "outside_co2").Unit = "%" },
			[]string{"unit changed!"}, []string{"unit changed!"}, "iot-metadata/placements.odcs.yaml", "iot-metadata/placements.odcs.yaml"},
		{"required", customers, func(c *contract.Table) { column(c, "sector").Required = true },
			[]string{"required added!"}, []string{"required dropped"}, file, ""},
		{"classification", customers, func(c *contract.Table) { column(c, "name").Classification = "public" },
			[]string{"classification lowered!"}, []string{"classification raised"}, file, ""},
		{"description of a column", customers, func(c *contract.Table) { column(c, "name").Purpose = "?" },
			[]string{"description changed"}, []string{"description changed"}, "", ""},
		{"description", customers, func(c *contract.Table) { c.Purpose = "?" },
			[]string{"description changed"}, []string{"description changed"}, "", ""},
		{"order of the columns", customers, func(c *contract.Table) { slices.Reverse(c.Columns) }, nil, nil, "", ""},
		{"primary key", customers, func(c *contract.Table) { c.Key = []string{"customer_id", "name"} },
			[]string{"primary key changed!"}, []string{"primary key changed!"}, file, file},
		{"columns that the key is made of", readings, func(c *contract.Table) { c.KeyOf = append(slices.Clone(c.KeyOf), "received_at") },
			[]string{"primary key changed!"}, []string{"primary key changed"}, "iot-telemetry/readings.odcs.yaml", ""},
		{"partition", log, func(c *contract.Table) { c.Time = "recorded_at" },
			[]string{"partition changed!"}, []string{"partition changed!"}, "event-log/events.odcs.yaml", "event-log/events.odcs.yaml"},
		{"append only", log, func(c *contract.Table) { c.AppendOnly = false },
			[]string{"what counts changed!"}, []string{"what counts changed!"}, "event-log/events.odcs.yaml", "event-log/events.odcs.yaml"},
		{"clustering", customers, func(c *contract.Table) { c.Clustered = []string{"sector"} },
			[]string{"clustering changed"}, []string{"clustering changed"}, "", ""},
		{"order", customers, func(c *contract.Table) { c.Order = "" },
			[]string{"what counts changed!"}, []string{"what counts changed!"}, file, file},
		{"tombstones", customers, func(c *contract.Table) { c.Tombstones = false },
			[]string{"what counts changed!"}, []string{"what counts changed!"}, file, file},
		{"provenance", customers, func(c *contract.Table) { column(c, "sector").Provenance = true },
			[]string{"what counts changed!"}, []string{"what counts changed!"}, file, file},
		{"knowledge", joined, func(c *contract.Table) { c.Knowledge = "" },
			[]string{"what counts changed!"}, []string{"what counts changed!"}, "iot-analytics/readings.odcs.yaml", "iot-analytics/readings.odcs.yaml"},
		{"made from", joined, func(c *contract.Table) { c.MadeFrom = c.MadeFrom[:1] },
			[]string{"madeFrom changed!"}, []string{"madeFrom changed!"}, "iot-analytics/readings.odcs.yaml", "iot-analytics/readings.odcs.yaml"},
		{"made from the same", joined, func(c *contract.Table) {
			c.MadeFrom = slices.Clone(c.MadeFrom)
			slices.Reverse(c.MadeFrom)
		}, nil, nil, "", ""},
		{"tenant", customers, func(c *contract.Table) { c.Tenant = "name" },
			[]string{"tenant column changed!"}, []string{"tenant column changed!"}, file, file},
		{"role", customers, func(c *contract.Table) { c.Roles, c.Tenant = c.Roles[1:], "" },
			[]string{"role removed!"}, []string{"role added"}, file, ""},
		{"rule", customers, func(c *contract.Table) { c.Quality = nil },
			[]string{"quality rule loosened"}, []string{"quality rule tightened!"}, "", file},
		{"more allowed", customers, func(c *contract.Table) { rule(c, "duplicateValues").Max = &two },
			[]string{"quality rule loosened"}, []string{"quality rule tightened!"}, "", file},
		{"any number allowed", customers, func(c *contract.Table) { rule(c, "duplicateValues").Max = nil },
			[]string{"quality rule loosened"}, []string{"quality rule tightened!"}, "", file},
		{"another number allowed", customers, func(c *contract.Table) { r := rule(c, "duplicateValues"); r.Min, r.Max = &one, &two },
			[]string{"quality rule tightened!"}, []string{"quality rule tightened!"}, file, file},
		{"more values valid", readings, func(c *contract.Table) {
			r := &c.Quality[len(c.Quality)-1]
			r.Values = append(slices.Clone(r.Values), "guessed")
		}, []string{"quality rule loosened"}, []string{"quality rule tightened!"}, "", "iot-telemetry/readings.odcs.yaml"},
		{"other values valid", readings, func(c *contract.Table) { c.Quality[len(c.Quality)-1].Values = []string{"no_time", "guessed"} },
			[]string{"quality rule tightened!"}, []string{"quality rule tightened!"}, "iot-telemetry/readings.odcs.yaml", "iot-telemetry/readings.odcs.yaml"},
		{"pattern", readings, func(c *contract.Table) { rule(c, "invalidValues").Pattern = "^[0-9a-f]+$" },
			[]string{"quality rule tightened!"}, []string{"quality rule tightened!"}, "iot-telemetry/readings.odcs.yaml", "iot-telemetry/readings.odcs.yaml"},
		{"layout of a query", readings, func(c *contract.Table) { r := rule(c, ""); r.Query = strings.ReplaceAll(r.Query, " ", "\n ") }, nil, nil, "", ""},
		{"description of a rule", customers, func(c *contract.Table) { c.Quality[0].Purpose = "?" },
			[]string{"description changed"}, []string{"description changed"}, "", ""},
		{"column with a rule", customers, func(c *contract.Table) {
			c.Columns = append(c.Columns, contract.Column{Name: "city", Type: contract.String})
			c.Quality = append(c.Quality, contract.Rule{Column: "city", Metric: "invalidValues", Values: []string{"Zwolle"}, Min: &zero, Max: &zero})
		}, []string{"column added"}, []string{"column removed!"}, "", file},
		{"column that is never NULL", customers, func(c *contract.Table) {
			c.Columns = append(c.Columns, contract.Column{Name: "city", Type: contract.String})
			c.Quality = append(c.Quality, contract.Rule{Column: "city", Metric: "nullValues", Min: &zero, Max: &zero})
		}, []string{"column added", "quality rule tightened!"}, []string{"column removed!"}, file, file},
		{"retention", readings, func(c *contract.Table) { c.Retention-- },
			[]string{"retention shortened!"}, []string{"service level changed"}, "iot-telemetry/readings.odcs.yaml", ""},
		{"an end of the retention", customers, func(c *contract.Table) { c.Retention = time.Hour },
			[]string{"retention shortened!"}, []string{"service level changed"}, file, ""},
		{"latency", customers, func(c *contract.Table) { c.Latency, c.Freshness = time.Hour, time.Hour },
			[]string{"service level changed", "service level changed"}, []string{"service level changed", "service level changed"}, "", ""},
		{"no output port", customers, func(c *contract.Table) { c.Schema += "_internal" },
			[]string{"output port removed!", "table added"}, []string{"table removed", "output port added"}, descriptor, ""},
	} {
		old, changed := load(t), load(t)
		table := at(t, changed, test.table)
		test.change(table)
		for _, way := range []struct {
			name, file string
			old, new   []contract.Product
			want       []string
		}{{"there", test.file, old, changed, test.there}, {"back", test.backFile, changed, old, test.back}} {
			changes := contract.Compare(way.old, way.new)
			if diff := cmp.Diff(way.want, kinds(changes)); diff != "" {
				t.Errorf("%s, %s: (-want +got)\n%s", test.name, way.name, diff)
			}
			raised := func(version string) []contract.Product {
				var list []contract.Product
				b, err := json.Marshal(way.new)
				if err == nil {
					err = json.Unmarshal(b, &list)
				}
				if err != nil {
					t.Fatal(err)
				}
				for i := range list {
					list[i].Version = version
					for j := range list[i].Tables {
						list[i].Tables[j].Version = version
					}
				}
				return list
			}
			err := contract.Check(changes)
			switch {
			case way.file == "" && err != nil:
				t.Errorf("%s, %s: Check() = %v", test.name, way.name, err)
			case way.file != "" && (err == nil || !strings.Contains(err.Error(), "raise the version of "+way.file+" from 1.0.0 to 2.0.0")):
				t.Errorf("%s, %s: Check() = %v, want an error that says to raise the version of %s to 2.0.0", test.name, way.name, err, way.file)
			}
			if err := contract.Check(contract.Compare(way.old, raised("1.9.9"))); (err == nil) != (way.file == "") {
				t.Errorf("%s, %s: Check() with a minor version = %v", test.name, way.name, err)
			}
			if err := contract.Check(contract.Compare(way.old, raised("2.0.0"))); err != nil {
				t.Errorf("%s, %s: Check() with a major version = %v", test.name, way.name, err)
			}
		}
	}
}

// Whole products, views and events.
func TestCompareProducts(t *testing.T) {
	for _, test := range []struct {
		name        string
		change      func([]contract.Product) []contract.Product
		there, back []string
	}{
		{"product", func(list []contract.Product) []contract.Product { return list[1:] },
			[]string{"product removed!"}, []string{"product added"}},
		{"event", func(list []contract.Product) []contract.Product { list[0].Events = list[0].Events[1:]; return list },
			[]string{"output port removed!"}, []string{"output port added"}},
		{"view", func(list []contract.Product) []contract.Product { list[3].Views = list[3].Views[1:]; return list },
			[]string{"output port removed!"}, []string{"output port added"}},
		{"query", func(list []contract.Product) []contract.Product { list[3].Views[0].SQL += "\nLIMIT 1"; return list },
			[]string{"query changed"}, []string{"query changed"}},
		{"whose a view's row is", func(list []contract.Product) []contract.Product { list[3].Views[0].Tenant = ""; return list },
			[]string{"tenant column changed!"}, []string{"tenant column changed"}},
		{"table", func(list []contract.Product) []contract.Product { list[0].Tables = list[0].Tables[1:]; return list },
			[]string{"output port removed!"}, []string{"output port added"}},
		{"internal table", func(list []contract.Product) []contract.Product {
			list[5].Tables = slices.DeleteFunc(list[5].Tables, func(t contract.Table) bool { return t.Name == "rejected" })
			return list
		}, []string{"table removed"}, []string{"table added"}},
		{"description", func(list []contract.Product) []contract.Product { list[0].Purpose = "?"; return list },
			[]string{"description changed"}, []string{"description changed"}},
	} {
		old, changed := load(t), test.change(load(t))
		if diff := cmp.Diff(test.there, kinds(contract.Compare(old, changed))); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.back, kinds(contract.Compare(changed, old))); diff != "" {
			t.Errorf("%s, back: (-want +got)\n%s", test.name, diff)
		}
	}

	// That a product is gone is for who destroys to say: it has no version to raise.
	list := load(t)
	if err := contract.Check(contract.Compare(list, list[1:])); err != nil {
		t.Errorf("Check() of a product that is gone = %v", err)
	}
	gone := load(t)
	gone[0].Events = nil
	err := contract.Check(contract.Compare(list, gone))
	if err == nil || strings.Count(err.Error(), "dev.telemesh.customers.") != 3 ||
		strings.Count(err.Error(), "raise the version of customers/product.odps.yaml from 1.0.0 to 2.0.0") != 1 {
		t.Errorf("Check() = %v, want an error that names the three events, and the file once", err)
	}
}

// Readers of a view lose columns, and columns of a type.
func TestCompareViews(t *testing.T) {
	was := []contract.Column{{Name: "a", Type: contract.String}, {Name: "b", Type: contract.Float64}, {Name: "c", Type: contract.Bool}}
	is := []contract.Column{{Name: "d", Type: contract.String}, {Name: "b", Type: contract.Int64}, {Name: "a", Type: contract.String}}
	view := &contract.View{Schema: "iot_analytics", Name: "rooms", Version: "1.2.0"}
	next := *view
	next.Version = "2.0.0"
	err := contract.Check(contract.CompareViews("iot-analytics", view, view, was, is))
	const want = `breaking changes need a new major version:
iot_analytics.rooms: type changed: column b: INT64, was FLOAT64
iot_analytics.rooms: column removed: column c
raise the version of iot-analytics/product.odps.yaml, output port iot_analytics.rooms from 1.2.0 to 2.0.0, or take them back`
	if err == nil || err.Error() != want {
		t.Errorf("Check() = %v, want %s", err, want)
	}
	if err := contract.Check(contract.CompareViews("iot-analytics", view, &next, was, is)); err != nil {
		t.Errorf("Check() of a major version = %v", err)
	}
}

// What is told of a change.
func TestChangeString(t *testing.T) {
	column := func(table *contract.Table, name string) *contract.Column {
		return &table.Columns[slices.IndexFunc(table.Columns, func(c contract.Column) bool { return c.Name == name })]
	}
	one, three := 1.0, 3.0
	for _, test := range []struct {
		change func(*contract.Table)
		want   []string
	}{
		{func(c *contract.Table) { column(c, "value").Type = contract.Int64 }, []string{"type changed: column value: INT64, was FLOAT64"}},
		{func(c *contract.Table) { c.Time = "" }, []string{"partition changed: partition none, was observed_at"}},
		{func(c *contract.Table) { c.Retention = 36 * time.Hour }, []string{"retention shortened: retention 1.5 days, was 3660 days"}},
		{func(c *contract.Table) { c.Retention = 0 }, []string{"service level changed: retention unlimited, was 3660 days"}},
		{func(c *contract.Table) { c.Latency = time.Minute }, []string{"service level changed: latency 1m0s, was 10s"}},
		{func(c *contract.Table) { c.Quality[0].Max = &three },
			[]string{`quality rule loosened: rule "` + "Each key comes once, whatever was sent twice, late or out of order." + `": 0 to 3, was 0`}},
		{func(c *contract.Table) { c.Quality[0].Max = nil },
			[]string{`quality rule loosened: rule "` + "Each key comes once, whatever was sent twice, late or out of order." + `": at least 0, was 0`}},
		{func(c *contract.Table) { c.Quality[1].Min, c.Quality[1].Max = nil, &one },
			[]string{`quality rule loosened: rule "No reading is without a value.": at most 1, was 0`}},
		{func(c *contract.Table) { c.Quality = c.Quality[:len(c.Quality)-1] },
			[]string{`quality rule loosened: rule "Only the flags above.": none, was 0 not of no_time, conflict, suspect:unit_mismatch, suspect:out_of_range, suspect:clock_skew, suspect:stuck, suspect:spike, suspect:duplicate_identity`}},
		{func(c *contract.Table) { c.Quality[2].Pattern = "^x$" },
			[]string{`quality rule tightened: rule "32 hexadecimal digits.": 0 not of ^x$, was 0 not of ^[0-9a-f]{32}$`}},
	} {
		old, changed := load(t), load(t)
		test.change(at(t, changed, "iot_telemetry.readings"))
		var got []string
		for _, c := range contract.Compare(old, changed) {
			got = append(got, strings.TrimPrefix(c.String(), "iot_telemetry.readings: "))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	list := load(t)
	gone := contract.Compare(list, list[1:])
	if len(gone) != 1 || gone[0].String() != "customers: product removed: it was at version 1.0.0" {
		t.Errorf("Compare() = %v", gone)
	}
}

// Before 1.0.0 a minor version may break what was.
func TestGrown(t *testing.T) {
	for _, test := range []struct {
		old, new, raise string // raise: what the error says; empty: it is allowed
	}{
		{"1.0.0", "1.0.0", "2.0.0"},
		{"1.4.2", "1.5.0", "2.0.0"},
		{"1.4.2", "2.0.0", ""},
		{"9.0.0", "10.0.0", ""},
		{"2.0.0", "1.0.0", "3.0.0"},
		{"0.3.1", "0.3.2", "0.4.0"},
		{"0.3.1", "0.4.0", ""},
		{"0.9.0", "0.10.0", ""},
		{"0.3.1", "1.0.0", ""},
		{"1.0.0", "0.9.0", "2.0.0"},
	} {
		old, changed := load(t), load(t)
		at(t, old, "customers.customers").Version = test.old
		table := at(t, changed, "customers.customers")
		table.Version, table.Key = test.new, nil
		err := contract.Check(contract.Compare(old, changed))
		switch {
		case test.raise == "" && err != nil:
			t.Errorf("%s to %s: Check() = %v", test.old, test.new, err)
		case test.raise != "" && (err == nil || !strings.Contains(err.Error(), "from "+test.old+" to "+test.raise)):
			t.Errorf("%s to %s: Check() = %v, want an error that says %s", test.old, test.new, err, test.raise)
		}
	}
}

// A product is sent and kept as JSON.
func TestJSON(t *testing.T) {
	want := load(t)
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got []contract.Product
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after JSON: (-want +got)\n%s", diff)
	}
}
