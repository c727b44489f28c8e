package contract_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/products"
)

// edited is the products with changes in one file: what stands there, and what
// takes its place.
func edited(t *testing.T, file string, changes ...string) fstest.MapFS {
	t.Helper()
	files := copyOf(t, products.FS)
	text := string(files[file].Data)
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("%s does not contain %q", file, changes[i])
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	files[file].Data = []byte(text)
	return files
}

// What is just within the limits is taken.
func TestWithinLimits(t *testing.T) {
	const (
		table    = "customers/customers.odcs.yaml"
		tenant   = "      - {property: tenantColumn, value: customer_id}\n"
		readings = "iot-telemetry/product.odps.yaml"
	)
	for name, files := range map[string]fstest.MapFS{
		"four columns": edited(t, table, tenant, tenant+"      - {property: clusteredBy, value: [customer_id, name, sector, version]}\n"),
		"one column":   edited(t, table, tenant, tenant+"      - {property: clusteredBy, value: [country]}\n"),
		"a second":     edited(t, table, "value: 60", "value: 1"),
		"a century":    edited(t, table, "value: 60\n    unit: s", "value: 100\n    unit: years"),
		"few attempts": edited(t, readings, "maxDeliveryAttempts: 100", "maxDeliveryAttempts: 5"),
		"backoff that does not grow, for ten minutes": edited(t, readings, "minBackoff: 10s", "minBackoff: 600s"),
		"no backoff":             edited(t, readings, "minBackoff: 10s", "minBackoff: 0s"),
		"ten minutes":            edited(t, readings, "retention: 168h", "retention: 10m", "ackDeadline: 60s", "ackDeadline: 600s"),
		"a month":                edited(t, readings, "retention: 168h", "retention: 744h", "ackDeadline: 60s", "ackDeadline: 10s"),
		"two bounds":             edited(t, table, "mustBe: 0", "mustBeBetween: [0, 1]"),
		"at least":               edited(t, table, "mustBe: 0", "mustBeGreaterOrEqualTo: 0"),
		"at most":                edited(t, table, "mustBe: 0", "mustBeLessOrEqualTo: 1"),
		"a minor version behind": edited(t, "iot-analytics/product.odps.yaml", "version: 1.0.0\n    contractId: customers.customers", "version: 1.7.0\n    contractId: customers.customers"),
	} {
		if _, err := contract.Load(files); err != nil {
			t.Errorf("%s: Load() = %v", name, err)
		}
	}
}

// Each of several conditions is one.
func TestEachCondition(t *testing.T) {
	const (
		table      = "customers/customers.odcs.yaml"
		log        = "event-log/events.odcs.yaml"
		joined     = "iot-analytics/readings.odcs.yaml"
		appendOnly = "      - {property: appendOnly, value: true}\n"
		order      = "{property: order, value: version}"
		number     = "        logicalType: integer\n        physicalType: INT64\n        required: true\n        classification: internal\n        description: Counts"
		joins      = "        logicalType: integer\n        physicalType: INT64\n        required: true\n        classification: internal\n        description: >-\n          How many"
		actions    = "iot-actions/actions.odcs.yaml"
		taken      = "        physicalType: TIMESTAMP\n        required: true\n        classification: internal\n        description: When it was done."
		partition  = "        partitioned: true\n        partitionKeyPosition: 1\n" + taken
		kept       = "value: unlimited"
		tenYears   = "value: 10\n    unit: years"
		flag       = "          - {property: knowledge, value: true}\n"
	)
	for name, test := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"name of the table":          {edited(t, table, "  - name: customers\n", "  - name: clients\n"), "schema[0].physicalName"},
		"upper case":                 {edited(t, table, "  - name: customers\n", "  - name: Customers\n", "customers.customers\n    physicalType", "customers.Customers\n    physicalType"), "schema[0].physicalName"},
		"append-only, tombstones":    {edited(t, log, appendOnly, appendOnly+"      - {property: tombstones, value: true}\n"), "customProperties.appendOnly"},
		"append-only, order":         {edited(t, log, appendOnly, appendOnly+"      - {property: order, value: version}\n"), "customProperties.appendOnly"},
		"append-only, no time":       {edited(t, table, "{property: tombstones, value: true}", "{property: appendOnly, value: true}"), "customProperties.appendOnly"},
		"order of no column":         {edited(t, table, order, "{property: order, value: revision}"), "customProperties.order"},
		"order of text":              {edited(t, table, number, strings.NewReplacer("integer", "string", "INT64", "STRING").Replace(number)), "customProperties.order"},
		"order that may be NULL":     {edited(t, table, number, strings.Replace(number, "        required: true\n", "", 1)), "customProperties.order"},
		"knowledge as provenance":    {edited(t, joined, flag, flag+"          - {property: provenance, value: true}\n"), "customProperties.knowledge"},
		"knowledge as key":           {edited(t, joined, joins, "        primaryKey: true\n        primaryKeyPosition: 2\n"+joins), "customProperties.knowledge"},
		"invalid of a table":         {edited(t, table, "metric: duplicateValues", "metric: invalidValues"), "schema[0].quality[0].metric"},
		"rows of a column":           {edited(t, joined, "metric: nullValues", "metric: rowCount"), "properties[1].quality[0].metric"},
		"the same bound twice":       {edited(t, table, "mustBe: 0", "mustBeBetween: [1, 1]"), "schema[0].quality[0]"},
		"key of what may be NULL":    {edited(t, joined, "value: [observed_at, device_id, metric]", "value: [observed_at, tenant_id]"), "customProperties.keyOf[1]"},
		"key of itself":              {edited(t, joined, "value: [observed_at, device_id, metric]", "value: [observed_at, reading_id]"), "customProperties.keyOf[1]"},
		"key of provenance":          {edited(t, joined, "value: [observed_at, device_id, metric]", "value: [observed_at, received_at]"), "customProperties.keyOf[1]"},
		"key of a column twice":      {edited(t, joined, "value: [observed_at, device_id, metric]", "value: [observed_at, metric, metric]"), "customProperties.keyOf[2]"},
		"key of no column":           {edited(t, joined, "value: [observed_at, device_id, metric]", "value: [observed_at, device]"), "customProperties.keyOf[1]"},
		"revision without time":      {edited(t, joined, "value: [observed_at, device_id, metric]", "value: [device_id, metric]"), "customProperties.keyOf"},
		"kept by no part of the key": {edited(t, actions, taken, partition, kept, tenYears), "slaProperties[2].value"},
		"dropped from what others are made from": {edited(t, actions, taken, partition, kept, tenYears, "      - {property: order",
			"      - {property: keyOf, value: [taken_at]}\n      - {property: order"), `field slaProperties: "retention 3660 days"`},
		"no kind":                  {edited(t, "customers/product.odps.yaml", "    value: source-aligned\n", "    value: null\n"), `customProperties.kind: ""`},
		"another team's contract":  {edited(t, log, "name: platform-team", "name: iot-team"), "team.name"},
		"port of another contract": {edited(t, "customers/product.odps.yaml", "contractId: customers.customers", "contractId: customers.clients"), "no output port customers.customers"},
	} {
		if _, err := contract.Load(test.files); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Load() = %v, want an error that names %s", name, err, test.want)
		}
	}
}
