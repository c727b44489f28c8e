package bigquery_test

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
)

// holders are devices, and whose each version of a row of theirs is; "" is
// nobody's.
var holders = []struct {
	device  string
	tenants []string
}{
	{"own", []string{"tenant-a"}},
	{"other", []string{"tenant-b"}},
	{"nobody", []string{""}},
	{"moved", []string{"tenant-a", "tenant-b"}},
	{"gained", []string{"tenant-b", "tenant-a"}},
	{"withdrawn", []string{"tenant-a", ""}},
}

// ports are the output ports and views with what they show of the holders to
// tenant-a and to the platform, in the order of their first column. A reading
// that was withdrawn is there and nobody's, all else is gone.
var ports = map[string]struct {
	columns          string
	tenant, platform []string
}{
	"iot_telemetry.readings": {"device_id, tenant_id, value",
		[]string{"gained tenant-a 2", "own tenant-a 1"},
		[]string{"gained tenant-a 2", "moved tenant-b 2", "nobody <nil> 1", "other tenant-b 1", "own tenant-a 1", "withdrawn <nil> 2"}},
	"iot_telemetry.readings_as_of": {"device_id, tenant_id, stamped_tenant_id, value",
		nil,
		[]string{"gained tenant-a tenant-a 2", "moved tenant-b tenant-b 2", "nobody <nil> <nil> 1", "other tenant-b tenant-b 1",
			"own tenant-a tenant-a 1", "withdrawn <nil> <nil> 2"}},
	"iot_analytics.readings": {"device_id, tenant_id, value",
		[]string{"gained tenant-a 2", "own tenant-a 1"},
		[]string{"gained tenant-a 2", "moved tenant-b 2", "nobody <nil> 1", "other tenant-b 1", "own tenant-a 1"}},
	"iot_analytics.co2_evolution": {"room, tenant_id, co2",
		[]string{"gained tenant-a 2", "own tenant-a 1"},
		[]string{"gained tenant-a 2", "moved tenant-b 2", "nobody <nil> 1", "other tenant-b 1", "own tenant-a 1"}},
	// Who held a device sees what was done there, also what names nobody; of a
	// device that two claim nobody does, though each sees its own claim.
	"iot_analytics.actions_timeline": {"action_id, tenant_id, action, co2_after",
		[]string{"at gained tenant-a window 2 2", "at own tenant-a window 1 1", "unnamed tenant-a door 1"},
		[]string{"at gained tenant-a window 2 2", "at moved tenant-b window 2 2", "at other tenant-b window 1 1", "at own tenant-a window 1 1",
			"unnamed tenant-a door 1"}},
	"iot_analytics.actions_placed": {"action_id, tenant_id, room, action",
		[]string{"at gained tenant-a gained window 2", "at own tenant-a own window 1", "unnamed tenant-a own door"},
		[]string{"at gained tenant-a gained window 2", "at moved tenant-b moved window 2", "at other tenant-b other window 1", "at own tenant-a own window 1",
			"unnamed tenant-a own door"}},
	"iot_analytics.co2_with_actions": {"room, tenant_id, actions, co2_at_action",
		[]string{"gained tenant-a window 2 2", "own tenant-a window 1, door 1"},
		[]string{"gained tenant-a window 2 2", "moved tenant-b window 2 2", "nobody <nil> <nil> <nil>", "other tenant-b window 1 1", "own tenant-a window 1, door 1"}},
	"iot_analytics.readings_hourly": {"device_id, tenant_id, value_sum",
		[]string{"gained tenant-a 2", "own tenant-a 1"},
		[]string{"gained tenant-a 2", "moved tenant-b 2", "nobody <nil> 1", "other tenant-b 1", "own tenant-a 1"}},
	"iot_metadata.placements": {"device_id, tenant_id, persons",
		[]string{"claimed tenant-a 1", "gained tenant-a 2", "own tenant-a 1"},
		[]string{"claimed tenant-a 1", "claimed tenant-b 2", "gained tenant-a 2", "moved tenant-b 2", "other tenant-b 1", "own tenant-a 1"}},
	"iot_actions.actions": {"action_id, tenant_id, action",
		[]string{"at claimed tenant-a window", "at gained tenant-a window 2", "at own tenant-a window 1"},
		[]string{"at claimed tenant-a window", "at gained tenant-a window 2", "at moved tenant-b window 2", "at nobody <nil> window 1",
			"at other tenant-b window 1", "at own tenant-a window 1", "unnamed <nil> door"}},
	"customers.customers": {"customer_id, name", []string{"tenant-a A2"}, []string{"tenant-a A2", "tenant-b B1"}},

	"event_log.events":           {"event_id", nil, []string{"e"}},
	"iot_metadata.rejected_rows": {"sheet", nil, []string{"s"}},
	"iot_actions.rejected_rows":  {"sheet", nil, []string{"s"}},
	"customers.rejected_rows":    {"sheet", nil, []string{"s"}},
	// What the mesh knows of itself is of all tenants.
	"mesh_metrics.quality_results": {"port", nil, []string{"port"}},
	"mesh_metrics.reads":           {"port", nil, []string{"port"}},
	"mesh_metrics.service_levels":  {"port", nil, []string{"port"}},
}

