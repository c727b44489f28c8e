package sink

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	w "github.com/telemesh/telemesh/internal/warehouse"
)

// extArrival is when a Broker accepted an event. The attempts to deliver it
// all say the same. knative.dev/eventing/pkg/broker.EventArrivalTime
const extArrival = "knativearrivaltime"

// NewLog makes the handler that stores every event as a row, those of the types
// in withoutData without their data. The path of a request is the Broker that
// brings its event: /NAMESPACE/NAME.
func NewLog(store w.Warehouse, withoutData []string) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		path := function.Path(ctx)
		broker, ok := strings.CutPrefix(path, "/")
		if namespace, name, _ := strings.Cut(broker, "/"); !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			return nil, mesh.Permanentf("log %s %s: the path %q names no Broker: give the subscriber of the Trigger the uri /NAMESPACE/BROKER", in.Type(), in.ID(), path)
		}
		row, err := newEventRow(&in, broker, time.Now())
		if err != nil {
			return nil, mesh.Permanent(err)
		}
		if !slices.Contains(withoutData, in.Type()) {
			row.keepData()
		}
		_, err = store.Append(ctx, w.Batch{
			Table: "event_log.events",
			// What two Brokers bring is two rows.
			EventSource: broker + " " + in.Source(), EventID: in.ID(),
			Rows: []w.Row{row},
		})
		return nil, err
	}
}

// eventRow is a row of event_log.events.
type eventRow struct {
	*event.Event
	broker     string
	receivedAt mesh.Instant
	time       w.Cell
	timeText   w.Cell
	extensions w.Cell
	data       w.Cell
	base64     bool
}

func newEventRow(in *event.Event, broker string, now time.Time) (*eventRow, error) {
	r := &eventRow{Event: in, broker: broker, receivedAt: mesh.At(now)}
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
		if name == extArrival {
			if at, err := types.ToTime(value); err == nil {
				r.receivedAt = mesh.At(at)
				continue
			}
		}
		text, err := types.Format(value)
		if err != nil {
			return nil, fmt.Errorf("extension %s: %w", name, err)
		}
		extensions[name] = text
	}
	if len(extensions) > 0 {
		text, err := json.Marshal(extensions)
		if err != nil {
			return nil, fmt.Errorf("extensions: %w", err)
		}
		r.extensions = w.String(string(text))
	}
	return r, nil
}

func (r *eventRow) keepData() {
	switch data := r.Data(); {
	case len(data) == 0:
	case utf8.Valid(data):
		r.data = w.String(string(data))
	default:
		r.data, r.base64 = w.String(base64.StdEncoding.EncodeToString(data)), true
	}
}

func (r *eventRow) Cells(dst []w.Cell) []w.Cell {
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
		w.String(r.broker),
		w.Instant(r.receivedAt),
		w.Null, // recorded_at
	)
}

// LogColumns are the columns of event_log.events that ReadLog reads, in its
// order.
const LogColumns = "event_id, source, type, subject, time, time_text, dataschema, datacontenttype, specversion, extensions, " +
	"data, data_base64, data_bytes, broker, received_at"

// Logged is an event as the log has it: with all its attributes, and with its
// data but for those that are LeftOut.
type Logged struct {
	event.Event
	Broker     string // NAMESPACE/NAME that had it
	ReceivedAt mesh.Instant
	LeftOut    int64 // bytes of data that the event had and the log does not keep
}

// ReadLog reads a row of LogColumns. An extension is a string, whatever it was:
// so it is in an HTTP header, and CESQL compares it as a number where it is one.
func ReadLog(row []any) (Logged, error) {
	text := func(i int) string { s, _ := row[i].(string); return s }
	l := Logged{Event: event.New(text(8)), Broker: text(13)}
	named := func(what string, err error) (Logged, error) {
		return l, fmt.Errorf("event %s %s of event_log.events: %s: %w", text(1), text(0), what, err)
	}
	l.SetID(text(0))
	l.SetSource(text(1))
	l.SetType(text(2))
	if s := text(3); s != "" {
		l.SetSubject(s)
	}
	if s := text(5); s != "" {
		at, err := types.ParseTime(s)
		if err != nil {
			return named("time_text", err)
		}
		l.SetTime(at)
	} else if at, ok := row[4].(time.Time); ok {
		l.SetTime(at)
	}
	if s := text(6); s != "" {
		l.SetDataSchema(s)
	}
	if s := text(7); s != "" {
		l.SetDataContentType(s)
	}
	if s := text(9); s != "" {
		var extensions map[string]string
		if err := json.Unmarshal([]byte(s), &extensions); err != nil {
			return named("extensions", err)
		}
		for name, value := range extensions {
			l.SetExtension(name, value)
		}
	}
	if s := text(10); s != "" {
		l.DataEncoded = []byte(s)
	}
	if binary, _ := row[11].(bool); binary {
		var err error
		if l.DataEncoded, err = base64.StdEncoding.DecodeString(text(10)); err != nil {
			return named("data", err)
		}
		l.DataBase64 = true
	}
	if at, ok := row[14].(time.Time); ok {
		l.ReceivedAt = mesh.At(at)
	}
	if size, _ := row[12].(int64); row[10] == nil {
		l.LeftOut = size
	}
	if err := l.Validate(); err != nil {
		return named("rebuild", err)
	}
	return l, nil
}
