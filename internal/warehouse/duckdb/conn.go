package duckdb

import (
	"errors"
	"fmt"
	"unsafe"

	duck "github.com/duckdb/duckdb-go-bindings"

	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// conn is a connection, used by one goroutine at a time.
type conn struct{ c duck.Connection }

func (d *DB) connect() (conn, error) {
	var c conn
	if duck.Connect(d.db, &c.c) == duck.StateError {
		return c, errors.New("connect to DuckDB: no connection")
	}
	return c, nil
}

func (c *conn) close() {
	if c.c.Ptr != nil {
		duck.Disconnect(&c.c)
	}
}

// exec runs statements whose answers do not matter.
func (c *conn) exec(sql string) error {
	return c.query(sql, nil)
}

// transaction runs do in a transaction, and rolls back if it fails.
func (c *conn) transaction(do func() error) error {
	if err := c.exec("BEGIN TRANSACTION"); err != nil {
		return err
	}
	err := do()
	if err == nil {
		if err = c.exec("COMMIT"); err == nil {
			return nil
		}
	}
	// A failed commit has rolled back already, then this fails and says nothing new.
	c.exec("ROLLBACK")
	return err
}

// query runs a statement and calls each for every row of its answer. The cells
// and their strings are DuckDB's memory: who keeps a string clones it.
func (c *conn) query(sql string, each func(row []warehouse.Cell) error) error {
	var result duck.Result
	defer duck.DestroyResult(&result)
	if duck.Query(c.c, sql, &result) == duck.StateError {
		return errors.New(duck.ResultError(&result))
	}
	if each == nil {
		return nil
	}
	var row []warehouse.Cell
	for {
		chunk := duck.FetchChunk(result)
		if chunk.Ptr == nil {
			return nil
		}
		err := func() error {
			defer duck.DestroyDataChunk(&chunk)
			columns, err := columnsOf(chunk)
			if err != nil {
				return err
			}
			for i := range int(duck.DataChunkGetSize(chunk)) {
				row = row[:0]
				for j := range columns {
					row = append(row, columns[j].cell(i))
				}
				if err := each(row); err != nil {
					return err
				}
			}
			return nil
		}()
		if err != nil {
			return err
		}
	}
}

// one runs a statement that answers one row of integers.
func (c *conn) one(sql string) (row []int64, err error) {
	err = c.query(sql, func(cells []warehouse.Cell) error {
		for i := range cells {
			row = append(row, cells[i].Int())
		}
		return nil
	})
	return row, err
}

// column reads or writes a vector of a chunk.
type column struct {
	kind     warehouse.Kind
	data     unsafe.Pointer
	validity unsafe.Pointer // a bit per row, 1: there is a value; nil: there is in all
	vector   duck.Vector
}

// kinds are the types that a column reads and writes.
var kinds = map[duck.Type]warehouse.Kind{
	duck.TypeBoolean:   warehouse.BoolKind,
	duck.TypeBigInt:    warehouse.IntKind,
	duck.TypeDouble:    warehouse.FloatKind,
	duck.TypeTimestamp: warehouse.InstantKind,
	duck.TypeVarchar:   warehouse.StringKind,
}

func columnsOf(chunk duck.DataChunk) ([]column, error) {
	columns := make([]column, duck.DataChunkGetColumnCount(chunk))
	for i := range columns {
		c := &columns[i]
		c.vector = duck.DataChunkGetVector(chunk, duck.IdxT(i))
		logical := duck.VectorGetColumnType(c.vector)
		id := duck.GetTypeId(logical)
		duck.DestroyLogicalType(&logical)
		kind, ok := kinds[id]
		if !ok {
			return nil, fmt.Errorf("column %d has DuckDB's type %d", i, id)
		}
		c.kind = kind
		c.data, c.validity = duck.VectorGetData(c.vector), duck.VectorGetValidity(c.vector)
	}
	return columns, nil
}

// text is duckdb_string_t: up to 12 bytes are in it, of more the first 4 and
// where they are.
type text struct {
	length uint32
	prefix [4]byte
	rest   [8]byte
}

const inlined = 12

func (c *column) cell(row int) warehouse.Cell {
	if c.validity != nil && *(*uint64)(unsafe.Add(c.validity, row/64*8))>>(row%64)&1 == 0 {
		return warehouse.Null
	}
	switch c.kind {
	case warehouse.BoolKind:
		return warehouse.Bool(*(*byte)(unsafe.Add(c.data, row)) != 0)
	case warehouse.IntKind:
		return warehouse.Int(*(*int64)(unsafe.Add(c.data, row*8)))
	case warehouse.FloatKind:
		return warehouse.Float(*(*float64)(unsafe.Add(c.data, row*8)))
	case warehouse.InstantKind:
		return warehouse.Instant(*(*mesh.Instant)(unsafe.Add(c.data, row*8)))
	}
	t := (*text)(unsafe.Add(c.data, row*16))
	if t.length <= inlined {
		return warehouse.String(unsafe.String(&t.prefix[0], t.length))
	}
	return warehouse.String(unsafe.String(*(**byte)(unsafe.Pointer(&t.rest)), t.length))
}

// set writes a cell whose kind is the column's, or NULL. Strings are copied to
// memory that has to stay until the chunk is reset.
func (c *column) set(row int, cell *warehouse.Cell, memory *arena) {
	switch cell.Kind() {
	case warehouse.NullKind:
		*(*uint64)(unsafe.Add(c.validity, row/64*8)) &^= 1 << (row % 64)
	case warehouse.BoolKind:
		*(*byte)(unsafe.Add(c.data, row)) = byte(cell.Bits())
	case warehouse.StringKind:
		s := cell.Text()
		t := (*text)(unsafe.Add(c.data, row*16))
		*t = text{length: uint32(len(s))}
		if len(s) <= inlined {
			copy((*[inlined]byte)(unsafe.Pointer(&t.prefix))[:], s)
			return
		}
		copy(t.prefix[:], s)
		*(*uintptr)(unsafe.Pointer(&t.rest)) = uintptr(memory.copy(s))
	default:
		*(*uint64)(unsafe.Add(c.data, row*8)) = cell.Bits()
	}
}
