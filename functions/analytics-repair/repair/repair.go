// Package repair joins stored readings again when what they were joined with
// has changed.
//
//	placements.recorded, actions.recorded, customers.recorded → analytics.joined
//	analytics.outdated                                        → analytics.joined
//
// Of the first three it looks for the readings that the change may touch, of the
// last it takes the readings that the event carries: they were stored after
// metadata that they do not know of. Each is joined with metadata asked for
// after the event came, and those that differ from what is stored are posted to
// K_SINK while the search goes on, of one tenant and up to 500 in an event. A
// reading that is the same makes no event, which is what ends the circle of
// storing and repairing.
//
// A reading whose device its tenant did not hold is passed over: that is
// corrected in iot-telemetry, and comes from there as another row, or as a
// withdrawn one.
//
// What is not done when a part of the Service's timeout is spent is left to an
// event of the same type, which goes on from there. Memory is bounded, time by
// the number of readings. A part that is interrupted is an error that passes:
// its redelivery goes through what is not right yet. Data that are no rows are a
// permanent error.
package repair

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/functions/analytics-join/join"
	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/repair"
	"github.com/telemesh/telemesh/internal/warehouse"
	"github.com/telemesh/telemesh/internal/warehouse/connect"
)

// Config is the function's environment, with the output ports of join.Config.
type Config struct {
	connect.Config
	Sink string `envconfig:"K_SINK" required:"true"` // the Broker's ingress
	// Less than the Service's timeoutSeconds: what is left goes on in another delivery.
	Within time.Duration `envconfig:"REPAIR_WITHIN" default:"5m"`
}

// Start makes the function.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	metadata, err := function.Config[join.Config]()
	if err != nil {
		return nil, err
	}
	w, err := cfg.Open(ports.Warehouse, ports.Client)
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(metadata.Open(ports), w, cfg.Within, func(ctx context.Context, e event.Event) error {
		return function.Post(ctx, ports.Client, cfg.Sink, e)
	})}, nil
}

const name = "analytics-repair"

// New makes the handler, which posts what it makes, for about as long as within.
func New(metadata *join.Metadata, w warehouse.Warehouse, within time.Duration, post func(context.Context, event.Event) error) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		change, err := decode(in)
		if err != nil {
			return nil, mesh.Permanent(err)
		}
		part, err := repair.NewPart(in, within)
		if err != nil {
			return nil, mesh.Permanent(err)
		}
		known, err := metadata.Fresh(ctx)
		if err != nil {
			return nil, err
		}
		events := &repair.Events{In: in, Function: name, Version: known.Version(), Held: mesh.AnalyticsJoined, Nobody: mesh.AnalyticsWithdrawn, Post: post}
		for i := range change.outdated {
			if err := rejoin(ctx, known, change.outdated[i:i+1], events); err != nil {
				return nil, err
			}
		}
		ranges, err := change.touched(ctx, w, known)
		if err != nil {
			return nil, err
		}
		for rows, err := range part.Rows(ctx, w, repair.Analytics, ranges) {
			if err != nil {
				return nil, err
			}
			if err := rejoin(ctx, known, rows, events); err != nil {
				return nil, err
			}
		}
		return part.Rest(name), events.Close(ctx)
	}
}

// change is what an event says has changed: one of the four.
type change struct {
	outdated   []mesh.JoinedReading
	placements []mesh.Placement
	actions    []mesh.Action
	customers  []mesh.Customer
}

func decode(in event.Event) (c change, err error) {
	switch in.Type() {
	case mesh.AnalyticsOutdated:
		c.outdated, err = mesh.DecodeJoined(in.Data())
	case mesh.PlacementsRecorded:
		var data mesh.Placements
		data, err = mesh.Decode[mesh.Placements](in.Data())
		c.placements = data.Placements
	case mesh.ActionsRecorded:
		var data mesh.Actions
		data, err = mesh.Decode[mesh.Actions](in.Data())
		c.actions = data.Actions
	case mesh.CustomersRecorded:
		var data mesh.Customers
		data, err = mesh.Decode[mesh.Customers](in.Data())
		c.customers = data.Customers
	default:
		return c, fmt.Errorf("%s takes no event of type %q: its trigger has to filter on %s, %s, %s and %s", name, in.Type(),
			mesh.PlacementsRecorded, mesh.ActionsRecorded, mesh.CustomersRecorded, mesh.AnalyticsOutdated)
	}
	if err != nil {
		return c, fmt.Errorf("decode %s %s: %w", in.Type(), in.ID(), err)
	}
	return c, nil
}

// rejoin joins the rows of one reading again, and adds what differs. Only rows of
// the highest assignment version count; of those, every value that was measured
// is joined, as it came first.
func rejoin(ctx context.Context, known *join.Known, rows []mesh.JoinedReading, events *repair.Events) error {
	if len(rows) > 1 { // as few are
		var assigned int64
		for i := range rows {
			assigned = max(assigned, rows[i].AssignmentVersion)
		}
		rows = slices.DeleteFunc(rows, func(r mesh.JoinedReading) bool { return r.AssignmentVersion < assigned })
		slices.SortStableFunc(rows, func(a, b mesh.JoinedReading) int { return cmp.Or(compareMeasured(&a, &b), compareCame(&a, &b)) })
	}
	for len(rows) > 0 {
		n, last := 1, &rows[0] // the row that knew most
		for n < len(rows) && compareMeasured(&rows[0], &rows[n]) == 0 {
			if rows[n].JoinVersion > last.JoinVersion {
				last = &rows[n]
			}
			n++
		}
		again := rows[0]
		rows = rows[n:]
		if again.TenantID == "" || last.JoinVersion > known.Version() || !known.Join(&again) || sameSurroundings(last, &again) {
			continue
		}
		if err := events.Add(ctx, &again); err != nil {
			return err
		}
	}
	return nil
}

// compareMeasured orders rows of one reading by what was measured.
func compareMeasured(a, b *mesh.JoinedReading) int {
	return cmp.Or(
		cmp.Compare(a.Revision, b.Revision),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(math.Float64bits(a.Value), math.Float64bits(b.Value)), // 0 and -0 are two
		strings.Compare(a.ValueString, b.ValueString),
		strings.Compare(a.Unit, b.Unit),
		strings.Compare(a.Quality, b.Quality),
		cmp.Compare(a.Judged, b.Judged))
}

// compareCame orders rows that say the same as the store does: the first one is
// shown.
func compareCame(a, b *mesh.JoinedReading) int {
	return cmp.Or(
		cmp.Compare(a.ReceivedAt, b.ReceivedAt),
		strings.Compare(a.EventSource, b.EventSource),
		strings.Compare(a.EventID, b.EventID),
		strings.Compare(a.Attributes, b.Attributes))
}

func sameSurroundings(a, b *mesh.JoinedReading) bool {
	return a.Building == b.Building && a.Floor == b.Floor && a.Room == b.Room &&
		equal(a.Persons, b.Persons) && equal(a.OutsideCO2, b.OutsideCO2) && a.CustomerName == b.CustomerName &&
		a.LastAction == b.LastAction && (a.LastAction == "" || a.LastActionAt == b.LastActionAt)
}

func equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
