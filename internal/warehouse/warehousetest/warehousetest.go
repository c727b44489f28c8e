// Package warehousetest is what every warehouse must keep, as tests: the
// claims of warehouse.Warehouse, on the real products.
package warehousetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/products"
)

// Row is a row given by column names. A column that is left out is NULL, or
// what Fill gives it.
type Row map[string]warehouse.Cell

// Test runs the suite. Each call of open gives a new, empty warehouse, which
// the test closes; the products are not applied.
func Test(t *testing.T, open func(t testing.TB) warehouse.Warehouse) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Store)
	}{
		{"CellsComeBackAsTheyWere", testCells},
		{"ApplyTwice", testApplyTwice},
		{"EventTwice", testEventTwice},
		{"RowTwice", testRowTwice},
		{"EarliestProvenance", testProvenance},
		{"Conflict", testConflict},
		{"JudgementDecides", testJudgement},
		{"AssignmentVersionDecides", testAssignmentVersion},
		{"RevisionDecides", testRevision},
		{"OrderDoesNotMatter", testOrder},
		{"VersionsAndTombstones", testVersions},
		{"Knowledge", testKnowledge},
		{"WithdrawnAndBack", testWithdrawn},
		{"OrderOfJoinedDoesNotMatter", testJoinedOrder},
		{"VersionOfWhatItIsMadeFrom", testMadeFrom},
		{"VersionHasWhatWasRecordedBefore", testMadeFromConcurrent},
		{"MadeFromNothing", testMadeFromNothing},
		{"Rejections", testRejections},
		{"AppendOnly", testAppendOnly},
		{"RowsThatCanNeverBeStored", testPermanent},
		{"AllButTheBadRow", testAllButBad},
		{"ManyAtOnce", testConcurrent},
		{"Views", testViews},
		{"Hours", func(_ *testing.T, s *Store) { s.Hours(1, 10, func() {}) }},
		{"QueryReadsOnly", testReadOnly},
		{"QueryErrors", testQueryErrors},
		{"QueryOrderAndNames", testQueryShape},
		{"LeaveTheLoop", testLeave},
		{"Cancel", testCancel},
		{"Closed", testClosed},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, New(t, open(t)))
		})
	}
}

// Store is a warehouse under test with the products applied.
type Store struct {
	warehouse.Warehouse
	t        testing.TB
	products []contract.Product
	tables   map[string]*contract.Table
	events   int
}

// New applies the products to a warehouse, and closes it when the test ends.
func New(t testing.TB, w warehouse.Warehouse) *Store {
	t.Helper()
	list, err := contract.Load(products.FS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	if err := w.Apply(t.Context(), list); err != nil {
		t.Fatalf("Apply() = %v", err)
	}
	s := &Store{Warehouse: w, t: t, products: list, tables: map[string]*contract.Table{}}
	for i := range list {
		for j := range list[i].Tables {
			table := &list[i].Tables[j]
			s.tables[table.FullName()] = table
		}
	}
	return s
}

type cells []warehouse.Cell

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, c...) }

// Rows makes rows of a table.
func (s *Store) Rows(table string, rows ...Row) []warehouse.Row {
	s.t.Helper()
	var out []warehouse.Row
	for _, row := range rows {
		var c cells
		used := 0
		for _, column := range s.tables[table].Cells() {
			cell, ok := row[column.Name]
			if ok {
				used++
			}
			c = append(c, cell)
		}
		if used != len(row) {
			s.t.Fatalf("row %v has columns that %s has not", row, table)
		}
		out = append(out, c)
	}
	return out
}

// Add appends rows as a new event.
func (s *Store) Add(table string, rows ...Row) {
	s.t.Helper()
	s.events++
	if err := s.append(table, fmt.Sprint("event-", s.events), rows...); err != nil {
		s.t.Fatalf("Append(%s) = %v", table, err)
	}
}

func (s *Store) append(table, id string, rows ...Row) error {
	_, err := s.Append(s.t.Context(), warehouse.Batch{Table: table, EventSource: "/test", EventID: id, Rows: s.Rows(table, rows...)})
	return err
}

// All runs a statement and formats its rows, one line each, cells separated by
// blanks. JSON is given as encoding/json writes what it says: a warehouse may
// write it in its own way.
func (s *Store) All(sql string) []string {
	s.t.Helper()
	rows, err := s.Query(s.t.Context(), sql)
	if err != nil {
		s.t.Fatalf("Query(%s) = %v", sql, err)
	}
	var out []string
	for row, err := range rows.All {
		if err != nil {
			s.t.Fatalf("Query(%s): %v", sql, err)
		}
		line := make([]string, len(row))
		for i, cell := range row {
			if text, ok := cell.(string); ok && rows.Columns[i].Type == contract.JSON {
				var said any
				if err := json.Unmarshal([]byte(text), &said); err != nil {
					s.t.Fatalf("Query(%s): column %s is no JSON: %v", sql, rows.Columns[i].Name, err)
				}
				b, err := json.Marshal(said)
				if err != nil {
					s.t.Fatal(err)
				}
				cell = string(b)
			}
			line[i] = format(cell)
		}
		out = append(out, strings.Join(line, " "))
	}
	return out
}

func format(cell any) string {
	switch v := cell.(type) {
	case nil:
		return "NULL"
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case float64:
		if v == 0 && math.Signbit(v) {
			return "-0"
		}
	}
	return fmt.Sprint(cell)
}

func (s *Store) want(sql string, want ...string) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.All(sql)); diff != "" {
		s.t.Errorf("%s: (-want +got)\n%s", sql, diff)
	}
}

const readings = "iot_telemetry.readings"

var noon = mesh.At(time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC))

// reading makes a row of iot_telemetry.readings as tenant-enrich would.
func reading(device string, at mesh.Instant, value float64, more Row) Row {
	r := Row{
		"reading_id":         warehouse.String(mesh.ReadingID(device, "co2", at)),
		"tenant_id":          warehouse.String("tenant-a"),
		"device_id":          warehouse.String(device),
		"metric":             warehouse.String("co2"),
		"value":              warehouse.Float(value),
		"unit":               warehouse.String("ppm"),
		"observed_at":        warehouse.Instant(at),
		"received_at":        warehouse.Instant(at + 1e6),
		"revision":           warehouse.Int(0),
		"assignment_version": warehouse.Int(1),
		"event_source":       warehouse.String("/devices"),
		"event_id":           warehouse.String("message-1"),
	}
	maps.Copy(r, more)
	return r
}

