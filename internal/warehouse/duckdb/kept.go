package duckdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// kept is a view whose rows are kept ready (contract.Kept). <view>_kept and
// <view>_recent have them as they are made of all rows of the table that were
// recorded up to the instant in <view>_until, but for the hours in <view>_stale:
// rows of those were replaced since. What is recent goes to the former, sorted
// as the table is clustered, when it is much: a reader of one metric then finds it
// together.
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
	view  *contract.View
	table *table
	key   []int // cells that tell the hours of a table apart: KeyOf without Time

	columns []string // of the view, as SQL has them
	groups  []string // of columns
	order   []string // groups, those first that the table is clustered by
	merged  []string // as columns, of rows of the same groups one
	marked  []string // columns of a mark: the key, and the hour

	stale *appender
	marks map[string]struct{} // of this transaction
	text  []byte

	fresh    atomic.Int64 // rows recorded since, those of which no row is made too
	replaced atomic.Bool  // there are stale hours
}

const (
	keptSuffix   = "_kept"
	recentSuffix = "_recent"
	untilSuffix  = "_until"
	staleSuffix  = "_stale"
)

// keptFormat is of these tables: those of another one are made anew.
const keptFormat = "1"

const (
	// foldRows is how many new rows are worth folding. A reader makes hours of
	// them, a few ms.
	foldRows = 1 << 18
	// maxFold bounds what one transaction folds, and so its memory and how long
	// Close waits.
	maxFold = 1 << 20
	// sortRows is how many recent hours are worth sorting: eight row groups, of
	// which who asks for one metric of five needs two.
	sortRows = 1 << 20
	// restAfter is how many times longer than a fold of new rows took it rests
	// while rows are appended, so that it takes little from who appends. More new
	// rows than it folds so wait for a quieter time.
	restAfter = 19
	// restAfterStale is that of stale hours. They cannot wait so long: a reader looks
	// for their rows between the first and the last of them.
	restAfterStale = 4
	// maxSpans is up to how many separate times the rows of stale hours are looked
	// for in: a part of the table each, and not all between the first and the last.
	maxSpans = 32
)

func (k *kept) storage(suffix string) string {
	return name(k.table.schema) + "." + name(k.view.Name+suffix)
}

