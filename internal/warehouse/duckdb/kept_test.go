package duckdb_test

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/warehousetest"
)

const hourly = "iot_analytics.readings_hourly"

// plainHours is the statement of the view.
func plainHours(t testing.TB) string {
	t.Helper()
	list, err := products()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		for _, v := range p.Views {
			if v.FullName() == hourly {
				if v.Kept == nil {
					t.Fatalf("%s is not kept", hourly)
				}
				return v.DuckDB
			}
		}
	}
	t.Fatalf("no product has %s", hourly)
	return ""
}

// wantPlain asks, in one statement and so of one snapshot, how many rows the view
// shows that its statement does not give, or the other way round.
func wantPlain(t testing.TB, w warehouse.Warehouse, when string) {
	t.Helper()
	plain := plainHours(t)
	sql := fmt.Sprintf("SELECT (SELECT count(*) FROM (SELECT * FROM %[1]s EXCEPT ALL (%[2]s))), (SELECT count(*) FROM ((%[2]s) EXCEPT ALL SELECT * FROM %[1]s))", hourly, plain)
	if got := ask(t, w, sql); got != "0 0" {
		t.Errorf("%s: hours too many and too few are %s, want 0 0", when, got)
	}
}

// wantFolded says that all is kept, each hour once.
func wantFolded(t testing.TB, w warehouse.Warehouse, when string) {
	t.Helper()
	if got := ask(t, w, "SELECT (SELECT count(*) FROM iot_analytics_internal.readings_hourly_stale), "+
		"(SELECT count(*) FROM iot_analytics_internal.readings_current WHERE recorded_at > until), "+
		"(SELECT count(*) FROM iot_analytics_internal.readings_hourly_kept) + (SELECT count(*) FROM iot_analytics_internal.readings_hourly_recent) - "+
		"(SELECT count(*) FROM "+hourly+") "+
		"FROM iot_analytics_internal.readings_hourly_until"); got != "0 0 0" {
		t.Errorf("%s: stale hours, new rows and rows kept too many are %s, want 0 0 0", when, got)
	}
}

