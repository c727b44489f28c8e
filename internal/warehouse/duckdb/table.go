package duckdb

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// table is a table of a contract, with what the writer knows of it. Columns
// are given by their place in a stored row, which has the cells of the
// contract, recorded_at if it is not among them, and in <name>_current
// resolved.
type table struct {
	contract.Table
	schema  string // where the storage is
	cells   []contract.Column
	check   *warehouse.Check
	ranking warehouse.Ranking
	width   int64 // of a bucket of seen, in µs
	printed []int // what tells a row of a key from another one: the content of its print
	moved   bool  // the file has the columns in another order: some were added later

	seen     seen
	current  *appender
	revised  *appender
	disputed [][]warehouse.Cell // rows of the transaction whose key has other rows
	appended int                // rows of the transaction in current
	kept     *kept              // the view that is kept of it; nil: none
}

var storageTypes = map[contract.Type]string{
	contract.String: "VARCHAR", contract.Float64: "DOUBLE", contract.Int64: "BIGINT",
	contract.Bool: "BOOLEAN", contract.Timestamp: "TIMESTAMP", contract.JSON: "JSON",
}

func newTable(ct *contract.Table) *table {
	t := &table{Table: *ct, cells: ct.Cells(), check: warehouse.NewCheck(ct), ranking: warehouse.NewRanking(ct), width: hour}
	t.schema = strings.TrimSuffix(t.Schema, "_internal") + "_internal"
	if t.AppendOnly {
		// The key alone says what a row is.
		t.printed, t.width = t.ranking.Key, minute
		return t
	}
	for i := range t.cells {
		if i != t.ranking.RecordedAt && i != t.ranking.Received {
			t.printed = append(t.printed, i)
		}
	}
	return t
}

const (
	currentSuffix = "_current"
	revisedSuffix = "_revised"
)

func (t *table) storage(suffix string) string { return name(t.schema) + "." + name(t.Name+suffix) }

func names(columns []contract.Column) string {
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(name(c.Name))
	}
	return b.String()
}

// create makes what is missing of the table, and the views that show it.
func (t *table) create(c conn) error {
	var columns strings.Builder
	for _, col := range t.ranking.Stored {
		fmt.Fprintf(&columns, "%s %s", name(col.Name), storageTypes[col.Type])
		if col.Required {
			columns.WriteString(" NOT NULL")
		}
		columns.WriteString(", ")
	}
	statements := []string{
		fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %s", name(t.schema)),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%sresolved BOOLEAN NOT NULL)", t.storage(currentSuffix), columns.String()),
		fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s)", t.storage(revisedSuffix), strings.TrimSuffix(columns.String(), ", ")),
	}
	for _, sql := range statements {
		if err := c.exec(sql); err != nil {
			return err
		}
	}
	if err := t.adapt(c); err != nil {
		return err
	}
	if err := c.exec(fmt.Sprintf("CREATE OR REPLACE VIEW %[1]s AS SELECT %[2]s FROM %[3]s WHERE NOT resolved UNION ALL SELECT %[2]s FROM %[4]s",
		t.storage(""), names(t.ranking.Stored), t.storage(currentSuffix), t.storage(revisedSuffix))); err != nil {
		return err
	}
	if t.Schema == t.schema {
		return nil
	}
	where := ""
	if t.Tombstones {
		where = " WHERE NOT " + name(contract.Deleted)
	}
	return c.exec(fmt.Sprintf("CREATE SCHEMA IF NOT EXISTS %[1]s; CREATE OR REPLACE VIEW %[1]s.%[2]s AS SELECT %[3]s FROM %[4]s%[5]s",
		name(t.Schema), name(t.Name), names(t.Columns), t.storage(currentSuffix), where))
}

// version says how many rows were recorded: those that the internal view shows.
func (t *table) version(c conn) (int64, error) {
	row, err := c.one("SELECT count(*) FROM " + t.storage(""))
	if err != nil {
		return 0, err
	}
	return row[0], nil
}