// newKept makes what is missing of a view that is kept, and the view.
func newKept(c conn, v *contract.View, t *table) (*kept, error) {
	k := &kept{view: v, table: t, marks: map[string]struct{}{}}
	for i, column := range t.ranking.Stored {
		if slices.Contains(t.KeyOf, column.Name) && i != t.ranking.Time {
			k.key, k.marked = append(k.key, i), append(k.marked, name(column.Name))
		}
	}
	k.marked = append(k.marked, name(v.Kept.Hour))
	var types []string
	err := c.query("SELECT column_name, column_type FROM (DESCRIBE "+v.DuckDB+"\n)", func(row []warehouse.Cell) error {
		column, kind := name(strings.Clone(row[0].Text())), strings.Clone(row[1].Text())
		k.columns, types = append(k.columns, column), append(types, column+" "+kind)
		if how := v.Kept.Merge[row[0].Text()]; how != "" {
			k.merged = append(k.merged, fmt.Sprintf("CAST(%s(%s) AS %s) AS %[2]s", how, column, kind))
		} else {
			k.groups, k.merged = append(k.groups, column), append(k.merged, column)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, column := range t.Clustered {
		if column = name(column); slices.Contains(k.groups, column) {
			k.order = append(k.order, column)
		}
	}
	for _, column := range k.groups {
		if !slices.Contains(k.order, column) {
			k.order = append(k.order, column)
		}
	}
	definition := strings.Join(slices.Concat([]string{keptFormat, v.DuckDB, v.Kept.Table, v.Kept.Hour}, k.merged, k.order), "\n")
	was, err := k.definition(c)
	if err != nil {
		return nil, err
	}
	if was != definition {
		if err := dropKept(c, t.schema, v.Name); err != nil {
			return nil, err
		}
	}
	for _, sql := range []string{
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s)", k.storage(keptSuffix), strings.Join(types, ", ")),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s)", k.storage(recentSuffix), strings.Join(types, ", ")),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s AS SELECT TIMESTAMP 'epoch' AS until, %s AS definition", k.storage(untilSuffix), literal(definition)),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s AS SELECT %s FROM %s LIMIT 0", k.storage(staleSuffix), strings.Join(k.marked, ", "), k.storage(keptSuffix)),
		fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %s", name(v.Schema)),
		fmt.Sprintf("CREATE OR REPLACE VIEW %s.%s AS %s", name(v.Schema), name(v.Name), k.mergedOf(
			k.hours(),
			k.made("SELECT r.* FROM "+t.storage(currentSuffix)+" AS r, "+k.storage(untilSuffix)+" AS u WHERE r."+name(contract.RecordedAt)+" > u.until", "ANTI"),
			k.made("FROM "+t.storage(currentSuffix), "SEMI"))),
	} {
		if err := c.exec(sql); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// The parts of statements. A join is SEMI, for the stale hours, or ANTI, for all
// others. DuckDB's joins leave out the parts of a table in which nothing is that
// is joined, by the least and the greatest value on the other side.

// hours are the rows that are kept, without the stale ones.
func (k *kept) hours() string {
	return fmt.Sprintf("SELECT k.* FROM (FROM %s UNION ALL FROM %s) AS k ANTI JOIN %s USING (%s)",
		k.storage(keptSuffix), k.storage(recentSuffix), k.storage(staleSuffix), strings.Join(k.marked, ", "))
}

// made are the rows of the view that are made of rows of storage.
func (k *kept) made(rows, join string) string {
	var columns []string
	for _, column := range k.table.Columns {
		columns = append(columns, "r."+name(column.Name))
	}
	hour, at := "s."+name(k.view.Kept.Hour), "r."+name(k.table.Time)
	on := []string{at + " >= " + hour, at + " < " + hour + " + INTERVAL 1 HOUR"}
	for _, column := range k.marked[:len(k.key)] {
		on = append(on, fmt.Sprintf("r.%[1]s = s.%[1]s", column))
	}
	where := ""
	if k.table.Tombstones {
		where = " WHERE NOT r." + name(contract.Deleted)
	}
	stale := k.storage(staleSuffix)
	if join == "SEMI" {
		// Where no hour is stale there is no least and no greatest, and DuckDB looks at
		// all of the table for the rows of a metric that has none: one hour is of nothing.
		nothing := strings.Repeat("'', ", len(k.key)) + "TIMESTAMP 'epoch'"
		stale = fmt.Sprintf("(FROM %s UNION ALL SELECT %s WHERE NOT EXISTS (FROM %[1]s))", stale, nothing)
	}
	of := fmt.Sprintf("(SELECT %s FROM (%s) AS r %s JOIN %s AS s ON %s%s)",
		strings.Join(columns, ", "), rows, join, stale, strings.Join(on, " AND "), where)
	table := regexp.MustCompile(`\b` + regexp.QuoteMeta(k.view.Kept.Table) + `\b`)
	return "SELECT * FROM (" + table.ReplaceAllLiteralString(k.view.DuckDB, of) + "\n)"
}

// mergedOf has each group of rows of the view once.
func (k *kept) mergedOf(rows ...string) string {
	return fmt.Sprintf("SELECT %s FROM (\n%s\n) GROUP BY %s", strings.Join(k.merged, ", "), strings.Join(rows, "\nUNION ALL\n"), strings.Join(k.groups, ", "))
}

// fold are the statements that fold what was recorded after from and until to,
// and the stale hours, which are within spans.
func (k *kept) fold(from, to int64, spans []span) []string {
	recorded, at, current := name(contract.RecordedAt), name(k.table.Time), k.table.storage(currentSuffix)
	statements := []string{"CREATE OR REPLACE TEMP TABLE folded AS " +
		k.made(fmt.Sprintf("FROM %s WHERE %s > make_timestamp(%d) AND %[2]s <= make_timestamp(%[4]d)", current, recorded, from, to), "ANTI")}
	for _, s := range spans {
		statements = append(statements, "INSERT INTO folded "+
			k.made(fmt.Sprintf("FROM %s WHERE %s >= make_timestamp(%d) AND %[2]s < make_timestamp(%[4]d) AND %[5]s <= make_timestamp(%[6]d)",
				current, at, s.from, s.to, recorded, to), "SEMI"))
	}
	marked, columns := strings.Join(k.marked, ", "), strings.Join(k.columns, ", ")
	kept, recent, stale := k.storage(keptSuffix), k.storage(recentSuffix), k.storage(staleSuffix)
	return append(statements,
		// What is kept already of the hours of the new rows is merged with what is
		// made of those; of the stale ones all is made anew.
		fmt.Sprintf("CREATE OR REPLACE TEMP TABLE outdated AS SELECT k.* FROM (SELECT rowid AS id, true AS sorted, * FROM %s UNION ALL SELECT rowid, false, * FROM %s) AS k "+
			"SEMI JOIN (SELECT %s FROM folded UNION SELECT %[3]s FROM %s) AS s USING (%[3]s)", kept, recent, marked, stale),
		fmt.Sprintf("INSERT INTO folded SELECT %s FROM outdated AS k ANTI JOIN %s AS s USING (%s)", columns, stale, marked),
		fmt.Sprintf("DELETE FROM %s WHERE rowid IN (SELECT id FROM outdated WHERE sorted)", kept),
		fmt.Sprintf("DELETE FROM %s WHERE rowid IN (SELECT id FROM outdated WHERE NOT sorted)", recent),
		fmt.Sprintf("INSERT INTO %s %s", recent, k.mergedOf("FROM folded")),
		"DELETE FROM "+stale,
		fmt.Sprintf("UPDATE %s SET until = make_timestamp(%d)", k.storage(untilSuffix), to),
		"DROP TABLE folded; DROP TABLE outdated")
}

// sort moves the recent hours to the sorted ones if they are many.
func (k *kept) sort(c conn, many int64) error {
	row, err := c.one("SELECT count(*) FROM " + k.storage(recentSuffix))
	if err != nil || row[0] < many {
		return err
	}
	return c.exec(fmt.Sprintf("INSERT INTO %s FROM %s ORDER BY %s; DELETE FROM %[2]s", k.storage(keptSuffix), k.storage(recentSuffix), strings.Join(k.order, ", ")))
}

// span is a time, in µs: from inclusive, to exclusive.
type span struct{ from, to int64 }

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
		err = errors.Join(err, dropKept(c, schema, view))
	}
	return err
}

