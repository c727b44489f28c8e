// Package warehouse is what Telemesh asks of a store of tables: make what the
// contracts describe, append rows so that a row appended twice is there once,
// and answer SQL.
//
// Two stores implement it natively, DuckDB and BigQuery, and share no SQL but
// what is in products/; package remote reaches one that another process holds
// open. The suite in warehousetest says what each must keep.
package warehouse

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"strings"

	"github.com/telemesh/telemesh/internal/contract"
)

// Warehouse stores the tables of data products. Its methods may be called
// from several goroutines.
//
// A table <product>.<name> is an output port: a view that shows of each key
// the row that counts, without deleted rows. Behind it stands
// <product>_internal.<name>, which shows every row as it was appended, each
// distinct content at least once; nothing in it is changed or lost, but that of
// rows that differ in nothing but what they knew only those that knew most stay.
// A table that is no output port is in the schema <product>_internal and has the
// latter alone.
type Warehouse interface {
	// Apply makes the tables, output ports and views of the products where
	// they are missing. The tables that one is made from are applied with it or
	// were before.
	Apply(ctx context.Context, products []contract.Product) error

	// Append stores the rows of a batch and returns once they are durable. After
	// an error any of them may be stored: the same batch, appended again, stores
	// the others. An event that was stored before, and is remembered, changes
	// nothing. Neither does a row that says what a row of its key says already: provenance (how it came,
	// contract.Column) and knowledge (what it was made with, contract.Table) are
	// no part of what a row says. Of rows that say the same the one that knew most
	// counts, among these the one that was received first.
	//
	// What the port shows of a key depends on the set of rows appended, not on
	// the order of their arrival. The row counts that has the highest revision or
	// version; among these the highest assignment_version; among these the
	// greatest value; among these the highest judged; among these the one that knew most. Where values of the same
	// revision and assignment_version differ, its quality is "conflict". The
	// revision that a port shows grows with each row that joins its key and says
	// something new; a version is shown as it was appended. If the row that counts
	// is deleted the port shows nothing of its key. Of a table that is append-only,
	// rows of one key are one row: that which was stored first.
	//
	// It gives the version that the tables its table is made from have by then
	// (contract.Table.MadeFrom): how many rows their internal views show, in all.
	// That holds for a batch without rows and for an event that was stored before,
	// too. What is recorded in them later finds these rows stored; what these rows
	// were made without was recorded before. 0 if its table is made from none.
	//
	// An error is mesh.Permanent if the batch can never be stored as it is.
	// Rejected are those of its rows that cannot: all others are stored, and the
	// version is given. Of a table that others are made from, none is.
	Append(ctx context.Context, batch Batch) (version int64, err error)

	// Query runs one statement that only reads. An error marked mesh.Permanent
	// is the statement's fault.
	Query(ctx context.Context, sql string) (*Rows, error)

	// Close ends queries, and returns when what was appended is stored.
	Close() error
}

type mostBytes struct{}

// WithMostBytes is ctx for a Query that may be billed for n bytes at most: the
// statement is at fault if it would read more. 0: no limit. A store that bills
// nothing reads on.
func WithMostBytes(ctx context.Context, n int64) context.Context {
	return context.WithValue(ctx, mostBytes{}, n)
}

// MostBytes is what WithMostBytes set; 0: no limit.
func MostBytes(ctx context.Context) int64 {
	n, _ := ctx.Value(mostBytes{}).(int64)
	return n
}

// Batch is the rows that one event brings to one table.
type Batch struct {
	Table       string // as contract.Table.FullName gives it: "iot_telemetry.readings"
	EventSource string // source and id of the event: storing it twice is storing it once
	EventID     string // not empty
	Rows        []Row
}

// EventHash is a SHA-256 of an event's source and id and of the table, cut to
// what no two events share.
type EventHash [16]byte

// Hash tells the events that were stored in a table from others.
func (b *Batch) Hash() (h EventHash) {
	var buf [256]byte
	key := buf[:0]
	for _, s := range [...]string{b.Table, b.EventSource, b.EventID} {
		key = binary.AppendUvarint(key, uint64(len(s)))
		key = append(key, s...)
	}
	sum := sha256.Sum256(key)
	copy(h[:], sum[:])
	return h
}

// Row gives its cells in the order of contract.Table.Cells. The cell of
// recorded_at is not read: the store sets it. A row gives the same cells each
// time, and is not changed until Append returns.
type Row interface {
	Cells(dst []Cell) []Cell
}

// Rows is the answer to a query. Its cells are nil, string, float64, int64,
// bool or, for a TIMESTAMP, time.Time in UTC; JSON is a string. Columns of
// other types are given as the nearest of these.
type Rows struct {
	Columns []contract.Column
	// All runs the query, and yields each row once, or the error that ended the
	// answer. The slice is valid until the next row. Leaving the loop ends the
	// query. Nothing is held before the loop starts.
	All iter.Seq2[[]any, error]
}

// Rejected are the rows of a batch that can never be stored, and why. It comes
// marked mesh.Permanent.
type Rejected []RejectedRow

// RejectedRow is a row that can never be stored.
type RejectedRow struct {
	Row int // its place in the batch
	Err error
}

// maxNamed bounds how many rows an error names.
const maxNamed = 10

func (r Rejected) Error() string {
	var b strings.Builder
	for i, row := range r {
		if i == maxNamed {
			fmt.Fprintf(&b, "; and %d rows more", len(r)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "row %d: %v", row.Row, row.Err)
	}
	return b.String()
}
