// Package join adds to every reading where its device stood, who its tenant
// is and the last action before it.
//
//	telemetry.enriched              → analytics.joined, of the same tenant
//	telemetry.unassigned, withdrawn → analytics.withdrawn
//
// A reading whose placement is not (or no longer) its tenant's goes on without
// a place: a place is never shown to who did not hold it. Of the unassigned
// readings those are withdrawn that a tenant may have held before a correction;
// if there is none, nothing is replied. Each event and each reading says which
// version of the metadata it was made with. Data that are no readings are a
// permanent error; an output port that was never reached is one that passes.
package join

import (
	"context"
	"fmt"
	"slices"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
)

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(cfg.Open(ports))}, nil
}

const name = "analytics-join"

// New makes the handler.
func New(metadata *Metadata) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		if in.Type() != mesh.TelemetryEnriched && in.Type() != mesh.TelemetryUnassigned {
			return nil, mesh.Permanentf("%s cannot join an event of type %q: its trigger has to filter on %s and %s", name, in.Type(), mesh.TelemetryEnriched, mesh.TelemetryUnassigned)
		}
		readings, err := mesh.DecodeEntries(in.Data())
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		if in.Type() == mesh.TelemetryUnassigned {
			readings = slices.DeleteFunc(readings, func(r mesh.Entry) bool { return r.AssignmentVersion == 0 })
			if len(readings) == 0 {
				return nil, nil
			}
		}
		version, err := mesh.Version(in)
		if err != nil {
			return nil, mesh.Permanentf("%s %s: %w", in.Type(), in.ID(), err)
		}
		known, err := metadata.Get(ctx)
		if err != nil {
			return nil, err
		}
		// Who knows less of the placements than who stamped the readings makes what
		// is outdated when it is stored.
		if known.places.version < version {
			if known, err = metadata.placed(ctx, known); err != nil {
				return nil, err
			}
		}
		if in.Type() == mesh.TelemetryUnassigned {
			return []event.Event{derive(in, mesh.AnalyticsWithdrawn, known, withdraw(readings, known))}, nil
		}
		unplaced, unnamed := misses(readings, known)
		if unplaced || unnamed {
			if known, err = metadata.newer(ctx, known, unplaced, unnamed); err != nil {
				return nil, err
			}
		}
		return []event.Event{derive(in, mesh.AnalyticsJoined, known, join(readings, known))}, nil
	}
}

// derive makes an event of in. What is known may have changed when in comes
// again: then it is another event.
func derive(in event.Event, eventType string, known *Known, data []byte) event.Event {
	tenant, _ := in.Extensions()[mesh.ExtTenant].(string)
	out := mesh.Derive(in, name, eventType, fmt.Sprintf("%s@%d", tenant, known.Version()), data)
	mesh.SetVersion(&out, known.Version())
	if tenant != "" {
		out.SetExtension(mesh.ExtTenant, tenant)
	}
	return out
}

// alike says whether b, which follows a, has the same surroundings: the
// metrics of one message share device and instant.
func alike(a, b *mesh.Entry) bool {
	return a.ObservedAt == b.ObservedAt && a.DeviceID == b.DeviceID && a.TenantID == b.TenantID
}

// misses says whether a reading has no placement, or its tenant no name.
func misses(readings []mesh.Entry, known *Known) (unplaced, unnamed bool) {
	for i := range readings {
		r := &readings[i]
		if i > 0 && alike(&readings[i-1], r) {
			continue
		}
		unnamed = unnamed || i == 0 && known.customers.names[r.TenantID] == ""
		unplaced = unplaced || known.place(r.TenantID, r.DeviceID, r.ObservedAt) == nil
	}
	return unplaced, unnamed
}

// surroundingsSize is about what the members that a join adds take.
const surroundingsSize = 256

func join(readings []mesh.Entry, known *Known) []byte {
	var out mesh.ReadingsWriter
	if len(readings) == 0 {
		return out.Data()
	}
	out.Grow(len(readings) * (surroundingsSize + readings[0].Size()))
	var members []byte
	for i := range readings {
		r := &readings[i]
		if i == 0 || !alike(&readings[i-1], r) {
			joined := mesh.JoinedReading{Reading: mesh.Reading{DeviceID: r.DeviceID, ObservedAt: r.ObservedAt, TenantID: r.TenantID}}
			known.Join(&joined)
			members = joined.AppendJoin(members[:0])
		}
		out.AddMembers(r, members)
	}
	return out.Data()
}

// withdraw gives readings without surroundings.
func withdraw(readings []mesh.Entry, known *Known) []byte {
	var out mesh.ReadingsWriter
	bare := mesh.JoinedReading{JoinVersion: known.Version()}
	members := bare.AppendJoin(nil)
	for i := range readings {
		out.AddMembers(&readings[i], members)
	}
	return out.Data()
}