func testCells(t *testing.T, s *Store) {
	at := mesh.At(time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC))
	text := "it's \"quoted\"; -- naïve 空気\n\t\\ and long enough to be stored apart"
	s.Add(readings,
		reading("d1", at, math.Copysign(0, -1), Row{
			"value_bool": warehouse.Bool(false), "value_string": warehouse.String(""),
			"attributes": warehouse.String(`{"a": [1, 2.50, "x"]}`), "assignment_version": warehouse.Int(math.MaxInt64)}),
		reading("d2", noon, 5e-324, Row{"value_string": warehouse.String(text), "tenant_id": warehouse.Null}),
		reading("d3", noon+1, math.MaxFloat64, Row{"value_string": warehouse.String("a\x00b"), "value_bool": warehouse.Bool(true)}))
	s.want("SELECT device_id, tenant_id, value, value_bool, value_string, observed_at, assignment_version, attributes "+
		"FROM iot_telemetry.readings ORDER BY device_id",
		`d1 tenant-a 0 false  1969-12-31T23:59:59.999999Z 9223372036854775807 {"a":[1,2.5,"x"]}`,
		"d2 NULL 5e-324 NULL "+text+" 2024-03-01T12:00:00Z 1 NULL",
		"d3 tenant-a 1.7976931348623157e+308 true a\x00b 2024-03-01T12:00:00.000001Z 1 NULL")

	rows, err := s.Query(t.Context(), "SELECT * FROM iot_telemetry.readings LIMIT 0")
	if err != nil {
		t.Fatal(err)
	}
	want := s.tables[readings].Columns
	if len(rows.Columns) != len(want) {
		t.Fatalf("%d columns, want %d", len(rows.Columns), len(want))
	}
	for i, column := range rows.Columns {
		if column.Name != want[i].Name || column.Type != want[i].Type {
			t.Errorf("column %d is %s %s, want %s %s", i, column.Name, column.Type, want[i].Name, want[i].Type)
		}
	}
	// The store tells when it wrote, whatever the row says.
	before := time.Now().Add(-time.Minute)
	s.Add(readings, reading("d4", noon, 1, Row{"recorded_at": warehouse.Instant(0)}))
	rows, err = s.Query(t.Context(), "SELECT recorded_at FROM iot_telemetry.readings WHERE device_id = 'd4'")
	if err != nil {
		t.Fatal(err)
	}
	for row, err := range rows.All {
		if at, ok := row[0].(time.Time); err != nil || !ok || at.Before(before) || at.After(time.Now().Add(time.Minute)) {
			t.Errorf("recorded_at = %v, %v, want about now", row[0], err)
		}
	}
}

func testApplyTwice(t *testing.T, s *Store) {
	s.Add(readings, reading("d1", noon, 400, nil))
	if err := s.Apply(t.Context(), s.products); err != nil {
		t.Fatalf("second Apply() = %v", err)
	}
	s.Add(readings, reading("d1", noon, 400, nil), reading("d2", noon, 400, nil))
	s.want("SELECT device_id FROM iot_telemetry.readings ORDER BY device_id", "d1", "d2")
}

func testEventTwice(t *testing.T, s *Store) {
	if err := s.append(readings, "e1", reading("d1", noon, 400, nil)); err != nil {
		t.Fatal(err)
	}
	// The id decides, not the rows: an event is what its source and id say.
	if err := s.append(readings, "e1", reading("d1", noon, 999, nil), reading("d2", noon, 1, nil)); err != nil {
		t.Fatal(err)
	}
	s.want("SELECT device_id, value, revision FROM iot_telemetry_internal.readings", "d1 400 0")
	// The same id at another table is another event.
	if err := s.append("customers.customers", "e1", customer("c1", "One", 1)); err != nil {
		t.Fatal(err)
	}
	s.want("SELECT customer_id FROM customers.customers", "c1")
}

func testRowTwice(t *testing.T, s *Store) {
	row := reading("d1", noon, 400, nil)
	s.Add(readings, row, row)
	s.Add(readings, row)
	s.Add(readings, reading("d1", noon, 400, Row{ // sent again later, by another way
		"received_at": warehouse.Instant(noon + 9e9), "event_id": warehouse.String("message-2"),
		"attributes": warehouse.String(`{"rssi":-80}`)}))
	const sql = "SELECT value, revision, quality, event_id, attributes FROM "
	s.want(sql+"iot_telemetry.readings", "400 0 NULL message-1 NULL")
	s.want(sql+"iot_telemetry_internal.readings", "400 0 NULL message-1 NULL")
}

func testProvenance(t *testing.T, s *Store) {
	s.Add(readings, reading("d1", noon, 400, Row{"received_at": warehouse.Instant(noon + 9e6), "event_id": warehouse.String("late")}))
	s.Add(readings, reading("d1", noon, 400, Row{"received_at": warehouse.Instant(noon + 2e6), "event_id": warehouse.String("early")}))
	s.Add(readings, reading("d1", noon, 400, Row{"received_at": warehouse.Instant(noon + 5e6), "event_id": warehouse.String("middle")}))
	s.want("SELECT value, revision, quality, received_at, event_id FROM iot_telemetry.readings", "400 0 NULL 2024-03-01T12:00:02Z early")
}

func testConflict(t *testing.T, s *Store) {
	for _, value := range []float64{400, 402, 401, 402} {
		s.Add(readings, reading("d1", noon, value, nil))
	}
	s.want("SELECT value, revision, quality FROM iot_telemetry.readings", "402 2 conflict")
	s.want("SELECT value, revision, quality FROM iot_telemetry_internal.readings ORDER BY value",
		"400 0 NULL", "401 0 NULL", "402 0 NULL")
}

// A flag is set by one judgement and taken back by another that knew more, whichever
// comes first, and whatever comes again; between values nobody judges.
func testJudgement(t *testing.T, s *Store) {
	measured := reading("", noon, 400, Row{"device_id": warehouse.Int(0)})
	with := func(row Row, changes Row) Row {
		row = maps.Clone(row)
		maps.Copy(row, changes)
		return row
	}
	doubted := with(measured, Row{"quality": warehouse.String("suspect:spike"), "judged": warehouse.Int(5)})
	cleared := with(measured, Row{"judged": warehouse.Int(9)})
	other := with(measured, Row{"value": warehouse.Float(300), "device_id": warehouse.Int(2)})
	on := func(device int64, row Row) Row { return with(row, Row{"device_id": warehouse.Int(device)}) }
	shown := s.inAnyOrder(readings, 4, rand.New(rand.NewPCG(5, 6)), []Row{
		measured, doubted, measured,
		on(1, measured), on(1, doubted), on(1, cleared), on(1, measured),
		on(2, measured), on(2, doubted), other,
		on(3, with(measured, Row{"assignment_version": warehouse.Int(2)})), on(3, doubted),
		on(3, with(doubted, Row{"assignment_version": warehouse.Int(2)})),
	}, "value, quality, judged, revision")
	slices.Sort(shown)
	if diff := cmp.Diff([]string{"0 400 suspect:spike 5 1", "1 400 NULL 9 2", "2 400 conflict 5 2", "3 400 suspect:spike 5 2"}, shown); diff != "" {
		t.Errorf("device, value, quality, judged, revision: (-want +got)\n%s", diff)
	}
}

// A reading that was enriched with an old snapshot may arrive after the
// repair of that change.
func testAssignmentVersion(t *testing.T, s *Store) {
	repaired := Row{"tenant_id": warehouse.String("tenant-b"), "assignment_version": warehouse.Int(2)}
	s.Add(readings, reading("d1", noon, 400, repaired))
	s.Add(readings, reading("d1", noon, 400, nil))
	s.Add(readings, reading("d2", noon, 400, nil))
	s.Add(readings, reading("d2", noon, 400, repaired))
	s.want("SELECT device_id, tenant_id, revision, quality FROM iot_telemetry.readings ORDER BY device_id",
		"d1 tenant-b 1 NULL", "d2 tenant-b 1 NULL")
	s.want("SELECT count(*) FROM iot_telemetry_internal.readings", "4")
	s.want("SELECT count(*) FROM iot_telemetry.readings WHERE tenant_id = 'tenant-a'", "0")
}

func testRevision(t *testing.T, s *Store) {
	s.Add(readings, reading("d1", noon, 400, Row{"revision": warehouse.Int(3)}))
	s.Add(readings, reading("d1", noon, 500, nil))
	s.want("SELECT value, revision, quality FROM iot_telemetry.readings", "400 3 NULL")
	s.Add(readings, reading("d1", noon, 300, Row{"revision": warehouse.Int(7)}))
	s.want("SELECT value, revision, quality FROM iot_telemetry.readings", "300 7 NULL")
}

