package warehouse

import (
	"encoding/json"
	"fmt"
	"math"
	"unicode/utf8"
	"unsafe"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
)

// The years 1 to 9999, which all warehouses hold.
const (
	firstInstant = -62135596800000000
	lastInstant  = 253402300799999999
)

var cellKinds = map[contract.Type]Kind{
	contract.String: StringKind, contract.Float64: FloatKind, contract.Int64: IntKind,
	contract.Bool: BoolKind, contract.Timestamp: InstantKind, contract.JSON: StringKind,
}

// Check says which rows a table can store. A store is handed the cells as they
// are: what is wrong with them is found here.
type Check struct {
	columns []contract.Column
	kinds   []Kind
}

// NewCheck gives the check of a table's rows.
func NewCheck(t *contract.Table) *Check {
	c := &Check{columns: t.Cells()}
	for _, column := range c.columns {
		c.kinds = append(c.kinds, cellKinds[column.Type])
	}
	return c
}

// Batch says what is wrong with a batch, and hands each of its rows that can be
// stored to store, which may refuse it as well: cells are valid until it
// returns. Of the rows that can not the error of Refuse is made.
func (c *Check) Batch(b *Batch, store func(i int, cells []Cell) error) (Rejected, error) {
	switch {
	case !utf8.ValidString(b.EventSource) || !utf8.ValidString(b.EventID):
		return nil, mesh.Permanentf("append to %s: event %q %q: not UTF-8", b.Table, b.EventSource, b.EventID)
	case b.EventID == "":
		return nil, mesh.Permanentf("append to %s: an event without id", b.Table)
	}
	var rejected Rejected
	cells := make([]Cell, 0, len(c.columns)+4) // a store appends some of its own
	for i, row := range b.Rows {
		cells = row.Cells(cells[:0])
		err := c.row(cells)
		if err == nil {
			err = store(i, cells)
		}
		if err != nil {
			rejected = append(rejected, RejectedRow{Row: i, Err: err})
		}
	}
	return rejected, nil
}

// Refuse is the error that Append returns of rows that were rejected; nil if
// none was.
func (b *Batch) Refuse(rejected Rejected) error {
	if len(rejected) == 0 {
		return nil
	}
	return mesh.Permanentf("append to %s: event %s %s: %w", b.Table, b.EventSource, b.EventID, rejected)
}

func (c *Check) row(row []Cell) error {
	if len(row) != len(c.columns) {
		return fmt.Errorf("%d cells, the contract has %d columns", len(row), len(c.columns))
	}
	for i := range row {
		cell, column := &row[i], &c.columns[i]
		if column.Name == contract.RecordedAt {
			continue
		}
		if cell.Kind() == NullKind {
			if column.Required {
				return fmt.Errorf("column %s: NULL, which the contract does not allow", column.Name)
			}
			continue
		}
		if want := c.kinds[i]; cell.Kind() != want {
			return fmt.Errorf("column %s: %v, want %v", column.Name, cell.Kind(), want)
		}
		switch cell.Kind() {
		case StringKind:
			s := cell.Text()
			if !utf8.ValidString(s) {
				return fmt.Errorf("column %s: %q is not UTF-8", column.Name, s)
			}
			if column.Type == contract.JSON && !json.Valid(unsafe.Slice(unsafe.StringData(s), len(s))) {
				return fmt.Errorf("column %s: %q is not JSON", column.Name, s)
			}
			if len(s) > math.MaxInt32 {
				return fmt.Errorf("column %s: %d bytes", column.Name, len(s))
			}
		case FloatKind:
			if f := cell.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
				return fmt.Errorf("column %s: %v is no finite number", column.Name, f)
			}
		case InstantKind:
			if i := cell.Int(); i < firstInstant || i > lastInstant {
				return fmt.Errorf("column %s: %d µs is not in the years 1 to 9999", column.Name, i)
			}
		}
	}
	return nil
}
