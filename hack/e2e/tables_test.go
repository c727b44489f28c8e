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
	// however often it was stored, since a delivery again stores again.
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
			rows, twice := rowsOf(t, store, &table, table.FullName(), compared[i].where, compared[i].but)
			for key, row := range rows {
				if len(row) != 1 {
					t.Errorf("%s shows %d rows of %s", table.FullName(), len(row), key)
				}
				shown[key] = row[0]
			}
			if len(twice) > 0 {
				t.Errorf("%s shows %d keys more than once, as %s", table.FullName(), len(twice), twice[0])
			}
			got.Shown[table.FullName()] = shown
			if behind && table.Order == contract.Revision {
				got.Stored[table.FullName()], _ = rowsOf(t, store, &table, p.Schema+contract.InternalSuffix+"."+table.Name, compared[i].where, compared[i].but)
			}
		}
	}
	return got
}

// rowsOf gives the distinct rows of each key, and the keys that come twice: keys in
// full, of which the others lack clocks.
func rowsOf(t *testing.T, store warehouse.Warehouse, table *contract.Table, from, where, but string) (distinct map[string][]string, twice []string) {
	t.Helper()
	// How many rows a store counted before this one, and had been recorded of
	// what it was made from, depends on how rows met.
	differs := func(column string) bool {
		return slices.Contains(clocks, column) || column == table.Knowledge || column == contract.Revision || column == but
	}
	var columns []contract.Column
	var names []string
	for _, c := range table.Columns {
		if !differs(c.Name) || slices.Contains(table.Key, c.Name) {
			columns = append(columns, c)
			names = append(names, c.Name)
		}
	}
	distinct = map[string][]string{}
	seen := map[string]bool{}
	for _, row := range query(t, store, fmt.Sprintf("SELECT %s FROM %s WHERE %s", strings.Join(names, ", "), from, where)) {
		var whole, key, rest []string
		for i, cell := range row {
			text := names[i] + "=" + textOf(t, columns[i].Type, cell)
			switch inKey := slices.Contains(table.Key, names[i]); {
			case !inKey:
				rest = append(rest, text)
			case !differs(names[i]):
				key = append(key, text)
				fallthrough
			default:
				whole = append(whole, text)
			}
		}
		if name := strings.Join(whole, " "); seen[name] {
			twice = append(twice, name)
		} else {
			seen[name] = true
		}
		name, text := strings.Join(key, " "), strings.Join(rest, " ")
		if !slices.Contains(distinct[name], text) {
			distinct[name] = append(distinct[name], text)
		}
	}
	for _, rows := range distinct {
		slices.Sort(rows)
	}
	return distinct, twice
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
// ticks, which are the clock's, what these have the platform say of itself, and
// changes of levels: batches that overtake each other show fewer of them.
func logged(t *testing.T, store warehouse.Warehouse) map[string]int64 {
	t.Helper()
	counts := map[string]int64{}
	for _, row := range query(t, store, "SELECT broker, type, COUNT(*) FROM event_log.events WHERE type NOT IN ('dev.knative.sources.ping', '"+mesh.CO2Classified+"') AND broker != 'platform/platform' GROUP BY broker, type") {
		counts[fmt.Sprint(row[0], " ", row[1])] = row[2].(int64)
	}
	return counts
}

// received gives the set of the messages of the scenario that the event log has,
// byte for byte.
func received(t *testing.T, store warehouse.Warehouse) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, row := range query(t, store, "SELECT data FROM event_log.events WHERE broker = 'iot/iot' AND type = '"+mesh.TelemetryReceived+"'") {
		messages, err := mesh.DecodeMessages([]byte(row[0].(string)))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			all[string(m.Payload)] = true
		}
	}
	return all
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
