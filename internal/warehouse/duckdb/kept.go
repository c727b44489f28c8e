package duckdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// kept is a view whose rows are kept ready (contract.Kept). <view>_kept has them
// as they are made of all rows of the table that were recorded up to the instant
// in <view>_until, but for the hours in <view>_stale: rows of those were replaced
// since.
//
// The view shows what is kept of the hours that are not stale, merged with what
// is made of the rows recorded since, and makes the stale hours of all their
// rows: always what it would show if nothing were kept. A new row is told by its
// recorded_at, which storing it costs nothing; one that takes another's place has
// its hour marked in the transaction that stores it. A goroutine folds the new
// rows and the stale hours into what is kept, beside who reads and appends: what
// either of them sees is before or after, by DuckDB's snapshots. A mark that is
// made while it folds is not in its snapshot, and stays.
type kept struct {
	view  string
	table *table
	key   []int // cells that tell hours of a table apart: KeyOf without Time

	fold  func(from, to int64) []string // statements that fold what was recorded after from and until to
	stale *appender
	marks map[string]struct{} // of this transaction
	text  []byte

	fresh    atomic.Int64 // rows recorded since, those of which no row is made too
	replaced atomic.Bool  // there are stale hours
}

const (
	keptSuffix  = "_kept"
	untilSuffix = "_until"
	staleSuffix = "_stale"
)

const (
	// foldRows is how many new rows are worth folding. A reader makes hours of
	// them, a few ms.
	foldRows = 1 << 18
	// maxFold bounds what one transaction folds, and so its memory and how long
	// Close waits.
	maxFold = 1 << 20
	// foldStale is how long hours are stale at least, since a repair sends many
	// events, and restAfter how many times longer than a fold takes it rests.
	foldStale = 2 * time.Second
	restAfter = 10
)

func (k *kept) storage(suffix string) string { return name(k.table.schema) + "." + name(k.view+suffix) }

