package sink

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/telemesh/telemesh/internal/contract"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/pointer"
	"github.com/telemesh/telemesh/internal/warehouse"
)

// table takes rows by what its contract says of them.
type table struct {
	contract.Table
	cells  []contract.Column
	rowsAt *pointer.Places // has the array; nil: the data are one row
	row    pointer.Places  // has the values of columns
	strict bool            // each member of a row is a column
}

func newTable(t *contract.Table) *table {
	out := &table{Table: *t, cells: t.Cells()}
	out.strict = !slices.ContainsFunc(t.Columns, func(c contract.Column) bool { return c.From != nil })
	at := t.RowsAt
	if at == "" && out.strict {
		at = "/rows"
	}
	if at != "" {
		out.rowsAt = &pointer.Places{}
		out.rowsAt.Add(at, 0)
	}
	for i, c := range out.cells {
		switch {
		case c.From != nil && c.From.Pointer != "":
			out.row.Add(c.From.Pointer, i)
		case out.strict && c.Name != contract.RecordedAt:
			out.row.Add("/"+c.Name, i)
		}
	}
	return out
}

// Tables are those that are filled by what their contracts say.
type Tables struct {
	product string // whose they are; empty: of all products
	byType  map[string][]*table
}

// TablesOf gives the tables of a product; product empty: of all.
func TablesOf(products []contract.Product, product string) (Tables, error) {
	out := Tables{product, map[string][]*table{}}
	found := product == ""
	for _, p := range products {
		if product != "" && p.Name != product {
			continue
		}
		found = true
		for i := range p.Tables {
			t := newTable(&p.Tables[i])
			for _, eventType := range t.Events {
				out.byType[eventType] = append(out.byType[eventType], t)
			}
		}
	}
	if !found {
		return out, fmt.Errorf("PRODUCT %q: there is no such product", product)
	}
	return out, nil
}

// of gives the tables that take events of a type. What decode reads into a table
// is for it, unless that is another product's.
func (t Tables) of(eventType, decoded string) []*table {
	own := t.byType[eventType]
	if decoded != "" && (t.product == "" || slices.ContainsFunc(own, func(t *table) bool { return t.FullName() == decoded })) {
		return nil
	}
	return own
}

// store appends the rows of an event to each of its tables. An error that may pass
// comes first: the event is then delivered again.
func store(ctx context.Context, w warehouse.Warehouse, tables []*table, in *event.Event) error {
	var refused []error
	for _, t := range tables {
		switch err := t.store(ctx, w, in); {
		case mesh.IsPermanent(err):
			refused = append(refused, err)
		case err != nil:
			return err
		}
	}
	return errors.Join(refused...)
}

// store appends the rows of an event. Rows that cannot be read are kept from the
// warehouse, which takes the others as an event of its own: it remembers what it
// stored, and the event may come again when the contract has changed.
func (t *table) store(ctx context.Context, w warehouse.Warehouse, in *event.Event) error {
	events, err := mesh.Carried(*in)
	if err != nil {
		return mesh.Permanentf("decode %s: %w", in.ID(), err)
	}
	rows, places, bad, err := t.decodeAll(events)
	if err != nil {
		return mesh.Permanentf("decode %s %s for %s: %w", in.Type(), in.ID(), t.FullName(), err)
	}
	batch := warehouse.Batch{Table: t.FullName(), EventSource: in.Source(), EventID: in.ID(), Rows: rows}
	if len(bad) > 0 {
		if t.Ordered {
			return batch.Refuse(bad)
		}
		var without strings.Builder
		for _, row := range bad {
			fmt.Fprintf(&without, " %d", row.Row)
		}
		batch.EventID += " without rows" + without.String()
	}
	_, err = w.Append(ctx, batch)
	refused, ok := errors.AsType[warehouse.Rejected](err)
	if err != nil && !ok {
		return err
	}
	for _, row := range refused {
		bad = append(bad, warehouse.RejectedRow{Row: places[row.Row], Err: row.Err})
	}
	slices.SortFunc(bad, func(a, b warehouse.RejectedRow) int { return cmp.Compare(a.Row, b.Row) })
	batch.EventID = in.ID()
	return batch.Refuse(bad)
}

// cells is a row as it is stored.
type cells []warehouse.Cell

func (c cells) Cells(dst []warehouse.Cell) []warehouse.Cell { return append(dst, c...) }

// decodeAll gives the rows of events as decode does, with their places among all
// of them. One of several that cannot be decoded is a bad row.
func (t *table) decodeAll(events []event.Event) (rows []warehouse.Row, places []int, bad warehouse.Rejected, err error) {
	if len(events) == 1 {
		return t.decode(&events[0])
	}
	first := 0 // place of the first row of an event
	for i := range events {
		own, at, refused, err := t.decode(&events[i])
		if err != nil {
			refused = warehouse.Rejected{{Err: err}}
		}
		rows = append(rows, own...)
		for _, place := range at {
			places = append(places, first+place)
		}
		for _, row := range refused {
			bad = append(bad, warehouse.RejectedRow{Row: first + row.Row, Err: fmt.Errorf("event %s: %w", events[i].ID(), row.Err)})
		}
		first += len(own) + len(refused)
	}
	return rows, places, bad, nil
}