// What a port shows is a function of the set of rows: any order, any grouping
// into events, any repetition gives the same.
func testOrder(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(1, 2))
	const devices = 40
	var rows []Row
	for d := range devices {
		for range 1 + random.IntN(6) {
			rows = append(rows, reading("", noon, 0, Row{
				"value":              warehouse.Float(float64(400 + random.IntN(3))),
				"revision":           warehouse.Int(int64(random.IntN(3))),
				"assignment_version": warehouse.Int(int64(random.IntN(3))),
				"tenant_id":          warehouse.String(fmt.Sprint("tenant-", random.IntN(2))),
				"received_at":        warehouse.Instant(noon + mesh.Instant(random.IntN(3))),
				"event_id":           warehouse.String(fmt.Sprint("message-", random.IntN(3))),
				"device_id":          warehouse.Int(int64(d)),
			}))
		}
	}
	want := s.inAnyOrder(readings, devices, random, rows, "tenant_id, value, revision, assignment_version, quality, received_at, event_id")
	if len(want) != devices {
		t.Fatalf("%d rows, want %d: %v", len(want), devices, want)
	}
}

// inAnyOrder appends rows of a table of readings many times, each time in
// another order, as other events, some twice, and of devices of other names; the
// number of its device is in a row's device_id. It reports where the port shows
// not the same each time, and gives what it shows: device and columns.
func (s *Store) inAnyOrder(table string, devices int, random *rand.Rand, rows []Row, columns string) (shown []string) {
	s.t.Helper()
	const rounds = 8
	for round := range rounds {
		order := random.Perm(len(rows))
		for range len(rows) / 2 {
			order = append(order, random.IntN(len(rows)))
		}
		prefix := fmt.Sprint("round-", round, "-")
		for len(order) > 0 {
			n := min(1+random.IntN(20), len(order))
			var batch []Row
			for _, i := range order[:n] {
				row := maps.Clone(rows[i])
				number := row["device_id"]
				device := fmt.Sprint(prefix, number.Int())
				// Half of the devices measure in one hour, the others hours apart,
				// before and after 1970.
				at := noon
				if number.Int()%2 == 1 {
					at = mesh.Instant(number.Int()-int64(devices)/2) * 7200e6
				}
				row["device_id"], row["observed_at"] = warehouse.String(device), warehouse.Instant(at)
				row["reading_id"] = warehouse.String(mesh.ReadingID(device, "co2", at))
				batch = append(batch, row)
			}
			s.Add(table, batch...)
			order = order[n:]
		}
		got := s.All("SELECT substr(device_id, " + fmt.Sprint(len(prefix)+1) + ") AS device, " + columns +
			" FROM " + table + " WHERE device_id LIKE '" + prefix + "%' ORDER BY 1")
		if round == 0 {
			shown = got
		} else if diff := cmp.Diff(shown, got); diff != "" {
			s.t.Errorf("round %d differs from the first: (-first +got)\n%s", round, diff)
		}
	}
	return shown
}

const joinedReadings = "iot_analytics.readings"

// joined makes a row of iot_analytics.readings as analytics-join would, that
// knew as much as joinVersion says.
func joined(device string, joinVersion int64, more Row) Row {
	r := reading(device, noon, 400, Row{"join_version": warehouse.Int(joinVersion), "deleted": warehouse.Bool(false)})
	maps.Copy(r, more)
	return r
}

func testKnowledge(t *testing.T, s *Store) {
	early := Row{"received_at": warehouse.Instant(noon), "event_id": warehouse.String("early")}
	action := Row{"last_action": warehouse.String("window_opened"), "last_action_at": warehouse.Instant(noon - 60e6)}
	const sql = "SELECT last_action, revision, join_version, event_id FROM "
	port := func(device, want string) {
		t.Helper()
		s.want(sql+joinedReadings+" WHERE device_id = '"+device+"'", want)
	}
	internal := func(device string, want ...string) {
		t.Helper()
		s.want(sql+"iot_analytics_internal.readings WHERE device_id = '"+device+"' ORDER BY join_version, event_id", want...)
	}

	// It says the same and knew more: it takes the only row's place, whichever of
	// them came first to Telemesh. One that knew less changes nothing.
	s.Add(joinedReadings, joined("d1", 5, early))
	s.Add(joinedReadings, joined("d1", 7, nil))
	s.Add(joinedReadings, joined("d1", 6, early), joined("d1", 4, nil))
	port("d1", "NULL 0 7 message-1")
	internal("d1", "NULL 0 7 message-1")
	// Of those that knew as much the one received first.
	s.Add(joinedReadings, joined("d1", 7, early))
	port("d1", "NULL 0 7 early")
	s.Add(joinedReadings, joined("d1", 8, nil))
	port("d1", "NULL 0 8 message-1")
	internal("d1", "NULL 0 8 message-1")

	// The action was deleted: who knows of that joins without it, though a row
	// with it would rank higher.
	s.Add(joinedReadings, joined("d2", 5, action), joined("d2", 6, nil))
	port("d2", "NULL 1 6 message-1")
	// It is back: the same row as the first, by a join that knew more.
	s.Add(joinedReadings, joined("d2", 9, action))
	port("d2", "window_opened 1 9 message-1")
	internal("d2", "NULL 0 6 message-1", "window_opened 0 9 message-1")
	s.Add(joinedReadings, joined("d2", 5, action), joined("d2", 6, nil))
	port("d2", "window_opened 1 9 message-1")

	// What a join knew decides after whose the reading is and what was measured.
	s.Add(joinedReadings, joined("d3", 9, nil), joined("d3", 1, Row{"assignment_version": warehouse.Int(2), "event_id": warehouse.String("reassigned")}))
	port("d3", "NULL 1 1 reassigned")
	s.Add(joinedReadings, joined("d4", 9, nil), joined("d4", 1, Row{"value": warehouse.Float(401), "event_id": warehouse.String("greater")}))
	port("d4", "NULL 1 1 greater")
	s.want("SELECT device_id, quality FROM "+joinedReadings+" WHERE quality IS NOT NULL", "d4 conflict")
}

// A withdrawn reading is nobody's: the port shows nothing of it, whatever was
// there or comes late, until a later decision gives it to somebody.
func testWithdrawn(t *testing.T, s *Store) {
	withdrawn := Row{"tenant_id": warehouse.Null, "deleted": warehouse.Bool(true), "assignment_version": warehouse.Int(4)}
	again := Row{"tenant_id": warehouse.String("tenant-b"), "assignment_version": warehouse.Int(6)}
	const sql = "SELECT device_id, tenant_id, assignment_version, revision FROM iot_analytics.readings"
	s.Add(joinedReadings, joined("d1", 1, nil))
	s.Add(joinedReadings, joined("d1", 5, withdrawn), joined("d2", 5, withdrawn))
	s.Add(joinedReadings, joined("d1", 9, nil), joined("d2", 9, nil))
	s.want(sql)
	s.want("SELECT device_id, tenant_id, deleted FROM iot_analytics_internal.readings ORDER BY device_id, assignment_version",
		"d1 tenant-a false", "d1 NULL true", "d2 tenant-a false", "d2 NULL true")
	s.Add(joinedReadings, joined("d2", 7, again), joined("d1", 7, again))
	s.want(sql+" ORDER BY device_id", "d1 tenant-b 6 2", "d2 tenant-b 6 2")
	s.Add(joinedReadings, joined("d1", 8, withdrawn))
	s.want(sql+" ORDER BY device_id", "d1 tenant-b 6 2", "d2 tenant-b 6 2")
}

