package duckdb_test

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/duckdb"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
	files "github.com/telemesh/telemesh/products"
)

func open(t testing.TB) warehouse.Warehouse {
	return openFile(t, filepath.Join(t.TempDir(), "test.duckdb"))
}

func openFile(t testing.TB, file string) *duckdb.DB {
	t.Helper()
	db, err := duckdb.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestConformance(t *testing.T) { warehousetest.Test(t, open) }

// The rows of an hour are known in memory once enough fell into it, which
// the tests of the suite are too small for.
func TestConformanceInMemory(t *testing.T) {
	warehousetest.Test(t, func(t testing.TB) warehouse.Warehouse {
		db := openFile(t, filepath.Join(t.TempDir(), "test.duckdb"))
		db.ReadAtOnce()
		return db
	})
}

var products = sync.OnceValues(func() ([]contract.Product, error) { return contract.Load(files.FS) })

func apply(t testing.TB, w warehouse.Warehouse) {
	t.Helper()
	list, err := products()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Apply(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

// cells is a row of iot_telemetry.readings.
type cells []warehouse.Cell

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, c...) }

func reading(device string, at mesh.Instant, value float64, version int64) cells {
	return cells{
		warehouse.String(mesh.ReadingID(device, "co2", at)), warehouse.String("a"), warehouse.String(device), warehouse.String("co2"),
		warehouse.Float(value), warehouse.Null, warehouse.Null, warehouse.String("ppm"), warehouse.Instant(at), warehouse.Instant(at),
		warehouse.Null, warehouse.Int(0), warehouse.Int(version), warehouse.Null, warehouse.Null, warehouse.String("/s"), warehouse.String("m"), warehouse.Null,
	}
}

func add(t testing.TB, w warehouse.Warehouse, event string, rows ...warehouse.Row) {
	t.Helper()
	if _, err := w.Append(t.Context(), warehouse.Batch{Table: "iot_telemetry.readings", EventSource: "/s", EventID: event, Rows: rows}); err != nil {
		t.Fatal(err)
	}
}

func ask(t testing.TB, w warehouse.Warehouse, sql string) string {
	t.Helper()
	rows, err := w.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("Query(%s) = %v", sql, err)
	}
	var out []string
	for row, err := range rows.All {
		if err != nil {
			t.Fatalf("Query(%s): %v", sql, err)
		}
		out = append(out, strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(row), "["), "]"))
	}
	return strings.Join(out, "; ")
}

func TestOneOpener(t *testing.T) {
	file := filepath.Join(t.TempDir(), "folder", "test.duckdb")
	db := openFile(t, file)
	if _, err := duckdb.Open(file); !errors.Is(err, duckdb.ErrInUse) {
		t.Errorf("second Open() = %v, want %v", err, duckdb.ErrInUse)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openFile(t, file).Close(); err != nil {
		t.Fatal(err)
	}
}

// What a process knew of the table is read again by the next: rows of all
// hours, before and after 1970, those with several contents, and events.
func TestReopen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	db := openFile(t, file)
	apply(t, db)
	const hour = 3600e6
	var rows []warehouse.Row
	for i := range 200 {
		rows = append(rows, reading("d", mesh.Instant(i-100)*hour/3-1, 1, 1))
	}
	add(t, db, "first", rows...)
	add(t, db, "second", reading("d", -1, 2, 1))
	const sql = "SELECT count(*), sum(value), sum(revision), count(quality) FROM iot_telemetry.readings"
	want := ask(t, db, sql)
	if want != "200 201 1 1" {
		t.Fatalf("%s = %s, want 200 201 1 1", sql, want)
	}
	for round := range 3 {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openFile(t, file)
		apply(t, db)
		add(t, db, "second", reading("d", -1, 3, 1)) // an event that was stored
		// Every third row, so that some hours between those asked for are not.
		for i := round; i < len(rows); i += 3 {
			add(t, db, fmt.Sprint(round, "-", i), rows[i], reading("d", -1, 2, 1))
		}
		if got := ask(t, db, sql); got != want {
			t.Errorf("round %d: %s = %s, want %s", round, sql, got, want)
		}
		if got := ask(t, db, "SELECT count(*) FROM iot_telemetry_internal.readings"); got != "201" {
			t.Errorf("round %d: %s rows are kept, want 201", round, got)
		}
	}
	db.Close()
}