// decode gives the rows that can be read, their places in the event, and the
// others.
func (t *table) decode(in *event.Event) (rows []warehouse.Row, places []int, bad warehouse.Rejected, err error) {
	if !jsontext.Value(in.Data()).IsValid() {
		return nil, nil, nil, errors.New("the data are no JSON")
	}
	elements := []jsontext.Value{in.Data()}
	if t.rowsAt != nil {
		array := make([]jsontext.Value, 1)
		if err := t.rowsAt.Find(in.Data(), array, nil); err != nil {
			return nil, nil, nil, err
		}
		if array[0].Kind() != '[' {
			return nil, nil, nil, fmt.Errorf("there is no array %s in the data", cmp.Or(t.RowsAt, "/rows"))
		}
		if elements, err = elementsOf(array[0]); err != nil {
			return nil, nil, nil, err
		}
	}
	for i, element := range elements {
		row, err := t.read(in, element)
		if err != nil {
			bad = append(bad, warehouse.RejectedRow{Row: i, Err: err})
			continue
		}
		rows, places = append(rows, row), append(places, i)
	}
	return rows, places, bad, nil
}

func (t *table) read(in *event.Event, element jsontext.Value) (cells, error) {
	if element.Kind() != '{' {
		return nil, fmt.Errorf("the row %.100s is no object", string(element))
	}
	var unknown func(string) error
	if t.strict {
		unknown = func(name string) error {
			return fmt.Errorf("member %s: the contract has no such column", name)
		}
	}
	values := make([]jsontext.Value, len(t.cells))
	if err := t.row.Find(element, values, unknown); err != nil {
		return nil, err
	}
	row := make(cells, len(t.cells))
	for i, c := range t.cells {
		var err error
		switch {
		case c.Name == contract.RecordedAt:
		case c.From != nil && c.From.Attribute != "":
			row[i], err = attributeCell(&c, in)
		case c.Name == contract.Deleted && len(values[i]) == 0:
			row[i] = warehouse.Bool(false)
		case len(values[i]) == 0 || values[i].Kind() == 'n':
			if c.Required {
				err = fmt.Errorf("there is no %s", where(&c))
			}
		default:
			row[i], err = valueCell(&c, values[i])
		}
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
	}
	return row, nil
}

func where(c *contract.Column) string {
	if c.From != nil {
		return c.From.Pointer
	}
	return "member of this name"
}

// attributeCell is an attribute as a cell. In HTTP all of them are text.
func attributeCell(c *contract.Column, in *event.Event) (warehouse.Cell, error) {
	text, ok := attribute(in, c.From.Attribute)
	if !ok {
		if c.Required {
			return warehouse.Null, fmt.Errorf("the event has no attribute %s", c.From.Attribute)
		}
		return warehouse.Null, nil
	}
	switch c.Type {
	case contract.String:
		return warehouse.String(text), nil
	case contract.Float64, contract.Int64, contract.Bool:
		if value := jsontext.Value(text); value.IsValid() {
			return valueCell(c, value)
		}
	}
	value, err := jsontext.AppendQuote(nil, text)
	if err != nil {
		return warehouse.Null, err
	}
	return valueCell(c, value)
}

func attribute(in *event.Event, name string) (text string, ok bool) {
	switch name {
	case "id":
		text = in.ID()
	case "source":
		text = in.Source()
	case "type":
		text = in.Type()
	case "subject":
		text = in.Subject()
	case "datacontenttype":
		text = in.DataContentType()
	case "dataschema":
		text = in.DataSchema()
	case "specversion":
		text = in.SpecVersion()
	case "time":
		if in.Time().IsZero() {
			return "", false
		}
		text = mesh.At(in.Time()).String()
	default:
		value, has := in.Extensions()[name]
		if !has {
			return "", false
		}
		var err error
		text, err = types.Format(value)
		return text, err == nil
	}
	return text, text != ""
}

// valueCell is a JSON value, not null, as a cell of a column.
func valueCell(c *contract.Column, value jsontext.Value) (cell warehouse.Cell, err error) {
	wrong := func(want string) error {
		return fmt.Errorf("%.100s is no %s, which a %s wants", string(value), want, c.Type)
	}
	kind := value.Kind()
	switch c.Type {
	case contract.JSON:
		value = bytes.Clone(value)
		err := value.Compact()
		return warehouse.String(string(value)), err
	case contract.String:
		switch kind {
		case '"':
			return warehouse.String(pointer.Text(value)), nil
		case '0', 't', 'f':
			return warehouse.String(string(value)), nil
		}
		return cell, wrong("text, number or truth value")
	case contract.Bool:
		if kind != 't' && kind != 'f' {
			return cell, wrong("truth value")
		}
		return warehouse.Bool(kind == 't'), nil
	case contract.Float64:
		f, err := strconv.ParseFloat(string(value), 64)
		if kind != '0' || err != nil {
			return cell, wrong("finite number")
		}
		return warehouse.Float(f), nil
	case contract.Int64:
		n, ok := integer(string(value))
		if kind != '0' || !ok {
			return cell, wrong("whole number of 64 bits")
		}
		return warehouse.Int(n), nil
	case contract.Timestamp:
		switch kind {
		case '"':
			at, err := mesh.ParseInstant(pointer.Text(value))
			return warehouse.Instant(at), err
		case '0':
			unit := "s"
			if c.From != nil {
				unit = cmp.Or(c.From.Unit, unit)
			}
			if at, ok := pointer.Instant(string(value), unit); ok {
				return warehouse.Instant(at), nil
			}
		}
		return cell, wrong("time of RFC 3339 or number of seconds since 1970")
	}
	return cell, fmt.Errorf("a type %s", c.Type)
}

// integer reads a number as JSON writes it: 1e3 is one, and so is 1.0.
func integer(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(text, 64)
	return int64(f), err == nil && f == math.Trunc(f) && math.Abs(f) <= 1<<53
}

// elementsOf gives the elements of an array that is JSON.
func elementsOf(array jsontext.Value) (elements []jsontext.Value, err error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(array))
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	for d.PeekKind() != ']' {
		element, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		elements = append(elements, element.Clone())
	}
	return elements, nil
}
