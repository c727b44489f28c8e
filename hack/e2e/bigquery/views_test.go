package bigquery_test

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/telemesh/telemesh/hack/e2e/emulator"
	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/dataset"
	"github.com/telemesh/telemesh/internal/disorder"
	"github.com/telemesh/telemesh/internal/feed"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery"
	"github.com/telemesh/telemesh/internal/warehouse/bigquery/schema"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb/duckdbtest"
	"github.com/telemesh/telemesh/products"
)

// TestPortsAndViewsShowTheSame compares every output port and view of the two
// warehouses after the same rows were appended: what a mesh made of some
// devices, rooms, actions and customers, and rows at the edges of what a view
// has to tell apart.
func TestPortsAndViewsShowTheSame(t *testing.T) {
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	duck := duckdbtest.Open(t)
	runMesh(t, duck)
	appendEdges(t, duck)
	for _, name := range metrics {
		table := tableOf(t, name)
		if _, err := duck.Append(t.Context(), batch(name, "metrics", rowOf(table, filled(table)))); err != nil {
			t.Fatal(err)
		}
	}

	cloud := openProducts(t, emulator.Start(t), all)
	for _, p := range all {
		for i := range p.Tables {
			copyRows(t, duck, cloud, &p.Tables[i])
		}
	}
	for _, p := range all {
		for _, table := range p.Tables {
			if table.Schema != p.Schema {
				continue
			}
			columns := slices.DeleteFunc(slices.Clone(table.Columns), func(c contract.Column) bool { return c.Name == contract.RecordedAt })
			compareRows(t, duck, cloud, table.FullName(), columns)
		}
		for _, v := range p.Views {
			name := v.Schema + "." + v.Name
			rows, err := duck.Query(t.Context(), "SELECT * FROM "+name+" LIMIT 0")
			if err != nil {
				t.Fatal(err)
			}
			compareRows(t, duck, cloud, name, rows.Columns)
		}
	}
}