// Memory is bounded: hours that are let go are read again, and no row doubles.
func TestMemoryIsBounded(t *testing.T) {
	db := openFile(t, filepath.Join(t.TempDir(), "test.duckdb"))
	defer db.Close()
	db.ReadAtOnce()
	apply(t, db)
	db.Hold("iot_telemetry.readings", 1000)
	const hours, perHour = 100, 40
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 3 {
		for n, hour := range random.Perm(hours) {
			var rows []warehouse.Row
			for i := range perHour {
				rows = append(rows, reading("d", mesh.Instant(hour)*3600e6+mesh.Instant(i), 1, 1))
			}
			add(t, db, fmt.Sprint(round, "-", hour), rows...)
			if rows, hours := db.Held("iot_telemetry.readings"); rows > 1000 || hours > 25 {
				t.Fatalf("round %d: after %d hours %d rows of %d hours are held", round, n+1, rows, hours)
			}
		}
		if got := ask(t, db, "SELECT count(*) FROM iot_telemetry_internal.readings"); got != fmt.Sprint(hours*perHour) {
			t.Errorf("round %d: %s rows, want %d", round, got, hours*perHour)
		}
	}
}

// The ledger forgets old events, and their rows are still there once.
func TestLedgerIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	db := openFile(t, file)
	db.RememberEvents(10)
	apply(t, db)
	for round := range 2 {
		for i := range 100 {
			add(t, db, fmt.Sprint(i), reading("d", mesh.Instant(i), 1, 1))
		}
		if got := ask(t, db, "SELECT count(*) <= 30, count(*) > 10 FROM warehouse_internal.stored_events"); got != "true true" {
			t.Errorf("round %d: the ledger has %s rows, want a few tens", round, ask(t, db, "SELECT count(*) FROM warehouse_internal.stored_events"))
		}
		if got := ask(t, db, "SELECT count(*) FROM iot_telemetry_internal.readings"); got != "100" {
			t.Errorf("round %d: %s rows, want 100", round, got)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openFile(t, file)
		db.RememberEvents(10)
		apply(t, db)
	}
	// The last events are still known: their ids decide.
	add(t, db, "99", reading("d", 99, 7, 1))
	if got := ask(t, db, "SELECT value FROM iot_telemetry.readings WHERE observed_at = make_timestamp(99)"); got != "1" {
		t.Errorf("value = %s, want 1", got)
	}
	db.Close()
}

// other gives the customers' product with another contract of its table.
func other(t *testing.T, change func(columns []contract.Column) []contract.Column) []contract.Product {
	t.Helper()
	list, err := products()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.Name == "customers" {
			p.Tables = slices.Clone(p.Tables)
			p.Tables[0].Columns = change(slices.Clone(p.Tables[0].Columns))
			return []contract.Product{p}
		}
	}
	t.Fatal("no product customers")
	return nil
}

// A table of another contract whose rows cannot be made to fit is not written
// to.
func TestOtherColumns(t *testing.T) {
	db := open(t)
	defer db.Close()
	apply(t, db)
	for name, change := range map[string]func(columns []contract.Column) []contract.Column{
		"a required column more": func(c []contract.Column) []contract.Column {
			return append(c, contract.Column{Name: "sector2", Type: contract.String, Required: true})
		},
		"another type":  func(c []contract.Column) []contract.Column { c[2].Type = contract.Int64; return c },
		"a column less": func(c []contract.Column) []contract.Column { return slices.Delete(c, 2, 3) },
		"another name":  func(c []contract.Column) []contract.Column { c[2].Name = "sector2"; return c },
	} {
		if err := db.Apply(t.Context(), other(t, change)); err == nil || !strings.Contains(err.Error(), "sector") {
			t.Errorf("%s: Apply() = %v, want an error that names the column", name, err)
		}
	}
}