func testJoinedOrder(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(3, 4))
	const devices = 60
	type rank [5]int64 // revision, assignment_version, value, judged, join_version
	best := map[int]rank{}
	var rows []Row
	for d := range devices {
		for range 1 + random.IntN(7) {
			r := rank{int64(random.IntN(2)), int64(random.IntN(3)), int64(400 + random.IntN(2)), int64(random.IntN(2)), int64(random.IntN(4))}
			if old, ok := best[d]; !ok || slices.Compare(r[:], old[:]) > 0 {
				best[d] = r
			}
			row := joined("", r[4], Row{
				"revision": warehouse.Int(r[0]), "assignment_version": warehouse.Int(r[1]), "value": warehouse.Float(float64(r[2])),
				"received_at": warehouse.Instant(noon + mesh.Instant(random.IntN(2))),
				"event_id":    warehouse.String(fmt.Sprint("message-", random.IntN(2))),
				"device_id":   warehouse.Int(int64(d)),
			})
			if r[3] > 0 {
				row["judged"] = warehouse.Int(r[3])
			}
			switch {
			case r[1] == 1: // nobody's since then
				row["tenant_id"], row["deleted"] = warehouse.Null, warehouse.Bool(true)
			case random.IntN(2) == 0:
				row["last_action"], row["last_action_at"] = warehouse.String("window_opened"), warehouse.Instant(noon-60e6)
			}
			rows = append(rows, row)
		}
	}
	shown := s.inAnyOrder(joinedReadings, devices, random, rows,
		"assignment_version, value, coalesce(judged, 0), join_version, revision, quality, tenant_id, last_action, received_at, event_id")
	var want, got []string
	for d, r := range best {
		if r[1] != 1 {
			want = append(want, fmt.Sprint(d, r[1], r[2], r[3], r[4]))
		}
	}
	for _, line := range shown {
		got = append(got, strings.Join(strings.Fields(line)[:5], " "))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("device, assignment_version, value, judged, join_version: (-want +got)\n%s", diff)
	}
}

// recorded is the version of tables, as it is defined.
func (s *Store) recorded(tables ...string) (version int64) {
	s.t.Helper()
	for _, table := range tables {
		var n int64
		fmt.Sscan(s.All("SELECT count(*) FROM " + strings.Replace(table, ".", "_internal.", 1))[0], &n)
		version += n
	}
	return version
}

// version appends a batch without rows to a table, and gives the version.
func (s *Store) version(table string) int64 {
	s.t.Helper()
	version, err := s.Append(s.t.Context(), warehouse.Batch{Table: table, EventSource: "/test", EventID: "empty"})
	if err != nil {
		s.t.Fatalf("Append(%s) of no rows = %v", table, err)
	}
	return version
}

func action(id string, version int64, deleted bool) Row {
	return Row{"action_id": warehouse.String(id), "device_id": warehouse.String("d1"), "action": warehouse.String("window_opened"),
		"taken_at": warehouse.Instant(noon), "version": warehouse.Int(version), "deleted": warehouse.Bool(deleted)}
}

func testMadeFrom(t *testing.T, s *Store) {
	const placements, actions, customers = "iot_metadata.placements", "iot_actions.actions", "customers.customers"
	random := rand.New(rand.NewPCG(5, 6))
	check := func(step string) {
		t.Helper()
		for table, made := range map[string][]string{readings: {placements}, joinedReadings: {placements, actions, customers}, placements: nil} {
			if got, want := s.version(table), s.recorded(made...); got != want {
				t.Errorf("%s: the version that appending to %s gives is %d, want %d", step, table, got, want)
			}
		}
	}
	check("at first")
	s.Add(placements, placement("d1", "a", noon, 1, false), placement("d2", "a", noon, 1, false))
	if got := s.version(readings); got != 2 {
		t.Errorf("after two placements the version is %d, want 2", got)
	}
	for i := range 60 {
		switch random.IntN(5) {
		case 0, 1: // new, known, of other contents under the same version, gone and back
			s.Add(placements, placement(fmt.Sprint("d", random.IntN(3)), fmt.Sprint(random.IntN(2)), noon, int64(random.IntN(4)), random.IntN(3) == 0),
				placement(fmt.Sprint("d", random.IntN(9)), "a", noon, 1, false))
		case 2:
			s.Add(actions, action(fmt.Sprint(random.IntN(5)), int64(random.IntN(3)), random.IntN(2) == 0))
		case 3:
			s.Add(customers, customer(fmt.Sprint(random.IntN(5)), fmt.Sprint(random.IntN(2)), int64(random.IntN(3))))
		case 4:
			if err := s.append(placements, "bad", placement("d1", "\xff", noon, 99, false)); err == nil {
				t.Error("a bad row was stored")
			}
		}
		check(fmt.Sprint("step ", i))
	}
	if err := s.Apply(t.Context(), s.products); err != nil {
		t.Fatal(err)
	}
	check("applied again")

	batch := warehouse.Batch{Table: readings, EventSource: "/test", EventID: "again", Rows: s.Rows(readings, reading("d1", noon, 1, nil))}
	for range 2 { // a redelivery is told of what was recorded in between
		version, err := s.Append(t.Context(), batch)
		if want := s.recorded(placements); err != nil || version != want {
			t.Errorf("Append() = %d, %v, want %d", version, err, want)
		}
		s.Add(placements, placement("d1", "a", noon, s.recorded(placements)+100, false))
	}
	// The rows that are stored beside bad ones have their version.
	batch = warehouse.Batch{Table: readings, EventSource: "/test", EventID: "half bad",
		Rows: s.Rows(readings, reading("d2", noon, 1, nil), reading("d3", noon, math.NaN(), nil))}
	version, err := s.Append(t.Context(), batch)
	if want := s.recorded(placements); !mesh.IsPermanent(err) || version != want {
		t.Errorf("Append() of a bad row beside a good one = %d, %v, want %d and a permanent error", version, err, want)
	}
}

// What was recorded before a batch is given to Append is in the version that it
// gets.
func testMadeFromConcurrent(t *testing.T, s *Store) {
	const writers, events = 6, 25
	var recorded atomic.Int64
	var all sync.WaitGroup
	for writer := range writers {
		all.Go(func() {
			for i := range events {
				id := fmt.Sprint(writer, "-", i)
				if writer%2 == 0 {
					if err := s.append("iot_metadata.placements", id, placement(id, "a", noon, 1, false)); err != nil {
						t.Errorf("Append() = %v", err)
					}
					recorded.Add(1)
					continue
				}
				before := recorded.Load()
				version, err := s.Append(t.Context(), warehouse.Batch{Table: readings, EventSource: "/test", EventID: id,
					Rows: s.Rows(readings, reading(id, noon, 1, nil))})
				if err != nil || version < before || version > writers/2*events {
					t.Errorf("Append() = %d, %v, want at least %d and at most %d", version, err, before, writers/2*events)
				}
			}
		})
	}
	all.Wait()
	if got, want := s.version(readings), int64(writers/2*events); got != want {
		t.Errorf("at the end the version is %d, want %d", got, want)
	}
}

