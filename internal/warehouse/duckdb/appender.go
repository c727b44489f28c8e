package duckdb

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	duck "github.com/duckdb/duckdb-go-bindings"

	"github.com/telemesh/telemesh/internal/warehouse"
)

// appender writes rows to a table. It writes into the vectors of a chunk, with
// one call of C per chunk: a call per cell would cost more than the row.
type appender struct {
	appender duck.Appender
	chunk    duck.DataChunk
	types    []duck.LogicalType
	columns  []column
	capacity int
	rows     int
	memory   arena
}

// newAppender makes an appender of rows with these columns, nil: all of the
// table in its order. The catalog is temp of a temporary table, else empty.
func newAppender(c conn, catalog, schema, table string, columns []string) (*appender, error) {
	a := &appender{capacity: int(duck.VectorSize())}
	state := duck.AppenderCreateExt(c.c, catalog, schema, table, &a.appender)
	for i := 0; i < len(columns) && state != duck.StateError; i++ {
		state = duck.AppenderAddColumn(a.appender, columns[i])
	}
	if state == duck.StateError {
		err := fmt.Errorf("append to %s.%s: %w", schema, table, a.err())
		duck.AppenderDestroy(&a.appender)
		return nil, err
	}
	for i := range duck.AppenderColumnCount(a.appender) {
		a.types = append(a.types, duck.AppenderColumnType(a.appender, i))
	}
	a.chunk = duck.CreateDataChunk(a.types)
	var err error
	if a.columns, err = columnsOf(a.chunk); err != nil {
		a.close()
		return nil, fmt.Errorf("append to %s.%s: %w", schema, table, err)
	}
	a.reset()
	return a, nil
}

func (a *appender) err() error {
	e := duck.AppenderErrorData(a.appender)
	defer duck.DestroyErrorData(&e)
	return errors.New(duck.ErrorDataMessage(e))
}

// append adds a row. Its cells have to be of the columns' kinds.
func (a *appender) append(row []warehouse.Cell) error {
	for i := range a.columns {
		a.columns[i].set(a.rows, &row[i], &a.memory)
	}
	a.rows++
	if a.rows == a.capacity {
		return a.hand()
	}
	return nil
}

// hand gives the chunk to DuckDB, which copies it.
func (a *appender) hand() error {
	duck.DataChunkSetSize(a.chunk, duck.IdxT(a.rows))
	state := duck.AppendDataChunk(a.appender, a.chunk)
	duck.DataChunkReset(a.chunk)
	a.reset()
	if state == duck.StateError {
		return a.err()
	}
	return nil
}

func (a *appender) reset() {
	for i := range a.columns {
		c := &a.columns[i]
		duck.VectorEnsureValidityWritable(c.vector)
		c.data, c.validity = duck.VectorGetData(c.vector), duck.VectorGetValidity(c.vector)
	}
	a.rows = 0
	a.memory.reset()
}

// flush makes the rows a part of the transaction.
func (a *appender) flush() error {
	if a.rows > 0 {
		if err := a.hand(); err != nil {
			return err
		}
	}
	if duck.AppenderFlush(a.appender) == duck.StateError {
		return a.err()
	}
	return nil
}

// close drops what was not flushed.
func (a *appender) close() {
	if a == nil {
		return
	}
	duck.AppenderClear(a.appender)
	duck.AppenderDestroy(&a.appender)
	duck.DestroyDataChunk(&a.chunk)
	for i := range a.types {
		duck.DestroyLogicalType(&a.types[i])
	}
	a.memory.free()
}

// arena is memory for the strings of a chunk, pinned since DuckDB's vectors
// point to it.
type arena struct {
	blocks [][]byte
	at     int    // block that is being filled
	rest   []byte // what is left of it
	pins   runtime.Pinner
}

const blockSize = 256 << 10

func (m *arena) copy(s string) unsafe.Pointer {
	for len(m.rest) < len(s) {
		m.next(len(s))
	}
	p := unsafe.Pointer(unsafe.SliceData(m.rest))
	copy(m.rest, s)
	m.rest = m.rest[len(s):]
	return p
}

func (m *arena) next(size int) {
	if m.rest != nil {
		m.at++
	}
	if m.at == len(m.blocks) {
		block := make([]byte, max(size, blockSize))
		m.pins.Pin(&block[0])
		m.blocks = append(m.blocks, block)
	}
	m.rest = m.blocks[m.at]
}

func (m *arena) reset() {
	m.at, m.rest = 0, nil
	// A few long texts shall not hold their memory for good.
	if len(m.blocks) > 16 {
		m.free()
	}
}

func (m *arena) free() {
	m.pins.Unpin()
	*m = arena{}
}