func dropKept(c conn, schema, view string) (err error) {
	for _, suffix := range []string{keptSuffix, recentSuffix, untilSuffix, staleSuffix} {
		err = errors.Join(err, c.exec(fmt.Sprintf("DROP TABLE IF EXISTS %s.%s", name(schema), name(view+suffix))))
	}
	return err
}

// definition is what the view was when its rows were kept; empty: none are.
func (k *kept) definition(c conn) (definition string, err error) {
	there, err := c.one(fmt.Sprintf("SELECT count(*) FROM duckdb_tables() WHERE schema_name = %s AND table_name = %s",
		literal(k.table.schema), literal(k.view.Name+untilSuffix)))
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
	start := bucketOf(row[k.table.ranking.Time].Int(), hour) * hour
	k.text = binary.BigEndian.AppendUint64(appendCells(k.text[:0], row, k.key), uint64(start))
	if _, ok := k.marks[string(k.text)]; ok {
		return nil
	}
	k.marks[string(k.text)] = struct{}{}
	if k.stale == nil {
		if k.stale, err = newAppender(c, "", k.table.schema, k.view.Name+staleSuffix, nil); err != nil {
			return err
		}
	}
	mark := make([]warehouse.Cell, 0, len(k.key)+1)
	for _, i := range k.key {
		mark = append(mark, row[i])
	}
	return k.stale.append(append(mark, warehouse.Instant(mesh.Instant(start))))
}

// flush makes the marks a part of the transaction.
func (k *kept) flush() error {
	if len(k.marks) == 0 {
		return nil
	}
	return k.stale.flush()
}

// stored says that a transaction has committed, and how many rows it appended.
func (k *kept) stored(rows int) {
	k.fresh.Add(int64(rows))
	if len(k.marks) > 0 {
		k.replaced.Store(true)
		clear(k.marks)
	}
}

