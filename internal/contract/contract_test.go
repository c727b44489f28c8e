package contract_test

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

func load(t *testing.T) []contract.Product {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func find(t *testing.T, table string) contract.Table {
	t.Helper()
	for _, p := range load(t) {
		for _, table_ := range p.Tables {
			if table_.FullName() == table {
				return table_
			}
		}
	}
	t.Fatalf("no table %s", table)
	return contract.Table{}
}

// The columns that readers may rely on, in their order.
func TestColumns(t *testing.T) {
	readings := "reading_id tenant_id device_id metric value value_string value_bool unit observed_at received_at recorded_at " +
		"revision assignment_version quality judged event_source event_id attributes"
	for table, want := range map[string]string{
		"iot_telemetry.readings":  readings,
		"iot_analytics.readings":  readings + " building floor room persons outside_co2 customer_name last_action last_action_at minutes_since_action join_version",
		"iot_metadata.placements": "device_id tenant_id building floor room persons outside_co2 valid_from valid_to version",
		"iot_actions.actions":     "action_id tenant_id device_id building room action taken_at recorded_at version",
		"customers.customers":     "customer_id name sector country version",
		"event_log.events": "event_id source type subject time time_text dataschema datacontenttype specversion extensions " +
			"data data_base64 data_bytes broker received_at recorded_at",
	} {
		var got []string
		for _, c := range find(t, table).Columns {
			got = append(got, c.Name)
		}
		if diff := cmp.Diff(strings.Fields(want), got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", table, diff)
		}
	}
}

func TestLoad(t *testing.T) {
	got := find(t, "iot_metadata.placements")
	if len(got.Quality) != 3 {
		t.Errorf("placements: rules %+v", got.Quality)
	}
	got.Columns, got.Quality = nil, nil
	all := []contract.Role{{Name: "tenant", Access: "read"}, {Name: "platform", Access: "read"}, {Name: "writer", Access: "write"}}
	want := contract.Table{
		ID: "iot-metadata.placements", Schema: "iot_metadata", Name: "placements", Version: "1.0.0", Purpose: "Says which tenant held a device at any instant, and where it stood.",
		Usage:  "The placement of a device at t is the one row with valid_from <= t and (valid_to IS NULL or t < valid_to).",
		Limits: "Rows are as their source has them now; what they were before is in iot_metadata_internal.placements.",
		Rows:   "One device at one tenant and place for one interval.",
		Key:    []string{"device_id", "valid_from"}, Order: contract.Version, Tombstones: true, Ordered: true,
		Tenant: "tenant_id", Clustered: []string{"tenant_id", "device_id"}, Roles: all, Latency: time.Minute, Freshness: time.Minute,
		Events: []string{"dev.telemesh.placements.changed.v1"},
		Levels: []contract.Level{
			{Property: "latency", Value: time.Minute, Column: "valid_from", Purpose: "From a change in the source to the row in the port."},
			{Property: "frequency", Value: time.Minute, Column: "valid_from", Purpose: "The source is read each minute."},
			{Property: "retention", Column: "valid_from", Purpose: "A placement is kept until its source drops it, and what it was before for ever."},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("placements: (-want +got)\n%s", diff)
	}
	got = find(t, "iot_telemetry.readings")
	if got.Time != "observed_at" || got.Order != contract.Revision || !slices.Equal(got.Key, []string{"reading_id"}) {
		t.Errorf("readings: %+v", got)
	}
	if diff := cmp.Diff([]string{"iot_metadata.placements"}, got.MadeFrom); diff != "" || got.Knowledge != "" {
		t.Errorf("readings: knowledge %q, made from: (-want +got)\n%s", got.Knowledge, diff)
	}
	joined := find(t, "iot_analytics.readings")
	if diff := cmp.Diff([]string{"iot_metadata.placements", "iot_actions.actions", "customers.customers"}, joined.MadeFrom); diff != "" {
		t.Errorf("joined readings are made from: (-want +got)\n%s", diff)
	}
	if joined.Knowledge != "join_version" || !joined.Tombstones || joined.Order != contract.Revision {
		t.Errorf("joined readings: %+v", joined)
	}
	received := contract.Column{
		Name: "received_at", Type: contract.Timestamp, Required: true, Provenance: true,
		Purpose: "Ingest time: when Telemesh first saw the message.", Classification: "internal",
	}
	if diff := cmp.Diff(received, got.Columns[9]); diff != "" {
		t.Errorf("received_at: (-want +got)\n%s", diff)
	}
	if year := 366 * 24 * time.Hour; got.Retention != 10*year || got.Tenant != "tenant_id" || !slices.Equal(got.Clustered, []string{"device_id", "metric", "tenant_id"}) {
		t.Errorf("readings are kept for %s, are those of %s and clustered by %v", got.Retention, got.Tenant, got.Clustered)
	}
	zero := 0.0
	flags := contract.Rule{
		ID: "quality.validValues", Column: "quality", Metric: "invalidValues", Values: []string{"no_time", "conflict", "suspect:unit_mismatch", "suspect:out_of_range", "suspect:clock_skew", "suspect:stuck", "suspect:spike", "suspect:duplicate_identity"}, Min: &zero, Max: &zero, Purpose: "Only the flags above.",
		Dimension: "conformity",
	}
	if diff := cmp.Diff(flags, got.Quality[len(got.Quality)-1]); diff != "" {
		t.Errorf("last rule of the readings: (-want +got)\n%s", diff)
	}
	if since := joined.Columns[len(joined.Columns)-2]; !slices.Equal(since.Sources, []string{"iot_actions.actions.taken_at", "iot_telemetry.readings.observed_at"}) {
		t.Errorf("%s is made of %v", since.Name, since.Sources)
	}
	log := find(t, "event_log.events")
	if diff := cmp.Diff(all[1:], log.Roles); diff != "" || log.Tenant != "" || log.Retention != 30*24*time.Hour {
		t.Errorf("events: tenant %q, kept for %s, roles (-want +got)\n%s", log.Tenant, log.Retention, diff)
	}
	list := load(t)
	names, places := []string{}, map[string]contract.Product{}
	shipped := []string{"customers", "event-log", "iot-actions", "iot-analytics", "iot-metadata", "iot-telemetry", "mesh-metrics"}
	for _, p := range list {
		places[p.Name] = p
		if !slices.Contains(shipped, p.Name) { // somebody's own
			continue
		}
		names = append(names, p.Name+" "+p.Domain+" "+p.Schema+" "+p.Owner+" "+strings.Join(p.Events, " "))
	}
	if diff := cmp.Diff([]string{
		"customers crm customers crm-team dev.telemesh.customers.changed.v1 dev.telemesh.customers.rejected.v1 dev.telemesh.customers.recorded.v1",
		"event-log platform event_log platform-team ",
		"iot-actions iot iot_actions iot-team dev.telemesh.actions.logged.v1 dev.telemesh.actions.rejected.v1 dev.telemesh.actions.recorded.v1",
		"iot-analytics analytics iot_analytics analytics-team dev.telemesh.analytics.joined.v1 dev.telemesh.analytics.withdrawn.v1 dev.telemesh.co2.classified.v1",
		"iot-metadata iot iot_metadata iot-team dev.telemesh.placements.changed.v1 dev.telemesh.placements.rejected.v1 dev.telemesh.placements.recorded.v1",
		"iot-telemetry iot iot_telemetry iot-team dev.telemesh.telemetry.enriched.v1 dev.telemesh.tenancy.repaired.v1 dev.telemesh.telemetry.unassigned.v1",
		"mesh-metrics platform mesh_metrics platform-team dev.telemesh.quality.checked.v1 dev.telemesh.slo.measured.v1 dev.telemesh.slo.breached.v1 dev.telemesh.slo.restored.v1 dev.telemesh.port.read.v1",
	}, names); diff != "" {
		t.Errorf("products: (-want +got)\n%s", diff)
	}
	product := places["iot-analytics"]
	if product.Kind != "consumer-aligned" || product.Usage != "Start with the views; go to the table for what they leave out." || product.Limits != "Parked readings are not in it." {
		t.Errorf("%s is %s, usage %q, limits %q", product.Name, product.Kind, product.Usage, product.Limits)
	}
	if port := (contract.Port{Name: "dev.telemesh.analytics.joined.v1", Type: "event", Version: "1.0.0", Purpose: "Joined readings of one tenant.", Tenant: "tenantid"}); !slices.ContainsFunc(product.Ports, func(p contract.Port) bool { return cmp.Equal(p, port) }) {
		t.Errorf("%s has ports %+v", product.Name, product.Ports)
	}
	pull := contract.Feed{
		Topic: "telemetry", Subscription: "pubsub-source", DeadLetterTopic: "telemetry-dead-letters", AckDeadline: time.Minute,
		MaxDeliveries: 100, MinBackoff: 10 * time.Second, MaxBackoff: 10 * time.Minute, Retention: 7 * 24 * time.Hour,
	}
	push := pull
	push.Subscription, push.Push = "telemetry-ingest", true
	if diff := cmp.Diff([]contract.Feed{pull, push}, places["iot-telemetry"].Feeds); diff != "" {
		t.Errorf("feeds of iot-telemetry: (-want +got)\n%s", diff)
	}
	for _, v := range product.Views {
		if !strings.Contains(v.SQL, "FROM iot_") || v.DuckDB == "" {
			t.Errorf("view %s: GoogleSQL %q, DuckDB %q", v.Name, v.SQL, v.DuckDB)
		}
	}
}

// DuckDB reads the same of a view as BigQuery, unless there is something else
// for it.
func TestViewForDuckDB(t *testing.T) {
	files := copyOf(t, products.FS)
	for _, file := range []string{"co2_evolution.sql", "co2_evolution.duckdb.sql", "actions_timeline.sql"} {
		files["iot-analytics/views/"+file] = &fstest.MapFile{Data: []byte("SELECT '" + file + "'")}
	}
	delete(files, "iot-analytics/views/actions_timeline.duckdb.sql")
	list, err := contract.Load(files)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	at := slices.IndexFunc(list, func(p contract.Product) bool { return p.Name == "iot-analytics" })
	for _, v := range list[at].Views {
		duckdb, ok := map[string]string{"co2_evolution": "co2_evolution.duckdb.sql", "actions_timeline": "actions_timeline.sql"}[v.Name]
		if !ok {
			continue
		}
		n++
		want := contract.View{Schema: "iot_analytics", Name: v.Name, Version: "1.0.0", Tenant: "tenant_id", SQL: "SELECT '" + v.Name + ".sql'", DuckDB: "SELECT '" + duckdb + "'"}
		if diff := cmp.Diff(want, v); diff != "" {
			t.Errorf("view %s: (-want +got)\n%s", v.Name, diff)
		}
	}
	if n != 2 {
		t.Errorf("%d views were looked at, want 2", n)
	}
}

// Each change breaks a product; the error names the file and the field.
func TestErrorsNameFileAndField(t *testing.T) {
	const (
		descriptor = "customers/product.odps.yaml"
		table      = "customers/customers.odcs.yaml"
		joined     = "iot-analytics/readings.odcs.yaml"
		log        = "event-log/events.odcs.yaml"
		feeds      = "iot-telemetry/product.odps.yaml"
		made       = "[iot_metadata.placements, iot_actions.actions, customers.customers]"
		knowledge  = "{property: knowledge, value: true}"
	)
	if _, err := contract.Load(copyOf(t, products.FS)); err != nil {
		t.Fatalf("Load() of a copy = %v", err)
	}
	for _, test := range []struct{ name, file, old, new, want string }{
		{"unknown member", table, "required: true", "requird: true", `requird`},
		{"type", table, "physicalType: STRING", "physicalType: TEXT", "schema[0].properties[0].physicalType"},
		{"logical type", table, "logicalType: string", "logicalType: number", "schema[0].properties[0].logicalType"},
		{"column twice", table, "name: sector", "name: country", "schema[0].properties[3].name"},
		{"deleted", table, "name: sector", "name: deleted", "schema[0].properties[2].name"},
		{"key may be NULL", table, "        required: true\n", "", "schema[0].properties[0].required"},
		{"no key", table, "primaryKey: true", "primaryKey: false", "primaryKey"},
		{"order", table, "value: version", "value: name", "schema[0].customProperties.order"},
		{"physical name", table, "physicalName: customers.customers", "physicalName: crm.customers", "schema[0].physicalName"},
		{"status of the contract", table, "status: active", "status: ''", "status"},
		{"product", table, "dataProduct: customers", "dataProduct: other", "dataProduct"},
		{"version of the standard", table, "apiVersion: v3.1.0", "apiVersion: v2.0.0", "apiVersion"},
		{"id that no port has", table, "id: customers.customers", "id: other", "customers.customers"},
		{"tombstones", table, "{property: tombstones, value: true}", "{property: tombstones, value: 'yes'}", "schema[0].customProperties.tombstones"},
		{"made from text", joined, made, "iot_metadata.placements", "schema[0].customProperties.madeFrom"},
		{"made from no list of names", joined, made, "[{table: iot_metadata.placements}]", "schema[0].customProperties.madeFrom"},
		{"made from none", joined, made, "[]", "schema[0].customProperties.madeFrom"},
		{"made from a table that is none", joined, made, "[iot_metadata.placements, iot_metadata.places]", `madeFrom[1]: "iot_metadata.places"`},
		{"made from one twice", joined, made, "[iot_actions.actions, iot_actions.actions]", "schema[0].customProperties.madeFrom[1]"},
		{"made from itself", joined, made, "[iot_analytics.readings]", "schema[0].customProperties.madeFrom[0]"},
		{"made from one with knowledge", table, "{property: tombstones, value: true}",
			"{property: madeFrom, value: [iot_analytics.readings]}", "schema[0].customProperties.madeFrom[0]"},
		{"knowledge of nothing", joined, "{property: madeFrom, value: " + made + "}", "{property: other, value: 1}", "customProperties.knowledge"},
		{"knowledge neither true nor false", joined, knowledge, "{property: knowledge, value: 1}", "customProperties.knowledge"},
		{"knowledge that may be NULL", joined, "        required: true\n        classification: internal\n        description: >-\n          How many",
			"        classification: internal\n        description: >-\n          How many", "customProperties.knowledge"},
		{"unit that is a number", joined, "- {property: unit, value: ppm}", "- {property: unit, value: 1}", "schema[0].properties[22].customProperties.unit"},
		{"knowledge of another type", joined, "- {property: unit, value: ppm}", "- " + knowledge, "schema[0].properties[22].customProperties.knowledge"},
		{"knowledge twice", joined, "- {property: unit, value: '{person}'}\n", "- " + knowledge + "\n        required: true\n", "customProperties.knowledge"},
		{"knowledge as the order", joined, "{property: order, value: revision}", "{property: order, value: join_version}", "schema[0].customProperties.order"},
		{"append-only", log, "{property: appendOnly, value: true}", "{property: appendOnly, value: 1}", "schema[0].customProperties.appendOnly"},
		{"version", table, "version: 1.0.0", "version: '1.0'", "version"},
		{"version with a zero before", table, "version: 1.0.0", "version: 1.01.0", "version"},
		{"no version", log, "version: 1.0.0\n", "", "version"},
		{"another version than the port", table, "version: 1.0.0", "version: 1.1.0", "outputPorts[0].version"},
		{"version of a port", descriptor, "type: event\n    version: 1.0.0", "type: event\n    version: v1", "outputPorts[2].version"},
		{"port twice", descriptor, "name: customers.rejected_rows", "name: customers.customers", "outputPorts[1].name"},
		{"version of the product", descriptor, "version: 1.0.0", "version: one", "version"},
		{"kind", descriptor, "value: source-aligned", "value: source", "customProperties.kind"},
		{"unknown property", descriptor, "property: kind", "property: sort", "customProperties[0].property"},
		{"purpose", descriptor, "purpose: Who the tenants are.", "purpose: ''", "description.purpose"},
		{"limitations", table, "limitations: No persons and no contact data.", "limitations: ''", "description.limitations"},
		{"input of an older major version", "iot-analytics/product.odps.yaml", "version: 1.0.0\n    contractId: customers.customers",
			"version: 0.9.0\n    contractId: customers.customers", "inputPorts[3].version"},
		{"input without contract", descriptor, "    contractId: dev.telemesh.customers.changed.v1\n", "", "inputPorts[0].contractId"},
		{"another team", table, "name: crm-team", "name: iot-team", "team.name"},
		{"name that is not the table's", table, "name: customers\nversion", "name: clients\nversion", "field name"},
		{"id of another contract", "customers/rejected_rows.odcs.yaml", "id: customers.rejected-rows", "id: customers.customers", "field id"},
		{"classification", table, "classification: internal", "classification: secret", "schema[0].properties[2].classification"},
		{"no classification", table, "        classification: internal\n", "", "schema[0].properties[2].classification"},
		{"no description", table, "        description: Name to show.\n", "", "schema[0].properties[1].description"},
		{"unknown property of the table", table, "property: tombstones", "property: tombstone", "schema[0].customProperties[1].property"},
		{"property twice", table, "{property: tombstones, value: true}", "{property: order, value: version}", "schema[0].customProperties[1].property"},
		{"unknown property of a column", joined, "{property: provenance, value: true}", "{property: origin, value: true}", "schema[0].properties[9].customProperties[0].property"},
		{"tenant column that is none", table, "value: customer_id}", "value: tenant_id}", "schema[0].customProperties.tenantColumn"},
		{"tenant column of another type", table, "value: customer_id}", "value: version}", "schema[0].customProperties.tenantColumn"},
		{"tenant column that is a list", table, "value: customer_id}", "value: [customer_id]}", "schema[0].customProperties.tenantColumn"},
		{"tenant column without tenant", table, "  - role: tenant\n    access: read\n    description: Reads the rows that are the tenant's.\n", "", "field roles"},
		{"tenant without tenant column", table, "      - {property: tenantColumn, value: customer_id}\n", "", "schema[0].customProperties.tenantColumn"},
		{"clustered by text", joined, "value: [metric, device_id, tenant_id]", "value: tenant_id", "schema[0].customProperties.clusteredBy"},
		{"clustered by nothing", joined, "value: [metric, device_id, tenant_id]", "value: []", "schema[0].customProperties.clusteredBy"},
		{"clustered by five", joined, "value: [metric, device_id, tenant_id]", "value: [tenant_id, device_id, metric, unit, quality]", "1 to 4 columns"},
		{"clustered by a number", joined, "value: [metric, device_id, tenant_id]", "value: [tenant_id, value]", "schema[0].customProperties.clusteredBy[1]"},
		{"clustered by a column twice", joined, "value: [metric, device_id, tenant_id]", "value: [metric, metric]", "schema[0].customProperties.clusteredBy[1]"},
		{"clustered by what is no column", joined, "value: [metric, device_id, tenant_id]", "value: [tenant]", "schema[0].customProperties.clusteredBy[0]"},
		{"tenant column of a view that is a list", "iot-analytics/product.odps.yaml", "value: tenant_id}", "value: [tenant_id]}", "customProperties.tenantColumn"},
		{"tenant column of a view that is no name", "iot-analytics/product.odps.yaml", "value: tenant_id}", "value: 'tenant id'}", "customProperties.tenantColumn"},
		{"tenant column of a table in the descriptor", "iot-analytics/product.odps.yaml", "contractId: iot-analytics.readings\n",
			"contractId: iot-analytics.readings\n    customProperties: [{property: tenantColumn, value: tenant_id}]\n", "outputPorts[0].customProperties"},
		{"kept of another product's table", "iot-analytics/product.odps.yaml", "table: iot_analytics.readings\n", "table: iot_telemetry.readings\n", "kept.table"},
		{"kept by no hour", "iot-analytics/product.odps.yaml", "hour: hour_start", "hour: ''", "kept.hour"},
		{"kept and merged by no sum", "iot-analytics/product.odps.yaml", "readings: sum,", "readings: avg,", "kept.merge.readings"},
		{"unknown member of what is kept", "iot-analytics/product.odps.yaml", "hour: hour_start", "hours: hour_start", "customProperties.kept"},
		{"unknown role", table, "role: writer", "role: owner", "roles[2].role"},
		{"role twice", table, "role: writer", "role: platform", "roles[2].role"},
		{"access", table, "access: write", "access: read", "roles[2].access"},
		{"no writer", table, "  - role: writer\n    access: write\n    description: The service account of the product.\n", "", "field roles"},
		{"tenant of what is no port", "iot-telemetry/rejected.odcs.yaml", "role: platform", "role: tenant", "roles[0].role"},
		{"unknown level", table, "property: frequency", "property: freshness", "slaProperties[1].property"},
		{"level twice", table, "property: frequency", "property: latency", "slaProperties[1].property"},
		{"no retention", table, "  - property: retention\n    value: unlimited\n    element: customers.version\n    driver: operational\n" +
			"    description: A customer is kept until its source drops it, and what it was before for ever.\n", "", "want retention"},
		{"element that is no column", table, "element: customers.customer_id", "element: customers.id", "slaProperties[0].element"},
		{"element of another table", table, "element: customers.customer_id", "element: readings.customer_id", "slaProperties[0].element"},
		{"driver", table, "driver: operational", "driver: nobody", "slaProperties[0].driver"},
		{"unit", table, "unit: s", "unit: m", "slaProperties[0].unit"},
		{"unit that YAML reads as true", table, "unit: s", "unit: y", `slaProperties[0].unit: "true", want s, min, h, d or years`},
		{"level of nothing", table, "value: 60", "value: 0", "slaProperties[0].value"},
		{"half a level", table, "value: 60", "value: 0.5", "slaProperties[0].value"},
		{"level as text", table, "value: 60", "value: '60'", "slaProperties[0].value"},
		{"level too long", table, "value: 60", "value: 4000000000", "slaProperties[0].value"},
		{"latency without end", table, "value: 60\n    unit: s", "value: unlimited", "slaProperties[0].unit"},
		{"retention in units of nothing", table, "value: unlimited", "value: unlimited\n    unit: d", "slaProperties[2].unit"},
		{"retention without partition", table, "value: unlimited", "value: 30\n    unit: d", "slaProperties[2].element"},
		{"retention by another column", log, "element: events.received_at", "element: events.recorded_at", "slaProperties[2].element"},
		{"partition that may be NULL", "iot-telemetry/readings.odcs.yaml", "        partitionKeyPosition: 1\n        required: true\n",
			"        partitionKeyPosition: 1\n", "schema[0].properties[8].partitioned"},
		{"no rule", table, "    quality:\n      - type: library\n        metric: duplicateValues\n        mustBe: 0\n        dimension: uniqueness\n" +
			"        arguments: {properties: [customer_id]}\n" +
			"        description: Each key comes once, whatever was sent twice, late or out of order.\n", "", "schema[0].quality"},
		{"type of a rule", table, "type: library", "type: custom", "schema[0].quality[0].type"},
		{"query of a metric", table, "metric: duplicateValues", "metric: duplicateValues\n        query: SELECT 1", "schema[0].quality[0].query"},
		{"no query", table, "type: library\n        metric: duplicateValues", "type: sql", "schema[0].quality[0].query"},
		{"metric of a column", table, "metric: duplicateValues", "metric: nullValues", "schema[0].quality[0].metric"},
		{"unknown metric", table, "metric: duplicateValues", "metric: duplicates", "schema[0].quality[0].metric"},
		{"no bound", table, "        mustBe: 0\n", "", "schema[0].quality[0]"},
		{"two bounds", table, "mustBe: 0\n", "mustBe: 0\n        mustBeLessOrEqualTo: 3\n", "schema[0].quality[0]"},
		{"bounds the wrong way round", table, "mustBe: 0\n", "mustBeBetween: [3, 1]\n", "schema[0].quality[0]"},
		{"a bound too many", table, "mustBe: 0\n", "mustBe: 0\n        mustBeBetween: [1]\n", "schema[0].quality[0]"},
		{"a bound that is not known", table, "mustBe: 0\n", "mustBeAbout: 0\n", "mustBeAbout"},
		{"id with a dot", table, "metric: duplicateValues", "metric: duplicateValues\n        id: a.b", "schema[0].quality[0].id"},
		{"id and name", table, "metric: duplicateValues", "metric: duplicateValues\n        id: a\n        name: b", "schema[0].quality[0].id"},
		{"unit of a rule", table, "metric: duplicateValues", "metric: duplicateValues\n        unit: apples", "schema[0].quality[0].unit"},
		{"percent of all rows", table, "metric: duplicateValues", "metric: rowCount\n        unit: percent", "schema[0].quality[0].unit"},
		{"column of a query of the table", joined, "value IS NULL AND", "${column} IS NULL AND", "schema[0].quality[1].query"},
		{"days of a rule", joined, "metric: duplicateValues", "metric: duplicateValues\n        customProperties: [{property: days, value: 0}]", "schema[0].quality[0].customProperties.days"},
		{"days of no partition", table, "metric: duplicateValues", "metric: duplicateValues\n        customProperties: [{property: days, value: 3}]", "schema[0].quality[0].customProperties.days"},
		{"days for ever", joined, "metric: duplicateValues", "metric: duplicateValues\n        customProperties: [{property: days, value: all}]", "schema[0].quality[0].customProperties.days"},
		{"values of numbers", joined, "arguments: {pattern: '^[0-9a-f]{32}$'}", "arguments: {validValues: [1]}", "arguments.validValues"},
		{"range of texts", joined, "arguments: {pattern: '^[0-9a-f]{32}$'}", "arguments: {minimum: 1}", "arguments.minimum"},
		{"pattern and values", joined, "arguments: {pattern: '^[0-9a-f]{32}$'}", "arguments: {pattern: a, validValues: [a]}", "properties[0].quality[0].arguments"},
		{"missing without values", joined, "metric: nullValues", "metric: missingValues", "arguments.missingValues"},
		{"source that is not there", joined, "iot_metadata.placements.room]", "iot_metadata.placements.rooms]", "schema[0].properties[20].transformSourceObjects[0]"},
		{"source twice", joined, "[iot_actions.actions.taken_at, iot_telemetry.readings.observed_at]", "[iot_actions.actions.taken_at, iot_actions.actions.taken_at]", "transformSourceObjects[1]"},
		{"source of the table itself", joined, "[iot_metadata.placements.room]", "[iot_analytics.readings.room]", "transformSourceObjects[0]"},
		{"event twice", joined, "[dev.telemesh.analytics.joined.v1, dev.telemesh.analytics.withdrawn.v1]", "[a, a]", "schema[0].customProperties.events[1]"},
		{"event without a type", joined, "[dev.telemesh.analytics.joined.v1, dev.telemesh.analytics.withdrawn.v1]", "['']", "schema[0].customProperties.events[0]"},
		{"place that is no pointer", joined, knowledge, "{property: from, value: room}", "customProperties.from.pointer"},
		{"place with a broken escape", joined, knowledge, "{property: from, value: /a~2}", "customProperties.from.pointer"},
		{"place in two", joined, knowledge, "{property: from, value: {pointer: /a, attribute: id}}", "customProperties.from.attribute"},
		{"place that is no attribute", joined, knowledge, "{property: from, value: {attribute: tenant_id}}", "customProperties.from.attribute"},
		{"place with an unknown member", joined, knowledge, "{property: from, value: {path: /a}}", "customProperties.from"},
		{"unit of what is no instant", joined, knowledge, "{property: from, value: {pointer: /a, unit: ms}}", "customProperties.from.unit"},
		{"place of a column and none of another", joined, knowledge, "{property: from, value: /a}", "schema[0].properties[0].customProperties.from"},
		{"rows that are no pointer", table, "{property: tombstones, value: true}", "{property: rows, value: rows}", "schema[0].customProperties.rows"},
		{"rows of no event", log, "{property: appendOnly, value: true}", "{property: rows, value: /rows}", "schema[0].customProperties.events"},
		{"duplicates of no column", table, "[customer_id]}", "[id]}", "schema[0].quality[0].arguments.properties"},
		{"duplicates of nothing", table, "        arguments: {properties: [customer_id]}\n", "", "schema[0].quality[0].arguments.properties"},
		{"values of duplicates", table, "{properties: [customer_id]}", "{properties: [customer_id], validValues: [a]}", "schema[0].quality[0].arguments"},
		{"invalid of nothing", joined, "            arguments: {pattern: '^[0-9a-f]{32}$'}\n", "", "schema[0].properties[0].quality[0].arguments"},
		{"pattern", joined, "'^[0-9a-f]{32}$'", "'['", "schema[0].properties[0].quality[0].arguments.pattern"},
		{"rule twice", joined, "type: sql\n        query: SELECT count(*) FROM iot_analytics.readings WHERE value IS NULL AND value_string IS NULL",
			"type: library\n        metric: duplicateValues\n        arguments: {properties: [reading_id]}", "schema[0].quality[1]"},
		{"rule without description", table, "        description: Each key comes once, whatever was sent twice, late or out of order.\n", "", "schema[0].quality[0].description"},
		{"unknown property of an input", feeds, "property: pubsub", "property: pubSub", "inputPorts[0].customProperties[0].property"},
		{"unknown member of a feed", feeds, "topic: telemetry\n", "topics: telemetry\n", "inputPorts[0].customProperties.pubsub"},
		{"topic", feeds, "topic: telemetry\n", "topic: t\n", "pubsub.topic"},
		{"dead letters to the topic itself", feeds, "deadLetterTopic: telemetry-dead-letters", "deadLetterTopic: telemetry", "pubsub.deadLetterTopic"},
		{"few attempts", feeds, "maxDeliveryAttempts: 100", "maxDeliveryAttempts: 4", "pubsub.maxDeliveryAttempts"},
		{"retention of a feed", feeds, "retention: 168h", "retention: 7d", "pubsub.retention"},
		{"long retention of a feed", feeds, "retention: 168h", "retention: 745h", "pubsub.retention"},
		{"backoff", feeds, "maxBackoff: 600s", "maxBackoff: 601s", "pubsub.maxBackoff"},
		{"backoff that shrinks", feeds, "maxBackoff: 600s", "maxBackoff: 9s", "pubsub.maxBackoff"},
		{"no subscription", feeds, "            - {name: pubsub-source, delivery: pull, ackDeadline: 60s}\n" +
			"            - {name: telemetry-ingest, delivery: push, ackDeadline: 60s}\n", "            []\n", "pubsub.subscriptions"},
		{"subscription twice", feeds, "name: telemetry-ingest", "name: pubsub-source", "pubsub.subscriptions[1].name"},
		{"delivery", feeds, "delivery: push", "delivery: poll", "pubsub.subscriptions[1].delivery"},
		{"deadline", feeds, "ackDeadline: 60s", "ackDeadline: 5s", "pubsub.subscriptions[0].ackDeadline"},
		{"status", descriptor, "status: active", "status: ''", "status"},
		{"team", descriptor, "name: crm-team", "name: ''", "team.name"},
		{"port without contract", descriptor, "    contractId: customers.customers\n", "", "outputPorts[0].contractId"},
		{"attribute of the tenant", feeds, "value: tenantid", "value: tenant_id", "outputPorts[2].customProperties.tenantAttribute"},
		{"property of events", feeds, "tenantAttribute", "tenantColumn", "outputPorts[2].customProperties[0].property"},
		{"port of no kind", descriptor, "type: event", "type: stream", "outputPorts["},
		{"port without table", descriptor, "name: customers.customers", "name: customers.others", "customers.customers"},
		{"name", descriptor, "name: customers\n", "name: other\n", "name"},
	} {
		files := copyOf(t, products.FS)
		changed := strings.Replace(string(files[test.file].Data), test.old, test.new, 1)
		if changed == string(files[test.file].Data) {
			t.Fatalf("%s: %s does not contain %q", test.name, test.file, test.old)
		}
		files[test.file].Data = []byte(changed)
		_, err := contract.Load(files)
		if err == nil || !strings.Contains(err.Error(), path.Dir(test.file)+"/") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Load() = %v, want an error that names %s and %s", test.name, err, test.file, test.want)
		}
	}
	if _, err := contract.Load(fstest.MapFS{}); err == nil {
		t.Error("Load() of an empty folder gives no error")
	}
	for _, name := range []string{"telemesh", "customers-internal"} {
		files := copyOf(t, products.FS)
		text := strings.ReplaceAll(string(files[descriptor].Data), "id: customers\n", "id: "+name+"\n")
		files[name+"/product.odps.yaml"] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(text, "name: customers\n", "name: "+name+"\n"))}
		if _, err := contract.Load(files); err == nil || !strings.Contains(err.Error(), name+"/product.odps.yaml: field name") {
			t.Errorf("Load() of a product %s = %v", name, err)
		}
	}
	moved := copyOf(t, products.FS)
	moved["customers/clients.odcs.yaml"] = moved[table]
	delete(moved, table)
	if _, err := contract.Load(moved); err == nil || !strings.Contains(err.Error(), "customers/clients.odcs.yaml: field schema[0].name") {
		t.Errorf("Load() of a contract in a file of another name = %v", err)
	}
	for file, want := range map[string]string{
		"customers/views/other.sql":            "no output port",
		"customers/views/customers.duckdb.sql": "customers.sql",
	} {
		files := copyOf(t, products.FS)
		files[file] = &fstest.MapFile{Data: []byte("SELECT 1")}
		if _, err := contract.Load(files); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Load() = %v, want an error that names it and %s", file, err, want)
		}
	}
}

func copyOf(t *testing.T, folder fs.FS) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	err := fs.WalkDir(folder, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(folder, file)
		files[file] = &fstest.MapFile{Data: text}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
