// Package remote serves a warehouse over HTTP and reaches one that is served
// so: the DuckDB file belongs to one process, and others read and write it
// through that one.
//
//	POST /apply   the products as JSON
//	POST /append  NDJSON: a header with the table, the event and the kind of
//	              each column, then an array of cells per row
//	POST /query   the statement as text; with ?columns=only its columns alone.
//	              The answer is NDJSON: the columns, an array of cells per
//	              row, and an end that says that it is whole or why it is not
//
// An error is JSON with its text and whether it is permanent; the status says
// the same to who does not read it: 400 or 503.
package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
)

const (
	ndjson = "application/x-ndjson"
	// maxAppend is far beyond what one event brings.
	maxAppend = 256 << 20
	// maxQuery is the longest statement.
	maxQuery = 4 << 20
)

// header is the first line of an append.
type header struct {
	Table       string   `json:"table"`
	EventSource string   `json:"event_source"`
	EventID     string   `json:"event_id"`
	Kinds       []string `json:"kinds"` // of the columns; NULL: all cells are
	Rows        int      `json:"rows"`
}

// appended is the answer to an append.
type appended struct {
	Version int64 `json:"version"` // of the tables that the table is made from
}

// columns is the first line of an answer.
type columns struct {
	Columns []contract.Column `json:"columns"`
}

// end is the last line of an answer, and the body of an error.
type end struct {
	Rows      *int   `json:"rows,omitempty"`
	Error     string `json:"error,omitempty"`
	Permanent bool   `json:"permanent,omitempty"`
}

func (e end) err() error {
	err := fmt.Errorf("%s", e.Error)
	if e.Permanent {
		return mesh.Permanent(err)
	}
	return err
}

// encodeBatch gives a batch as NDJSON. What JSON would change on the way is
// refused as the store would.
func encodeBatch(batch *warehouse.Batch) ([]byte, error) {
	var kinds []warehouse.Kind
	var body []byte
	var cells []warehouse.Cell
	for i, row := range batch.Rows {
		cells = row.Cells(cells[:0])
		if i == 0 {
			kinds = make([]warehouse.Kind, len(cells))
		}
		if len(cells) != len(kinds) {
			return nil, mesh.Permanentf("append to %s: row %d has %d cells, the first has %d", batch.Table, i, len(cells), len(kinds))
		}
		body = append(body, '[')
		for j := range cells {
			cell := &cells[j]
			if j > 0 {
				body = append(body, ',')
			}
			if cell.Kind() != warehouse.NullKind {
				if kinds[j] == warehouse.NullKind {
					kinds[j] = cell.Kind()
				}
				if kinds[j] != cell.Kind() {
					return nil, mesh.Permanentf("append to %s: row %d: column %d: %v, rows before have %v",
						batch.Table, i, j, cell.Kind(), kinds[j])
				}
			}
			var err error
			if body, err = appendCell(body, cell); err != nil {
				return nil, mesh.Permanentf("append to %s: row %d: column %d: %w", batch.Table, i, j, err)
			}
		}
		body = append(body, "]\n"...)
	}
	h := header{Table: batch.Table, EventSource: batch.EventSource, EventID: batch.EventID, Rows: len(batch.Rows)}
	for _, s := range []string{h.Table, h.EventSource, h.EventID} {
		if !utf8.ValidString(s) {
			return nil, mesh.Permanentf("append: %q is not UTF-8", s)
		}
	}
	for _, kind := range kinds {
		h.Kinds = append(h.Kinds, kind.String())
	}
	first, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return append(append(first, '\n'), body...), nil
}

func appendCell(b []byte, cell *warehouse.Cell) ([]byte, error) {
	switch cell.Kind() {
	case warehouse.BoolKind:
		return strconv.AppendBool(b, cell.Bool()), nil
	case warehouse.IntKind, warehouse.InstantKind:
		return strconv.AppendInt(b, cell.Int(), 10), nil
	case warehouse.FloatKind:
		f := cell.Float()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%v is no finite number", f)
		}
		return strconv.AppendFloat(b, f, 'g', -1, 64), nil
	case warehouse.StringKind:
		if !utf8.ValidString(cell.Text()) {
			return nil, fmt.Errorf("%q is not UTF-8", cell.Text())
		}
		text, err := json.Marshal(cell.Text())
		return append(b, text...), err
	}
	return append(b, "null"...), nil
}

// cells is a row of a batch as it was sent.
type cells []warehouse.Cell

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, c...) }

