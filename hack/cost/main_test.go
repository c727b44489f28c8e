package main

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/products"
)

// Each table is billed that a view names, however far behind other views.
func TestTablesOf(t *testing.T) {
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	datasets, err := schema.Of("project", list)
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]schema.Object{}
	for _, d := range datasets {
		for _, o := range d.Objects {
			objects[o.FullName()] = o
		}
	}
	for view, want := range map[string][]string{
		"iot_analytics.readings":         {"iot_analytics_internal.readings_appended", schema.Members},
		"iot_analytics.co2_with_actions": {"iot_actions_internal.actions", "iot_analytics_internal.readings_appended", "iot_metadata_internal.placements", schema.Members},
	} {
		var got []string
		for _, o := range tablesOf(objects, view) {
			got = append(got, o.FullName())
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("tables of %s (-want +got):\n%s", view, diff)
		}
	}
	// A GiB in four tables of which three are small.
	p := prices{query: 6.25, leastMiB: 10}
	if got, want := p.dollars(gib, 3*p.billed(1)), "0.0063"; got != want {
		t.Errorf("dollars = %s, want %s", got, want)
	}
}
