package duckdb

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// maxDisputed bounds the memory that settling takes.
const maxDisputed = 32 << 10

// qualityConflict marks a row that counts by its value alone.
const qualityConflict = "conflict"

// history is what is stored of a key.
type history struct {
	current int64 // rowid of the row that counts; none: there is none
	rows    []storedRow
	changed bool
}

// storedRow is a row as it was appended.
type storedRow struct {
	cells   []warehouse.Cell
	revised int64 // its rowid in <name>_revised; none: it is not there
}

const none = -1

// settle stores rows whose keys have rows already, or may have. Those that say
// something new, came by an earlier way or knew more join the rows of their
// key, and the row that counts is made anew from all of them.
func (t *table) settle(c conn, disputed [][]warehouse.Cell, recorded mesh.Instant) error {
	histories, of, err := t.histories(c, disputed)
	if err != nil {
		return err
	}
	var outdated, superseded []int64 // rowids in revised and in current
	for i, row := range disputed {
		h := &histories[of[i]]
		if t.AppendOnly && len(h.rows) > 0 ||
			slices.ContainsFunc(h.rows, func(other storedRow) bool {
				return t.ranking.Same(row, other.cells) && t.ranking.Compare(row, other.cells) <= 0
			}) {
			continue
		}
		h.rows = slices.DeleteFunc(h.rows, func(other storedRow) bool {
			less := t.ranking.Same(row, other.cells) && t.ranking.KnowsMore(row, other.cells)
			if less && other.revised != none {
				outdated = append(outdated, other.revised)
			}
			return less
		})
		h.rows = append(h.rows, storedRow{row, none})
		h.changed = true
	}
	var rows [][]warehouse.Cell
	for i := range histories {
		h := &histories[i]
		if !h.changed {
			continue
		}
		if h.current != none {
			superseded = append(superseded, h.current)
			if t.kept != nil {
				if err := t.kept.mark(c, h.rows[0].cells); err != nil {
					return err
				}
			}
		}
		rows = rows[:0]
		for _, row := range h.rows {
			rows = append(rows, row.cells)
			if len(h.rows) > 1 && row.revised == none {
				if err := t.revised.append(row.cells); err != nil {
					return err
				}
			}
		}
		counts := t.count(rows)
		p := t.printOf(counts)
		if resolved := len(rows) > 1; resolved {
			counts[t.ranking.RecordedAt] = warehouse.Instant(recorded)
			p.content = 0
		}
		if b := t.seen.buckets[p.bucket]; b.rows != nil {
			t.seen.put(b, p)
		}
		t.appended++
		if err := t.current.append(append(counts, warehouse.Bool(len(rows) > 1))); err != nil {
			return err
		}
	}
	if err := t.remove(c, currentSuffix, superseded); err != nil {
		return err
	}
	if err := t.remove(c, revisedSuffix, outdated); err != nil {
		return err
	}
	if err := t.revised.flush(); err != nil {
		return err
	}
	return t.current.flush()
}