// openProducts gives the warehouse of a project with the products, all of whose
// rows the user of the emulator sees.
func openProducts(t *testing.T, e *emulator.Emulator, all []contract.Product) warehouse.Warehouse {
	t.Helper()
	w, err := bigquery.Open(t.Context(), e.Config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.Apply(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	client, err := e.Config().NewClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	insert := fmt.Sprintf("INSERT INTO %s (member, tenant_id) VALUES ('%s', '%s')", schema.Members, emulator.User, schema.Everyone)
	if _, err := client.Query(insert).Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// copyRows appends all rows of a table to another warehouse.
func copyRows(t *testing.T, from, to warehouse.Warehouse, table *contract.Table) {
	t.Helper()
	names := make([]string, 0, len(table.Cells()))
	for _, c := range table.Cells() {
		names = append(names, c.Name)
	}
	internal := strings.TrimSuffix(table.Schema, "_internal") + "_internal." + table.Name
	batch := warehouse.Batch{Table: table.FullName(), EventSource: "/test", EventID: "copy"}
	for _, row := range readRows(t, from, "SELECT "+strings.Join(names, ", ")+" FROM "+internal+" ORDER BY recorded_at") {
		var cells storedRow
		for _, v := range row {
			cells = append(cells, cellOf(v))
		}
		batch.Rows = append(batch.Rows, cells)
	}
	if len(batch.Rows) == 0 {
		t.Logf("no row of %s", internal)
	}
	if _, err := to.Append(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

func cellOf(v any) warehouse.Cell {
	switch v := v.(type) {
	case string:
		return warehouse.String(v)
	case float64:
		return warehouse.Float(v)
	case int64:
		return warehouse.Int(v)
	case bool:
		return warehouse.Bool(v)
	case time.Time:
		return warehouse.Instant(mesh.At(v))
	}
	return warehouse.Null
}

func readRows(t *testing.T, w warehouse.Warehouse, sql string) (rows [][]any) {
	t.Helper()
	answer, err := w.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%v\n\t%s", err, sql)
	}
	for row, err := range answer.All {
		if err != nil {
			t.Fatalf("%v\n\t%s", err, sql)
		}
		rows = append(rows, slices.Clone(row))
	}
	return rows
}

// compareRows compares what a port or view shows, in whatever order.
func compareRows(t *testing.T, duck, cloud warehouse.Warehouse, name string, columns []contract.Column) {
	t.Helper()
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	sql := "SELECT " + strings.Join(names, ", ") + " FROM " + name
	var sides [2][][]any
	for i, w := range []warehouse.Warehouse{duck, cloud} {
		for _, row := range readRows(t, w, sql) {
			for j, c := range columns {
				if text, ok := row[j].(string); ok && c.Type == contract.JSON {
					if err := json.Unmarshal([]byte(text), &row[j]); err != nil {
						t.Fatal(err)
					}
				}
			}
			sides[i] = append(sides[i], row)
		}
		slices.SortFunc(sides[i], compareCells)
	}
	if len(sides[0]) == 0 {
		t.Errorf("%s shows nothing: the test is too small", name)
	}
	if diff := gocmp.Diff(sides[0], sides[1], cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("%s %v: DuckDB (-), BigQuery (+):\n%s", name, names, diff)
	}
	t.Logf("%s: %d rows", name, len(sides[0]))
}

// compareCells orders rows by what is no sum of floats first.
func compareCells(a, b []any) int {
	for _, floats := range []bool{false, true} {
		for i := range a {
			x, isFloat := a[i].(float64)
			y, bothFloats := b[i].(float64)
			switch {
			case isFloat && bothFloats && floats:
				if c := cmp.Compare(x, y); c != 0 {
					return c
				}
			case !floats && reflect.TypeOf(a[i]) != reflect.TypeOf(b[i]), !floats && !isFloat:
				if c := strings.Compare(fmt.Sprint(a[i]), fmt.Sprint(b[i])); c != 0 {
					return c
				}
			}
		}
	}
	return 0
}

// appendEdges adds what a mesh makes seldom or never: readings on and beside the
// bounds of a quarter of an hour, also before 1970, in rooms without a name;
// two last actions of one instant; placements that claim a device at once.
func appendEdges(t *testing.T, w warehouse.Warehouse) {
	t.Helper()
	add := func(name string, rows ...map[string]warehouse.Cell) {
		t.Helper()
		table := tableOf(t, name)
		batch := warehouse.Batch{Table: name, EventSource: "/test", EventID: "edges"}
		for _, row := range rows {
			batch.Rows = append(batch.Rows, rowOf(table, row))
		}
		if _, err := w.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	text, at := warehouse.String, func(s string) warehouse.Cell {
		i, err := mesh.ParseInstant(s)
		if err != nil {
			t.Fatal(err)
		}
		return warehouse.Instant(i)
	}
	n := 0
	joined := func(when string, value float64, more map[string]warehouse.Cell) map[string]warehouse.Cell {
		n++
		row := map[string]warehouse.Cell{
			"reading_id": text(fmt.Sprint("edge-", n)), "tenant_id": text("school"), "device_id": text(fmt.Sprint("edge-", n)), "metric": text("co2"),
			"value": warehouse.Float(value), "observed_at": at(when), "received_at": at("2026-03-02T09:00:00Z"), "revision": warehouse.Int(1),
			"assignment_version": warehouse.Int(1), "event_source": text("/test"), "event_id": text("edge"), "join_version": warehouse.Int(1),
			"deleted": warehouse.Bool(false),
		}
		for name, cell := range more {
			row[name] = cell
		}
		return row
	}
	room := func(more ...warehouse.Cell) map[string]warehouse.Cell {
		return map[string]warehouse.Cell{"building": text("E"), "room": text("edge"), "last_action": more[0], "last_action_at": more[1],
			"minutes_since_action": warehouse.Float(1), "outside_co2": warehouse.Float(410.25)}
	}
	add("iot_analytics.readings",
		joined("1969-12-31T23:59:59.999999Z", 500, nil), joined("1970-01-01T00:00:00Z", 501, nil), joined("1969-12-31T23:45:00Z", 502, nil),
		joined("1969-12-31T23:44:59.999999Z", 503, nil),
		joined("2026-03-02T08:14:59.999999Z", 400, nil), joined("2026-03-02T08:15:00Z", 401, nil), joined("2026-03-02T08:15:00.000001Z", 402.5, nil),
		joined("2026-03-02T10:00:01Z", 600, room(text("window"), at("2026-03-02T09:59:00Z"))),
		joined("2026-03-02T10:00:02Z", 610, room(text("door"), at("2026-03-02T09:59:00Z"))),
		joined("2026-03-02T10:00:03Z", 620, room(text("fan"), at("2026-03-02T09:00:00Z"))),
		joined("2026-03-02T10:00:04Z", 630, room(warehouse.Null, warehouse.Null)))

	placed := func(device, tenant, from string) map[string]warehouse.Cell {
		return map[string]warehouse.Cell{"device_id": text(device), "tenant_id": text(tenant), "building": text("E"), "room": text("edge"),
			"valid_from": at(from), "version": warehouse.Int(1), "deleted": warehouse.Bool(false)}
	}
	add("iot_metadata.placements",
		placed("claimed", "school", "2026-03-02T06:00:00Z"), placed("claimed", "office", "2026-03-02T07:00:00Z"),
		placed("one", "school", "2026-03-02T09:00:00Z"))
	acted := func(id, what, when string, where map[string]warehouse.Cell) map[string]warehouse.Cell {
		row := map[string]warehouse.Cell{"action_id": text(id), "action": text(what), "taken_at": at(when), "version": warehouse.Int(1), "deleted": warehouse.Bool(false)}
		for name, cell := range where {
			row[name] = cell
		}
		return row
	}
	for _, name := range []string{"iot_metadata.rejected_rows", "iot_actions.rejected_rows", "customers.rejected_rows"} {
		finding := map[string]warehouse.Cell{"sheet": text("s"), "row_number": warehouse.Int(2), "column_name": text("c"), "reason": text("r"),
			"severity": text(string(mesh.SeverityError)), "version": warehouse.Int(1), "deleted": warehouse.Bool(false)}
		add(name, finding)
	}
	here := map[string]warehouse.Cell{"building": text("E"), "room": text("edge")}
	add("iot_actions.actions",
		acted("e1", "of nobody: it is claimed twice", "2026-03-02T08:00:00Z", map[string]warehouse.Cell{"device_id": text("claimed")}),
		acted("e2", "last instant", "2026-03-02T10:14:59.999999Z", here), acted("e3", "first instant", "2026-03-02T10:00:00Z", here),
		acted("e4", "next quarter", "2026-03-02T10:15:00Z", here),
		acted("e5", "at the device", "2026-03-02T10:00:00Z", map[string]warehouse.Cell{"device_id": text("one")}))
}

// storedRow is a row by its cells.
type storedRow []warehouse.Cell

func (r storedRow) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, r...) }

// rowOf gives a row with cells by column, NULL where there is none.
func rowOf(table *contract.Table, by map[string]warehouse.Cell) storedRow {
	var row storedRow
	for _, c := range table.Cells() {
		row = append(row, by[c.Name])
	}
	return row
}

func tableOf(t *testing.T, name string) *contract.Table {
	t.Helper()
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		for i := range p.Tables {
			if p.Tables[i].FullName() == name {
				return &p.Tables[i]
			}
		}
	}
	t.Fatalf("no table %s", name)
	return nil
}

// TestWindesheimInBigQuery replays the wide recording of a room into BigQuery:
// its readings are the long recording of the same room. cmd/telemesh has the
// same for DuckDB.
func TestWindesheimInBigQuery(t *testing.T) {
	const folder = "indoor-air/windesheim-b4b2022/"
	wide, long := dataset.Path(t, folder+"925038_raw_properties.csv"), dataset.Path(t, folder+"925038_raw_measurements.csv")
	all, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	store := openProducts(t, emulator.Start(t), all)
	m := newMesh(t, store, nil, func(string, int) int { return 0 }, "telemetry-ingest", "event-log")
	for again := range 2 { // the second time it says nothing new
		f, err := feed.Open(wide, feed.Columns{Device: []string{"id", "source"}, Time: "timestamp"})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var messages []mesh.Message
		n := 0
		send := func() {
			n++
			id := fmt.Sprint("replay-", again, "-", n)
			m.Post(disorder.Named("iot"), mesh.NewEvent(mesh.TelemetryReceived, "/test", mesh.EncodeMessages(messages), id))
			messages = messages[:0]
			if err := m.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for one, err := range f.All() {
			if err != nil {
				t.Fatal(err)
			}
			messages = append(messages, mesh.Message{ID: fmt.Sprint(len(messages)), Source: "/test", ContentType: "application/json",
				ReceivedAt: mesh.At(time.Now()), Payload: slices.Clone(one.Body)})
			if len(messages) == 500 {
				send()
			}
		}
		send()
	}

	want := longReadings(t, long)
	got := readRows(t, store, "SELECT device_id, metric, observed_at, value, tenant_id FROM iot_telemetry.readings")
	rounded := 0
	for _, row := range got {
		key := fmt.Sprint(row[0], " ", row[1], " ", row[2].(time.Time).UnixMicro())
		value := row[3].(float64)
		switch values := want[key]; {
		case row[4] != nil:
			t.Errorf("%s is the tenant's %v: nobody holds a device", key, row[4])
		case slices.ContainsFunc(values, func(v float64) bool { return math.Abs(v-value) <= 1e-9 }):
		case strings.Contains(key, "/bms ") && slices.ContainsFunc(values, func(v float64) bool { return float32(v) == float32(value) }):
			rounded++ // the wide file has what the building's own recorder counts in float32
		default:
			t.Errorf("%s = %v, want %v", key, value, values)
		}
	}
	if len(got) != len(want) || rounded > 906 {
		t.Errorf("%d readings, %d of them equal in float32 only; want %d, 906", len(got), rounded, len(want))
	}
}

// longReadings are the values of the long recording by device, metric and
// instant.
func longReadings(t *testing.T, path string) map[string][]float64 {
	t.Helper()
	// Their names as the dictionary has them.
	metrics := map[string]string{
		"co2__ppm": "co2", "temp_in__degC": "temperature", "rel_humidity__0": "relative_humidity_fraction",
		"occupancy__p": "people_count", "valve_frac__0": "valve_opening", "door_open__bool": "door_open", "window_open__bool": "window_open",
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, name := range lines[0] {
		at[name] = i
	}
	readings := map[string][]float64{}
	for _, line := range lines[1:] {
		when, err := time.Parse("2006-01-02T15:04:05-0700", line[at["timestamp"]])
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("True", "1", "False", "0").Replace(line[at["value"]])
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		metric, ok := metrics[line[at["property"]]]
		if !ok {
			t.Fatalf("property %q of the long file is not known", line[at["property"]])
		}
		key := fmt.Sprint(line[at["id"]], "/", line[at["source"]], " ", metric, " ", when.UnixMicro())
		readings[key] = append(readings[key], value)
	}
	return readings
}
