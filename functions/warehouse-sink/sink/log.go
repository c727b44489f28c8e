package sink

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"github.com/telemesh/telemesh/internal/eventlog"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	w "github.com/telemesh/telemesh/internal/warehouse"
)

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
			row.KeepData()
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
	eventlog.Row
	broker     string
	receivedAt mesh.Instant
}

func newEventRow(in *event.Event, broker string, now time.Time) (r *eventRow, err error) {
	r = &eventRow{broker: broker, receivedAt: mesh.At(now)}
	var leftOut []string
	if value, has := in.Extensions()[eventlog.ExtArrival]; has {
		if at, err := types.ToTime(value); err == nil {
			r.receivedAt, leftOut = mesh.At(at), []string{eventlog.ExtArrival}
		}
	}
	r.Row, err = eventlog.NewRow(in, leftOut...)
	return r, err
}

func (r *eventRow) Cells(dst []w.Cell) []w.Cell {
	return append(r.Row.Cells(dst),
		w.String(r.broker),
		w.Instant(r.receivedAt),
		w.Null, // recorded_at
	)
}

// LogColumns are the columns of event_log.events that ReadLog reads, in its
// order.
const LogColumns = eventlog.Columns + ", broker, received_at"

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
func ReadLog(row []any) (l Logged, err error) {
	var size int64
	if l.Event, size, err = eventlog.Read(row); err != nil {
		return l, fmt.Errorf("event_log.events: %w", err)
	}
	const broker, receivedAt, data = 13, 14, 10
	l.Broker, _ = row[broker].(string)
	if at, ok := row[receivedAt].(time.Time); ok {
		l.ReceivedAt = mesh.At(at)
	}
	if row[data] == nil {
		l.LeftOut = size
	}
	return l, nil
}
