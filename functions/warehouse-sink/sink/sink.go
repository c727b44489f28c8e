// Package sink stores the rows that events bring in the warehouse.
//
//	telemetry.enriched, telemetry.unassigned → iot_telemetry.readings
//	telemetry.rejected                       → iot_telemetry_internal.rejected
//	placements.changed                       → iot_metadata.placements
//	actions.logged                           → iot_actions.actions
//	customers.changed                        → customers.customers
//	analytics.joined                         → iot_analytics.readings
//
// With BROKER it stores what that Broker brings instead, whatever it is, each
// event as one row:
//
//	every event → event_log.events
//
// It replies nothing. When it has answered, the rows are durable. The same
// event, and the same row in any event, is stored once: the warehouse sees to
// it. An event of another type without BROKER, one whose data cannot be decoded and one with
// rows that no retry can store are permanent errors; a warehouse that is away
// is a passing one, and no reason not to start.
package sink

import (
	"context"
	"fmt"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/remote"
)

// Config of the function.
type Config struct {
	remote.Config
	Broker      string   `envconfig:"BROKER"`       // NAMESPACE/NAME whose events are stored as rows of event_log.events; empty: what they carry is stored
	WithoutData []string `envconfig:"WITHOUT_DATA"` // types of events whose data are not stored in event_log.events
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	config, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	w, err := config.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	if config.Broker != "" {
		return &function.Function{Handler: NewLog(w, config.Broker, config.WithoutData)}, nil
	}
	return &function.Function{Handler: New(w)}, nil
}

// New makes the handler.
func New(w warehouse.Warehouse) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		table, rows, err := decode(in)
		if err != nil {
			return nil, mesh.Permanent(err)
		}
		_, err = w.Append(ctx, warehouse.Batch{Table: table, EventSource: in.Source(), EventID: in.ID(), Rows: rows})
		return nil, err
	}
}

func decode(in event.Event) (table string, rows []warehouse.Row, err error) {
	switch in.Type() {
	case mesh.TelemetryEnriched, mesh.TelemetryUnassigned:
		table = "iot_telemetry.readings"
		var readings []mesh.Reading
		readings, err = mesh.DecodeReadings(in.Data())
		rows = make([]warehouse.Row, len(readings))
		for i := range readings {
			rows[i] = (*reading)(&readings[i])
		}
	case mesh.AnalyticsJoined:
		table = "iot_analytics.readings"
		var readings []mesh.JoinedReading
		readings, err = mesh.DecodeJoined(in.Data())
		rows = make([]warehouse.Row, len(readings))
		for i := range readings {
			rows[i] = (*joined)(&readings[i])
		}
	case mesh.TelemetryRejected:
		table = "iot_telemetry_internal.rejected"
		var rejections []mesh.Rejection
		rejections, err = mesh.DecodeRejections(in.Data())
		for i := range rejections {
			rows = append(rows, rejection{&rejections[i], in.Source(), in.ID()})
		}
	case mesh.PlacementsChanged:
		table = "iot_metadata.placements"
		var data mesh.Placements
		data, err = mesh.Decode[mesh.Placements](in.Data())
		for i := range data.Placements {
			rows = append(rows, (*placement)(&data.Placements[i]))
		}
	case mesh.ActionsLogged:
		table = "iot_actions.actions"
		var data mesh.Actions
		data, err = mesh.Decode[mesh.Actions](in.Data())
		for i := range data.Actions {
			rows = append(rows, (*action)(&data.Actions[i]))
		}
	case mesh.CustomersChanged:
		table = "customers.customers"
		var data mesh.Customers
		data, err = mesh.Decode[mesh.Customers](in.Data())
		for i := range data.Customers {
			rows = append(rows, (*customer)(&data.Customers[i]))
		}
	default:
		return "", nil, fmt.Errorf("no table takes events of type %q", in.Type())
	}
	return table, rows, err
}