// Whatever is appended, folded and closed in between, the view shows what it
// would if nothing were kept.
func TestHoursOfAnyHistory(t *testing.T) {
	for seed := range uint64(4) {
		file := filepath.Join(t.TempDir(), "test.duckdb")
		db := openFile(t, file)
		s := warehousetest.New(t, db)
		random := rand.New(rand.NewPCG(seed, 6))
		s.Hours(seed, 25, func() {
			switch random.IntN(5) {
			case 0:
				if err := db.Fold(); err != nil {
					t.Fatal(err)
				}
				s.WantHours()
				wantFolded(t, db, fmt.Sprint("seed ", seed))
			case 1:
				if err := db.FoldStale(); err != nil {
					t.Fatal(err)
				}
			case 2:
				s.WantHours() // before anything is read again
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				db = openFile(t, file)
				apply(t, db)
				s.Warehouse = db
			}
		})
		wantPlain(t, db, fmt.Sprint("seed ", seed))
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// joinedReading is a row of iot_analytics.readings.
func joinedReading(device string, at mesh.Instant, value float64, tenant string, version int64) cells {
	row := reading(device, at, value, version)
	row[1] = warehouse.Optional(tenant)
	return append(row, warehouse.String("B"), warehouse.Null, warehouse.String(device), warehouse.Int(20), warehouse.Float(420), warehouse.Null,
		warehouse.Null, warehouse.Null, warehouse.Null, warehouse.Int(version), warehouse.Bool(tenant == ""))
}

func addJoined(t testing.TB, w warehouse.Warehouse, event string, rows ...warehouse.Row) {
	t.Helper()
	if _, err := w.Append(t.Context(), warehouse.Batch{Table: "iot_analytics.readings", EventSource: "/s", EventID: event, Rows: rows}); err != nil {
		t.Fatal(err)
	}
}

// history is the n-th event of a writer: new readings, some of which are
// corrected, moved or withdrawn by later ones.
func history(writer, n int) (rows []warehouse.Row) {
	random := rand.New(rand.NewPCG(uint64(writer), uint64(n)))
	device := fmt.Sprint("d", writer)
	for i := range 8 {
		rows = append(rows, joinedReading(device, mesh.Instant(n*8+i)*300e6, float64(random.IntN(4000))/4, "a", 1))
	}
	for range random.IntN(4) {
		tenant := []string{"a", "b", ""}[random.IntN(3)]
		rows = append(rows, joinedReading(device, mesh.Instant(random.IntN(n*8+8))*300e6, float64(random.IntN(4000))/4, tenant, int64(2+n)))
	}
	return rows
}

// A filter on groups reaches what is kept, sorted and recent, and the rows that
// hours are made of, new and stale: else a year of one room would be all of it.
func TestHoursAreFiltered(t *testing.T) {
	db := openFile(t, filepath.Join(t.TempDir(), "test.duckdb"))
	defer db.Close()
	apply(t, db)
	for n := range 40 {
		addJoined(t, db, fmt.Sprint(n), history(0, n)...)
	}
	if err := db.Fold(); err != nil { // more than twenty hours: they are sorted
		t.Fatal(err)
	}
	addJoined(t, db, "recent", joinedReading("d0", 9000*300e6, 1, "a", 1))
	if err := db.Fold(); err != nil {
		t.Fatal(err)
	}
	addJoined(t, db, "new", joinedReading("d0", 9100*300e6, 1, "a", 1))
	if err := db.Exec("INSERT INTO iot_analytics_internal.readings_hourly_stale VALUES ('d0', 'co2', TIMESTAMP '1970-01-01')"); err != nil {
		t.Fatal(err)
	}
	plan := ask(t, db, "EXPLAIN SELECT hour_start, SUM(value_sum) / SUM(readings) FROM (SELECT * FROM "+hourly+" WHERE tenant_id IN ('a')) AS h "+
		"WHERE building = 'B' AND room = 'd0' AND metric = 'co2' GROUP BY hour_start")
	for _, filter := range []string{"tenant_id='a'", "building='B'", "room='d0'", "metric='co2'"} {
		if got := strings.Count(plan, filter); got < 4 {
			t.Errorf("%s is asked of %d tables, want 4:\n%s", filter, got, plan)
		}
	}
}

// Writers, readers and folding do not wait for each other, and each reader sees
// one moment.
func TestHoursWhileAppended(t *testing.T) {
	db := openFile(t, filepath.Join(t.TempDir(), "test.duckdb"))
	defer db.Close()
	db.FoldFrom(1)
	apply(t, db)
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for writer := range 3 {
		writers.Go(func() {
			for n := range 60 {
				addJoined(t, db, fmt.Sprint(writer, "-", n), history(writer, n)...)
			}
		})
	}
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := db.Fold(); err != nil {
				t.Error(err)
			}
		}
	})
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				wantPlain(t, db, "while rows are appended")
			}
		}
	})
	writers.Wait()
	close(stop)
	readers.Wait()
	if err := db.Fold(); err != nil {
		t.Fatal(err)
	}
	wantPlain(t, db, "at the end")
	wantFolded(t, db, "at the end")
	if got := ask(t, db, "SELECT count(*) > 0 FROM "+hourly); got != "true" {
		t.Error("there are no hours")
	}
}

// The goroutine folds by itself what is worth it.
func TestHoursAreFolded(t *testing.T) {
	db := openFile(t, filepath.Join(t.TempDir(), "test.duckdb"))
	defer db.Close()
	db.FoldFrom(8)
	apply(t, db)
	for n := range 3 {
		addJoined(t, db, fmt.Sprint(n), history(0, n)...)
	}
	for start := time.Now(); ; {
		if time.Since(start) > time.Minute {
			t.Fatal("nothing is folded after a minute")
		}
		if ask(t, db, "SELECT count(*) < 8 FROM iot_analytics_internal.readings_current, iot_analytics_internal.readings_hourly_until WHERE recorded_at > until") == "true" &&
			ask(t, db, "SELECT count(*) FROM iot_analytics_internal.readings_hourly_stale") == "0" {
			break
		}
	}
	wantPlain(t, db, "folded")
}