// histories reads what is stored of the keys of rows; of says which history is
// a row's. The keys are given to DuckDB as a table and not in the text of a
// statement, where each costs as much as the rest of its row.
func (t *table) histories(c conn, rows [][]warehouse.Cell) (histories []history, of []int, err error) {
	var columns, on strings.Builder
	for i, k := range t.ranking.Key {
		fmt.Fprintf(&columns, ", k%d %s", i, storageTypes[t.ranking.Stored[k].Type])
		fmt.Fprintf(&on, " AND s.%s = k%d", name(t.ranking.Stored[k].Name), i)
	}
	asked, err := temporary(c, "asked", "history BIGINT"+columns.String())
	if err != nil {
		return nil, nil, err
	}
	defer asked.close()
	numbers := make(map[string]int, len(rows))
	of = make([]int, len(rows))
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	var key []warehouse.Cell
	for i, row := range rows {
		text := t.keyText(row)
		n, ok := numbers[text]
		if !ok {
			n = len(numbers)
			numbers[text] = n
			key = append(key[:0], warehouse.Int(int64(n)))
			for _, k := range t.ranking.Key {
				key = append(key, row[k])
			}
			if err := asked.append(key); err != nil {
				return nil, nil, err
			}
		}
		of[i] = n
		if t.ranking.Time >= 0 {
			from, to = min(from, row[t.ranking.Time].Int()), max(to, row[t.ranking.Time].Int())
		}
	}
	if err := asked.flush(); err != nil {
		return nil, nil, err
	}
	where := ""
	if t.ranking.Time >= 0 {
		// The join does not let DuckDB leave out row groups, this does.
		where = fmt.Sprintf(" WHERE s.%s BETWEEN make_timestamp(%d) AND make_timestamp(%d)", name(t.ranking.Stored[t.ranking.Time].Name), from, to)
	}
	histories = make([]history, len(numbers))
	for i := range histories {
		histories[i].current = none
	}
	const sql = "SELECT history, s.rowid, %s, %s FROM %s AS s JOIN temp.main.asked ON true%s%s"
	several := false
	err = c.query(fmt.Sprintf(sql, "resolved", names(t.ranking.Stored), t.storage(currentSuffix), on.String(), where), func(row []warehouse.Cell) error {
		h := &histories[row[0].Int()]
		h.current = row[1].Int()
		if resolved := row[2].Bool(); resolved {
			several = true
		} else {
			h.rows = append(h.rows, storedRow{clone(row[3:]), none})
		}
		return nil
	})
	if err != nil || !several {
		return histories, of, err
	}
	err = c.query(fmt.Sprintf(sql, "true", names(t.ranking.Stored), t.storage(revisedSuffix), on.String(), where), func(row []warehouse.Cell) error {
		h := &histories[row[0].Int()]
		h.rows = append(h.rows, storedRow{clone(row[3:]), row[1].Int()})
		return nil
	})
	return histories, of, err
}

// remove deletes rows.
func (t *table) remove(c conn, suffix string, rowids []int64) error {
	if len(rowids) == 0 {
		return nil
	}
	removed, err := temporary(c, "removed", "id BIGINT")
	if err != nil {
		return err
	}
	defer removed.close()
	for _, id := range rowids {
		if err := removed.append([]warehouse.Cell{warehouse.Int(id)}); err != nil {
			return err
		}
	}
	if err := removed.flush(); err != nil {
		return err
	}
	return c.exec(fmt.Sprintf("DELETE FROM %s WHERE rowid IN (SELECT id FROM temp.main.removed)", t.storage(suffix)))
}

// temporary makes an empty table that this connection alone sees.
func temporary(c conn, table, columns string) (*appender, error) {
	if err := c.exec(fmt.Sprintf("CREATE OR REPLACE TEMP TABLE %s (%s)", table, columns)); err != nil {
		return nil, err
	}
	return newAppender(c, "temp", "main", table, nil)
}

// clone copies a row out of DuckDB's memory, all its texts into one.
func clone(row []warehouse.Cell) []warehouse.Cell {
	size := 0
	for i := range row {
		if row[i].Kind() == warehouse.StringKind {
			size += len(row[i].Text())
		}
	}
	var texts strings.Builder
	texts.Grow(size)
	row = slices.Clone(row)
	for i := range row {
		if row[i].Kind() == warehouse.StringKind {
			from := texts.Len()
			texts.WriteString(row[i].Text())
			row[i] = warehouse.String(texts.String()[from:])
		}
	}
	return row
}

// count gives the row that counts of the rows of one key, as they were
// appended. It depends on the set of rows alone.
func (t *table) count(rows [][]warehouse.Cell) []warehouse.Cell {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, t.ranking.Compare)
	last := len(rows) - 1
	counts := slices.Clone(rows[last])
	if t.Order != contract.Revision {
		return counts
	}
	order, quality := t.ranking.Order, t.ranking.Quality
	revision := rows[0][order].Int()
	conflict := false
	for i, row := range rows {
		if i > 0 && !t.ranking.Same(rows[i-1], row) {
			revision = max(revision+1, row[order].Int())
		}
		conflict = conflict || t.ranking.Conflict(row, rows[last])
	}
	counts[order] = warehouse.Int(revision)
	if conflict && quality >= 0 {
		counts[quality] = warehouse.String(qualityConflict)
	}
	return counts
}