// close drops what was not flushed.
func (k *kept) close() {
	k.stale.close()
	k.stale = nil
	clear(k.marks)
}

// folding folds stale hours, and new rows if it is told to, and says whether
// there was anything to fold. New rows stay where they are as long as they are
// few: their hours go on, and would be written anew each time. Recent hours are
// sorted when there are many.
func (k *kept) folding(c conn, fresh bool, many int64) (some bool, err error) {
	k.replaced.Store(false) // a mark that is made from here on says so again
	counted, rows := k.fresh.Load(), int64(0)
	err = c.transaction(func() error {
		row, err := c.one("SELECT epoch_us(until) FROM " + k.storage(untilSuffix))
		if err != nil {
			return err
		}
		from := row[0]
		stale, err := k.spans(c)
		if err != nil {
			return err
		}
		to := from
		if fresh {
			// In the order they were stored in, which is that of recorded_at: a snapshot
			// has all rows that were recorded before its last one.
			row, err = c.one(fmt.Sprintf("SELECT count(*), coalesce(epoch_us(max(instant)), %[1]d) FROM (SELECT %[2]s AS instant FROM %[3]s WHERE %[2]s > make_timestamp(%[1]d) LIMIT %[4]d)",
				from, name(contract.RecordedAt), k.table.storage(currentSuffix), maxFold))
			if err != nil {
				return err
			}
			rows, to = row[0], row[1]
		}
		if some = rows > 0 || len(stale) > 0; !some {
			return nil
		}
		for _, sql := range k.fold(from, to, stale) {
			if err := c.exec(sql); err != nil {
				return err
			}
		}
		return k.sort(c, many)
	})
	if err != nil {
		k.replaced.Store(true)
		return false, err
	}
	switch {
	case rows == maxFold:
		k.fresh.Add(-rows)
	case fresh: // all that were counted; some of which were replaced before
		k.fresh.Add(-counted)
	}
	return some, nil
}

// spans are the times that stale hours are in.
func (k *kept) spans(c conn) (spans []span, err error) {
	const near = 24 * hour // parts of the table that are worth reading at once
	err = c.query(fmt.Sprintf("SELECT DISTINCT epoch_us(%[1]s) AS hour FROM %[2]s ORDER BY hour", name(k.view.Kept.Hour), k.storage(staleSuffix)), func(row []warehouse.Cell) error {
		from := row[0].Int()
		if last := len(spans) - 1; last >= 0 && from-spans[last].to < near {
			spans[last].to = from + hour
		} else {
			spans = append(spans, span{from, from + hour})
		}
		return nil
	})
	if len(spans) > maxSpans {
		spans = []span{{spans[0].from, spans[len(spans)-1].to}}
	}
	return spans, err
}

// toFold says whether there is what is worth folding.
func (d *DB) toFold(k *kept) bool { return k.fresh.Load() >= d.foldRows || k.replaced.Load() }

// wake wakes the goroutine that folds.
func (d *DB) wake() {
	select {
	case d.due <- struct{}{}:
	default: // it will look
	}
}

// keep is the goroutine that folds.
func (d *DB) keep() {
	defer close(d.folded)
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.due:
		}
		rest, err := d.foldOnce()
		if err != nil {
			// What is shown is right without; it takes longer.
			slog.Warn("hours are not kept ready", "error", err)
			rest = time.Minute
			d.wake()
		}
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// foldOnce folds where it is worth it, and says how long to rest.
func (d *DB) foldOnce() (rest time.Duration, err error) {
	d.folding.Lock()
	defer d.folding.Unlock()
	for _, k := range d.kept {
		for d.ctx.Err() == nil && d.toFold(k) {
			fresh, began, transactions := k.fresh.Load() >= d.foldRows, time.Now(), d.transactions.Load()
			some, err := k.folding(d.folder, fresh, sortRows)
			if err != nil {
				return 0, fmt.Errorf("fold %s: %w", k.view.FullName(), err)
			}
			if d.transactions.Load() != transactions {
				if d.toFold(k) {
					d.wake()
				}
				times := time.Duration(restAfterStale)
				if fresh {
					times = restAfter
				}
				rest += times * time.Since(began)
				break
			}
			if !some {
				break
			}
		}
	}
	return rest, nil
}