// A file of a time when the view was not kept, or was another one, is folded
// from its first row on.
func TestHoursOfAnOldFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	list, err := products()
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(v *contract.View)) []contract.Product {
		list := slices.Clone(list)
		for i := range list {
			list[i].Views = slices.Clone(list[i].Views)
			for j := range list[i].Views {
				if v := &list[i].Views[j]; v.FullName() == hourly {
					change(v)
				}
			}
		}
		return list
	}
	n := 0
	for _, old := range []struct {
		name     string
		products []contract.Product
	}{
		{"not kept", with(func(v *contract.View) { v.Kept = nil })},
		{"kept", list},
		{"another view", with(func(v *contract.View) { v.DuckDB = strings.Replace(v.DuckDB, "value IS NOT NULL", "value > 500", 1) })},
		{"another column", with(func(v *contract.View) {
			v.DuckDB = strings.Replace(v.DuckDB, "count(*) AS readings", "count(*) AS numbers, count(*) AS readings", 1)
			kept := *v.Kept
			kept.Merge = map[string]string{"numbers": "sum"}
			for column, how := range v.Kept.Merge {
				kept.Merge[column] = how
			}
			v.Kept = &kept
		})},
		{"without the view", with(func(v *contract.View) { v.Name, v.Kept = "other", nil })},
	} {
		db := openFile(t, file)
		if err := db.Apply(t.Context(), old.products); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			addJoined(t, db, fmt.Sprint(n), history(0, n)...)
			n++
		}
		if err := db.Fold(); err != nil {
			t.Fatal(err)
		}
		if old.name == "not kept" || old.name == "without the view" {
			for range 10 {
				addJoined(t, db, fmt.Sprint(n), joinedReading("late", mesh.Instant(n), 1, "a", 1))
				n++
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openFile(t, file)
		apply(t, db)
		wantPlain(t, db, "opened after "+old.name)
		addJoined(t, db, fmt.Sprint(n), history(0, n)...)
		n++
		wantPlain(t, db, "appended after "+old.name)
		if err := db.Fold(); err != nil {
			t.Fatal(err)
		}
		wantPlain(t, db, "folded after "+old.name)
		wantFolded(t, db, "folded after "+old.name)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Rows that were recorded by a clock that was ahead do not hide what is recorded
// later.
func TestHoursAfterTheClockWasAhead(t *testing.T) {
	for _, folded := range []bool{false, true} {
		file := filepath.Join(t.TempDir(), "test.duckdb")
		db := openFile(t, file)
		apply(t, db)
		addJoined(t, db, fmt.Sprint("before ", folded), history(0, 0)[:8]...) // nothing to fold yet
		if err := db.Exec("UPDATE iot_analytics_internal.readings_current SET recorded_at = recorded_at + INTERVAL 1 YEAR"); err != nil {
			t.Fatal(err)
		}
		if folded {
			if err := db.Fold(); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = openFile(t, file)
		apply(t, db)
		addJoined(t, db, fmt.Sprint("after ", folded), history(1, 1)...)
		wantPlain(t, db, fmt.Sprint("folded before: ", folded))
		if err := db.Fold(); err != nil {
			t.Fatal(err)
		}
		addJoined(t, db, fmt.Sprint("folded ", folded), history(2, 2)...)
		wantPlain(t, db, fmt.Sprint("folded before: ", folded))
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The child of TestKillWhileFolding appends, and folds, until it is killed.
func TestKillWhileFoldingChild(t *testing.T) {
	file := os.Getenv("TELEMESH_KILL_FOLDING")
	if file == "" {
		t.Skip("runs in TestKillWhileFolding")
	}
	go func() { // not to outlive a parent that ends before it kills
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	db := openFile(t, file)
	apply(t, db)
	var round int
	fmt.Sscan(os.Getenv("TELEMESH_KILL_ROUND"), &round)
	for writer := range 2 {
		go func() {
			for n := round * 1000; ; n++ {
				addJoined(t, db, fmt.Sprint(writer, "-", n), history(writer, n)...)
				fmt.Println("stored", n)
			}
		}()
	}
	for {
		if err := db.Fold(); err != nil {
			t.Error(err)
		}
	}
}

// A kill -9 at any moment, also in the middle of folding, leaves a view that
// shows what its statement does.
func TestKillWhileFolding(t *testing.T) {
	file := filepath.Join(t.TempDir(), "test.duckdb")
	kept := 0
	for round := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^TestKillWhileFoldingChild$")
		child.Env = append(os.Environ(), "TELEMESH_KILL_FOLDING="+file, fmt.Sprint("TELEMESH_KILL_ROUND=", round))
		child.Stderr = os.Stderr
		if _, err := child.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		output, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 0; lines.Scan(); n++ {
			if n == 40+round*17 {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		child.Wait() // killed

		db := openFile(t, file)
		apply(t, db)
		wantPlain(t, db, fmt.Sprint("round ", round))
		var now int
		fmt.Sscan(ask(t, db, "SELECT count(*) FROM iot_analytics_internal.readings_hourly_kept"), &now)
		if now <= kept {
			t.Errorf("round %d: %d hours are kept, and were %d before", round, now, kept)
		}
		kept = now
		addJoined(t, db, fmt.Sprint("after-", round), history(0, round*1000)...)
		wantPlain(t, db, fmt.Sprint("round ", round, ", appended"))
		if round%2 == 1 {
			if err := db.Fold(); err != nil {
				t.Fatal(err)
			}
			wantPlain(t, db, fmt.Sprint("round ", round, ", folded"))
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