func decodeBatch(body []byte) (*warehouse.Batch, error) {
	in := json.NewDecoder(bytes.NewReader(body))
	in.UseNumber()
	var h header
	if err := in.Decode(&h); err != nil {
		return nil, mesh.Permanentf("append: header: %w", err)
	}
	kinds := make([]warehouse.Kind, len(h.Kinds))
	for i, name := range h.Kinds {
		for kinds[i] = warehouse.NullKind; kinds[i].String() != name; kinds[i]++ {
			if kinds[i] == warehouse.StringKind {
				return nil, mesh.Permanentf("append: header: column %d: no kind %q", i, name)
			}
		}
	}
	batch := &warehouse.Batch{Table: h.Table, EventSource: h.EventSource, EventID: h.EventID}
	for i := range h.Rows {
		var values []any
		if err := in.Decode(&values); err != nil {
			return nil, mesh.Permanentf("append to %s: row %d: %w", h.Table, i, err)
		}
		if len(values) != len(kinds) {
			return nil, mesh.Permanentf("append to %s: row %d: %d cells, want %d", h.Table, i, len(values), len(kinds))
		}
		row := make(cells, len(values))
		for j, v := range values {
			var err error
			if row[j], err = decodeCell(kinds[j], v); err != nil {
				return nil, mesh.Permanentf("append to %s: row %d: column %d: %w", h.Table, i, j, err)
			}
		}
		batch.Rows = append(batch.Rows, row)
	}
	return batch, nil
}

func decodeCell(kind warehouse.Kind, v any) (warehouse.Cell, error) {
	switch v := v.(type) {
	case nil:
		return warehouse.Null, nil
	case bool:
		if kind == warehouse.BoolKind {
			return warehouse.Bool(v), nil
		}
	case string:
		if kind == warehouse.StringKind {
			return warehouse.String(v), nil
		}
	case json.Number:
		switch kind {
		case warehouse.FloatKind:
			f, err := v.Float64()
			return warehouse.Float(f), err
		case warehouse.IntKind:
			i, err := v.Int64()
			return warehouse.Int(i), err
		case warehouse.InstantKind:
			i, err := v.Int64()
			return warehouse.Instant(mesh.Instant(i)), err
		}
	}
	return warehouse.Null, fmt.Errorf("%v is no %v", v, kind)
}

// appendAnswer appends a row of an answer. Numbers that JSON lacks are given
// as text.
func appendAnswer(b []byte, row []any) ([]byte, error) {
	b = append(b, '[')
	for i, cell := range row {
		if i > 0 {
			b = append(b, ',')
		}
		switch v := cell.(type) {
		case nil:
			b = append(b, "null"...)
		case bool:
			b = strconv.AppendBool(b, v)
		case int64:
			b = strconv.AppendInt(b, v, 10)
		case time.Time:
			b = strconv.AppendInt(b, v.UnixMicro(), 10)
		case float64:
			if math.IsNaN(v) || math.IsInf(v, 0) {
				b = strconv.AppendQuote(b, strconv.FormatFloat(v, 'g', -1, 64))
			} else {
				b = strconv.AppendFloat(b, v, 'g', -1, 64)
			}
		case string:
			text, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			b = append(b, text...)
		default:
			return nil, fmt.Errorf("column %d: a %T is no cell", i, cell)
		}
	}
	return append(b, "]\n"...), nil
}

// decodeAnswer reads a row of an answer into row.
func decodeAnswer(line []byte, columns []contract.Column, row []any) error {
	in := json.NewDecoder(bytes.NewReader(line))
	in.UseNumber()
	var values []any
	if err := in.Decode(&values); err != nil {
		return err
	}
	if len(values) != len(columns) {
		return fmt.Errorf("%d cells, want %d", len(values), len(columns))
	}
	for i, v := range values {
		row[i] = v
		number, isNumber := v.(json.Number)
		var err error
		switch columns[i].Type {
		case contract.Float64:
			if text, ok := v.(string); ok {
				number, isNumber = json.Number(text), true
			}
			if isNumber {
				row[i], err = number.Float64()
			}
		case contract.Int64:
			if isNumber {
				row[i], err = number.Int64()
			}
		case contract.Timestamp:
			if isNumber {
				var micros int64
				micros, err = number.Int64()
				row[i] = time.UnixMicro(micros).UTC()
			}
		}
		if err != nil {
			return fmt.Errorf("column %s: %w", columns[i].Name, err)
		}
	}
	return nil
}
