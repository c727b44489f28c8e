// Package eventlog is how an event stands in a row, in the tables that keep
// events: event_log.events and event_log_internal.dead_letters.
package eventlog

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/mesh"
	w "github.com/telemesh/telemesh/internal/warehouse"
)

// ExtArrival is when a Broker accepted an event. The attempts to deliver it
// all say the same. knative.dev/eventing/pkg/broker.EventArrivalTime
const ExtArrival = "knativearrivaltime"

// Columns are those that an event takes, in the order of Cells and Read.
const Columns = "event_id, source, type, subject, time, time_text, dataschema, datacontenttype, specversion, extensions, data, data_base64, data_bytes"

// Attributes are Columns of an event whose data are not read: what is asked of a
// warehouse costs by the columns, and most bytes are data.
var Attributes = strings.Replace(Columns, " data,", " CAST(NULL AS STRING) AS data,", 1)

// Row is an event as its columns have it.
type Row struct {
	*event.Event
	time       w.Cell
	timeText   w.Cell
	extensions w.Cell
	data       w.Cell
	base64     bool
}

// NewRow gives the row of an event, without its data and the extensions left out.
func NewRow(in *event.Event, leftOut ...string) (Row, error) {
	r := Row{Event: in}
	if at := in.Time(); !at.IsZero() {
		// The years that the warehouses hold.
		held := at.UTC().Year() >= 1
		if held {
			r.time = w.Instant(mesh.At(at))
		}
		if !held || at.Nanosecond()%1000 != 0 {
			r.timeText = w.String(types.FormatTime(at))
		}
	}
	extensions := map[string]string{}
	for name, value := range in.Extensions() {
		text, err := types.Format(value)
		if err != nil {
			return r, fmt.Errorf("extension %s: %w", name, err)
		}
		extensions[name] = text
	}
	for _, name := range leftOut {
		delete(extensions, name)
	}
	if len(extensions) > 0 {
		text, err := json.Marshal(extensions)
		if err != nil {
			return r, fmt.Errorf("extensions: %w", err)
		}
		r.extensions = w.String(string(text))
	}
	return r, nil
}

// KeepData adds the data.
func (r *Row) KeepData() { r.KeepPart(r.Data(), !utf8.Valid(r.Data())) }

// KeepPart adds a part of the data, as base64 or as text, which it then has to be.
func (r *Row) KeepPart(data []byte, asBase64 bool) {
	switch r.base64 = asBase64; {
	case len(data) == 0:
	case asBase64:
		r.data = w.String(base64.StdEncoding.EncodeToString(data))
	default:
		r.data = w.String(string(data))
	}
}

// Cells appends the cells of Columns.
func (r *Row) Cells(dst []w.Cell) []w.Cell {
	return append(dst,
		w.String(r.ID()),
		w.String(r.Source()),
		w.String(r.Type()),
		w.Optional(r.Subject()),
		r.time,
		r.timeText,
		w.Optional(r.DataSchema()),
		w.Optional(r.DataContentType()),
		w.String(r.SpecVersion()),
		r.extensions,
		r.data,
		w.Bool(r.base64),
		w.Int(int64(len(r.Data()))),
	)
}

// Read gives the event of a row that begins with Columns, with the data that the
// row has, and how many bytes the event has. An extension is a string, whatever it was:
// so it is in an HTTP header, and CESQL compares it as a number where it is one.
func Read(row []any) (e event.Event, size int64, err error) {
	text := func(i int) string { s, _ := row[i].(string); return s }
	e = event.New(text(8))
	named := func(what string, err error) (event.Event, int64, error) {
		return e, size, fmt.Errorf("event %s %s: %s: %w", text(1), text(0), what, err)
	}
	e.SetID(text(0))
	e.SetSource(text(1))
	e.SetType(text(2))
	if s := text(3); s != "" {
		e.SetSubject(s)
	}
	if s := text(5); s != "" {
		at, err := types.ParseTime(s)
		if err != nil {
			return named("time_text", err)
		}
		e.SetTime(at)
	} else if at, ok := row[4].(time.Time); ok {
		e.SetTime(at)
	}
	if s := text(6); s != "" {
		e.SetDataSchema(s)
	}
	if s := text(7); s != "" {
		e.SetDataContentType(s)
	}
	if s := text(9); s != "" {
		var extensions map[string]string
		if err := json.Unmarshal([]byte(s), &extensions); err != nil {
			return named("extensions", err)
		}
		for name, value := range extensions {
			e.SetExtension(name, value)
		}
	}
	if s := text(10); s != "" {
		e.DataEncoded = []byte(s)
	}
	if binary, _ := row[11].(bool); binary {
		var err error
		if e.DataEncoded, err = base64.StdEncoding.DecodeString(text(10)); err != nil {
			return named("data", err)
		}
		e.DataBase64 = true
	}
	size, _ = row[12].(int64)
	if err := e.Validate(); err != nil {
		return named("rebuild", err)
	}
	return e, size, nil
}
