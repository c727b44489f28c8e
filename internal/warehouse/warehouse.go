// Package warehouse is what Telemesh asks of a store of tables: make what the
// contracts describe, append rows so that a row appended twice is there once,
// and answer SQL.
//
// Two stores implement it natively, DuckDB and BigQuery, and share no SQL but
// what is in products/; Remote reaches one that another process holds open.
// The suite in warehousetest says what each must keep.
package warehouse

import (
	"context"
	"iter"

	"github.com/telemesh/telemesh/internal/contract"
)

// Warehouse stores the tables of data products. Its methods may be called
// from several goroutines.
type Warehouse interface {
	// Apply makes the tables and output ports of the products where they are
	// missing.
	Apply(ctx context.Context, products []contract.Product) error

	// Append stores the rows of a batch and returns once they are durable. An
	// event that was stored before changes nothing. A row whose key and
	// revision are stored already changes nothing where it says the same.
	//
	// Where it says something else, the outcome depends on the rows alone, not
	// on the order of their arrival: the row with the higher
	// assignment_version counts; under the same version the values conflict,
	// the greater one counts, and it is flagged so. What counts gets a new
	// revision; nothing stored is changed or lost.
	//
	// An error is mesh.Permanent if these rows can never be stored.
	Append(ctx context.Context, batch Batch) error

	// Query runs one statement that only reads.
	Query(ctx context.Context, sql string) (*Rows, error)

	Close() error
}

// Batch is the rows that one event brings to one table.
type Batch struct {
	Table       string // output port, as "iot_telemetry.readings"
	EventSource string // source and id of the event: storing it twice is storing it once
	EventID     string
	Rows        []Row
}

// Row gives its cells in the order of the contract's columns. A cell is nil,
// string, float64, int64, bool or mesh.Instant; JSON is a string.
type Row interface {
	Cells(dst []any) []any
}

// Rows is the answer to a query. Its cells are as those of Row, but that a
// TIMESTAMP is a time.Time in UTC.
type Rows struct {
	Columns []contract.Column
	// All yields each row once, or the error that ended the answer. The slice
	// is valid until the next row. Leaving the loop ends the query.
	All iter.Seq2[[]any, error]
}