func testMadeFromNothing(t *testing.T, s *Store) {
	other := contract.Product{Name: "other", Schema: "other", Tables: []contract.Table{{
		Schema: "other", Name: "things", Key: []string{"id"}, Columns: []contract.Column{{Name: "id", Type: contract.String, Required: true}},
		MadeFrom: []string{"iot_metadata.placements", "iot_metadata.nothing"},
	}}}
	err := s.Apply(t.Context(), []contract.Product{other})
	if err == nil || !strings.Contains(err.Error(), "other.things") || !strings.Contains(err.Error(), "iot_metadata.nothing") {
		t.Errorf("Apply() = %v, want an error that names the table and what it is made from", err)
	}
	// What was applied before is found.
	other.Tables[0].MadeFrom = []string{"customers.customers"}
	if err := s.Apply(t.Context(), []contract.Product{other}); err != nil {
		t.Fatalf("Apply() = %v", err)
	}
	s.Add("customers.customers", customer("c1", "One", 1))
	if got := s.version("other.things"); got != 1 {
		t.Errorf("the version is %d, want 1", got)
	}
}

func placement(device, tenant string, from mesh.Instant, version int64, deleted bool) Row {
	return Row{
		"device_id": warehouse.String(device), "tenant_id": warehouse.String(tenant), "valid_from": warehouse.Instant(from),
		"persons": warehouse.Int(30), "version": warehouse.Int(version), "deleted": warehouse.Bool(deleted),
	}
}

func customer(id, name string, version int64) Row {
	return Row{"customer_id": warehouse.String(id), "name": warehouse.String(name), "version": warehouse.Int(version), "deleted": warehouse.Bool(false)}
}

func testVersions(t *testing.T, s *Store) {
	const placements = "iot_metadata.placements"
	s.Add(placements,
		placement("d1", "b", noon, 2, false), placement("d1", "a", noon, 1, false),
		placement("d1", "c", noon+1, 1, false),
		placement("d2", "a", noon, 4, true), placement("d2", "a", noon, 3, false),
		placement("d3", "a", noon, 1, false))
	s.Add(placements, placement("d3", "a", noon, 2, true))
	s.Add(placements, placement("d1", "a", noon, 1, false))
	const sql = "SELECT device_id, tenant_id, valid_from, version FROM "
	s.want(sql+"iot_metadata.placements ORDER BY device_id, valid_from",
		"d1 b 2024-03-01T12:00:00Z 2", "d1 c 2024-03-01T12:00:00.000001Z 1")
	s.Add(placements, placement("d3", "z", noon, 3, false)) // it is back
	s.want(sql+"iot_metadata.placements WHERE device_id = 'd3'", "d3 z 2024-03-01T12:00:00Z 3")
	s.want("SELECT device_id, version, deleted FROM iot_metadata_internal.placements WHERE device_id = 'd3' ORDER BY version",
		"d3 1 false", "d3 2 true", "d3 3 false")
	s.want("SELECT count(*) FROM iot_metadata_internal.placements WHERE recorded_at IS NOT NULL", "8")

	s.Add("customers.customers", customer("c1", "New", 2), customer("c1", "Old", 1), customer("c'2", "It's", 1))
	s.Add("customers.customers", customer("c'2", "Its", 2))
	s.want("SELECT customer_id, name, version FROM customers.customers ORDER BY customer_id", "c'2 Its 2", "c1 New 2")
}

func testRejections(t *testing.T, s *Store) {
	rejected := func(id, cause string, at mesh.Instant) Row {
		return Row{
			"message_id": warehouse.String(id), "source": warehouse.String("/devices"), "received_at": warehouse.Instant(at),
			"cause": warehouse.String(cause), "payload": warehouse.String("{"), "payload_base64": warehouse.Bool(false),
		}
	}
	const table = "iot_telemetry_internal.rejected"
	s.Add(table, rejected("m1", "no value", noon), rejected("m2", "no value", noon))
	s.Add(table, rejected("m1", "no value", noon))
	s.want("SELECT message_id, cause FROM iot_telemetry_internal.rejected ORDER BY message_id", "m1 no value", "m2 no value")
	// The same bytes at another instant are another message.
	s.Add(table, rejected("m1", "no value", noon+9e9))
	read := rejected("m1", "no value", noon)
	read["readings"] = warehouse.Int(2)
	s.Add(table, rejected("m1", "no time", noon), read)
	s.want("SELECT message_id, cause, readings FROM iot_telemetry_internal.rejected ORDER BY message_id, received_at, cause, readings NULLS FIRST",
		"m1 no time NULL", "m1 no value NULL", "m1 no value 2", "m1 no value NULL", "m2 no value NULL")
}

func testAppendOnly(t *testing.T, s *Store) {
	logged := func(id, broker, data string, at mesh.Instant) Row {
		return Row{
			"broker": warehouse.String(broker), "event_id": warehouse.String(id), "source": warehouse.String("/devices"),
			"type": warehouse.String("t"), "specversion": warehouse.String("1.0"), "received_at": warehouse.Instant(at),
			"data": warehouse.String(data), "data_base64": warehouse.Bool(false), "data_bytes": warehouse.Int(1),
		}
	}
	const table = "event_log.events"
	s.Add(table, logged("e1", "iot/iot", "first", noon), logged("e1", "crm/crm", "first", noon), logged("e2", "iot/iot", "first", noon-9e9))
	s.Add(table, logged("e1", "iot/iot", "second", noon), logged("e2", "iot/iot", "second", noon-9e9), logged("e1", "iot/iot", "third", noon+1))
	for _, table := range []string{"event_log.events", "event_log_internal.events"} {
		s.want("SELECT broker, event_id, data FROM "+table+" ORDER BY received_at, broker",
			"iot/iot e2 first", "crm/crm e1 first", "iot/iot e1 first", "iot/iot e1 third")
	}
}

func testPermanent(t *testing.T, s *Store) {
	for _, test := range []struct {
		name string
		row  Row
		want string
	}{
		{"missing", reading("d1", noon, 1, Row{"device_id": warehouse.Null}), "device_id"},
		{"kind", reading("d1", noon, 1, Row{"value": warehouse.String("1")}), "value"},
		{"NaN", reading("d1", noon, math.NaN(), nil), "value"},
		{"infinite", reading("d1", noon, math.Inf(-1), nil), "value"},
		{"UTF-8", reading("d1", noon, 1, Row{"unit": warehouse.String("\xff")}), "unit"},
		{"JSON", reading("d1", noon, 1, Row{"attributes": warehouse.String("{")}), "attributes"},
		{"year 10000", reading("d1", 253402300800000000, 1, nil), "observed_at"},
		{"year 0", reading("d1", -62135596800000001, 1, nil), "observed_at"},
	} {
		err := s.append(readings, test.name, test.row, reading("d2", noon, 1, nil), test.row)
		rejected, _ := errors.AsType[warehouse.Rejected](err)
		if !mesh.IsPermanent(err) || len(rejected) != 2 || rejected[0].Row != 0 || rejected[1].Row != 2 ||
			!strings.Contains(err.Error(), "row 2: column "+test.want) || !strings.Contains(rejected[1].Err.Error(), "column "+test.want) {
			t.Errorf("%s: Append() = %v, want a permanent error that rejects rows 0 and 2 for column %s", test.name, err, test.want)
		}
	}
	batch := warehouse.Batch{Table: readings, EventSource: "/test", EventID: "short", Rows: []warehouse.Row{cells{warehouse.String("x")}}}
	if _, err := s.Append(t.Context(), batch); !mesh.IsPermanent(err) {
		t.Errorf("Append() of a short row = %v, want a permanent error", err)
	}
	batch.Table = "iot_telemetry.nothing"
	if _, err := s.Append(t.Context(), batch); !mesh.IsPermanent(err) || !strings.Contains(err.Error(), batch.Table) {
		t.Errorf("Append() to no table = %v, want a permanent error that names it", err)
	}
	s.want("SELECT device_id FROM iot_telemetry_internal.readings", "d2")
	// An event with bad rows is not remembered: it may come again, mended.
	if err := s.append(readings, "missing", reading("d1", noon, 1, nil)); err != nil {
		t.Errorf("Append() = %v", err)
	}
	s.want("SELECT device_id FROM iot_telemetry.readings ORDER BY device_id", "d1", "d2")
	// Others are made from these rows: none of a batch is stored without the rest.
	err := s.append("customers.customers", "e1", customer("c1", "One", 1), customer("c2", "\xff", 1))
	rejected, _ := errors.AsType[warehouse.Rejected](err)
	if !mesh.IsPermanent(err) || len(rejected) != 1 || rejected[0].Row != 1 {
		t.Errorf("Append() = %v, want a permanent error that rejects row 1", err)
	}
	s.want("SELECT count(*) FROM customers_internal.customers", "0")
}