// A file of a contract that had fewer columns goes on with the new one: what is
// stored keeps its place, and of a key with several rows all of them.
func TestGainedColumns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	customer := func(id, name string, version int64, more ...warehouse.Cell) cells {
		row := cells{warehouse.String(id), warehouse.String(name), warehouse.Null, warehouse.String("NL")}
		return append(append(row, more...), warehouse.Int(version), warehouse.Bool(false))
	}
	n := 0
	add := func(db *duckdb.DB, rows ...warehouse.Row) {
		t.Helper()
		n++
		if _, err := db.Append(t.Context(), warehouse.Batch{Table: "customers.customers", EventSource: "/s", EventID: fmt.Sprint(n), Rows: rows}); err != nil {
			t.Fatal(err)
		}
	}
	db := openFile(t, file)
	apply(t, db)
	add(db, customer("a", "A", 1), customer("b", "B", 1), customer("c", "C", 1))
	add(db, customer("b", "B2", 2))

	gained := other(t, func(c []contract.Column) []contract.Column {
		// In the middle: a contract's order need not be the file's.
		return slices.Insert(c, 4, contract.Column{Name: "city", Type: contract.String}, contract.Column{Name: "rooms", Type: contract.Int64})
	})
	const sql = "SELECT customer_id, name, country, city, rooms, version FROM customers.customers ORDER BY ALL"
	for round := range 3 {
		if round < 2 { // applied to an open file, then to one that is opened
			if err := db.Apply(t.Context(), gained); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			if got, want := ask(t, db, sql), "a A NL <nil> <nil> 1; b B2 NL <nil> <nil> 2; c C NL <nil> <nil> 1"; got != want {
				t.Errorf("%s = %s, want %s", sql, got, want)
			}
		}
		// The same again, one that is told more of, a new one.
		add(db, customer("a", "A", 1, warehouse.Null, warehouse.Null), customer("c", "C", 2, warehouse.String("Delft"), warehouse.Int(3)),
			customer("d", "D", 1, warehouse.String("Zwolle"), warehouse.Null))
		if got, want := ask(t, db, sql), "a A NL <nil> <nil> 1; b B2 NL <nil> <nil> 2; c C NL Delft 3 2; d D NL Zwolle <nil> 1"; got != want {
			t.Errorf("round %d: %s = %s, want %s", round, sql, got, want)
		}
		if got := ask(t, db, "SELECT count(*) FROM customers_internal.customers"); got != "6" {
			t.Errorf("round %d: %s rows are kept, want 6", round, got)
		}
		if round == 0 {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = openFile(t, file)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// One transaction holds the events of many callers; one that cannot be stored
// takes no other with it.
func TestOneEventSpoilsNoOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	db := openFile(t, file)
	defer db.Close()
	apply(t, db)
	// The storage of one table goes away behind the store's back.
	if err := db.Exec("DROP TABLE customers_internal.customers_current CASCADE"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			batch := warehouse.Batch{Table: "iot_telemetry.readings", EventSource: "/s", EventID: fmt.Sprint(i),
				Rows: []warehouse.Row{reading(fmt.Sprint(i), 0, 1, 1)}}
			bad := i%4 == 0
			if bad {
				batch.Table = "customers.customers"
				batch.Rows = []warehouse.Row{cells{warehouse.String("c"), warehouse.String("C"), warehouse.Null, warehouse.Null,
					warehouse.Int(1), warehouse.Bool(false)}}
			}
			_, err := db.Append(t.Context(), batch)
			if (err != nil) != bad || mesh.IsPermanent(err) {
				t.Errorf("event %d: Append() = %v", i, err)
			}
		})
	}
	all.Wait()
	if got := ask(t, db, "SELECT count(*) FROM iot_telemetry.readings"); got != "48" {
		t.Errorf("%s rows, want 48", got)
	}
	// What failed was not remembered as stored.
	if err := db.Exec("DROP VIEW IF EXISTS customers.customers"); err != nil {
		t.Fatal(err)
	}
	apply(t, db)
	for i := 0; i < 64; i += 4 {
		if _, err := db.Append(t.Context(), warehouse.Batch{Table: "customers.customers", EventSource: "/s", EventID: fmt.Sprint(i),
			Rows: []warehouse.Row{cells{warehouse.String(fmt.Sprint(i)), warehouse.String("C"), warehouse.Null, warehouse.Null,
				warehouse.Int(1), warehouse.Bool(false)}}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(t, db, "SELECT count(*) FROM customers.customers"); got != "16" {
		t.Errorf("%s customers, want 16", got)
	}
}

// A query reaches nothing but the tables, and changes nothing.
func TestQueryIsConfined(t *testing.T) {
	db := open(t)
	defer db.Close()
	apply(t, db)
	add(t, db, "1", reading("d", 0, 1, 1))
	secret := filepath.Join(t.TempDir(), "secret.csv")
	if err := os.WriteFile(secret, []byte("a\n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"SELECT * FROM read_csv('" + secret + "')",
		"SELECT * FROM read_text('" + secret + "')",
		"SELECT * FROM '" + secret + "'",
		"SELECT * FROM glob('/*')",
		"COPY iot_telemetry.readings TO '" + secret + "'",
		"EXPORT DATABASE '" + filepath.Dir(secret) + "'",
		"ATTACH '" + secret + "2' AS other",
		"INSTALL httpfs",
		"LOAD httpfs",
		"SET enable_external_access = true",
		"SET GLOBAL lock_configuration = false",
		"RESET lock_configuration",
		"PRAGMA enable_external_access = true",
		"CALL force_checkpoint()",
		"CHECKPOINT",
		"BEGIN",
		"COMMIT",
		"PREPARE p AS DELETE FROM iot_telemetry_internal.readings_current",
		"EXPLAIN ANALYZE DELETE FROM iot_telemetry_internal.readings_current",
		"CREATE TEMP TABLE t AS SELECT 1",
		"WITH d AS (DELETE FROM iot_telemetry_internal.readings_current RETURNING *) SELECT * FROM d",
		"DELETE FROM iot_telemetry_internal.readings_current RETURNING *",
		"FROM query('DELETE FROM iot_telemetry_internal.readings_current')",
	} {
		rows, err := db.Query(t.Context(), sql)
		if err == nil {
			for _, e := range rows.All {
				err = errors.Join(err, e)
			}
		}
		if !mesh.IsPermanent(err) {
			t.Errorf("Query(%s) = %v, want a permanent error", sql, err)
		}
	}
	if got := ask(t, db, "SELECT count(*) FROM iot_telemetry.readings"); got != "1" {
		t.Errorf("%s rows are left, want 1", got)
	}
	for _, sql := range []string{"DESCRIBE iot_telemetry.readings", "SHOW ALL TABLES", "EXPLAIN SELECT 1", "SUMMARIZE iot_telemetry.readings",
		"VALUES (1)", "FROM customers.customers", "WITH a AS (SELECT 1) FROM a", "EXPLAIN ANALYZE SELECT 1"} {
		ask(t, db, sql)
	}
}

// Types that a contract has not come as the nearest that it has.
func TestOtherTypes(t *testing.T) {
	db := open(t)
	defer db.Close()
	for sql, want := range map[string]string{
		"SELECT 1::TINYINT, 2::UBIGINT, sum(3), 1.50, 1.5::FLOAT":                        "1 2 3 1.5 1.5",
		"SELECT [1, 2], {'a': 'x'}, MAP {'k': NULL}, ['é']":                              `[1,2] {"a":"x"} {"k":null} ["é"]`,
		"SELECT TIMESTAMPTZ '2024-03-01 12:00:00+02', TIMESTAMP_S '2024-03-01 12:00:00'": "2024-03-01 10:00:00 +0000 UTC 2024-03-01 12:00:00 +0000 UTC",
		"SELECT DATE '2024-03-01', TIME '01:02:03', INTERVAL 90 MINUTE, '\\xAA'::BLOB":   `2024-03-01 01:02:03 01:30:00 \xAA`,
		"SELECT 1 AS a, 2 AS a, NULL; -- a comment ; with a semicolon":                   "1 2 <nil>",
		"SELECT ';' AS a, 1::TINYINT;":                                                   "; 1",
		"SELECT '2024-03-01T12:00:00Z'::TIMESTAMP <= TIMESTAMPTZ '2024-03-01 12:00:00Z'": "true",
	} {
		if got := ask(t, db, sql); got != want {
			t.Errorf("%s = %s, want %s", sql, got, want)
		}
	}
	rows, err := db.Query(t.Context(), "SELECT 170141183460469231731687303715884105727 AS huge")
	if err == nil {
		for _, err = range rows.All {
		}
	}
	if !mesh.IsPermanent(err) {
		t.Errorf("a number beyond INT64 gives %v, want a permanent error", err)
	}
}

// What the port costs must be what its table costs: no window, join or
// anti-join may stand between them.
func TestPortIsOneScan(t *testing.T) {
	db := open(t)
	defer db.Close()
	apply(t, db)
	add(t, db, "1", reading("d", 0, 1, 1))
	plan := ask(t, db, "EXPLAIN SELECT sum(value) FROM iot_telemetry.readings")
	for _, operator := range []string{"WINDOW", "JOIN", "UNION"} {
		if strings.Contains(plan, operator) {
			t.Errorf("the plan has a %s:\n%s", operator, plan)
		}
	}
}

// The child of TestKill stores events, each of one reading and one customer
// row, and says which it has stored, until it is killed.
func TestKillChild(t *testing.T) {
	file := os.Getenv("TELEMESH_KILL_FILE")
	if file == "" {
		t.Skip("runs in TestKill")
	}
	db := openFile(t, file)
	apply(t, db)
	var all sync.WaitGroup
	var out sync.Mutex
	for writer := range 4 {
		all.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprint(os.Getenv("TELEMESH_KILL_ROUND"), "-", writer, "-", i)
				// Two rows, the second a new value of a reading that all share.
				add(t, db, id, reading(id, mesh.Instant(i)*600e6, 1, 1), reading("shared", 0, float64(i%5), 1))
				out.Lock()
				fmt.Println("stored", id)
				out.Unlock()
			}
		})
	}
	all.Wait()
}

