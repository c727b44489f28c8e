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
// An error is JSON with its text, whether it is permanent, and which rows of an
// append were rejected while the others are stored; the status says the same to
// who does not read it: 400 or 503.
package remote

import (
	"bytes"
	"encoding/json"
	"errors"
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
	end
	Version  int64         `json:"version"` // of the tables that the table is made from
	Rejected []rejectedRow `json:"rejected,omitempty"`
}

type rejectedRow struct {
	Row   int    `json:"row"`
	Error string `json:"error"`
}

// rejection is an error of the store with the rows that it rejected.
type rejection struct {
	text string
	rows warehouse.Rejected
}

func (r *rejection) Error() string { return r.text }
func (r *rejection) Unwrap() error { return r.rows }

func (a *appended) err() error {
	if len(a.Rejected) == 0 {
		return a.end.err()
	}
	r := &rejection{text: a.Error}
	for _, row := range a.Rejected {
		r.rows = append(r.rows, warehouse.RejectedRow{Row: row.Row, Err: errors.New(row.Error)})
	}
	return mesh.Permanent(r)
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
	err := errors.New(e.Error)
	if e.Error == "" {
		return nil
	}
	if e.Permanent {
		return mesh.Permanent(err)
	}
	return err
}

// encodeBatch gives a batch as NDJSON. What is wrong with a row is for the
// store to say, so it comes there as it is.
func encodeBatch(batch *warehouse.Batch) ([]byte, error) {
	var kinds []warehouse.Kind
	var body []byte
	var cells []warehouse.Cell
	for i, row := range batch.Rows {
		cells = row.Cells(cells[:0])
		if i == 0 {
			kinds = make([]warehouse.Kind, len(cells))
		}
		body = append(body, '[')
		for j := range cells {
			cell := &cells[j]
			if j > 0 {
				body = append(body, ',')
			}
			kind := warehouse.NullKind
			if j < len(kinds) {
				if kinds[j] == warehouse.NullKind {
					kinds[j] = cell.Kind()
				}
				kind = kinds[j]
			}
			var err error
			if body, err = appendCell(body, cell, kind); err != nil {
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

// odd is a cell of another kind than its column has, or that JSON lacks. No
// table stores one.
type odd struct {
	Kind  string `json:"kind"`
	Bits  uint64 `json:"bits,omitempty,string"` // of a number
	Bytes []byte `json:"bytes,omitempty"`       // of a string
}

func appendCell(b []byte, cell *warehouse.Cell, kind warehouse.Kind) ([]byte, error) {
	isOdd := cell.Kind() != kind
	switch cell.Kind() {
	case warehouse.NullKind:
		return append(b, "null"...), nil
	case warehouse.FloatKind:
		isOdd = isOdd || math.IsNaN(cell.Float()) || math.IsInf(cell.Float(), 0)
	case warehouse.StringKind:
		isOdd = isOdd || !utf8.ValidString(cell.Text())
	}
	if isOdd {
		o := odd{Kind: cell.Kind().String(), Bits: cell.Bits(), Bytes: []byte(cell.Text())}
		text, err := json.Marshal(o)
		return append(b, text...), err
	}
	switch kind {
	case warehouse.BoolKind:
		b = strconv.AppendBool(b, cell.Bool())
	case warehouse.IntKind, warehouse.InstantKind:
		b = strconv.AppendInt(b, cell.Int(), 10)
	case warehouse.FloatKind:
		b = strconv.AppendFloat(b, cell.Float(), 'g', -1, 64)
	case warehouse.StringKind:
		text, err := json.Marshal(cell.Text())
		return append(b, text...), err
	}
	return b, nil
}

// cells is a row of a batch as it was sent.
type cells []warehouse.Cell

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, c...) }

func kindOf(name string) (warehouse.Kind, error) {
	for kind := warehouse.NullKind; kind <= warehouse.StringKind; kind++ {
		if kind.String() == name {
			return kind, nil
		}
	}
	return 0, fmt.Errorf("no kind %q", name)
}

func decodeBatch(body []byte) (*warehouse.Batch, error) {
	in := json.NewDecoder(bytes.NewReader(body))
	in.UseNumber()
	var h header
	if err := in.Decode(&h); err != nil {
		return nil, mesh.Permanentf("append: header: %w", err)
	}
	kinds := make([]warehouse.Kind, len(h.Kinds))
	for i, name := range h.Kinds {
		var err error
		if kinds[i], err = kindOf(name); err != nil {
			return nil, mesh.Permanentf("append: header: column %d: %w", i, err)
		}
	}
	batch := &warehouse.Batch{Table: h.Table, EventSource: h.EventSource, EventID: h.EventID}
	for i := range h.Rows {
		var values []any
		if err := in.Decode(&values); err != nil {
			return nil, mesh.Permanentf("append to %s: row %d: %w", h.Table, i, err)
		}
		row := make(cells, len(values))
		for j, v := range values {
			kind := warehouse.NullKind
			if j < len(kinds) {
				kind = kinds[j]
			}
			var err error
			if row[j], err = decodeCell(kind, v); err != nil {
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
	case map[string]any:
		return decodeOdd(v)
	}
	return warehouse.Null, fmt.Errorf("%v is no %v", v, kind)
}

func decodeOdd(v map[string]any) (warehouse.Cell, error) {
	var o odd
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return warehouse.Null, err
	}
	kind, err := kindOf(o.Kind)
	switch kind {
	case warehouse.BoolKind:
		return warehouse.Bool(o.Bits != 0), nil
	case warehouse.IntKind:
		return warehouse.Int(int64(o.Bits)), nil
	case warehouse.InstantKind:
		return warehouse.Instant(mesh.Instant(o.Bits)), nil
	case warehouse.FloatKind:
		return warehouse.Float(math.Float64frombits(o.Bits)), nil
	case warehouse.StringKind:
		return warehouse.String(string(o.Bytes)), nil
	}
	return warehouse.Null, err
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
