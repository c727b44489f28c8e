// Package sink stores the rows that events bring in the warehouse.
//
//	telemetry.enriched, telemetry.unassigned → iot_telemetry.readings
//	telemetry.rejected                       → iot_telemetry_internal.rejected
//	placements.changed                       → iot_metadata.placements
//	placements.rejected                      → iot_metadata.rejected_rows
//	actions.logged                           → iot_actions.actions
//	actions.rejected                         → iot_actions.rejected_rows
//	customers.changed                        → customers.customers
//	customers.rejected                       → customers.rejected_rows
//	analytics.joined, analytics.withdrawn    → iot_analytics.readings
//	any other that contracts name in events  → their tables, by what they say of the columns
//
// Data of another type are {"rows":[{"column": value, …}]}, or JSON of any form
// where the contract says from where a column comes: products/README.md. Times
// are RFC 3339, or seconds since 1970; a member that is no column, and a required
// one that is not there, are bad rows. Of an event that carries others (mesh.Carry)
// the rows are those of all of them.
//
// When it has answered, the rows are durable. What is made with them can be
// made from then on, which its replies say:
//
//   - placements.recorded, actions.recorded and customers.recorded: changed rows
//     are stored. They have all versions of the changed rows, and as their
//     version the first one of the table that has them.
//   - telemetry.outdated and analytics.outdated: what the readings were made from
//     has changed since, as of the moment when they were stored. They have the
//     same data. So a change that was recorded before a reading was stored is
//     told with the reading, and one recorded later finds the reading stored.
//
// With EVENT_LOG=true it stores what Brokers bring instead, whatever it is, each
// event as one row, and replies nothing. Which Broker it is says the path of the
// request, /NAMESPACE/BROKER, which a Trigger gives by the uri beside the ref of
// its subscriber:
//
//	every event → event_log.events
//
// The same event, and the same row in any event, is stored once: the warehouse
// sees to it. An event of another type without EVENT_LOG, one of no Broker with it,
// one whose data cannot be decoded and one with rows that no retry can store are
// permanent errors, the last when its other rows are stored; a warehouse that is
// away is a passing one, and no reason not to start.
package sink

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Config of the function.
type Config struct {
	connect.Config
	Product     string   `envconfig:"PRODUCT"`      // whose tables take rows; empty: all products'
	Sink        string   `envconfig:"K_SINK"`       // the Broker's ingress, for readings that are outdated where a reply cannot say so
	EventLog    bool     `envconfig:"EVENT_LOG"`    // store events as rows of event_log.events; else what they carry
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
	if config.EventLog {
		return &function.Function{Handler: NewLog(w, config.WithoutData)}, nil
	}
	all, err := config.Contracts()
	if err != nil {
		return nil, err
	}
	tables, err := TablesOf(all, config.Product)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(w, tables, func(ctx context.Context, e event.Event) error {
		if config.Sink == "" {
			return fmt.Errorf("post %s: K_SINK is not set", e.Type())
		}
		return function.Post(ctx, ports.Client, config.Sink, e)
	})}, nil
}

const name = "warehouse-sink"

// New makes the handler. Besides those listed above it fills tables. It posts what it cannot reply: of a batch with rows that
// can never be stored the answer is an error, and the other readings may be
// outdated all the same.
func New(w warehouse.Warehouse, tables Tables, post func(context.Context, event.Event) error) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		known, err := mesh.Version(in)
		if err != nil {
			return nil, mesh.Permanent(err)
		}
		b, err := decode(in)
		if own := tables.of(in.Type(), b.table); own != nil {
			return nil, store(ctx, w, own, &in)
		}
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		version, err := w.Append(ctx, warehouse.Batch{Table: b.table, EventSource: in.Source(), EventID: in.ID(), Rows: b.rows})
		_, rejected := errors.AsType[warehouse.Rejected](err)
		switch {
		case err != nil && !rejected:
			return nil, err
		case b.outdated != "" && version > known:
			out := mesh.Derive(in, name, b.outdated, strconv.FormatInt(version, 10), in.Data())
			mesh.SetVersion(&out, known)
			if !rejected {
				return []event.Event{out}, nil
			}
			// A redelivery posts the same event.
			if failed := post(ctx, out); failed != nil {
				return nil, failed
			}
			return nil, err
		case err != nil:
			return nil, err
		case b.recorded != nil:
			return b.recorded(ctx, w, in)
		}
		return nil, nil
	}
}