// What Append has answered is there after a kill -9 at any moment, and the
// rows of an event are there all or none.
func TestKill(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	stored := map[string]bool{}
	for round := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
		child.Env = append(os.Environ(), "TELEMESH_KILL_FILE="+file, fmt.Sprint("TELEMESH_KILL_ROUND=", round))
		child.Stderr = os.Stderr
		output, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 0; lines.Scan(); n++ {
			if id, ok := strings.CutPrefix(lines.Text(), "stored "); ok {
				stored[id] = true
			}
			if n == 7+round*31 {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		child.Wait() // killed

		db := openFile(t, file)
		apply(t, db)
		there := map[string]bool{}
		for _, id := range strings.Split(ask(t, db, "SELECT device_id FROM iot_telemetry.readings WHERE device_id <> 'shared'"), "; ") {
			there[id] = true
		}
		for id := range stored {
			if !there[id] {
				t.Errorf("round %d: event %s was stored and is not there", round, id)
			}
		}
		if got := ask(t, db, "SELECT count(*) - (SELECT count(*) FROM warehouse_internal.stored_events) FROM iot_telemetry.readings "+
			"WHERE device_id <> 'shared'"); got != "0" {
			t.Errorf("round %d: %s more rows than events in the ledger", round, got)
		}
		if got := ask(t, db, "SELECT (SELECT count(*) FROM iot_telemetry.readings WHERE device_id = 'shared'), count(*) - count(DISTINCT value), "+
			"count(*) - 1 - (SELECT max(revision) FROM iot_telemetry.readings), max(value) - (SELECT max(value) FROM iot_telemetry.readings "+
			"WHERE device_id = 'shared') FROM iot_telemetry_internal.readings WHERE device_id = 'shared'"); got != "1 0 0 0" {
			t.Errorf("round %d: the shared reading is shown, doubled, off in revision and value by %s, want 1 0 0 0", round, got)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The version of what a table is made from is known again after a restart, to
// the row: of keys with several contents, deleted ones and what came twice.
func TestVersionAfterReopen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	db := openFile(t, file)
	apply(t, db)
	placement := func(device string, version int64, deleted bool) warehouse.Row {
		return cells{warehouse.String(device), warehouse.String("a"), warehouse.Null, warehouse.Null, warehouse.Null, warehouse.Null, warehouse.Null,
			warehouse.Instant(0), warehouse.Null, warehouse.Int(version), warehouse.Bool(deleted)}
	}
	for i, rows := range [][]warehouse.Row{
		{placement("a", 1, false), placement("b", 1, false)}, {placement("a", 2, true)}, {placement("a", 1, false)}, {placement("a", 3, false)},
	} {
		if _, err := db.Append(t.Context(), warehouse.Batch{Table: "iot_metadata.placements", EventSource: "/s", EventID: fmt.Sprint(i), Rows: rows}); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 2 {
		for id, rows := range map[string][]warehouse.Row{"stored in the first round": {reading("d", 0, 1, 1)}, "empty": nil} {
			got, err := db.Append(t.Context(), warehouse.Batch{Table: "iot_telemetry.readings", EventSource: "/s", EventID: id, Rows: rows})
			if got != 4 || err != nil {
				t.Errorf("round %d: event %s: Append() = %d, %v, want 4", round, id, got, err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openFile(t, file)
		apply(t, db)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