func testAllButBad(t *testing.T, s *Store) {
	var rows []Row
	for i := range 5000 {
		rows = append(rows, reading(fmt.Sprint("d", i), noon+mesh.Instant(i)*60e6, float64(i), nil))
	}
	s.Add(readings, rows...)
	s.want("SELECT count(*), sum(value), count(DISTINCT reading_id) FROM iot_telemetry.readings", "5000 1.24975e+07 5000")
	rows[4999] = reading("d", noon, math.NaN(), nil)
	for i := range 4999 {
		rows[i]["value"] = warehouse.Float(-1)
	}
	if err := s.append(readings, "bad", rows...); !mesh.IsPermanent(err) {
		t.Fatalf("Append() = %v, want a permanent error", err)
	}
	s.want("SELECT count(*), count(DISTINCT reading_id) FROM iot_telemetry_internal.readings", "9999 5000")
}

func testConcurrent(t *testing.T, s *Store) {
	const writers, events = 16, 30
	var all sync.WaitGroup
	for writer := range writers {
		all.Go(func() {
			for i := range events {
				// Each event comes by two writers, each row by several events.
				id := fmt.Sprint(writer/2, "-", i)
				var err error
				if i%10 == 9 {
					if err = s.append(readings, "bad-"+id, reading("bad", noon, math.NaN(), nil)); mesh.IsPermanent(err) {
						err = nil
					} else {
						err = fmt.Errorf("a bad row gave %v", err)
					}
				} else {
					err = s.append(readings, id, reading(fmt.Sprint("d", i), noon, 400, nil), reading(fmt.Sprint("own", id), noon, 400, nil))
				}
				if err != nil {
					t.Errorf("Append() = %v", err)
				}
				if _, err := s.Query(t.Context(), "SELECT count(*) FROM iot_telemetry.readings"); err != nil {
					t.Errorf("Query() = %v", err)
				}
			}
		})
	}
	all.Wait()
	s.want("SELECT count(*), count(DISTINCT reading_id) FROM iot_telemetry_internal.readings",
		fmt.Sprint(27+27*writers/2, " ", 27+27*writers/2))
}

func testViews(t *testing.T, s *Store) {
	place := Row{"building": warehouse.String("B"), "room": warehouse.String("1.01"), "outside_co2": warehouse.Float(400),
		"persons": warehouse.Int(30), "customer_name": warehouse.String("School"), "join_version": warehouse.Int(3),
		"deleted": warehouse.Bool(false)}
	with := func(more Row) Row {
		row := Row{}
		for name, cell := range place {
			row[name] = cell
		}
		for name, cell := range more {
			row[name] = cell
		}
		return row
	}
	const minute = 60e6
	after := with(Row{"last_action": warehouse.String("window_opened"), "last_action_at": warehouse.Instant(noon + 5*minute),
		"minutes_since_action": warehouse.Float(5)})
	s.Add("iot_analytics.readings",
		reading("d1", noon, 1000, place), reading("d1", noon+4*minute, 1200, place),
		reading("d1", noon+10*minute, 800, after), reading("d1", noon+15*minute, 600, with(nil)),
		reading("d1", noon+6*minute, 9999, with(Row{"tenant_id": warehouse.String("tenant-b"), "reading_id": warehouse.String("other")})))
	s.Add("iot_actions.actions", Row{
		"action_id": warehouse.String("a1"), "tenant_id": warehouse.String("tenant-a"), "building": warehouse.String("B"),
		"room": warehouse.String("1.01"), "action": warehouse.String("window_opened"), "taken_at": warehouse.Instant(noon + 5*minute),
		"version": warehouse.Int(1), "deleted": warehouse.Bool(false)})
	s.want("SELECT tenant_id, customer_name, room, quarter_start, co2, co2_max, above_outside, last_action, minutes_since_action, readings "+
		"FROM iot_analytics.co2_evolution WHERE tenant_id = 'tenant-a' ORDER BY quarter_start",
		"tenant-a School 1.01 2024-03-01T12:00:00Z 1000 1200 600 window_opened 5 3",
		"tenant-a School 1.01 2024-03-01T12:15:00Z 600 600 200 NULL NULL 1")

	// The room was tenant-b's by one device and tenant-a's by another one, until
	// tenant-c took it over; d9 is claimed twice.
	placed := func(device, tenant string, from, to mesh.Instant, more Row) Row {
		row := Row{"device_id": warehouse.String(device), "tenant_id": warehouse.String(tenant), "valid_from": warehouse.Instant(from),
			"building": warehouse.String("B"), "room": warehouse.String("1.01"), "version": warehouse.Int(1), "deleted": warehouse.Bool(false)}
		if to != 0 {
			row["valid_to"] = warehouse.Instant(to)
		}
		for name, cell := range more {
			row[name] = cell
		}
		return row
	}
	bare := Row{"building": warehouse.Null, "room": warehouse.String("hall")}
	s.Add("iot_metadata.placements",
		placed("d1", "tenant-a", noon-60*minute, noon+20*minute, nil), placed("d1", "tenant-c", noon+20*minute, 0, nil),
		placed("d2", "tenant-b", noon-60*minute, noon+20*minute, nil), placed("d3", "tenant-a", noon-60*minute, 0, bare),
		placed("d9", "tenant-a", noon-60*minute, 0, Row{"room": warehouse.String("2.01")}),
		placed("d9", "tenant-b", noon-30*minute, 0, Row{"room": warehouse.String("2.02")}))
	acted := func(id string, at mesh.Instant, where Row) Row {
		row := Row{"action_id": warehouse.String(id), "action": warehouse.String("done"), "taken_at": warehouse.Instant(at),
			"version": warehouse.Int(1), "deleted": warehouse.Bool(false)}
		for name, cell := range where {
			row[name] = cell
		}
		return row
	}
	at := func(device string) Row { return Row{"device_id": warehouse.String(device)} }
	in := func(room string) Row { return Row{"building": warehouse.String("B"), "room": warehouse.String(room)} }
	by := func(tenant string, where Row) Row {
		where["tenant_id"] = warehouse.String(tenant)
		return where
	}
	s.Add("iot_actions.actions",
		acted("a2", noon+5*minute, in("1.01")),                 // of both
		acted("a3", noon+5*minute, by("tenant-c", in("1.01"))), // not yet its tenant's
		acted("a4", noon+20*minute, by("tenant-a", in("1.01"))),
		acted("a5", noon+20*minute, in("1.01")),
		acted("a6", noon+5*minute, at("d1")),
		acted("a7", noon+20*minute, by("tenant-a", at("d1"))),
		acted("a8", noon+5*minute, Row{"room": warehouse.String("hall")}),
		acted("a9", noon+5*minute, in("hall")),
		acted("b1", noon+5*minute, at("d9")), acted("b2", noon+5*minute, in("2.01")), acted("b3", noon+5*minute, in("2.02")),
		acted("b4", noon-40*minute, in("2.01")),
		acted("b5", noon-90*minute, in("1.01")))
	s.want("SELECT action_id, tenant_id, action, taken_at, co2_before, co2_after, readings FROM iot_analytics.actions_timeline ORDER BY action_id, tenant_id",
		"a1 tenant-a window_opened 2024-03-01T12:05:00Z 1100 700 4",
		"a2 tenant-a done 2024-03-01T12:05:00Z 1100 700 4",
		"a2 tenant-b done 2024-03-01T12:05:00Z NULL 9999 1",
		"a5 tenant-c done 2024-03-01T12:20:00Z NULL NULL 0",
		"a6 tenant-a done 2024-03-01T12:05:00Z 1100 700 4",
		"a8 tenant-a done 2024-03-01T12:05:00Z NULL NULL 0",
		"b4 tenant-a done 2024-03-01T11:20:00Z NULL NULL 0")
	s.want("SELECT action_id, tenant_id, device_id, building, floor, room, action, taken_at FROM iot_analytics.actions_placed ORDER BY action_id, tenant_id",
		"a1 tenant-a NULL B NULL 1.01 window_opened 2024-03-01T12:05:00Z",
		"a2 tenant-a NULL B NULL 1.01 done 2024-03-01T12:05:00Z",
		"a2 tenant-b NULL B NULL 1.01 done 2024-03-01T12:05:00Z",
		"a5 tenant-c NULL B NULL 1.01 done 2024-03-01T12:20:00Z",
		"a6 tenant-a d1 B NULL 1.01 done 2024-03-01T12:05:00Z",
		"a8 tenant-a NULL NULL NULL hall done 2024-03-01T12:05:00Z",
		"b4 tenant-a NULL B NULL 2.01 done 2024-03-01T11:20:00Z")
	s.want("SELECT tenant_id, quarter_start, co2, outside_co2, above_outside, co2_at_action, actions FROM iot_analytics.co2_with_actions "+
		"ORDER BY tenant_id, quarter_start",
		"tenant-a 2024-03-01T12:00:00Z 1000 400 600 1000 window_opened, done, done",
		"tenant-a 2024-03-01T12:15:00Z 600 400 200 NULL NULL",
		"tenant-b 2024-03-01T12:00:00Z 9999 400 9599 9999 done")
}