// brought is what an event brings to a table.
type brought struct {
	table    string
	rows     []warehouse.Row
	outdated string // type of the reply if they are; empty: none
	recorded reply  // that they are stored; nil: none
}

// reply makes the reply to an event whose rows are stored.
type reply func(context.Context, warehouse.Warehouse, event.Event) ([]event.Event, error)

func decode(in event.Event) (b brought, err error) {
	switch in.Type() {
	case mesh.TelemetryEnriched, mesh.TelemetryUnassigned:
		b.table, b.outdated = "iot_telemetry.readings", mesh.TelemetryOutdated
		var readings []mesh.Reading
		readings, err = mesh.DecodeReadings(in.Data())
		b.rows = make([]warehouse.Row, len(readings))
		for i := range readings {
			b.rows[i] = (*reading)(&readings[i])
		}
	case mesh.AnalyticsJoined, mesh.AnalyticsWithdrawn:
		b.table, b.outdated = "iot_analytics.readings", mesh.AnalyticsOutdated
		var readings []mesh.JoinedReading
		readings, err = mesh.DecodeJoined(in.Data())
		b.rows = make([]warehouse.Row, len(readings))
		for i := range readings {
			if r := &readings[i]; (r.TenantID == "") != (in.Type() == mesh.AnalyticsWithdrawn) {
				return b, fmt.Errorf("reading %s has tenant %q", r.ReadingID, r.TenantID)
			}
			b.rows[i] = (*joined)(&readings[i])
		}
	case mesh.TelemetryRejected:
		b.table = "iot_telemetry_internal.rejected"
		var rejections []mesh.Rejection
		rejections, err = mesh.DecodeRejections(in.Data())
		for i := range rejections {
			b.rows = append(b.rows, rejection{&rejections[i], in.Source(), in.ID()})
		}
	case mesh.PlacementsChanged:
		var data mesh.Placements
		data, err = mesh.Decode[mesh.Placements](in.Data())
		for i := range data.Placements {
			b.rows = append(b.rows, (*placement)(&data.Placements[i]))
		}
		b.table, b.recorded = "iot_metadata.placements", placements.reply(data.Placements)
	case mesh.ActionsLogged:
		var data mesh.Actions
		data, err = mesh.Decode[mesh.Actions](in.Data())
		for i := range data.Actions {
			b.rows = append(b.rows, (*action)(&data.Actions[i]))
		}
		b.table, b.recorded = "iot_actions.actions", actions.reply(data.Actions)
	case mesh.CustomersChanged:
		var data mesh.Customers
		data, err = mesh.Decode[mesh.Customers](in.Data())
		for i := range data.Customers {
			b.rows = append(b.rows, (*customer)(&data.Customers[i]))
		}
		b.table, b.recorded = "customers.customers", customers.reply(data.Customers)
	case mesh.PlacementsRejected:
		b.table = "iot_metadata.rejected_rows"
		b.rows, err = rejectedRows(in.Data())
	case mesh.ActionsRejected:
		b.table = "iot_actions.rejected_rows"
		b.rows, err = rejectedRows(in.Data())
	case mesh.CustomersRejected:
		b.table = "customers.rejected_rows"
		b.rows, err = rejectedRows(in.Data())
	default:
		err = errors.New("no table takes events of this type")
	}
	return b, err
}

func rejectedRows(data []byte) (rows []warehouse.Row, err error) {
	rejected, err := mesh.Decode[mesh.RejectedRows](data)
	for i := range rejected.Rows {
		rows = append(rows, (*rejectedRow)(&rejected.Rows[i]))
	}
	return rows, err
}
