package duckdb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// maxDisputed bounds the statements that look up the rows of keys.
const maxDisputed = 4096

// qualityConflict marks a row that counts by its value alone.
const qualityConflict = "conflict"

// history is what is stored of a key.
type history struct {
	rowid    int64              // of the current row; -1: none
	current  []warehouse.Cell   // the row that counts
	resolved bool               // it is not as it was appended
	rows     [][]warehouse.Cell // as they were appended
	added    [][]warehouse.Cell // of rows, those that are not stored in revised yet
	changed  bool
}

// settle stores rows whose keys have rows already: those that say something
// new, or came by an earlier way, join the rows of their key, and the row that
// counts is made anew from all of them.
func (t *table) settle(c conn, disputed [][]warehouse.Cell, recorded mesh.Instant) error {
	keys, where := t.lookup(disputed)
	for _, row := range disputed {
		if h := keys[t.keyText(row)]; h == nil {
			keys[t.keyText(row)] = &history{rowid: -1}
		}
	}
	columns := names(t.stored)
	err := c.query(fmt.Sprintf("SELECT rowid, resolved, %s FROM %s WHERE %s", columns, t.storage(currentSuffix), where),
		func(row []warehouse.Cell) error {
			h := keys[t.keyText(row[2:])]
			if h == nil { // another key with the same first column
				return nil
			}
			h.rowid, h.resolved, h.current = row[0].Int(), row[1].Bool(), clone(row[2:])
			if !h.resolved {
				h.rows = append(h.rows, h.current)
				h.added = append(h.added, h.current)
			}
			return nil
		})
	if err != nil {
		return err
	}
	err = c.query(fmt.Sprintf("SELECT %s FROM %s WHERE %s", columns, t.storage(revisedSuffix), where),
		func(row []warehouse.Cell) error {
			if h := keys[t.keyText(row)]; h != nil {
				h.rows = append(h.rows, clone(row))
			}
			return nil
		})
	if err != nil {
		return err
	}

	for _, row := range disputed {
		h := keys[t.keyText(row)]
		if slices.ContainsFunc(h.rows, func(other []warehouse.Cell) bool { return t.same(row, other) && !t.earlier(row, other) }) {
			continue
		}
		h.rows = append(h.rows, row)
		h.added = append(h.added, row)
		h.changed = true
	}
	var superseded []string
	for _, h := range keys {
		if !h.changed {
			continue
		}
		if h.rowid >= 0 {
			superseded = append(superseded, fmt.Sprint(h.rowid))
		}
		resolved := len(h.rows) > 1
		if resolved {
			for _, row := range h.added {
				if err := t.revised.append(row); err != nil {
					return err
				}
			}
		}
		counts := t.count(h.rows)
		p := t.printOf(counts)
		if resolved {
			counts[t.recordedAt] = warehouse.Instant(recorded)
			p.content = 0
		}
		if b := t.seen.buckets[p.bucket]; b != nil {
			t.seen.put(b, p)
		}
		if err := t.current.append(append(counts, warehouse.Bool(resolved))); err != nil {
			return err
		}
	}
	if len(superseded) > 0 {
		if err := c.exec(fmt.Sprintf("DELETE FROM %s WHERE rowid IN (%s) AND %s",
			t.storage(currentSuffix), strings.Join(superseded, ","), where)); err != nil {
			return err
		}
	}
	if err := t.revised.flush(); err != nil {
		return err
	}
	return t.current.flush()
}

// lookup gives the condition that finds the rows of the keys, and perhaps some
// more, by the first column of the key and the time.
func (t *table) lookup(rows [][]warehouse.Cell) (map[string]*history, string) {
	first := t.key[0]
	values := map[string]bool{}
	for _, row := range rows {
		values[literalOf(&row[first])] = true
	}
	list := make([]string, 0, len(values))
	for v := range values {
		list = append(list, v)
	}
	where := fmt.Sprintf("%s IN (%s)", name(t.stored[first].Name), strings.Join(list, ","))
	if t.time >= 0 {
		from, to := rows[0][t.time].Int(), rows[0][t.time].Int()
		for _, row := range rows {
			from, to = min(from, row[t.time].Int()), max(to, row[t.time].Int())
		}
		where += fmt.Sprintf(" AND %s BETWEEN make_timestamp(%d) AND make_timestamp(%d)", name(t.stored[t.time].Name), from, to)
	}
	return make(map[string]*history, len(rows)), where
}

func literalOf(c *warehouse.Cell) string {
	switch c.Kind() {
	case warehouse.StringKind:
		return literal(c.Text())
	case warehouse.InstantKind:
		return fmt.Sprintf("make_timestamp(%d)", c.Int())
	case warehouse.BoolKind:
		return fmt.Sprint(c.Bool())
	case warehouse.FloatKind:
		return fmt.Sprintf("%g::DOUBLE", c.Float())
	}
	return fmt.Sprint(c.Int())
}

func clone(row []warehouse.Cell) []warehouse.Cell {
	row = slices.Clone(row)
	for i := range row {
		if row[i].Kind() == warehouse.StringKind {
			row[i] = warehouse.String(strings.Clone(row[i].Text()))
		}
	}
	return row
}

// count gives the row that counts of the rows of one key, as they were
// appended. It depends on the set of rows alone.
func (t *table) count(rows [][]warehouse.Cell) []warehouse.Cell {
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b []warehouse.Cell) int {
		if c := compareBy(t.rank, a, b); c != 0 {
			return c
		}
		return -compareBy(t.provenance, a, b)
	})
	last := len(rows) - 1
	counts := slices.Clone(rows[last])
	if t.Order != contract.Revision {
		return counts
	}
	revision := rows[0][t.order].Int()
	conflict := false
	for i, row := range rows[1:] {
		if compareBy(t.rank, rows[i], row) != 0 {
			revision = max(revision+1, row[t.order].Int())
		}
	}
	for _, row := range rows {
		conflict = conflict || compareBy(t.values, row, counts) != 0 &&
			row[t.order] == counts[t.order] && (t.assigned < 0 || row[t.assigned] == counts[t.assigned])
	}
	counts[t.order] = warehouse.Int(revision)
	if conflict && t.quality >= 0 {
		counts[t.quality] = warehouse.String(qualityConflict)
	}
	return counts
}

// same says whether two rows of one key say the same.
func (t *table) same(a, b []warehouse.Cell) bool { return compareBy(t.rank, a, b) == 0 }

// earlier says whether, of rows that say the same, a is to be shown and not b.
func (t *table) earlier(a, b []warehouse.Cell) bool { return compareBy(t.provenance, a, b) < 0 }

func compareBy(columns []int, a, b []warehouse.Cell) int {
	for _, i := range columns {
		if c := compare(&a[i], &b[i]); c != 0 {
			return c
		}
	}
	return 0
}

// compare orders cells of a column: NULL comes first.
func compare(a, b *warehouse.Cell) int {
	if c := cmp.Compare(a.Kind(), b.Kind()); c != 0 {
		return c
	}
	switch a.Kind() {
	case warehouse.StringKind:
		return cmp.Compare(a.Text(), b.Text())
	case warehouse.FloatKind:
		return cmp.Or(cmp.Compare(a.Float(), b.Float()), cmp.Compare(a.Int(), b.Int()))
	}
	return cmp.Compare(a.Int(), b.Int())
}