// newKept makes what is missing of a view that is kept, and the view.
func newKept(c conn, v *contract.View, t *table) (*kept, error) {
	k := &kept{view: v.Name, table: t, marks: map[string]struct{}{}}
	column := func(column string) string { return name(column) }
	var same, within []string // how rows of the view, and of the table, are of a stale hour
	var marked []string
	for i, col := range t.ranking.Stored {
		if slices.Contains(t.KeyOf, col.Name) && i != t.ranking.Time {
			k.key = append(k.key, i)
			marked = append(marked, column(col.Name))
			same = append(same, fmt.Sprintf("k.%[1]s = s.%[1]s", column(col.Name)))
			within = append(within, fmt.Sprintf("r.%[1]s = s.%[1]s", column(col.Name)))
		}
	}
	marked = append(marked, column(v.Kept.Hour))
	same = append(same, fmt.Sprintf("k.%[1]s = s.%[1]s", column(v.Kept.Hour)))
	within = append(within, fmt.Sprintf("r.%[1]s >= s.%[2]s AND r.%[1]s < s.%[2]s + INTERVAL 1 HOUR", column(t.Time), column(v.Kept.Hour)))

	var list, types, groups, merged []string
	err := c.query("SELECT column_name, column_type FROM (DESCRIBE "+v.DuckDB+"\n)", func(row []warehouse.Cell) error {
		col, kind := column(strings.Clone(row[0].Text())), strings.Clone(row[1].Text())
		list, types = append(list, col), append(types, col+" "+kind)
		if how := v.Kept.Merge[row[0].Text()]; how == "" {
			groups, merged = append(groups, col), append(merged, col)
		} else {
			merged = append(merged, fmt.Sprintf("CAST(%s(%s) AS %s) AS %[2]s", how, col, kind))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	table := regexp.MustCompile(`\b` + regexp.QuoteMeta(v.Kept.Table) + `\b`)
	// made is the statement of the view over some rows of the table.
	made := func(of string) string {
		there := "true"
		if t.Tombstones {
			there = "NOT r." + name(contract.Deleted)
		}
		rows := fmt.Sprintf("(SELECT %s FROM %s AS r %s AND %s)", names(t.Columns), t.storage(currentSuffix), of, there)
		return "SELECT * FROM (" + table.ReplaceAllLiteralString(v.DuckDB, rows) + "\n)"
	}
	join := func(kind string, on []string) string {
		return fmt.Sprintf("%s JOIN %s AS s ON %s", kind, k.storage(staleSuffix), strings.Join(on, " AND "))
	}
	recorded := "r." + name(contract.RecordedAt)

	definition := strings.Join([]string{v.DuckDB, v.Kept.Hour, strings.Join(slices.Sorted(maps.Keys(v.Kept.Merge)), " "), strings.Join(merged, ", ")}, "\n")
	was, err := k.definition(c)
	if err != nil {
		return nil, err
	}
	if was != definition {
		for _, suffix := range []string{keptSuffix, untilSuffix, staleSuffix} {
			if err := c.exec("DROP TABLE IF EXISTS " + k.storage(suffix)); err != nil {
				return nil, err
			}
		}
	}
	for _, sql := range []string{
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s)", k.storage(keptSuffix), strings.Join(types, ", ")),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s AS SELECT TIMESTAMP 'epoch' AS until, %s AS definition", k.storage(untilSuffix), literal(definition)),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s AS SELECT %s FROM %s LIMIT 0", k.storage(staleSuffix), strings.Join(marked, ", "), k.storage(keptSuffix)),
		fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %s; CREATE OR REPLACE VIEW %[1]s.%s AS SELECT %s FROM (\n"+
			"SELECT k.* FROM %s AS k %s\nUNION ALL\n%s\nUNION ALL\n%s\n) GROUP BY %s",
			name(v.Schema), name(v.Name), strings.Join(merged, ", "),
			k.storage(keptSuffix), join("ANTI", same),
			made(fmt.Sprintf("JOIN %s AS u ON %s > u.until %s WHERE true", k.storage(untilSuffix), recorded, join("ANTI", within))),
			made(join("SEMI", within)+" WHERE true"),
			strings.Join(groups, ", ")),
	} {
		if err := c.exec(sql); err != nil {
			return nil, err
		}
	}

	columns, instant := strings.Join(list, ", "), "make_timestamp(%d)"
	k.fold = func(from, to int64) []string {
		since, until := fmt.Sprintf("%s > "+instant, recorded, from), fmt.Sprintf("%s <= "+instant, recorded, to)
		return []string{
			// What is made of new rows, and of all rows of stale hours.
			fmt.Sprintf("CREATE OR REPLACE TEMP TABLE folded AS %s UNION ALL %s",
				made(join("ANTI", within)+" WHERE "+since+" AND "+until), made(join("SEMI", within)+" WHERE "+until)),
			fmt.Sprintf("CREATE OR REPLACE TEMP TABLE touched AS SELECT %[1]s FROM temp.main.folded UNION SELECT %[1]s FROM %s",
				strings.Join(marked, ", "), k.storage(staleSuffix)),
			fmt.Sprintf("CREATE OR REPLACE TEMP TABLE outdated AS SELECT k.rowid AS id, k.* FROM %s AS k SEMI JOIN temp.main.touched AS s ON %s",
				k.storage(keptSuffix), strings.Join(same, " AND ")),
			fmt.Sprintf("INSERT INTO temp.main.folded SELECT %s FROM temp.main.outdated AS k %s", columns, join("ANTI", same)),
			fmt.Sprintf("DELETE FROM %s WHERE rowid IN (SELECT id FROM temp.main.outdated)", k.storage(keptSuffix)),
			fmt.Sprintf("INSERT INTO %s SELECT %s FROM temp.main.folded GROUP BY %s ORDER BY %[3]s",
				k.storage(keptSuffix), strings.Join(merged, ", "), strings.Join(groups, ", ")),
			fmt.Sprintf("DELETE FROM %s", k.storage(staleSuffix)),
			fmt.Sprintf("UPDATE %s SET until = "+instant, k.storage(untilSuffix), to),
			"DROP TABLE temp.main.folded; DROP TABLE temp.main.touched; DROP TABLE temp.main.outdated",
		}
	}
	return k, nil
}

// forgetKept drops what is kept of views of a product that are not any more: rows
// that are stored from now on mark nothing.
func forgetKept(c conn, p *contract.Product) error {
	var old []string
	schema := p.Schema + contract.InternalSuffix
	err := c.query(fmt.Sprintf("SELECT table_name FROM duckdb_tables() WHERE schema_name = %s", literal(schema)), func(row []warehouse.Cell) error {
		view, ok := strings.CutSuffix(row[0].Text(), untilSuffix)
		if ok && !slices.ContainsFunc(p.Views, func(v contract.View) bool { return v.Name == view && v.Kept != nil }) {
			old = append(old, strings.Clone(view))
		}
		return nil
	})
	for _, view := range old {
		for _, suffix := range []string{keptSuffix, untilSuffix, staleSuffix} {
			err = errors.Join(err, c.exec(fmt.Sprintf("DROP TABLE IF EXISTS %s.%s", name(schema), name(view+suffix))))
		}
	}
	return err
}

// definition is what the view was when its rows were kept; empty: none are.
func (k *kept) definition(c conn) (definition string, err error) {
	there, err := c.one(fmt.Sprintf("SELECT count(*) FROM duckdb_tables() WHERE schema_name = %s AND table_name = %s",
		literal(k.table.schema), literal(k.view+untilSuffix)))
	if err != nil || there[0] == 0 {
		return "", err
	}
	err = c.query("SELECT definition FROM "+k.storage(untilSuffix), func(row []warehouse.Cell) error {
		definition = strings.Clone(row[0].Text())
		return nil
	})
	return definition, err
}

// count finds what there is to fold, and gives the last instant at which a row
// was recorded.
func (k *kept) count(c conn) (mesh.Instant, error) {
	row, err := c.one("SELECT epoch_us(until), (SELECT count(*) FROM " + k.storage(staleSuffix) + ") FROM " + k.storage(untilSuffix))
	if err != nil {
		return 0, err
	}
	until, stale := row[0], row[1]
	row, err = c.one(fmt.Sprintf("SELECT count(*), coalesce(epoch_us(max(%[1]s)), %[2]d) FROM %[3]s WHERE %[1]s > make_timestamp(%[2]d)",
		name(contract.RecordedAt), until, k.table.storage(currentSuffix)))
	if err != nil {
		return 0, err
	}
	k.fresh.Store(row[0])
	k.replaced.Store(stale > 0)
	return mesh.Instant(row[1]), nil
}

// mark says that a row of the table is replaced in this transaction.
func (k *kept) mark(c conn, row []warehouse.Cell) (err error) {
	hour := bucketOf(row[k.table.ranking.Time].Int(), hour) * hour
	k.text = binary.BigEndian.AppendUint64(appendCells(k.text[:0], row, k.key), uint64(hour))
	if _, ok := k.marks[string(k.text)]; ok {
		return nil
	}
	k.marks[string(k.text)] = struct{}{}
	if k.stale == nil {
		if k.stale, err = newAppender(c, "", k.table.schema, k.view+staleSuffix, nil); err != nil {
			return err
		}
	}
	mark := make([]warehouse.Cell, 0, len(k.key)+1)
	for _, i := range k.key {
		mark = append(mark, row[i])
	}
	return k.stale.append(append(mark, warehouse.Instant(mesh.Instant(hour))))
}

// flush makes the marks a part of the transaction.
func (k *kept) flush() error {
	if len(k.marks) == 0 {
		return nil
	}
	return k.stale.flush()
}

// stored says that a transaction has committed, and how many rows it appended.
// It gives how many there are to fold.
func (k *kept) stored(rows int) (fresh int64) {
	if len(k.marks) > 0 {
		k.replaced.Store(true)
		clear(k.marks)
	}
	return k.fresh.Add(int64(rows))
}

// close drops what was not flushed.
func (k *kept) close() {
	k.stale.close()
	k.stale = nil
	clear(k.marks)
}

// folding folds, and says whether there was anything to fold.
func (k *kept) folding(c conn) (some bool, err error) {
	k.replaced.Store(false) // a mark that is made from here on says so again
	var rows int64
	err = c.transaction(func() error {
		row, err := c.one("SELECT epoch_us(until), (SELECT count(*) FROM " + k.storage(staleSuffix) + ") FROM " + k.storage(untilSuffix))
		if err != nil {
			return err
		}
		from, stale := row[0], row[1]
		// In the order they were stored in, which is that of recorded_at: a snapshot
		// has all rows that were recorded before its last one.
		row, err = c.one(fmt.Sprintf("SELECT count(*), coalesce(epoch_us(max(instant)), %[1]d) FROM (SELECT %[2]s AS instant FROM %[3]s WHERE %[2]s > make_timestamp(%[1]d) LIMIT %[4]d)",
			from, name(contract.RecordedAt), k.table.storage(currentSuffix), maxFold))
		if err != nil {
			return err
		}
		rows = row[0]
		if some = rows > 0 || stale > 0; !some {
			return nil
		}
		for _, sql := range k.fold(from, row[1]) {
			if err := c.exec(sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		k.replaced.Store(true)
		return false, err
	}
	k.fresh.Add(-rows)
	return some, nil
}

// keep is the goroutine that folds.
func (d *DB) keep() {
	defer close(d.folded)
	rest := time.NewTimer(foldStale)
	defer rest.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.due:
		case <-rest.C:
		}
		began := time.Now()
		if err := d.fold(); err != nil {
			// What is shown is right without; it takes longer.
			slog.Warn("hours are not kept ready", "error", err)
		}
		rest.Reset(max(foldStale, restAfter*time.Since(began)))
	}
}

// fold folds where it is worth it.
func (d *DB) fold() error {
	d.folding.Lock()
	defer d.folding.Unlock()
	for _, k := range d.kept {
		for d.ctx.Err() == nil && (k.fresh.Load() >= d.foldRows || k.replaced.Load()) {
			some, err := k.folding(d.folder)
			if err != nil {
				return fmt.Errorf("fold %s: %w", k.view, err)
			}
			if !some {
				break
			}
		}
	}
	return nil
}
