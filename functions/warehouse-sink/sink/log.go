package sink

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
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

// NewLog makes the handler that stores every event of a Broker as a row, those
// of the types in withoutData without their data.
func NewLog(store w.Warehouse, broker string, withoutData []string) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
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