// appendOwned appends the rows that ports shows, in the order of their versions.
// metrics are the tables of what the mesh knows of itself.
var metrics = []string{"mesh_metrics.quality_results", "mesh_metrics.reads", "mesh_metrics.service_levels"}

// filled is a row that has no more than it has to: each text is the name of its
// column.
func filled(table *contract.Table) map[string]warehouse.Cell {
	row := map[string]warehouse.Cell{}
	for _, c := range table.Columns {
		if !c.Required || c.Name == contract.RecordedAt {
			continue
		}
		switch c.Type {
		case contract.String:
			row[c.Name] = warehouse.String(c.Name)
		case contract.Float64:
			row[c.Name] = warehouse.Float(1)
		case contract.Int64:
			row[c.Name] = warehouse.Int(1)
		case contract.Bool:
			row[c.Name] = warehouse.Bool(true)
		case contract.Timestamp:
			row[c.Name] = warehouse.Instant(noon)
		}
	}
	return row
}

func appendOwned(t *testing.T, w warehouse.Warehouse) {
	t.Helper()
	n := 0
	add := func(table string, row map[string]warehouse.Cell) {
		t.Helper()
		n++
		if _, err := w.Append(t.Context(), batch(table, fmt.Sprint("owned-", n), rowOf(tableOf(t, table), row))); err != nil {
			t.Fatal(err)
		}
	}
	text, at, number := warehouse.String, warehouse.Instant(noon), func(i int) warehouse.Cell { return warehouse.Int(int64(i)) }
	for _, h := range holders {
		device := text(h.device)
		for i, tenant := range h.tenants {
			version, holder := i+1, warehouse.Null
			if tenant != "" {
				holder = text(tenant)
			}
			gone := warehouse.Bool(i > 0 && tenant == "")
			reading := map[string]warehouse.Cell{
				"reading_id": text(mesh.ReadingID(h.device, "co2", noon)), "tenant_id": holder, "device_id": device, "metric": text("co2"),
				"value": warehouse.Float(float64(version)), "unit": text("ppm"), "observed_at": at, "received_at": at,
				"revision": number(0), "assignment_version": number(version),
			}
			add("iot_telemetry.readings", reading)
			reading["room"], reading["join_version"], reading["deleted"] = device, number(version), gone
			add("iot_analytics.readings", reading)
			if h.tenants[0] != "" {
				// What is gone was somebody's.
				add("iot_metadata.placements", map[string]warehouse.Cell{"device_id": device, "tenant_id": text(cmp.Or(tenant, h.tenants[0])),
					"room": device, "persons": number(version), "valid_from": at, "version": number(version), "deleted": gone})
			}
			add("iot_actions.actions", map[string]warehouse.Cell{"action_id": text("at " + h.device), "tenant_id": holder, "device_id": device,
				"action": text(fmt.Sprint("window ", version)), "taken_at": at, "version": number(version), "deleted": gone})
		}
	}
	for i, tenant := range []string{"tenant-a", "tenant-b"} {
		add("iot_metadata.placements", map[string]warehouse.Cell{"device_id": text("claimed"), "tenant_id": text(tenant), "persons": number(i + 1),
			"valid_from": warehouse.Instant(noon - mesh.Instant(i)), "version": number(1), "deleted": warehouse.Bool(false)})
	}
	for _, a := range [][]warehouse.Cell{{text("at claimed"), text("tenant-a"), text("claimed"), text("window")}, {text("unnamed"), warehouse.Null, text("own"), text("door")}} {
		add("iot_actions.actions", map[string]warehouse.Cell{"action_id": a[0], "tenant_id": a[1], "device_id": a[2], "action": a[3],
			"taken_at": at, "version": number(1), "deleted": warehouse.Bool(false)})
	}
	for _, c := range []struct {
		id, name string
		version  int
		deleted  bool
	}{{"tenant-a", "A1", 1, false}, {"tenant-a", "A2", 2, false}, {"tenant-b", "B1", 1, false}, {"tenant-c", "C1", 1, false}, {"tenant-c", "C1", 2, true}} {
		add("customers.customers", map[string]warehouse.Cell{"customer_id": text(c.id), "name": text(c.name), "version": number(c.version),
			"deleted": warehouse.Bool(c.deleted)})
	}
	for _, table := range metrics {
		add(table, filled(tableOf(t, table)))
	}
	add("event_log.events", map[string]warehouse.Cell{"event_id": text("e"), "source": text("/devices"), "type": text("t"), "specversion": text("1.0"),
		"data_base64": warehouse.Bool(false), "data_bytes": number(0), "broker": text("iot/iot"), "received_at": at, "recorded_at": at})
	for _, table := range []string{"iot_metadata.rejected_rows", "iot_actions.rejected_rows", "customers.rejected_rows"} {
		add(table, map[string]warehouse.Cell{"sheet": text("s"), "row_number": number(2), "column_name": text("c"), "reason": text("r"),
			"severity": text(string(mesh.SeverityError)), "version": number(1), "deleted": warehouse.Bool(false)})
	}
}

