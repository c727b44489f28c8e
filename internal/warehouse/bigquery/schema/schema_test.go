package schema_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/products"
)

func datasets(t *testing.T) ([]schema.Dataset, []contract.Product) {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	all, err := schema.Of("acme", list)
	if err != nil {
		t.Fatal(err)
	}
	return all, list
}

func find(t *testing.T, name string) schema.Object {
	t.Helper()
	all, _ := datasets(t)
	for _, d := range all {
		for _, o := range d.Objects {
			if o.FullName() == name {
				return o
			}
		}
	}
	t.Fatalf("no %s", name)
	return schema.Object{}
}

// What a view reads was made before it, and a port has views alone.
func TestOrder(t *testing.T) {
	all, list := datasets(t)
	made := map[string]bool{}
	labels := regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	for _, d := range all {
		for name, value := range d.Labels {
			if !labels.MatchString(name) || !regexp.MustCompile(`^[a-z0-9_-]{0,63}$`).MatchString(value) {
				t.Errorf("dataset %s: label %s=%s", d.Name, name, value)
			}
		}
		for _, o := range d.Objects {
			for _, read := range o.Reads {
				if !made[read] {
					t.Errorf("%s reads %s, which is not made before it", o.FullName(), read)
				}
			}
			if made[o.FullName()] {
				t.Errorf("%s is made twice", o.FullName())
			}
			made[o.FullName()] = true
			if d.Port && o.Metadata.ViewQuery == "" {
				t.Errorf("%s is a table in a dataset that readers have access to", o.FullName())
			}
			if o.Dataset != d.Name || o.Metadata.Description == "" {
				t.Errorf("%s in dataset %s: description %q", o.FullName(), d.Name, o.Metadata.Description)
			}
		}
	}
	for _, p := range list {
		for i := range p.Tables {
			table := &p.Tables[i]
			for _, name := range []string{table.FullName(), schema.Internal(table) + "." + table.Name, schema.Internal(table) + "." + schema.Appended(table)} {
				if !made[name] {
					t.Errorf("no %s", name)
				}
			}
		}
		for _, v := range p.Views {
			if !made[v.Schema+"."+v.Name] {
				t.Errorf("no view %s.%s", v.Schema, v.Name)
			}
		}
	}
}

// Whoever reads an output port is asked who it is, and no port reads another
// one: what a view is made of is not what its reader may see of it.
func TestEveryPortAsksWhoReads(t *testing.T) {
	all, _ := datasets(t)
	port := map[string]bool{}
	for _, d := range all {
		port[d.Name] = d.Port
	}
	for _, d := range all {
		for _, o := range d.Objects {
			if !d.Port {
				continue
			}
			if !slices.Contains(o.Reads, schema.Members) || !strings.Contains(o.Metadata.ViewQuery, "SESSION_USER()") {
				t.Errorf("%s does not ask who reads it", o.FullName())
			}
			for _, read := range o.Reads {
				dataset, _, _ := strings.Cut(read, ".")
				if port[dataset] {
					t.Errorf("%s reads %s, of which its reader sees a part", o.FullName(), read)
				}
			}
		}
	}
}

func TestReadings(t *testing.T) {
	appended := find(t, "iot_telemetry_internal.readings_appended")
	m := appended.Metadata
	var names []string
	for _, f := range m.Schema {
		names = append(names, f.Name)
	}
	want := strings.Fields("reading_id tenant_id device_id metric value value_string value_bool unit observed_at received_at recorded_at " +
		"revision assignment_version quality judged event_source event_id attributes content_digest origin_digest")
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("columns: (-want +got)\n%s", diff)
	}
	if m.TimePartitioning == nil || m.TimePartitioning.Field != "observed_at" {
		t.Errorf("partition: %+v", m.TimePartitioning)
	}
	port := find(t, "iot_telemetry.readings")
	if diff := cmp.Diff([]string{"iot_telemetry_internal.readings_appended", "telemesh_internal.members"}, port.Reads); diff != "" {
		t.Errorf("the port reads: (-want +got)\n%s", diff)
	}
	view := find(t, "iot_telemetry.readings_as_of")
	if diff := cmp.Diff([]string{"iot_metadata_internal.placements", "iot_telemetry_internal.readings_appended", "telemesh_internal.members"}, view.Reads); diff != "" {
		t.Errorf("the view reads: (-want +got)\n%s", diff)
	}
	if !strings.Contains(view.Metadata.ViewQuery, "`acme.iot_metadata_internal.placements`") {
		t.Errorf("the view's names have no project:\n%s", view.Metadata.ViewQuery)
	}
}

// Rows are compared by what their key is made of, first: BigQuery applies a
// filter on a column before a window only if the window is partitioned by it.
func TestFiltersPassWindows(t *testing.T) {
	partition := regexp.MustCompile(`PARTITION BY ([^()]+?) ORDER BY|PARTITION BY ([^()]+?)\)`)
	passes := func(name string, want []string) {
		t.Helper()
		windows := partition.FindAllStringSubmatch(strings.ReplaceAll(find(t, name).Metadata.ViewQuery, "`", ""), -1)
		if len(windows) == 0 {
			t.Errorf("%s compares no rows", name)
		}
		for _, w := range windows {
			if by := strings.Split(w[1]+w[2], ", "); len(by) < len(want) || !slices.Equal(by[:len(want)], want) {
				t.Errorf("%s: %s, want %s first", name, w[0], strings.Join(want, ", "))
			}
		}
	}
	for _, name := range []string{"iot_telemetry.readings", "iot_telemetry_internal.readings"} {
		passes(name, []string{"observed_at", "device_id", "metric"})
	}
	_, list := datasets(t)
	for _, p := range list {
		for _, table := range p.Tables {
			if len(table.KeyOf) > 0 {
				passes(table.FullName(), table.KeyOf)
			}
		}
	}
}
