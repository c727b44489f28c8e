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
	return &function.Function{Handler: New(snapshot.New(ports.Client, cfg.AssignmentsURL, cfg.AssignmentsRefresh, tenancy.NewIndex))}, nil
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
		readings, err := mesh.DecodeReadings(in.Data())
		if err != nil {
			return nil, mesh.Permanentf("decode %s %s: %w", in.Type(), in.ID(), err)
		}
		index, err := assignments.Get(ctx)
		if err != nil {
			return nil, err
		}
		tenants, complete := split(readings, index)
		if !complete {
			newer, err := assignments.Newer(ctx)
			if err != nil {
				return nil, err
			}
			if newer != index {
				tenants, _ = split(readings, newer)
			}
		}
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

// share is the readings of one tenant; its id is empty for those of nobody.
type share struct {
	id       string
	readings mesh.ReadingsWriter
}

// split gives the share of each tenant in the order of their first reading,
// and whether every reading found its tenant.
func split(readings []mesh.Reading, index *tenancy.Index) (shares []*share, complete bool) {
	complete = true
	var mine *share
	for i := range readings {
		r := &readings[i]
		r.TenantID, r.AssignmentVersion = "", 0
		if p := index.At(r.DeviceID, r.ObservedAt); p != nil {
			r.TenantID, r.AssignmentVersion = p.TenantID, p.Version
		} else {
			complete = false
		}
		if mine == nil || mine.id != r.TenantID {
			mine = nil
			for _, s := range shares {
				if s.id == r.TenantID {
					mine = s
				}
			}
			if mine == nil {
				mine = &share{id: r.TenantID}
				mine.readings.Grow(len(readings) - i)
				shares = append(shares, mine)
			}
		}
		mine.readings.Add(r)
	}
	return shares, complete
}
