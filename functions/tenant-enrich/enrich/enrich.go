// Package enrich stamps every reading with the tenant that held its device at
// the instant of the reading.
//
// It takes telemetry.flattened and makes one telemetry.enriched per tenant,
// with the extension tenantid, and one telemetry.unassigned of the readings
// whose device nobody held then. Data that are no readings are a permanent
// error; an output port of iot-metadata that was never reached is one that
// passes. The same event gives the same events, with the same ids, for as long
// as the placements stay the same.
package enrich

import (
	"context"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/telemesh/telemesh/internal/function"
	"github.com/telemesh/telemesh/internal/mesh"
	"github.com/telemesh/telemesh/internal/snapshot"
	"github.com/telemesh/telemesh/internal/tenancy"
)

// Config is the function's environment.
type Config struct {
	AssignmentsURL     string        `envconfig:"ASSIGNMENTS_URL" required:"true"` // output port of iot-metadata
	AssignmentsRefresh time.Duration `envconfig:"ASSIGNMENTS_REFRESH" default:"15s"`
}

// Start makes the function from its environment.
func Start(ports function.Ports) (*function.Function, error) {
	cfg, err := function.Config[Config]()
	if err != nil {
		return nil, err
	}
	return &function.Function{Handler: New(
		snapshot.New(ports.Client, cfg.AssignmentsURL, cfg.AssignmentsRefresh, tenancy.Build(ports.Log), ports.Log),
	)}, nil
}

// Assignments is where the handler finds who held a device.
type Assignments interface {
	Get(context.Context) (*tenancy.Index, error)   // as it is at hand
	Newer(context.Context) (*tenancy.Index, error) // asked for because something was not in the last one
}

const name = "tenant-enrich"

// New makes the handler.
func New(assignments Assignments) function.Handler {
	return func(ctx context.Context, in event.Event) ([]event.Event, error) {
		if in.Type() != mesh.TelemetryFlattened {
			return nil, mesh.Permanentf("%s cannot enrich an event of type %q: its trigger has to filter on %s", name, in.Type(), mesh.TelemetryFlattened)
		}
		readings, err := mesh.DecodeEntries(in.Data())
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		index, err := assignments.Get(ctx)
		if err != nil {
			return nil, err
		}
		placements, complete := placementsOf(readings, index)
		if !complete {
			newer, err := assignments.Newer(ctx)
			if err != nil {
				return nil, err
			}
			if newer != index {
				placements, _ = placementsOf(readings, newer)
			}
		}
		tenants := split(readings, placements)
		out := make([]event.Event, 0, len(tenants))
		for _, t := range tenants {
			if t.id == "" {
				out = append(out, mesh.Derive(in, name, mesh.TelemetryUnassigned, "", t.readings.Data()))
				continue
			}
			e := mesh.Derive(in, name, mesh.TelemetryEnriched, t.id, t.readings.Data())
			e.SetExtension(mesh.ExtTenant, t.id)
			out = append(out, e)
		}
		return out, nil
	}
}

// placementsOf gives the placement of each reading's device at its instant, nil
// where there is none, and whether every reading has one.
func placementsOf(readings []mesh.Entry, index *tenancy.Index) (placements []*mesh.Placement, complete bool) {
	placements = make([]*mesh.Placement, len(readings))
	complete = true
	for i := range readings {
		r := &readings[i]
		// The metrics of one message share device and instant.
		if i > 0 && r.ObservedAt == readings[i-1].ObservedAt && r.DeviceID == readings[i-1].DeviceID {
			placements[i] = placements[i-1]
			continue
		}
		placements[i] = index.At(r.DeviceID, r.ObservedAt)
		complete = complete && placements[i] != nil
	}
	return placements, complete
}

// share is the readings of one tenant; its id is empty for those of nobody.
type share struct {
	id       string
	size     int // of its readings, in bytes
	readings mesh.ReadingsWriter
}

// stampSize is about what the members of a tenancy take.
const stampSize = 64

// split gives the share of each tenant in the order of their first reading.
func split(readings []mesh.Entry, placements []*mesh.Placement) (shares []*share) {
	shareOf := func(p *mesh.Placement) *share {
		id := ""
		if p != nil {
			id = p.TenantID
		}
		for _, s := range shares {
			if s.id == id {
				return s
			}
		}
		shares = append(shares, &share{id: id})
		return shares[len(shares)-1]
	}
	each := func(do func(r *mesh.Entry, p *mesh.Placement, mine *share)) {
		var mine *share
		for i, p := range placements {
			if i == 0 || p != placements[i-1] {
				mine = shareOf(p)
			}
			do(&readings[i], p, mine)
		}
	}
	each(func(r *mesh.Entry, _ *mesh.Placement, mine *share) { mine.size += r.Size() + stampSize })
	var stamped *mesh.Placement
	var stamp []byte
	each(func(r *mesh.Entry, p *mesh.Placement, mine *share) {
		if p != stamped {
			stamped, stamp = p, stamp[:0]
			if p != nil {
				stamp = mesh.AppendTenancy(stamp, p.TenantID, p.Version)
			}
		}
		mine.readings.Grow(mine.size)
		mine.readings.AddTenancy(r, stamp)
	})
	return shares
}