// Hours appends joined readings that come late, twice and in any order, that are
// corrected, moved and withdrawn, in steps, and calls between after each. It
// reports where iot_analytics.readings_hourly shows anything else than the hours
// of what iot_analytics.readings shows, whole or filtered.
func (s *Store) Hours(seed uint64, steps int, between func()) {
	s.t.Helper()
	random := rand.New(rand.NewPCG(seed, 5))
	pick := func(from ...string) warehouse.Cell { return warehouse.Optional(from[random.IntN(len(from))]) }
	for range steps {
		var batch []Row
		for range 1 + random.IntN(30) {
			device, metric := fmt.Sprint("d", random.IntN(4)), []string{"co2", "temperature"}[random.IntN(2)]
			// Four hours, two of them before 1970, of three readings each.
			at := mesh.Instant(random.IntN(4)-2)*3600e6 + mesh.Instant(random.IntN(3))*1799e6
			row := joined(device, int64(random.IntN(4)), Row{
				"reading_id": warehouse.String(mesh.ReadingID(device, metric, at)), "metric": warehouse.String(metric),
				"observed_at": warehouse.Instant(at), "value": warehouse.Float(float64(random.IntN(4000)) / 4),
				"tenant_id": pick("tenant-a", "tenant-b"), "building": pick("B", ""), "room": pick("1", "2"), "unit": pick("ppm", "ppm", ""),
				"persons": warehouse.Int(int64(random.IntN(3))), "outside_co2": warehouse.Float(float64(400 + random.IntN(3))),
				"revision": warehouse.Int(int64(random.IntN(3))), "assignment_version": warehouse.Int(int64(random.IntN(4))),
			})
			switch random.IntN(8) {
			case 0:
				row["value"], row["value_string"] = warehouse.Null, warehouse.String("on")
			case 1:
				row["tenant_id"], row["deleted"] = warehouse.Null, warehouse.Bool(true)
			case 2:
				row["persons"], row["outside_co2"] = warehouse.Null, warehouse.Null
			}
			batch = append(batch, row)
		}
		s.Add(joinedReadings, batch...)
		between()
		s.WantHours()
	}
}

// WantHours reports where iot_analytics.readings_hourly shows anything else than
// the hours of what iot_analytics.readings shows at that time.
func (s *Store) WantHours() {
	s.t.Helper()
	for _, filter := range []string{
		"TRUE", "tenant_id IN ('tenant-a')",
		"tenant_id IN ('tenant-a', 'tenant-c') AND building = 'B' AND room = '1' AND metric = 'co2'",
		"device_id = 'd1' AND metric = 'co2'",
	} {
		s.wantHours(filter)
	}
}

func (s *Store) wantHours(filter string) {
	s.t.Helper()
	type group struct {
		tenant, building, floor, room, device, metric, unit any
		hour                                                time.Time
	}
	type hour struct {
		readings                int64
		sum, least, most        float64
		outsideKnown, ofPersons bool
		outside                 float64
		persons                 int64
	}
	hours := map[group]hour{}
	rows, err := s.Query(s.t.Context(), "SELECT tenant_id, building, floor, room, device_id, metric, unit, observed_at, value, outside_co2, persons "+
		"FROM iot_analytics.readings WHERE value IS NOT NULL AND "+filter)
	if err != nil {
		s.t.Fatal(err)
	}
	for row, err := range rows.All {
		if err != nil {
			s.t.Fatal(err)
		}
		g := group{row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7].(time.Time).Truncate(time.Hour)}
		h, value := hours[g], row[8].(float64)
		if h.readings == 0 {
			h.least, h.most = value, value
		}
		h.readings++
		h.sum, h.least, h.most = h.sum+value, min(h.least, value), max(h.most, value)
		if outside, ok := row[9].(float64); ok {
			h.outside, h.outsideKnown = max(h.outside, outside), true
		}
		if persons, ok := row[10].(int64); ok {
			h.persons, h.ofPersons = max(h.persons, persons), true
		}
		hours[g] = h
	}
	var want []string
	for g, h := range hours {
		line := []any{g.tenant, g.building, g.floor, g.room, g.device, g.metric, g.unit, g.hour.Truncate(24 * time.Hour), g.hour,
			h.readings, h.sum, h.least, h.most, nil, nil}
		if h.outsideKnown {
			line[13] = h.outside
		}
		if h.ofPersons {
			line[14] = h.persons
		}
		var cells []string
		for _, cell := range line {
			cells = append(cells, format(cell))
		}
		want = append(want, strings.Join(cells, " "))
	}
	slices.Sort(want)
	got := s.All("SELECT * FROM (SELECT * FROM iot_analytics.readings_hourly WHERE " + filter + ") AS h")
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("hours where %s: (-want +got)\n%s", filter, diff)
	}
}