// enrol has the table of members say that these are of these tenants, and
// nobody else of any: pairs of a member and a tenant.
func enrol(t *testing.T, e *emulator.Emulator, pairs ...string) {
	t.Helper()
	query(t, e, "DELETE FROM "+schema.Members+" WHERE TRUE")
	for i := 0; i < len(pairs); i += 2 {
		query(t, e, fmt.Sprintf("INSERT INTO %s (member, tenant_id) VALUES ('%s', '%s')", schema.Members, pairs[i], pairs[i+1]))
	}
}

// lines are the rows that a query gives.
func lines(t *testing.T, e *emulator.Emulator, sql string) (list []string) {
	t.Helper()
	for _, row := range query(t, e, sql) {
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = fmt.Sprint(v)
		}
		list = append(list, strings.Join(cells, " "))
	}
	return list
}

// A tenant sees what is its own now, the platform sees everything that is there,
// and nobody else sees a row, whichever port or view it asks.
func TestWhoSeesWhat(t *testing.T) {
	e := emulator.Start(t)
	all := applied(t, e)
	appendOwned(t, open(t, e, all))
	datasets, err := schema.Of(e.Project, all)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range datasets {
		for _, o := range d.Objects {
			if _, ok := ports[o.FullName()]; d.Port && !ok {
				t.Errorf("%s is a port, and nothing says who sees what of it", o.FullName())
			}
		}
	}
	others := []string{"other@example.org", schema.Everyone, "other@example.org", "tenant-a", "domain:example.org", schema.Everyone}
	for _, reader := range []struct {
		name    string
		members []string
		tenant  bool
		all     bool
	}{
		{name: "nobody of no members"},
		{name: "nobody", members: others},
		{name: "one of a tenant without rows", members: []string{emulator.User, "tenant-c"}},
		{name: "tenant-a", members: append([]string{emulator.User, "tenant-a"}, others...), tenant: true},
		{name: "the platform", members: []string{emulator.User, schema.Everyone}, all: true},
	} {
		enrol(t, e, reader.members...)
		for name, port := range ports {
			var want []string
			switch {
			case reader.tenant:
				want = port.tenant
			case reader.all:
				want = port.platform
			}
			if diff := gocmp.Diff(want, lines(t, e, fmt.Sprintf("SELECT %s FROM %s ORDER BY %[1]s", port.columns, name))); diff != "" {
				t.Errorf("%s sees of %s: (-want +got)\n%s", reader.name, name, diff)
			}
		}
	}
	// Who is of several tenants sees what is theirs.
	enrol(t, e, emulator.User, "tenant-a", emulator.User, "tenant-b")
	want := []string{"gained tenant-a 2", "moved tenant-b 2", "other tenant-b 1", "own tenant-a 1"}
	if diff := gocmp.Diff(want, lines(t, e, "SELECT device_id, tenant_id, value FROM iot_telemetry.readings ORDER BY device_id")); diff != "" {
		t.Errorf("one of two tenants sees: (-want +got)\n%s", diff)
	}

	t.Run("members", func(t *testing.T) { testMembers(t, e, datasets) })
}

// testMembers asks the port of customers as readers that the emulator cannot
// have: their names stand where its statement asks for them.
func testMembers(t *testing.T, e *emulator.Emulator, datasets []schema.Dataset) {
	view := ""
	for _, d := range datasets {
		for _, o := range d.Objects {
			if o.FullName() == customers {
				view = o.Metadata.ViewQuery
			}
		}
	}
	enrol(t, e, "anna@example.org", "tenant-b", "domain:example.org", "tenant-a", "domain:ops.example.com", schema.Everyone)
	const a, b = "tenant-a", "tenant-b"
	for reader, want := range map[string][]string{
		"x@example.org":             {a},
		"X@Example.ORG":             {a},
		"anna@example.org":          {a, b},
		"Anna@example.org":          {a, b},
		"x@ops.example.com":         {a, b},
		"x@Ops.example.com":         {a, b},
		"x@example.com":             nil,
		"anna@example.com":          nil,
		"x@sub.example.org":         nil,
		"x@example.org.com":         nil,
		"x@badexample.org":          nil,
		"x@exampleXorg":             nil,
		"@example.org":              nil,
		"example.org":               nil,
		"*":                         nil,
		"":                          nil,
		"x@example.org@example.com": nil,
		"x@example.com@example.org": nil,
		"principal://iam.googleapis.com/locations/global/workforcePools/p/subject/x@example.org":                                         nil,
		"principal://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/iot/sa/x@example.org": nil,
		"serviceAccount:x@example.org/anna@example.org":                                                                                  nil,
	} {
		asked := strings.ReplaceAll(view, "SESSION_USER()", "'"+reader+"'")
		if asked == view {
			t.Fatalf("%s does not ask for SESSION_USER():\n%s", customers, view)
		}
		if diff := gocmp.Diff(want, lines(t, e, "SELECT customer_id FROM (\n"+asked+"\n) ORDER BY customer_id")); diff != "" {
			t.Errorf("%q sees: (-want +got)\n%s", reader, diff)
		}
	}
}
