package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

// devices are those of the scenario: the recording has others of the building, too,
// which nobody holds.
const devices = "(device_id LIKE '925038/%' OR device_id = '" + spare + "')"

// compared are the tables of which every row is compared: which rows are the
// scenario's, and which columns say when or in which event, besides those of
// clocks.
var compared = []struct{ table, where, but string }{
	{"iot_telemetry.readings", devices, ""},
	{"iot_telemetry_internal.rejected", "payload LIKE '%" + spare + "%'", "event_id"},
	{"iot_analytics.readings", devices, ""},
	{"iot_metadata.placements", devices, ""},
	{"iot_metadata.rejected_rows", "TRUE", ""},
	{"iot_actions.actions", "action_id LIKE 'mesh-%'", ""},
	{"customers.customers", "customer_id LIKE 'mesh-%'", ""},
}

// clocks are the columns that say when, by the clocks of functions and of the
// warehouse.
var clocks = []string{"received_at", contract.RecordedAt}

// tables is what a warehouse holds of the scenario.
type tables struct {
	// Shown are the rows of output ports, and of rejected: by table and key, what
	// else is in the row.
	Shown map[string]map[string]string
	// Stored are the rows that stand behind the ports of readings, each once
	// however often it was stored.
	Stored map[string]map[string][]string
}

// read reads whole tables by plain statements, which both warehouses answer
// alike, and the emulator fast enough. What stands behind ports is read if asked for.
func read(t *testing.T, store warehouse.Warehouse, behind bool) tables {
	t.Helper()
	got := tables{Shown: map[string]map[string]string{}}
	if behind {
		got.Stored = map[string]map[string][]string{}
	}
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		for _, table := range p.Tables {
			i := slices.IndexFunc(compared, func(c struct{ table, where, but string }) bool { return c.table == table.FullName() })
			if i < 0 {
				continue
			}
			shown := map[string]string{}
			for key, row := range rowsOf(t, store, &table, table.FullName(), compared[i].where, compared[i].but) {
				if len(row) != 1 {
					t.Errorf("%s shows %d rows of %s", table.FullName(), len(row), key)
				}
				shown[key] = row[0]
			}
			got.Shown[table.FullName()] = shown
			if behind && table.Order == contract.Revision {
				got.Stored[table.FullName()] = rowsOf(t, store, &table, p.Schema+contract.InternalSuffix+"."+table.Name, compared[i].where, compared[i].but)
			}
		}
	}
	return got
}

// rowsOf gives the distinct rows of each key.
func rowsOf(t *testing.T, store warehouse.Warehouse, table *contract.Table, from, where, but string) map[string][]string {
	t.Helper()
	var columns []contract.Column
	var names []string
	for _, c := range table.Columns {
		// How many rows a store counted before this one, and had been recorded of
		// what it was made from, depends on how rows met.
		if !slices.Contains(clocks, c.Name) && c.Name != table.Knowledge && c.Name != contract.Revision && c.Name != but {
			columns = append(columns, c)
			names = append(names, c.Name)
		}
	}
	got := map[string][]string{}
	for _, row := range query(t, store, fmt.Sprintf("SELECT %s FROM %s WHERE %s", strings.Join(names, ", "), from, where)) {
		var key, rest []string
		for i, cell := range row {
			text := names[i] + "=" + textOf(t, columns[i].Type, cell)
			if slices.Contains(table.Key, names[i]) {
				key = append(key, text)
			} else {
				rest = append(rest, text)
			}
		}
		name, text := strings.Join(key, " "), strings.Join(rest, " ")
		if !slices.Contains(got[name], text) {
			got[name] = append(got[name], text)
		}
	}
	for _, rows := range got {
		slices.Sort(rows)
	}
	return got
}

// textOf gives one text for what is equal.
func textOf(t *testing.T, of contract.Type, cell any) string {
	t.Helper()
	switch cell := cell.(type) {
	case nil:
		return "NULL"
	case time.Time:
		return mesh.At(cell).String()
	case string:
		if of != contract.JSON {
			return fmt.Sprintf("%q", cell)
		}
		var value any
		decoder := json.NewDecoder(bytes.NewReader([]byte(cell)))
		decoder.UseNumber()
		if err := decoder.Decode(&value); err != nil {
			t.Fatalf("%s is no JSON: %v", cell, err)
		}
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	return fmt.Sprint(cell)
}

// again gives the keys of a table that more rows than one stand behind.
func (got *tables) again(table string) (keys []string) {
	for key, rows := range got.Stored[table] {
		if len(rows) > 1 {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// logged is how many events of a Broker and type the event log has, but for
// ticks, which are the clock's.
func logged(t *testing.T, store warehouse.Warehouse) map[string]int64 {
	t.Helper()
	counts := map[string]int64{}
	for _, row := range query(t, store, "SELECT broker, type, COUNT(*) FROM event_log.events WHERE type != 'dev.knative.sources.ping' GROUP BY broker, type") {
		counts[fmt.Sprint(row[0], " ", row[1])] = row[2].(int64)
	}
	return counts
}

func query(t *testing.T, store warehouse.Warehouse, sql string) (rows [][]any) {
	t.Helper()
	answer, err := store.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range answer.All {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, slices.Clone(row))
	}
	return rows
}