func testReadOnly(t *testing.T, s *Store) {
	s.Add(readings, reading("d1", noon, 400, nil))
	for _, sql := range []string{
		"DELETE FROM iot_telemetry.readings WHERE TRUE",
		"INSERT INTO iot_telemetry_internal.readings SELECT * FROM iot_telemetry_internal.readings",
		"UPDATE iot_telemetry_internal.readings SET value = 1 WHERE TRUE",
		"DROP TABLE iot_telemetry_internal.readings",
		"DROP VIEW iot_telemetry.readings",
		"CREATE TABLE t AS SELECT 1 AS a",
		"CREATE VIEW iot_telemetry.v AS SELECT 1 AS a",
		"SELECT 1; DELETE FROM iot_telemetry.readings WHERE TRUE",
		"SELECT 1; SELECT 2",
		"SELECT 1) AS a; DELETE FROM iot_telemetry.readings WHERE TRUE; SELECT 1 FROM (SELECT 1",
		"",
		"-- nothing",
	} {
		rows, err := s.Query(t.Context(), sql)
		if err == nil {
			for _, err = range rows.All {
				break
			}
		}
		if !mesh.IsPermanent(err) {
			t.Errorf("Query(%s) = %v, want a permanent error", sql, err)
		}
	}
	s.want("SELECT count(*) FROM iot_telemetry.readings", "1")
}

func testQueryErrors(t *testing.T, s *Store) {
	s.Add(readings, reading("d1", noon, 400, Row{"value_string": warehouse.String("x")}))
	for sql, want := range map[string]string{
		"SELEC 1": "SELEC",
		"SELECT nothing FROM customers.customers":                        "nothing",
		"SELECT * FROM nowhere.nothing":                                  "nothing",
		"SELECT CAST(value_string AS INT64) FROM iot_telemetry.readings": "x",
	} {
		rows, err := s.Query(t.Context(), sql)
		if err == nil {
			for _, e := range rows.All {
				err = errors.Join(err, e)
			}
		}
		if !mesh.IsPermanent(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("Query(%s) = %v, want a permanent error that names %s", sql, err, want)
		}
	}
}

func testQueryShape(t *testing.T, s *Store) {
	var rows []Row
	for i := range 6000 {
		rows = append(rows, reading("d", noon+mesh.Instant(i), float64(i*7919%6000), nil))
	}
	s.Add(readings, rows...)
	got := s.All("SELECT value FROM iot_telemetry.readings ORDER BY value DESC")
	for i, v := range got {
		if v != fmt.Sprint(float64(5999-i)) {
			t.Fatalf("row %d is %s, want %d", i, v, 5999-i)
		}
	}
	// Types beyond the contract's come as the nearest one, in the same order.
	answer, err := s.Query(t.Context(), "SELECT CAST(value AS NUMERIC) AS n, DATE '2024-03-01' AS day, value "+
		"FROM iot_telemetry.readings ORDER BY value DESC LIMIT 5000 ;\n -- done")
	if err != nil {
		t.Fatal(err)
	}
	want := []contract.Column{{Name: "n", Type: contract.Float64}, {Name: "day", Type: contract.String}, {Name: "value", Type: contract.Float64}}
	if diff := cmp.Diff(want, answer.Columns); diff != "" {
		t.Errorf("columns: (-want +got)\n%s", diff)
	}
	i := 0
	for row, err := range answer.All {
		if err != nil {
			t.Fatal(err)
		}
		if v := float64(5999 - i); row[0] != v || row[1] != "2024-03-01" || row[2] != v {
			t.Fatalf("row %d is %v, want %v and the day", i, row, v)
		}
		i++
	}
	if i != 5000 {
		t.Errorf("%d rows, want 5000", i)
	}
}

func testLeave(t *testing.T, s *Store) {
	var rows []Row
	for i := range 20000 {
		rows = append(rows, reading("d", noon+mesh.Instant(i), 1, nil))
	}
	s.Add(readings, rows...)
	for range 3 {
		answer, err := s.Query(t.Context(), "SELECT * FROM iot_telemetry.readings")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range answer.All {
			if n++; err != nil || n == 3 {
				break
			}
		}
	}
	s.Add(readings, reading("d", noon-1, 1, nil))
	s.want("SELECT count(*) FROM iot_telemetry.readings", "20001")
	// An answer that nobody reads holds nothing either.
	if _, err := s.Query(t.Context(), "SELECT * FROM iot_telemetry.readings"); err != nil {
		t.Fatal(err)
	}
}

func testCancel(t *testing.T, s *Store) {
	const many = 6000
	var rows []Row
	for i := range many {
		rows = append(rows, reading("d", noon+mesh.Instant(i), 1, nil))
	}
	s.Add(readings, rows...)
	// While rows are read: those that are at hand may still come.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer, err := s.Query(ctx, "SELECT * FROM iot_telemetry.readings")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for row, e := range answer.All {
		if row != nil {
			n++
		}
		if n == 10 {
			cancel()
		}
		err = e
	}
	if !errors.Is(err, context.Canceled) || n >= many {
		t.Errorf("the answer ended with %v after %d rows, want %v before its end", err, n, context.Canceled)
	}
	// While the statement runs: nobody waits until it has seen 2e11 rows.
	const endless = "SELECT count(*) FROM iot_telemetry.readings AS a CROSS JOIN iot_telemetry.readings AS b " +
		"CROSS JOIN iot_telemetry.readings AS c WHERE a.value + b.value + c.value = 7"
	for want, end := range map[error]func() (context.Context, context.CancelFunc){
		context.Canceled:         func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) },
		context.DeadlineExceeded: func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), 3*time.Second) },
	} {
		ctx, cancel := end()
		answer, err := s.Query(ctx, endless)
		if err == nil {
			if want == context.Canceled {
				defer time.AfterFunc(50*time.Millisecond, cancel).Stop()
			}
			for row, e := range answer.All {
				err = e
				if row != nil {
					t.Errorf("%s: it gives %v", endless, row)
				}
			}
		}
		cancel()
		if !errors.Is(err, want) {
			t.Errorf("the answer ended with %v, want %v", err, want)
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := s.Append(ctx, warehouse.Batch{Table: readings, EventSource: "/test", EventID: "late",
		Rows: s.Rows(readings, reading("late", noon, 1, nil))}); !errors.Is(err, context.Canceled) {
		t.Errorf("Append() = %v, want %v", err, context.Canceled)
	}
	s.want("SELECT count(*) FROM iot_telemetry.readings WHERE device_id = 'late'", "0")
}

func testClosed(t *testing.T, s *Store) {
	s.Add(readings, reading("d1", noon, 400, nil))
	answer, err := s.Query(t.Context(), "SELECT device_id FROM iot_telemetry.readings")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	if err := s.append(readings, "e", reading("d2", noon, 1, nil)); err == nil || mesh.IsPermanent(err) {
		t.Errorf("Append() after Close() = %v, want a passing error", err)
	}
	if _, err := s.Query(t.Context(), "SELECT 1"); err == nil || mesh.IsPermanent(err) {
		t.Errorf("Query() after Close() = %v, want a passing error", err)
	}
	for _, err = range answer.All {
		break
	}
	if err == nil {
		t.Error("an answer came after Close()")
	}
}