// adapt compares a table that was there already, and adds the columns that the
// contract has gained: in the rows that are there they are NULL.
func (t *table) adapt(c conn) error {
	var got []string
	err := c.query(fmt.Sprintf("SELECT column_name || ' ' || data_type FROM duckdb_columns() "+
		"WHERE schema_name = %s AND table_name = %s ORDER BY column_index",
		literal(t.schema), literal(t.Name+currentSuffix)), func(row []warehouse.Cell) error {
		got = append(got, strings.Clone(row[0].Text()))
		return nil
	})
	if err != nil {
		return err
	}
	var want, gained []string
	optional := true
	for _, col := range t.ranking.Stored {
		column := col.Name + " " + storageTypes[col.Type]
		want = append(want, column)
		if !slices.Contains(got, column) {
			gained = append(gained, fmt.Sprintf("ADD COLUMN %s %s", name(col.Name), storageTypes[col.Type]))
			optional = optional && !col.Required
		}
	}
	want = append(want, "resolved BOOLEAN")
	if !optional || len(got)+len(gained) != len(want) {
		return fmt.Errorf("the file has columns %v, the contract asks for %v: "+
			"it was made with another version of the contract, and only columns that may be NULL can be added; move the file away and replay", got, want)
	}
	for _, change := range gained {
		for _, suffix := range []string{currentSuffix, revisedSuffix} {
			if err := c.exec(fmt.Sprintf("ALTER TABLE %s %s", t.storage(suffix), change)); err != nil {
				return err
			}
		}
	}
	t.moved = len(gained) > 0 || !slices.Equal(got, want)
	return nil
}

// open makes the appenders.
func (t *table) open(c conn) (err error) {
	var columns []string
	if t.moved {
		for _, col := range t.ranking.Stored {
			columns = append(columns, col.Name)
		}
	}
	if t.revised == nil {
		if t.revised, err = newAppender(c, "", t.schema, t.Name+revisedSuffix, columns); err != nil {
			return err
		}
	}
	if t.current == nil {
		if t.moved {
			columns = append(columns, "resolved")
		}
		t.current, err = newAppender(c, "", t.schema, t.Name+currentSuffix, columns)
	}
	return err
}

func (t *table) closeAppenders() {
	t.current.close()
	t.revised.close()
	t.current, t.revised = nil, nil
}

// print is what the memory of a table has of a row.
type print struct {
	key      uint64 // of the key
	content  uint64 // of what is printed; never 0
	received int64  // 0 if the table has no such column
	bucket   int64  // which part of the memory it is in
}

// seed makes prints of this process differ from any other's, so that nobody
// can choose keys that collide.
var seed = maphash.MakeSeed()

func mix(h, x uint64) uint64 {
	hi, lo := bits.Mul64(h^x^0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9^h)
	return hi ^ lo
}

func hashCell(h uint64, c *warehouse.Cell) uint64 {
	if c.Kind() == warehouse.StringKind {
		return mix(h, maphash.String(seed, c.Text()))
	}
	return mix(h, c.Bits()+uint64(c.Kind())*0x94d049bb133111eb)
}

// printOf gives the print of a row, stored or to be.
func (t *table) printOf(row []warehouse.Cell) print {
	p := print{key: 1, content: 2}
	for _, i := range t.ranking.Key {
		p.key = hashCell(p.key, &row[i])
	}
	for _, i := range t.printed {
		p.content = hashCell(p.content, &row[i])
	}
	p.content = max(p.content, 1)
	if t.ranking.Received >= 0 {
		p.received = row[t.ranking.Received].Int()
	}
	if t.ranking.Time >= 0 {
		p.bucket = bucketOf(row[t.ranking.Time].Int(), t.width)
	}
	return p
}

// keyText tells keys apart.
func (t *table) keyText(row []warehouse.Cell) string {
	if len(t.ranking.Key) == 1 && row[t.ranking.Key[0]].Kind() == warehouse.StringKind {
		return row[t.ranking.Key[0]].Text()
	}
	return string(appendCells(nil, row, t.ranking.Key))
}

// appendCells appends what tells cells of the same columns apart.
func appendCells(b []byte, row []warehouse.Cell, columns []int) []byte {
	for _, i := range columns {
		if c := &row[i]; c.Kind() == warehouse.StringKind {
			b = binary.AppendUvarint(b, uint64(len(c.Text())))
			b = append(b, c.Text()...)
		} else {
			b = binary.BigEndian.AppendUint64(b, c.Bits())
		}
	}
	return b
}
